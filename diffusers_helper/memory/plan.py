"""Where the weights of every part go, decided before anything is loaded: the cheapest way to run that fits.

What a candidate needs and costs is fixed (candidates.py), so more memory never makes it slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..errors import OutOfMemory
from ..words import Message, joined
from .candidates import Candidate, Situation
from .costs import STAY_ON_GPU, Beside, Cached, Constraints, Machine, Place, Precision, Stored, Workload
from .units import GB

SMALL_WINDOW = 3
"""What is offered where the memory does not suffice: sections of so many latent frames."""


@dataclass(frozen=True)
class MemoryPlan:
    """How to run.

    Attributes:
        residency: part -> where its weights are. ``gpu``: there for good. ``swapped``: in RAM, and on the GPU for
            their use; of the transformer, ``resident_blocks`` of ``blocks`` stay there while it samples. ``cpu``:
            computes there.
        resident_bytes: of the blocks that stay.
        decode: the name of the decoder; ``decoder_words`` are its words.
        take_turns: the transformer leaves the GPU while a clip is decoded.
        beside: what is done of a clip while the next section is sampled.
        peak_vram_bytes, peak_ram_bytes: predicted. Encoding is not in it: it takes what is free.
        free_vram_bytes, free_ram_bytes: what was there to plan with.
        read_again_bytes: of encoders, which are read from disk again for a new prompt, because RAM is short.
        stored: in training, what is done about what the backward pass needs.
        notices: what was asked for and could not be had.
        remarks: what else there is to say of how this video runs.
    """

    precision: Precision
    modulation_table: bool
    residency: Mapping[str, Place]
    blocks: int
    resident_blocks: int
    resident_bytes: int
    take_turns: bool
    decode: str
    decoder_words: Message | None
    peak_vram_bytes: int
    peak_ram_bytes: int
    free_vram_bytes: int
    free_ram_bytes: int
    beside: Beside = "nothing"
    read_again_bytes: int = 0
    stored: Stored = "kept"
    notices: tuple[Message, ...] = ()
    remarks: tuple[Message, ...] = ()

    @property
    def why(self) -> Message:
        """The plan for people."""
        again = (Message("memory.read_again", again=self.read_again_bytes),) if self.read_again_bytes else ()
        beside = (Message("memory.decodes_beside"),) if self.beside == "decoding" else ()
        return joined(self._how(), *beside, *again, *self.remarks)

    def _how(self) -> Message:
        ram = {"ram": self.peak_ram_bytes, "ram_free": self.free_ram_bytes}
        if self.residency["transformer"] == "cpu":
            return Message("memory.plan_cpu", weights=weights(self.precision), **ram)
        vram = {"vram": self.peak_vram_bytes, "vram_free": self.free_vram_bytes}
        return Message("memory.plan_gpu", how=tuple(self._clauses()), **vram, **ram)

    def _clauses(self) -> Iterator[Message]:
        yield weights(self.precision)
        if self.resident_blocks == self.blocks:
            yield Message("memory.all_resident")
        else:
            yield Message("memory.some_resident", resident=self.resident_blocks, blocks=self.blocks)
        if self.take_turns:
            yield Message("memory.take_turns")
        if self.stored == "again":
            yield Message("memory.computed_again")
        if self.stored == "in_ram":
            yield Message("memory.computed_again_from_ram")
        if self.decoder_words:
            yield Message("memory.decoding", decoder=self.decoder_words)

    def with_vae_lent(self) -> MemoryPlan:
        """The same, but a VAE that would stay on the GPU is there only while it works."""
        stays = self.residency["vae"] == "gpu"
        return replace(self.alone(), residency={**self.residency, "vae": "swapped"}) if stays else self

    def in_turns(self) -> MemoryPlan:
        """The same, but the transformer leaves while a clip is decoded."""
        return replace(self.alone(), take_turns=True)

    def alone(self) -> MemoryPlan:
        """The same, but nothing is sampled while a clip is decoded."""
        return replace(self, beside="writing") if self.beside == "decoding" else self


def weights(precision: Precision) -> Message:
    """The numbers that weights are kept in, for people."""
    return Message(f"memory.weights_{precision}")


def plan_memory(situation: Situation) -> MemoryPlan:
    """The cheapest way to run that fits.

    Raises:
        OutOfMemory: nothing fits; says what is short and what would fit.
    """
    best, constraints = _best(situation), situation.constraints
    if best is None and constraints.precision in STAY_ON_GPU:
        best = _best(replace(situation, constraints=replace(constraints, precision="auto")))
    if best is None:
        raise OutOfMemory(_refusal(situation))
    return _plan(best, situation.machine, constraints)


def _best(situation: Situation) -> Candidate | None:
    """To train, weights of the modulation that a table stands for would be read in each step: so they stay where there
    is room for all."""
    if not situation.workload.learning:
        return _cheapest(situation)
    asked = situation.constraints
    precision = "as_is" if asked.precision == "auto" else asked.precision
    whole = replace(asked, precision=precision, modulation_table=False, swap=False)
    return _cheapest(replace(situation, constraints=whole)) or _cheapest(situation)


def _cheapest(situation: Situation) -> Candidate | None:
    fitting = (each for each in situation.candidates() if _fits(each, situation.machine))
    return min(fitting, key=Candidate.order, default=None)


def _fits(candidate: Candidate, machine: Machine) -> bool:
    return candidate.vram() <= machine.vram_free and candidate.ram() <= machine.ram_free


def _plan(chosen: Candidate, machine: Machine, constraints: Constraints) -> MemoryPlan:
    residency: dict[str, Place] = dict.fromkeys(chosen.sizes.rest, "swapped" if chosen.on_gpu else "cpu")
    if chosen.on_gpu and chosen.vae_stays():
        residency["vae"] = "gpu"
    residency["transformer"] = "gpu" if chosen.stays else "swapped" if chosen.on_gpu else "cpu"
    beside = _beside(chosen, machine)
    return MemoryPlan(
        precision=chosen.precision,
        modulation_table=chosen.constraints.modulation_table,
        residency=residency,
        blocks=chosen.sizes.blocks,
        resident_blocks=chosen.resident_blocks,
        resident_bytes=chosen.resident_bytes(),
        take_turns=chosen.take_turns,
        decode=chosen.decoder.name,
        decoder_words=None if chosen.learns else chosen.decoder.words,
        peak_vram_bytes=max(chosen.vram(), chosen.vram_beside() if beside == "decoding" else 0),
        peak_ram_bytes=chosen.ram_beside() if beside == "decoding" else chosen.ram(),
        free_vram_bytes=machine.vram_free,
        free_ram_bytes=machine.ram_free,
        beside=beside,
        read_again_bytes=_read_again(chosen, machine),
        stored=chosen.stored,
        notices=tuple(_notices(chosen, machine, constraints)),
    )


def _beside(chosen: Candidate, machine: Machine) -> Beside:
    """As much as is asked for and has room; unasked nothing where the CPU computes, which writes too."""
    asked = chosen.constraints.beside
    if chosen.learns or asked is False or (asked is None and not chosen.on_gpu):
        return "nothing"
    fits = chosen.vram_beside() <= machine.vram_free and chosen.ram_beside() <= machine.ram_free
    return "decoding" if fits and not chosen.take_turns else "writing"


def _read_again(chosen: Candidate, machine: Machine) -> int:
    """Of encoders, where there is a GPU and RAM has no room to keep what was read of them."""
    again = chosen.read_again_bytes() if chosen.on_gpu else 0
    return again if chosen.ram() + again > machine.ram_free else 0


def _notices(chosen: Candidate, machine: Machine, constraints: Constraints) -> Iterator[Message]:
    if constraints.precision != "auto" and constraints.precision != chosen.precision:
        yield Message("memory.cannot_stay", asked=weights(constraints.precision), used=weights(chosen.precision))
    kept = chosen.kept_bytes()
    if kept > machine.disk_free:
        yield Message("memory.not_kept", precision=chosen.precision, needed=kept, free=machine.disk_free)
    preserved = chosen.constraints.preserved_bytes
    if not chosen.on_gpu:
        if preserved != Constraints.preserved_bytes:
            yield Message("memory.preserved_without_gpu")
    elif chosen.precision in STAY_ON_GPU and machine.vram_free - chosen.weights_vram() < preserved:
        yield Message("memory.preserved_less")
    elif preserved > machine.vram_total:
        yield Message("memory.preserved_too_much", preserved=round(preserved / GB), total=machine.vram_total)


def _refusal(situation: Situation) -> Message:
    """What is short in the way that comes nearest, and what would fit."""
    machine = replace(situation.machine, lessons=())
    situation = replace(situation, machine=machine)
    nearest = min(situation.candidates(), key=lambda each: _shortage(each, machine))
    vram = {"vram": nearest.vram(), "vram_free": machine.vram_free}
    ram = {"ram": nearest.ram(), "ram_free": machine.ram_free}
    match vram["vram"] > vram["vram_free"], ram["ram"] > ram["ram_free"]:
        case (True, True):
            return joined(Message("memory.needs_both", **vram, **ram), _remedy(situation))
        case (True, False):
            return joined(Message("memory.needs_vram", **vram), _remedy(situation))
    return joined(Message("memory.needs_ram", **ram), _remedy(situation))


def _shortage(candidate: Candidate, machine: Machine) -> tuple[int, int]:
    """RAM is the easier one to free."""
    return (max(candidate.vram() - machine.vram_free, 0), max(candidate.ram() - machine.ram_free, 0))


def _remedy(situation: Situation) -> Message:
    workload = situation.workload
    smaller = replace(
        Workload.of(workload.height, workload.width, SMALL_WINDOW, workload.steps, workload.cached),
        lora_bytes=workload.lora_bytes,
        learning=workload.learning,
    )
    free = replace(situation.constraints, precision="auto", swap=True, decode="auto")
    in_4_bits = replace(free, precision="bnb4", bnb_cpu_offload=True)
    tries = (
        (Message("memory.fits_by_default"), replace(situation, constraints=free)),
        (Message("memory.fits_without_cache"), replace(situation, workload=replace(workload, cached=Cached()))),
        *_without_loras(situation),
        (Message("memory.fits_small_window", window=SMALL_WINDOW), replace(situation, workload=smaller)),
        *_with_smaller_examples(situation),
        (Message("memory.fits_in_4_bits"), replace(situation, constraints=in_4_bits)),
    )
    for remedy, tried in tries:
        if any(_fits(each, tried.machine) for each in tried.candidates()):
            return remedy
    return Message("memory.fits_nowhere")


def _without_loras(situation: Situation) -> Iterator[tuple[Message, Situation]]:
    """A training is about them."""
    workload = situation.workload
    if not workload.learning:
        yield Message("memory.fits_without_loras"), replace(situation, workload=replace(workload, lora_bytes=0))


def _with_smaller_examples(situation: Situation) -> Iterator[tuple[Message, Situation]]:
    """To train."""
    workload = situation.workload
    for percent in (75, 50) if workload.learning else ():
        tokens = workload.tokens * percent**2 // 100**2
        yield (
            Message("memory.fits_smaller_examples", percent=percent),
            replace(situation, workload=replace(workload, tokens=tokens)),
        )
