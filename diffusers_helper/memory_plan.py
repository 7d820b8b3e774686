"""Where the weights of every part go, decided before anything is loaded: the cheapest way to run that fits.

Every way that the wishes allow is a candidate (memory_ways.py). What a way needs and costs is fixed, so more memory
never makes it slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from .errors import OutOfMemory
from .memory_ways import (
    GB,
    STAY_ON_GPU,
    WORDS,
    Decode,
    Machine,
    PartSizes,
    Precision,
    Residency,
    Way,
    Wishes,
    Workload,
    ways,
)

DECODING: Mapping[Decode, str] = {
    "gpu": "",
    "tiled": ", decoding in tiles",
    "small_tiles": ", decoding in small tiles",
    "cpu": ", decoding on the CPU",
}
SMALL_WINDOW = 3
"""What is offered where the memory does not suffice: sections of so many latent frames."""


@dataclass(frozen=True)
class MemoryPlan:
    """How to run.

    Attributes:
        residency: part -> where its weights are. ``gpu``: there for good. ``swapped``: in RAM, and on the GPU for
            their use; of the transformer, ``resident_blocks`` stay there while it samples. ``cpu``: computes there.
        resident_bytes: of the blocks that stay.
        take_turns: the transformer leaves the GPU while a clip is decoded.
        peak_vram_bytes, peak_ram_bytes: predicted. Encoding is not in it: it takes what is free.
        words: the plan for people; ``{resident_blocks}`` stands for that number.
        notices: what was asked for and could not be had.
    """

    precision: Precision
    modulation_table: bool
    residency: Mapping[str, Residency]
    resident_blocks: int
    resident_bytes: int
    take_turns: bool
    decode: Decode
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


def plan_memory(machine: Machine, parts: PartSizes, workload: Workload, wishes: Wishes) -> MemoryPlan:
    """The cheapest way to run that fits.

    Raises:
        OutOfMemory: nothing fits; says what is short and what would fit.
    """
    best = _best(machine, parts, workload, wishes)
    if best is None and wishes.precision in STAY_ON_GPU:
        best = _best(machine, parts, workload, replace(wishes, precision="auto"))
    if best is None:
        raise OutOfMemory(_refusal(machine, parts, workload, wishes))
    return _plan(best, machine, wishes)


def _best(machine: Machine, parts: PartSizes, workload: Workload, wishes: Wishes) -> Way | None:
    fitting = (way for way in ways(machine, parts, workload, wishes) if _fits(way, machine))
    return min(fitting, key=Way.order, default=None)


def _fits(way: Way, machine: Machine) -> bool:
    return way.vram() <= machine.vram_free and way.ram() <= machine.ram_free


def _plan(way: Way, machine: Machine, wishes: Wishes) -> MemoryPlan:
    residency: dict[str, Residency] = dict.fromkeys(way.sizes.rest, "swapped" if way.on_gpu else "cpu")
    if way.on_gpu and way._vae_stays():
        residency["vae"] = "gpu"
    residency["transformer"] = "gpu" if way.stays else "swapped" if way.on_gpu else "cpu"
    return MemoryPlan(
        precision=way.precision,
        modulation_table=way.wishes.modulation_table,
        residency=residency,
        resident_blocks=way.resident_blocks,
        resident_bytes=way.resident_bytes(),
        take_turns=way.take_turns,
        decode=way.decode,
        peak_vram_bytes=way.vram(),
        peak_ram_bytes=way.ram(),
        words=_words(way, machine),
        notices=tuple(_notices(way, machine, wishes)),
    )


def _notices(way: Way, machine: Machine, wishes: Wishes) -> Iterator[str]:
    if wishes.precision != "auto" and wishes.precision != way.precision:
        yield (
            f"{WORDS[wishes.precision].capitalize()} cannot be swapped, and the GPU cannot hold them all: "
            f"{WORDS[way.precision]} are used instead."
        )
    if way.kept_bytes() > machine.disk_free:
        yield (
            f"The {way.precision} weights cannot be kept for the next start: that takes {way.kept_bytes() / GB:.1f} GB "
            f"on the disk of the checkpoints, and {machine.disk_free / GB:.1f} GB are free there."
        )
    preserved = way.wishes.preserved_bytes
    if not way.on_gpu:
        if preserved != Wishes.preserved_bytes:
            yield "Preserved GPU memory has no effect here: there is no GPU."
    elif way.precision in STAY_ON_GPU and machine.vram_free - way.weights_vram() < preserved:
        yield "Less GPU memory is preserved than was asked for: weights packed by bitsandbytes cannot leave it."
    elif preserved > machine.vram_total:
        yield (
            f"{preserved / GB:.0f} GB of preserved GPU memory are more than the {machine.vram_total / GB:.1f} GB that "
            "the GPU has: no block of the transformer stays on it, which is slower."
        )


def _words(way: Way, machine: Machine) -> str:
    ram = f"{way.ram() / GB:.1f} of {machine.ram_free / GB:.1f} GB free RAM"
    if not way.on_gpu:
        return f"{WORDS[way.precision]}, all on the CPU, with at most {ram}."
    where = "all blocks on the GPU"
    if not way.all_resident:
        where = f"{{resident_blocks}} of {way.sizes.blocks} blocks on the GPU, the others swapped in from RAM"
    turns = ", which is cleared for decoding" if way.take_turns else ""
    decode = DECODING[way.decode]
    vram = f"{way.vram() / GB:.1f} of {machine.vram_free / GB:.1f} GB free VRAM"
    return f"{WORDS[way.precision]}, {where}{turns}{decode}, with at most {vram} and {ram}.{_reads(way, machine)}"


def _reads(way: Way, machine: Machine) -> str:
    if way.ram() + way.read_again_bytes() <= machine.ram_free:
        return ""
    return f" RAM is short: up to {way.read_again_bytes() / GB:.1f} GB of encoders are read from disk for a new prompt."


def _refusal(machine: Machine, parts: PartSizes, workload: Workload, wishes: Wishes) -> str:
    """What is short in the way that comes nearest, and what would fit."""
    machine = replace(machine, lessons=())
    nearest = min(ways(machine, parts, workload, wishes), key=lambda way: _shortage(way, machine))
    needs = [
        f"{needed / GB:.1f} GB of {kind} ({free / GB:.1f} GB are free)"
        for kind, needed, free in (
            ("GPU memory", nearest.vram(), machine.vram_free),
            ("RAM", nearest.ram(), machine.ram_free),
        )
        if needed > free
    ]
    return f"this needs at least {' and '.join(needs)}. {_remedy(machine, parts, workload, wishes)}"


def _shortage(way: Way, machine: Machine) -> tuple[int, int]:
    """RAM is the easier one to free."""
    return (max(way.vram() - machine.vram_free, 0), max(way.ram() - machine.ram_free, 0))


def _remedy(machine: Machine, parts: PartSizes, workload: Workload, wishes: Wishes) -> str:
    smaller = Workload.of(workload.height, workload.width, SMALL_WINDOW, workload.steps, workload.cached_tensors)
    free = replace(wishes, precision="auto", swap=True, decode="auto")
    tries: tuple[tuple[str, Workload, Wishes], ...] = (
        ("The quantisation that is chosen by default would fit", workload, free),
        ("It would fit without a step cache", replace(workload, cached_tensors=0), wishes),
        (f"A latent window of {SMALL_WINDOW} would fit", smaller, wishes),
        ("4-bit weights by bitsandbytes would fit", workload, replace(free, precision="bnb4", bnb_cpu_offload=True)),
    )
    for words, load, wish in tries:
        if any(_fits(way, machine) for way in ways(machine, parts, load, wish)):
            return f"{words}; or close other programs."
    return "Close other programs; `--checkpoint pocket` fits everywhere."
