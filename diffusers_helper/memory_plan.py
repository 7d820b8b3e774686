"""Where the weights of every part go, decided before anything is loaded. Numbers in, numbers out; no tensors.

Every way to run is a candidate: the numbers the weights are kept in, how many blocks stay on the GPU, whether the parts
take turns there, how clips are decoded. A candidate needs a fixed amount of memory and has a fixed cost, so the
cheapest one that fits never gets slower when there is more memory. GB are 1e9 bytes.

The factors are estimates for the 13B checkpoint, from counting its operations; they err to the safe side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from .errors import OutOfMemory

Precision = Literal["as_is", "int8", "fp8", "bnb8", "bnb4"]
Residency = Literal["gpu", "cpu", "swapped"]
Decode = Literal["gpu", "tiled", "cpu"]

GB = 10**9
BYTES_PER_WEIGHT: Mapping[Precision, float] = {"int8": 1.001, "fp8": 1.001, "bnb8": 1.01, "bnb4": 0.57}
"""Of a block's matrices, with their scales; ``as_is`` has what the machine computes in."""
WORDS: Mapping[Precision, str] = {
    "as_is": "weights as they are",
    "int8": "int8 weights",
    "fp8": "scaled fp8 weights",
    "bnb8": "8-bit weights by bitsandbytes",
    "bnb4": "4-bit weights by bitsandbytes",
}
STAY_ON_GPU: tuple[Precision, ...] = ("bnb8", "bnb4")
"""What bitsandbytes has packed cannot be swapped by blocks."""

ENOUGH_VRAM, ENOUGH_RAM = 24 * GB, 48 * GB
"""Below either, a transformer that must be swapped is swapped in int8."""
SWAP_BUFFERS = 3
ACTIVATIONS_PER_TOKEN = 24
"""Values of the transformer's width that a block holds at once for each token."""
DECODE_VALUES_PER_PIXEL = 8.5
"""Values per pixel and VAE channel at the widest point of decoding 17 frames at once."""
DECODED_AT_ONCE, TILE = 17, 256
SPARE_RAM = 5 * 10**8
DECODED_STEPS: Mapping[Decode, float] = {"gpu": 1.3, "tiled": 2.1, "cpu": 60.0}
"""What decoding a section costs, in sampling steps on the GPU."""
CPU_SLOWNESS = 50
OPERATIONS_PER_BYTE = 10_000
"""What a fast card computes while its bus carries a byte; slower cards hide more of the swapping."""


@dataclass(frozen=True)
class Machine:
    """What is there, in bytes. ``vram_*`` are 0 without a GPU; free is what this program may use."""

    vram_total: int
    vram_free: int
    ram_total: int
    ram_free: int


@dataclass(frozen=True)
class PartSizes:
    """Numbers of weights, and the bytes of each in the numbers that the machine computes in.

    Attributes:
        blocks: of the transformer, both kinds together.
        block_weights, largest_block_weights: of all blocks and of the largest, without their modulation.
        modulation_weights: matrices that see one vector per step; a table can stand for them.
        other_weights: of the transformer, outside of its blocks.
        width: of the transformer's tokens.
        vae_channels: at the full size of a picture.
        rest: part -> weights, for the parts beside the transformer.
        bytes_per_weight: part -> bytes.
    """

    blocks: int
    block_weights: int
    largest_block_weights: int
    modulation_weights: int
    other_weights: int
    width: int
    vae_channels: int
    rest: Mapping[str, int]
    bytes_per_weight: Mapping[str, int]

    def bytes_of(self, part: str) -> int:
        """Of a part beside the transformer."""
        return self.rest[part] * self.bytes_per_weight[part]


@dataclass(frozen=True)
class Workload:
    """What one section asks for: ``tokens`` of one transformer call, and the clip's size in pixels."""

    height: int
    width: int
    tokens: int
    steps: int = 25

    @classmethod
    def of(cls, height: int, width: int, latent_window: int = 9, steps: int = 25, text_tokens: int = 900) -> Workload:
        """The largest section of a video: 1 clean start frame and 1 clean, 2 2x and 16 4x context frames."""
        rows, columns = height // 16, width // 16
        coarse = -(-rows // 2) * -(-columns // 2) + 4 * -(-rows // 4) * -(-columns // 4)
        return cls(height, width, (latent_window + 2) * rows * columns + coarse + text_tokens, steps)

    def decode_bytes(self, sizes: PartSizes, how: Decode) -> int:
        """Working memory of the VAE."""
        pixels = self.height * self.width if how == "gpu" else min(self.height, TILE) * min(self.width, TILE)
        values = DECODE_VALUES_PER_PIXEL * DECODED_AT_ONCE * pixels * sizes.vae_channels
        return int(values * sizes.bytes_per_weight["vae"])


@dataclass(frozen=True)
class Wishes:
    """What settings and request ask for.

    Attributes:
        precision: one of Precision, or "auto".
        modulation_table: whether a table may stand for the modulation weights.
        swap: whether a part of the transformer may be swapped in from RAM.
        bnb_cpu_offload: whether bitsandbytes' 4-bit weights leave the GPU while other parts work.
        small_host_copy: blocks that stay on the GPU have no copy in RAM; so they cannot take turns.
        preserved_bytes: GPU memory that resident blocks leave free; working memory comes out of it. Blocks packed by
            bitsandbytes cannot be anywhere else, so they do not heed it.
        decode: a way to decode, or "auto".
    """

    precision: Precision | Literal["auto"] = "auto"
    modulation_table: bool = True
    swap: bool = True
    bnb_cpu_offload: bool = False
    small_host_copy: bool = False
    preserved_bytes: int = 6 * GB
    decode: Decode | Literal["auto"] = "auto"


@dataclass(frozen=True)
class MemoryPlan:
    """How to run.

    Attributes:
        residency: part -> where its weights are. ``gpu``: there for good. ``swapped``: in RAM, and on the GPU for
            their use; of the transformer, ``resident_blocks`` stay there while it samples. ``cpu``: computes there.
        resident_bytes: of the blocks that stay.
        take_turns: the transformer leaves the GPU while a clip is decoded.
        peak_vram_bytes, peak_ram_bytes: predicted. Encoding is not in it: it takes what is free.
        why: one sentence for people.
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
    why: str
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """One way to run: what it needs and costs."""

    sizes: PartSizes
    workload: Workload
    wishes: Wishes
    on_gpu: bool
    precision: Precision
    decode: Decode
    take_turns: bool
    resident_blocks: int

    @property
    def all_resident(self) -> bool:
        return self.resident_blocks == self.sizes.blocks

    @property
    def stays(self) -> bool:  # the whole transformer, on the GPU, for good
        return self.on_gpu and self.all_resident and not self.take_turns

    def block_bytes(self) -> int:
        as_is = self.sizes.bytes_per_weight["transformer"]
        modulation = 0 if self.wishes.modulation_table else self.sizes.modulation_weights * as_is
        return int(self.sizes.block_weights * BYTES_PER_WEIGHT.get(self.precision, as_is)) + modulation

    def _largest_block_bytes(self) -> int:
        share = self.sizes.largest_block_weights / max(self.sizes.block_weights, 1)
        return int(share * self.block_bytes())

    def resident_bytes(self) -> int:
        """Of the blocks that stay; spread evenly over both kinds, so at most one large one too many."""
        if not self.resident_blocks:
            return 0
        share = self.block_bytes() * self.resident_blocks // self.sizes.blocks
        return min(share + self._largest_block_bytes(), self.block_bytes())

    def other_bytes(self) -> int:
        """Of the transformer outside of its blocks, and of the modulation table."""
        table = self.wishes.modulation_table * 2 * self.workload.steps * 12 * self.sizes.blocks * self.sizes.width
        return (self.sizes.other_weights + table) * self.sizes.bytes_per_weight["transformer"]

    def activation_bytes(self) -> int:
        values = self.workload.tokens * self.sizes.width * ACTIVATIONS_PER_TOKEN
        return values * self.sizes.bytes_per_weight["transformer"]

    def vram(self) -> int:
        """The most that is needed at once on the GPU."""
        return max(self._sampling_vram(), self._decoding_vram()) if self.on_gpu else 0

    def _sampling_vram(self) -> int:
        activations = self.activation_bytes()
        chosen = self.resident_blocks and self.precision not in STAY_ON_GPU
        free = max(self.wishes.preserved_bytes, activations) if chosen else activations
        return self._weights_vram() + free + (self.sizes.bytes_of("vae") if self._vae_stays() else 0)

    def _weights_vram(self) -> int:
        buffers = 0 if self.all_resident else SWAP_BUFFERS * self._largest_block_bytes()
        return self.other_bytes() + self.resident_bytes() + buffers

    def _vae_stays(self) -> bool:
        return not self.take_turns and self.decode != "cpu"

    def _decoding_vram(self) -> int:
        held = 0 if self.take_turns else self._weights_vram()
        if self.decode == "cpu":
            return held
        return held + self.sizes.bytes_of("vae") + self.workload.decode_bytes(self.sizes, self.decode)

    def ram(self) -> int:
        """The most that is needed at once in RAM. The transformer is loaded first, and may leave at once."""
        return SPARE_RAM + max(self._loading_ram(), self._working_ram())

    def _loading_ram(self) -> int:
        """int8 and fp8 are made tensor by tensor; all else is read whole."""
        if self.precision in ("int8", "fp8"):
            return self.block_bytes() + self.other_bytes()
        weights = self.sizes.block_weights + self.sizes.modulation_weights + self.sizes.other_weights
        return weights * self.sizes.bytes_per_weight["transformer"]

    def _working_ram(self) -> int:
        transformer = self.block_bytes() + self.other_bytes()
        parts = sum(self.sizes.bytes_of(part) for part in self.sizes.rest)
        if self.stays:
            return parts
        if self.wishes.small_host_copy:
            transformer -= min(self.resident_bytes(), self.block_bytes())
        working = 0 if self.on_gpu else self.activation_bytes()
        decoding = self.workload.decode_bytes(self.sizes, "gpu") if self.decode == "cpu" else 0
        return parts + transformer + max(working, decoding)

    def cost(self) -> float:
        """Of a section, in operations: sampling, or the bus where it takes longer; and decoding."""
        operations = 2.0 * self.workload.tokens * (self.sizes.block_weights + self.sizes.other_weights)
        if not self.on_gpu:
            return CPU_SLOWNESS * operations * self.workload.steps
        step = max(operations, float(self._streamed_bytes() * OPERATIONS_PER_BYTE))
        return step * self.workload.steps + DECODED_STEPS[self.decode] * operations

    def _streamed_bytes(self) -> int:
        """What the bus carries in a step."""
        return self.block_bytes() * (self.sizes.blocks - self.resident_blocks) // self.sizes.blocks

    def _section_bytes(self) -> int:
        """What the bus carries in a section."""
        turn = self.resident_bytes() + self.other_bytes() if self.take_turns else 0
        return self._streamed_bytes() * self.workload.steps + turn

    def order(self) -> tuple[float, int, int]:
        """Cheapest first; of the same cost, the most exact weights, then the least on the bus."""
        return (self.cost(), list(WORDS).index(self.precision), self._section_bytes())


def plan_memory(machine: Machine, parts: PartSizes, workload: Workload, wishes: Wishes) -> MemoryPlan:
    """The cheapest way to run that fits.

    Raises:
        OutOfMemory: nothing fits; says what is short and what would fit.
    """
    fitting = (way for way in _candidates(machine, parts, workload, wishes) if _fits(way, machine))
    best = min(fitting, key=_Candidate.order, default=None)
    if best is None:
        raise OutOfMemory(_refusal(machine, parts, workload, wishes))
    return _plan(best, machine)


def _fits(way: _Candidate, machine: Machine) -> bool:
    return way.vram() <= machine.vram_free and way.ram() <= machine.ram_free


def _candidates(machine: Machine, parts: PartSizes, workload: Workload, wishes: Wishes) -> Iterator[_Candidate]:
    """Every way that the wishes and the rules allow; with more memory there is never one less."""
    on_gpu = machine.vram_total > 0
    precisions: tuple[Precision, ...] = ("as_is", "int8") if wishes.precision == "auto" else (wishes.precision,)
    decodes: tuple[Decode, ...] = ("gpu", "tiled", "cpu") if wishes.decode == "auto" else (wishes.decode,)
    if not on_gpu:
        for precision in precisions:
            yield _Candidate(parts, workload, wishes, False, precision, "cpu", False, 0)
        return
    counts = range(parts.blocks + 1) if wishes.swap else (parts.blocks,)
    for precision, decode, turns, count in product(precisions, decodes, (False, True), counts):
        way = _Candidate(parts, workload, wishes, True, precision, decode, turns, count)
        if _allowed(way, machine):
            yield way


def _allowed(way: _Candidate, machine: Machine) -> bool:
    if way.wishes.small_host_copy and way.take_turns and way.resident_blocks:
        return False
    if way.precision in STAY_ON_GPU:
        leaves = way.precision == "bnb4" and way.wishes.bnb_cpu_offload
        return way.all_resident and (leaves or not way.take_turns)
    if way.wishes.precision == "auto" and way.precision == "as_is" and not way.stays:
        return machine.vram_total >= ENOUGH_VRAM and machine.ram_total >= ENOUGH_RAM
    return True


def _plan(way: _Candidate, machine: Machine) -> MemoryPlan:
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
        why=_why(way, machine),
        notices=tuple(_notices(way, machine)),
    )


def _notices(way: _Candidate, machine: Machine) -> Iterator[str]:
    preserved = way.wishes.preserved_bytes
    if not way.on_gpu:
        if preserved != Wishes.preserved_bytes:
            yield "Preserved GPU memory has no effect here: there is no GPU."
    elif way.precision in STAY_ON_GPU and machine.vram_free - way.vram() < preserved - way.activation_bytes():
        yield "Less GPU memory is preserved than was asked for: weights packed by bitsandbytes cannot leave it."
    elif preserved > machine.vram_total:
        yield (
            f"{preserved / GB:.0f} GB of preserved GPU memory are more than the {machine.vram_total / GB:.1f} GB that "
            "the GPU has: no block of the transformer stays on it, which is slower."
        )


def _why(way: _Candidate, machine: Machine) -> str:
    ram = f"{way.ram() / GB:.1f} of {machine.ram_free / GB:.1f} GB free RAM"
    if not way.on_gpu:
        return f"{WORDS[way.precision]}, all on the CPU, with at most {ram}."
    where = "all blocks on the GPU"
    if not way.all_resident:
        where = f"{way.resident_blocks} of {way.sizes.blocks} blocks on the GPU, the others swapped in from RAM"
    turns = ", which is cleared for decoding" if way.take_turns else ""
    decode = {"gpu": "", "tiled": ", decoding in tiles", "cpu": ", decoding on the CPU"}[way.decode]
    vram = f"{way.vram() / GB:.1f} of {machine.vram_free / GB:.1f} GB free VRAM"
    return f"{WORDS[way.precision]}, {where}{turns}{decode}, with at most {vram} and {ram}."


def _refusal(machine: Machine, parts: PartSizes, workload: Workload, wishes: Wishes) -> str:
    """What is short in the way that comes nearest, and what would fit."""
    nearest = min(_candidates(machine, parts, workload, wishes), key=lambda way: _shortage(way, machine))
    needs = [
        f"{needed / GB:.1f} GB of {kind} ({free / GB:.1f} GB are free)"
        for kind, needed, free in (
            ("GPU memory", nearest.vram(), machine.vram_free),
            ("RAM", nearest.ram(), machine.ram_free),
        )
        if needed > free
    ]
    return f"this needs at least {' and '.join(needs)}. {_remedy(machine, parts, workload, wishes)}"


def _shortage(way: _Candidate, machine: Machine) -> tuple[int, int]:
    """RAM is the easier one to free."""
    return (max(way.vram() - machine.vram_free, 0), max(way.ram() - machine.ram_free, 0))


def _remedy(machine: Machine, parts: PartSizes, workload: Workload, wishes: Wishes) -> str:
    smaller = replace(workload, height=workload.height // 2, width=workload.width // 2, tokens=workload.tokens // 4)
    free = replace(wishes, precision="auto", swap=True, decode="auto")
    tries: tuple[tuple[str, Workload, Wishes], ...] = (
        ("The quantisation that is chosen by default would fit", workload, free),
        ("A quarter of the size would fit", smaller, wishes),
        ("4-bit weights by bitsandbytes would fit", workload, replace(free, precision="bnb4", bnb_cpu_offload=True)),
    )
    for words, load, wish in tries:
        if any(_fits(way, machine) for way in _candidates(machine, parts, load, wish)):
            return f"{words}; or close other programs."
    return "Close other programs; `--checkpoint pocket` fits everywhere."
