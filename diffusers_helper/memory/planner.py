"""The memory plans for one checkpoint, from its loading on: for each video with what is free then and was learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..errors import OutOfMemory
from ..words import Message
from .candidates import Situation
from .costs import SPARE_RAM, Constraints, DecoderCosts, Machine, PartSizes, Workload
from .host import read_ram
from .lessons import Lesson, Lessons
from .plan import SMALL_WINDOW, MemoryPlan, plan_memory, weights


class Planner:
    """The memory plans for one checkpoint on one machine.

    What ran out of memory is remembered in ``lessons``, as long as those are handed on.

    Attributes:
        constraints: of the settings.
        fingerprint: of the files that ``sizes`` were read from.
        plan: for the largest size; by it the parts are loaded.
        workload: of the last plan.
    """

    def __init__(
        self,
        sizes: PartSizes,
        machine: Machine,
        largest: Workload,
        constraints: Constraints,
        decoders: Sequence[DecoderCosts],
        vram_free: Callable[[], int],
        fingerprint: str = "",
        lessons: Lessons | None = None,
    ) -> None:
        """``vram_free``: asked again for each video. Raises OutOfMemory when the checkpoint cannot run here."""
        self._sizes, self._decoders, self._vram_free = sizes, decoders, vram_free
        self._learnt = Lessons() if lessons is None else lessons
        self._machine = replace(machine, libraries_loaded=self._learnt.libraries_loaded)
        self.constraints, self.fingerprint, self.workload = constraints, fingerprint, largest
        self.plan = self._plan_to_load()

    def _plan_to_load(self) -> MemoryPlan:
        """For the usual latent window; where that does not fit, for a small one, which a video may ask for."""
        usual = self.workload
        situation = Situation(self._machine, self._sizes, usual, self.constraints, self._decoders)
        try:
            return plan_memory(situation)
        except OutOfMemory:
            if usual.learning:
                raise
            small = Workload.of(usual.height, usual.width, SMALL_WINDOW)
            with suppress(OutOfMemory):
                return plan_memory(replace(situation, workload=small))
            raise

    def for_workload(
        self, workload: Workload, preserved_bytes: int = 0, decoders: Sequence[DecoderCosts] = ()
    ) -> MemoryPlan:
        """The plan for a video or a training, with what the device has free now. The weights are loaded, their numbers
        fixed.

        Args:
            preserved_bytes: of the GPU, where that is more than the settings ask for.
            decoders: those that may decode it, where they are others than those of the video before.

        Raises:
            OutOfMemory: it cannot be made.
        """
        self._decoders = decoders or self._decoders
        self._machine, self.workload = self._now(), workload
        preserved = max(self.constraints.preserved_bytes, preserved_bytes)
        loaded = replace(self.constraints, precision=self.plan.precision, modulation_table=self.plan.modulation_table)
        made = self._plan_with_lessons(replace(loaded, preserved_bytes=preserved))
        if made.precision != self.plan.precision:
            raise OutOfMemory(Message("memory.packed_too_large", then=weights(made.precision)))
        return made

    def _now(self) -> Machine:
        """The machine, with what is free and has been learnt until now."""
        free, learnt = self._vram_free(), self._learnt
        lessons, loaded = tuple(learnt.learnt), learnt.libraries_loaded
        return replace(self._machine, vram_free=free, lessons=lessons, libraries_loaded=loaded)

    def _plan_with_lessons(self, constraints: Constraints) -> MemoryPlan:
        """Where they leave no way at all, one of those is tried again."""
        machine, lessons = self._machine, list(self._lessons())
        situation = Situation(machine, self._sizes, self.workload, constraints, self._decoders)
        try:
            made = plan_memory(situation)
        except OutOfMemory:
            made = plan_memory(replace(situation, machine=replace(machine, lessons=())))
        made = made.alone() if any(lesson.alone for lesson in lessons) else made
        made = made.with_vae_lent() if any(lesson.vae_leaves for lesson in lessons) else made
        return made.in_turns() if any(lesson.take_turns for lesson in lessons) else made

    def _lessons(self) -> Iterator[Lesson]:
        """Those that hold for what is free now."""
        return (lesson for lesson in self._learnt.learnt if lesson.holds(self._machine.vram_free))

    @property
    def encode_on_demand(self) -> bool:
        """Whether encoding has run out of memory with weights that were lent."""
        return any(lesson.encode_on_demand for lesson in self._lessons())

    def learn(self, *, decoder: DecoderCosts | None = None, **lesson: Any) -> None:
        """The last plan ran out of memory. Until clearly more is free than now, where another program may have taken
        some meanwhile, no decoder that takes more than ``decoder`` is planned, and what else a ``Lesson`` says."""
        if decoder is not None:
            lesson["decode_bytes"] = self._device_bytes(decoder)
        self._learnt.learnt.append(Lesson(min(self._machine.vram_free, self._vram_free()), **lesson))

    def libraries_are_loaded(self) -> None:
        """CUDA's libraries have computed: no later plan counts again what they have taken."""
        self._learnt.libraries_loaded = True

    def smaller_decoders(self, name: str) -> Iterator[DecoderCosts]:
        """Those after ``name`` that take less of the device, one after the other, and for which RAM has room now, with
        clips of the last plan's size."""
        names = [each.name for each in self._decoders]
        failed = self._device_bytes(self._decoders[names.index(name)])
        for decoder in self._decoders[names.index(name) + 1 :]:
            needed = self._device_bytes(decoder)
            if (needed < failed or not decoder.uses_device) and self._ram_has_room(decoder):
                yield decoder
                failed = needed

    def _device_bytes(self, decoder: DecoderCosts) -> int:
        return decoder.device_bytes(self._sizes, self.workload, self._machine.fused_vae_attention)

    def _ram_has_room(self, decoder: DecoderCosts) -> bool:
        needed = decoder.ram_bytes(self._sizes, self.workload)
        return not needed or needed + SPARE_RAM <= read_ram().free
