"""Where the weights of every part go, decided before anything is loaded: the cheapest way to run that fits.

What a candidate needs and costs is fixed (candidates.py), so more memory never makes it slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..errors import OutOfMemory
from .candidates import Candidate, Situation
from .costs import STAY_ON_GPU, WORDS, Constraints, Machine, Place, Precision, Workload
from .units import GB

SMALL_WINDOW = 3
"""What is offered where the memory does not suffice: sections of so many latent frames."""


@dataclass(frozen=True)
class MemoryPlan:
    """How to run.

    Attributes:
        residency: part -> where its weights are. ``gpu``: there for good. ``swapped``: in RAM, and on the GPU for
            their use; of the transformer, ``resident_blocks`` stay there while it samples. ``cpu``: computes there.
        resident_bytes: of the blocks that stay.
        decode: the name of the decoder.
        take_turns: the transformer leaves the GPU while a clip is decoded.
        peak_vram_bytes, peak_ram_bytes: predicted. Encoding is not in it: it takes what is free.
        words: the plan for people; ``{resident_blocks}`` stands for that number.
        notices: what was asked for and could not be had.
    """

    precision: Precision
    modulation_table: bool
    residency: Mapping[str, Place]
    resident_blocks: int
    resident_bytes: int
    take_turns: bool
    decode: str
    peak_vram_bytes: int
    peak_ram_bytes: int
    words: str
    notices: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """The plan in words."""
        return self.words.format(resident_blocks=self.resident_blocks)

    def with_vae_lent(self) -> MemoryPlan:
        """The same, but a VAE that would stay on the GPU is there only while it works."""
        stays = self.residency["vae"] == "gpu"
        return replace(self, residency={**self.residency, "vae": "swapped"}) if stays else self


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
    fitting = (each for each in situation.candidates() if _fits(each, situation.machine))
    return min(fitting, key=Candidate.order, default=None)


def _fits(candidate: Candidate, machine: Machine) -> bool:
    return candidate.vram() <= machine.vram_free and candidate.ram() <= machine.ram_free


def _plan(chosen: Candidate, machine: Machine, constraints: Constraints) -> MemoryPlan:
    residency: dict[str, Place] = dict.fromkeys(chosen.sizes.rest, "swapped" if chosen.on_gpu else "cpu")
    if chosen.on_gpu and chosen.vae_stays():
        residency["vae"] = "gpu"
    residency["transformer"] = "gpu" if chosen.stays else "swapped" if chosen.on_gpu else "cpu"
    return MemoryPlan(
        precision=chosen.precision,
        modulation_table=chosen.constraints.modulation_table,
        residency=residency,
        resident_blocks=chosen.resident_blocks,
        resident_bytes=chosen.resident_bytes(),
        take_turns=chosen.take_turns,
        decode=chosen.decoder.name,
        peak_vram_bytes=chosen.vram(),
        peak_ram_bytes=chosen.ram(),
        words=_words(chosen, machine),
        notices=tuple(_notices(chosen, machine, constraints)),
    )


def _notices(chosen: Candidate, machine: Machine, constraints: Constraints) -> Iterator[str]:
    if constraints.precision != "auto" and constraints.precision != chosen.precision:
        yield (
            f"{WORDS[constraints.precision].capitalize()} cannot be swapped, and the GPU cannot hold them all: "
            f"{WORDS[chosen.precision]} are used instead."
        )
    kept = chosen.kept_bytes()
    if kept > machine.disk_free:
        yield (
            f"The {chosen.precision} weights cannot be kept for the next start: that takes {kept / GB:.1f} GB "
            f"on the disk of the checkpoints, and {machine.disk_free / GB:.1f} GB are free there."
        )
    preserved = chosen.constraints.preserved_bytes
    if not chosen.on_gpu:
        if preserved != Constraints.preserved_bytes:
            yield "Preserved GPU memory has no effect here: there is no GPU."
    elif chosen.precision in STAY_ON_GPU and machine.vram_free - chosen.weights_vram() < preserved:
        yield "Less GPU memory is preserved than was asked for: weights packed by bitsandbytes cannot leave it."
    elif preserved > machine.vram_total:
        yield (
            f"{preserved / GB:.0f} GB of preserved GPU memory are more than the {machine.vram_total / GB:.1f} GB that "
            "the GPU has: no block of the transformer stays on it, which is slower."
        )


def _words(chosen: Candidate, machine: Machine) -> str:
    ram = f"{chosen.ram() / GB:.1f} of {machine.ram_free / GB:.1f} GB free RAM"
    if not chosen.on_gpu:
        return f"{WORDS[chosen.precision]}, all on the CPU, with at most {ram}."
    where = "all blocks on the GPU"
    if not chosen.all_resident:
        where = f"{{resident_blocks}} of {chosen.sizes.blocks} blocks on the GPU, the others swapped in from RAM"
    turns = ", which is cleared for decoding" if chosen.take_turns else ""
    decode = chosen.decoder.words and f", decoding {chosen.decoder.words}"
    vram = f"{chosen.vram() / GB:.1f} of {machine.vram_free / GB:.1f} GB free VRAM"
    return f"{WORDS[chosen.precision]}, {where}{turns}{decode}, with at most {vram} and {ram}.{_reads(chosen, machine)}"


def _reads(chosen: Candidate, machine: Machine) -> str:
    again = chosen.read_again_bytes()
    if chosen.ram() + again <= machine.ram_free:
        return ""
    return f" RAM is short: up to {again / GB:.1f} GB of encoders are read from disk for a new prompt."


def _refusal(situation: Situation) -> str:
    """What is short in the way that comes nearest, and what would fit."""
    machine = replace(situation.machine, lessons=())
    situation = replace(situation, machine=machine)
    nearest = min(situation.candidates(), key=lambda each: _shortage(each, machine))
    needs = [
        f"{needed / GB:.1f} GB of {kind} ({free / GB:.1f} GB are free)"
        for kind, needed, free in (
            ("GPU memory", nearest.vram(), machine.vram_free),
            ("RAM", nearest.ram(), machine.ram_free),
        )
        if needed > free
    ]
    return f"this needs at least {' and '.join(needs)}. {_remedy(situation)}"


def _shortage(candidate: Candidate, machine: Machine) -> tuple[int, int]:
    """RAM is the easier one to free."""
    return (max(candidate.vram() - machine.vram_free, 0), max(candidate.ram() - machine.ram_free, 0))


def _remedy(situation: Situation) -> str:
    workload = situation.workload
    smaller = Workload.of(workload.height, workload.width, SMALL_WINDOW, workload.steps, workload.cached_tensors)
    free = replace(situation.constraints, precision="auto", swap=True, decode="auto")
    in_4_bits = replace(free, precision="bnb4", bnb_cpu_offload=True)
    tries = (
        ("The quantisation that is chosen by default would fit", replace(situation, constraints=free)),
        ("It would fit without a step cache", replace(situation, workload=replace(workload, cached_tensors=0))),
        (f"A latent window of {SMALL_WINDOW} would fit", replace(situation, workload=smaller)),
        ("4-bit weights by bitsandbytes would fit", replace(situation, constraints=in_4_bits)),
    )
    for words, tried in tries:
        if any(_fits(each, tried.machine) for each in tried.candidates()):
            return f"{words}; or close other programs."
    return "Close other programs; `--checkpoint pocket` fits everywhere."
