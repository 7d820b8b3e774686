"""Carries out memory plans: brings each part to the device that needs it, and away again.

All parts but the transformer live in RAM. The device gets a copy for as long as it is needed, and nothing is copied
back. The transformer stays on the device, or its blocks pass through it (see swap.py); packed by bitsandbytes it cannot
be swapped by blocks, and takes turns as a whole. Where the plan says ``cpu``, nothing moves.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import OutOfMemory
from .lessons import Lesson, Lessons
from .machine import read_ram
from .media.files import free_bytes
from .memory import (
    DynamicSwapInstaller,
    Loan,
    free_unused,
    load_model_chunked,
    offload_model_from_device_for_memory_preservation,
    segments_grow,
)
from .memory_plan import SMALL_WINDOW, MemoryPlan, plan_memory
from .memory_ways import GB, SPARE_RAM, STAY_ON_GPU, WORDS, Decode, Machine, Wishes, Workload
from .models.attention import VAE_HEAD_WIDTH, attention_is_fused
from .models.load import Compute, Parts
from .models.quantised_file import kept_bytes, quantised_folder
from .models.sizes import BYTES, FULL_SIZE, part_sizes
from .models.table import FRAMEPACK_BUCKETS, WEIGHTS_PARTS, Checkpoint
from .request import Request
from .swap import BlockSwap
from .transport import Transport, best_transport

log = logging.getLogger(__name__)

ROOM_TO_WORK_BYTES = 10**9
"""What an encoder needs on the device besides its weights."""


class Planner:
    """The memory plans for one checkpoint on this machine.

    Attributes:
        wishes: of the settings.
        fingerprint: of the checkpoint's files, before the parts are loaded.
        plan: for the largest size; by it the parts are loaded.

    What ran out of memory is remembered in ``lessons``, as long as those are handed on.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        compute: Compute,
        wishes: Wishes,
        models_dir: Path,
        lessons: Lessons | None = None,
    ) -> None:
        """Raises OutOfMemory when the checkpoint cannot run here, UnusableCheckpoint when its files are damaged."""
        self._device, self.wishes = compute.device, wishes
        self._learnt = Lessons() if lessons is None else lessons
        self._sizes = part_sizes(checkpoint, dtype_names(compute))
        self.fingerprint = checkpoint.fingerprint()
        machine = look(compute, models_dir)
        kept = kept_bytes(quantised_folder(models_dir), self.fingerprint)
        loaded = self._learnt.libraries_loaded
        self._machine = replace(machine, disk_free=machine.disk_free + kept, libraries_loaded=loaded)
        self._workload = Workload.of(*max(checkpoint.buckets, key=math.prod))
        self.plan = self._plan_to_load()

    def _plan_to_load(self) -> MemoryPlan:
        """For the usual latent window; where that does not fit, for a small one, which a video may ask for."""
        usual = self._workload
        try:
            return plan_memory(self._machine, self._sizes, usual, self.wishes)
        except OutOfMemory:
            small = Workload.of(usual.height, usual.width, SMALL_WINDOW)
            with suppress(OutOfMemory):
                return plan_memory(self._machine, self._sizes, small, self.wishes)
            raise

    def for_job(self, request: Request, height: int, width: int) -> MemoryPlan:
        """The plan for one video, with what the device has free now. The weights are loaded, their numbers fixed.

        Raises OutOfMemory when it cannot be made.
        """
        self._machine = self._now()
        preserved = max(self.wishes.preserved_bytes, int(request.preserved_memory_gb * 1e9))
        wishes = replace(self.wishes, precision=self.plan.precision, preserved_bytes=preserved)
        asked = (request.latent_window, request.steps, _cached_tensors(request))
        self._workload = Workload.of(height, width, *asked)
        made = self._plan_with_lessons(wishes)
        if made.precision != self.plan.precision:
            raise OutOfMemory(
                "the weights that bitsandbytes has packed do not fit onto the GPU any more. Close other programs that "
                f"use it; or start this one again, and it takes {WORDS[made.precision]}."
            )
        return made

    def _now(self) -> Machine:
        """The machine, with what is free and has been learnt until now."""
        learnt = self._learnt
        free, lessons = _vram_free(self._device), tuple(learnt.learnt)
        return replace(self._machine, vram_free=free, lessons=lessons, libraries_loaded=learnt.libraries_loaded)

    def _plan_with_lessons(self, wishes: Wishes) -> MemoryPlan:
        """Where they leave no way at all, one of those is tried again."""
        machine, lessons = self._machine, list(self._lessons())
        try:
            made = plan_memory(machine, self._sizes, self._workload, wishes)
        except OutOfMemory:
            made = plan_memory(replace(machine, lessons=()), self._sizes, self._workload, wishes)
        made = made.with_vae_lent() if any(lesson.vae_leaves for lesson in lessons) else made
        return replace(made, take_turns=made.take_turns or any(lesson.take_turns for lesson in lessons))

    def _lessons(self) -> Iterator[Lesson]:
        """Those that hold for what is free now."""
        return (lesson for lesson in self._learnt.learnt if lesson.holds(self._machine.vram_free))

    @property
    def encode_on_call(self) -> bool:
        """Whether encoding has run out of memory with weights that were lent."""
        return any(lesson.encode_on_call for lesson in self._lessons())

    def learn(self, *, decode: Decode | None = None, **lesson: Any) -> None:
        """The last plan ran out of memory. Until clearly more is free than now, where another program may have taken
        some meanwhile, no video decodes in a larger way than ``decode``, and what else a ``Lesson`` says."""
        if decode is not None:
            fused = self._machine.fused_vae_attention
            lesson["decode_bytes"] = self._workload.gpu_decode_bytes(self._sizes, decode, fused)
        free = min(self._machine.vram_free, _vram_free(self._device))
        self._learnt.learnt.append(Lesson(free, **lesson))

    def libraries_are_loaded(self) -> None:
        """CUDA's libraries have computed: no later plan counts again what they have taken."""
        self._learnt.libraries_loaded = True

    def can_decode_on_cpu(self) -> bool:
        """Whether RAM has room to decode a clip of the last plan's size there."""
        return self._workload.cpu_decode_bytes(self._sizes) + SPARE_RAM <= read_ram().free


def _cached_tensors(request: Request) -> int:
    """What the step caches of all CFG branches keep, in tensors of the size of the image tokens."""
    of_one = request.step_cache.token_tensors if request.step_cache else 0
    return of_one * (2 if request.real_cfg > 1 else 1)


def forecast_full_size(compute: Compute, wishes: Wishes, models_dir: Path) -> MemoryPlan:
    """The plan that a 13B checkpoint would get on this machine; raises OutOfMemory when it cannot run."""
    sizes = replace(FULL_SIZE, bytes_per_weight={part: BYTES[name] for part, name in dtype_names(compute).items()})
    machine = look(compute, models_dir)
    return plan_memory(machine, sizes, Workload.of(*max(FRAMEPACK_BUCKETS, key=math.prod)), wishes)


def dtype_names(compute: Compute) -> dict[str, str]:
    """Part -> what it computes in, as safetensors names it."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    dtypes = {"transformer": compute.transformer_dtype, "vae": compute.vae_dtype}
    return {part: names[dtypes.get(part, compute.encoder_dtype)] for part in WEIGHTS_PARTS}


def look(compute: Compute, models_dir: Path) -> Machine:
    """What this machine has; in a container, what that may use."""
    device, disk = compute.device, free_bytes(models_dir)
    total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else 0
    ram = read_ram()
    fused = attention_is_fused(device, compute.transformer_dtype)
    fused_vae = attention_is_fused(device, compute.vae_dtype, VAE_HEAD_WIDTH, masked=True)
    return Machine(total, _vram_free(device), ram.total, ram.free, disk, fused, segments_grow(), fused_vae)


def _vram_free(device: torch.device) -> int:
    """What is free, and what this process holds and can give back."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)


class Residency:
    """Who is on the device when.

    Attributes:
        plan: what is followed. The blocks that stay are counted as the swap has chosen them.
    """

    def __init__(
        self,
        parts: Parts,
        device: torch.device,
        plan: MemoryPlan,
        small_host_copy: bool = False,
        make_transport: Callable[[torch.device], Transport] = best_transport,
    ) -> None:
        self._parts, self._device, self._make_transport = parts, device, make_transport
        self._small_host_copy = small_host_copy
        self._loans = {part: Loan(getattr(parts, part)) for part in WEIGHTS_PARTS if part != "transformer"}
        self._swap: BlockSwap | None = None
        self._packed: Loan | None = None
        self._transport: Transport | None = None
        self.plan = plan
        self.follow(plan)

    def follow(self, plan: MemoryPlan) -> None:
        """From now on, go by ``plan``. It counts when all of it is carried out."""
        for part, loan in self._loans.items():
            if plan.residency[part] != "gpu":
                loan.leave()
        if plan.residency["transformer"] != "cpu":
            self._place_transformer(plan)
        self.plan = self._counted(plan)

    def _place_transformer(self, plan: MemoryPlan) -> None:
        """Once it is swapped or lent it stays so: a plan by which it need not leave lets all of it stay."""
        stays = plan.residency["transformer"] == "gpu"
        if self._swap is not None:
            self._swap.limit(self._allowed_bytes(plan))
        elif self._packed is None and stays:
            load_model_chunked(self._parts.transformer, self._device)
        elif plan.precision in STAY_ON_GPU:
            self._packed = self._packed or self._lent_transformer()
        else:
            self._swap = self._swapped_transformer(plan)

    def _lent_transformer(self) -> Loan:
        offload_model_from_device_for_memory_preservation(self._parts.transformer, self._device, aggressive=True)
        return Loan(self._parts.transformer)

    def _swapped_transformer(self, plan: MemoryPlan) -> BlockSwap:
        """From RAM, or from the device, where what stays has been until now."""
        self._transport = transport = self._make_transport(self._device)
        try:
            return self._parts.transformer.swap_blocks(
                transport, self._allowed_bytes(plan), keep_host_copy=not self._small_host_copy
            )
        except BaseException:
            self._transport = None
            transport.close()
            raise

    def _allowed_bytes(self, plan: MemoryPlan) -> int:
        """Of blocks that stay; where all are to, no rounding of the plan keeps one away."""
        return sys.maxsize if plan.resident_blocks == len(self._parts.transformer.blocks) else plan.resident_bytes

    def _counted(self, plan: MemoryPlan) -> MemoryPlan:
        """The plan with the blocks that do stay."""
        blocks = self._parts.transformer.blocks
        if self._swap is not None:
            return replace(plan, resident_blocks=len(self._swap.resident), resident_bytes=self._swap.resident_bytes)
        if plan.residency["transformer"] == "gpu":
            return replace(plan, resident_blocks=len(blocks), resident_bytes=sum(map(_bytes_of, blocks)))
        return plan

    @property
    def copies(self) -> str:
        """In words, what a step copies to the device and how long that takes; empty where nothing is swapped."""
        if self._swap is None or not self._swap.bytes_per_pass:
            return ""
        size, speed = self._swap.bytes_per_pass, self._swap.bus_speed
        return (
            f" A step copies {size / GB:.1f} GB, which takes {size / speed:.1f} s "
            f"at the measured {speed / GB:.1f} GB/s."
        )

    def visit(self, part: str, on_call: bool = False) -> AbstractContextManager[None]:
        """A part is on the device while this lasts; where it does not fit, its weights come as they are used.

        Args:
            on_call: let them come so without trying.
        """
        loan = self._loans[part]
        if self.plan.residency[part] == "cpu" or loan.away:
            return nullcontext()
        if on_call or not self._make_room(loan.model):
            log.info("%s does not fit onto %s: its weights come as they are used", part, self._device)
            return self._called(loan.model)
        return self._lent(loan, stays=self.plan.residency[part] == "gpu")

    @contextmanager
    def _called(self, model: nn.Module) -> Iterator[None]:
        DynamicSwapInstaller.install_model(model, device=self._device)
        try:
            yield
        finally:
            DynamicSwapInstaller.uninstall_model(model)

    @contextmanager
    def _lent(self, loan: Loan, stays: bool) -> Iterator[None]:
        loan.go(self._device)
        try:
            yield
        finally:
            if not stays:
                loan.leave()

    def _make_room(self, model: nn.Module) -> bool:
        """Whether ``model`` fits onto the device, after the others have left if they must; not if that is in vain."""
        needed = _bytes_of(model) + ROOM_TO_WORK_BYTES
        if _unused_vram(self._device) >= needed:
            return True
        if _unused_vram(self._device) + self._idle_bytes() < needed:
            return False
        self.clear()
        return _unused_vram(self._device) >= needed

    def _idle_bytes(self) -> int:
        """What ``clear`` would give back."""
        loans = [*self._loans.values(), *([self._packed] if self._packed else [])]
        return sum(loan.bytes_away for loan in loans) + (self._swap.idle_bytes if self._swap else 0)

    def clear(self) -> None:
        """Let everything leave the device that need not be copied back; it comes again when it is needed."""
        for loan in self._loans.values():
            loan.leave()
        self._transformer_leaves()
        free_unused()

    def close(self) -> None:
        """All parts are ordinary models in RAM again, or where they are for good, as blocks without a copy in RAM are;
        nothing is locked. Copies end first, then the device's memory goes, then the locks, then the thread and the
        stream."""
        self.clear()
        if self._swap is not None:
            self._swap.close()
            self._parts.transformer.block_source = None
        if self._transport is not None:
            self._transport.close()
        self._swap = self._transport = None

    def at_home(self, part: str) -> nn.Module:
        """The part, in RAM."""
        self._loans[part].leave()
        return self._loans[part].model

    def before_sampling(self) -> None:
        """It is the transformer's turn; blocks that are swapped come by themselves."""
        if self._packed is not None:
            self._packed.go(self._device)

    def before_decoding(self) -> None:
        """Where parts take turns, it is not the transformer's."""
        if self.plan.take_turns:
            self._transformer_leaves()

    def vae_leaves(self) -> None:
        """Whatever the plan says, the VAE is on the device only while it works."""
        self.plan = self.plan.with_vae_lent()

    def take_turns(self) -> None:
        """Whatever the plan says, the transformer leaves as far as it can while a clip is decoded."""
        self.plan = replace(self.plan, take_turns=True)

    def _transformer_leaves(self) -> None:
        if self._swap is not None:
            self._swap.rest()
        if self._packed is not None:
            self._packed.leave()

    def fewer_resident_blocks(self) -> bool:
        """Halve what stays on the device while sampling; False where that cannot be done."""
        if not self.plan.resident_blocks or not (self._swap or self._can_be_swapped()):
            return False
        blocks = self.plan.resident_blocks // 2
        held = self.plan.resident_bytes // 2 if blocks else 0
        residency = {**self.plan.residency, "transformer": "swapped"}
        self.follow(replace(self.plan, residency=residency, resident_blocks=blocks, resident_bytes=held))
        return True

    def _can_be_swapped(self) -> bool:
        """Whether blocks that are on the device for good may become ones that pass through, and RAM has room."""
        may = self.plan.residency["transformer"] == "gpu" and self.plan.precision not in STAY_ON_GPU
        return may and self.plan.resident_bytes + SPARE_RAM <= read_ram().free


def _bytes_of(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def _unused_vram(device: torch.device) -> int:
    """Free for the driver, or held by PyTorch and unused; without a GPU everything fits."""
    if device.type != "cuda":
        return sys.maxsize
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held
