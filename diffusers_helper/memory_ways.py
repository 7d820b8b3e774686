"""The ways to run a checkpoint, and what each needs of memory and costs. Numbers in, numbers out; no tensors.

A way is the numbers that the weights are kept in, how many blocks stay on the GPU, whether the parts take turns there,
how clips are decoded. It needs a fixed amount of memory and has a fixed cost. GB are 1e9 bytes.

Weights whose files hold the very numbers that they are computed with are mapped, not read: they take no RAM that the
system could not have back, and are read again when they are wanted again. For a part that is used once a video, such as
the text encoder of 15 GB, that costs seconds; so it is not counted as RAM that must be there.

The factors are estimates for the 13B checkpoint, from counting its operations; they err to the safe side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from .lessons import Lesson
from .limits import LEAST_PRESERVED_GB

Precision = Literal["as_is", "int8", "fp8", "bnb8", "bnb4"]
Residency = Literal["gpu", "cpu", "swapped"]
Decode = Literal["gpu", "tiled", "small_tiles", "cpu"]

GB = 10**9
BYTES_PER_WEIGHT: Mapping[Precision, float] = {"int8": 1.002, "fp8": 1.002, "bnb8": 1.01, "bnb4": 0.57}
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
TEXT_TOKENS = 900
ACTIVATIONS_PER_TOKEN = 23
"""Values of the transformer's width that a block holds at once for each token."""
KEPT_STEPS = 2
"""Of what a step cache keeps: the last step's, and the one's before, to which a step returns that is tried again."""
BYTES_PER_SCORE, BYTES_PER_MASKED_SCORE = 8, 12
"""Of attention that is not fused: a score and its softmax, in float32; the VAE's has a mask besides."""
LATENTS_AT_ONCE, PIXELS_PER_LATENT = 5, 8
"""Of the VAE: frames, which become ``DECODED_AT_ONCE``, and the side of the square that a latent becomes."""
DECODED_VALUES_PER_PIXEL = 13.5
"""Values per pixel and VAE channel at the widest point of decoding 17 frames at once: 9.2 that tensors hold, and a
convolution's input and output once more, which cuDNN is taken to bring into another order."""
DECODED_AT_ONCE = 17
CLIP_COPIES = 1.5
"""Of the clip, while its parts are put together."""
TILES: Mapping[Decode, int] = {"tiled": 256, "small_tiles": 128, "cpu": 256}
"""Side in pixels, where a clip is not decoded in whole frames."""
FRAGMENTED_STEP, FRAGMENTED_CLIP = 1.15, 1.5
"""Where the GPU's segments cannot grow, what working memory takes of it: holes between tensors are lost."""
LIBRARIES_BYTES = 4 * 10**8
"""Code and handles that CUDA's libraries bring to the GPU with their first use, beside PyTorch's allocator."""
SPARE_RAM = 5 * 10**8
DECODED_STEPS: Mapping[Decode, float] = {"gpu": 1.3, "tiled": 2.1, "small_tiles": 2.4, "cpu": 60.0}
"""What decoding a section costs, in sampling steps on the GPU."""
PASSING, UNPACKING = 0.05, 0.02
"""Shares of a step: what it takes longer when all blocks pass through, however well their copies are hidden; and what
making 16 bits of fewer takes."""
CPU_SLOWNESS = 50
OPERATIONS_PER_BYTE = 10_000
"""What a fast card computes while its bus carries a byte; slower cards hide more of the swapping."""


@dataclass(frozen=True)
class Machine:
    """What is there, in bytes. ``vram_*`` are 0 without a GPU; free is what this program may use.

    ``disk_free`` is for quantised weights; those that an earlier start has kept count as free. Where attention is not
    fused, its scores are held, which takes memory by the square of the tokens. ``segments_grow``: PyTorch can put
    memory that is free here and there together. ``lessons``: of earlier videos. ``libraries_loaded``: CUDA's libraries
    are on the GPU and have taken their part of what was free.
    """

    vram_total: int
    vram_free: int
    ram_total: int
    ram_free: int
    disk_free: int
    fused_attention: bool = True
    segments_grow: bool = True
    fused_vae_attention: bool = True
    lessons: tuple[Lesson, ...] = ()
    libraries_loaded: bool = False


@dataclass(frozen=True)
class PartSizes:
    """Numbers of weights, and the bytes of each in the numbers that the machine computes in.

    Attributes:
        blocks: of the transformer, both kinds together.
        block_weights, largest_block_weights: of all blocks and of the largest, without their modulation.
        modulation_weights: matrices that see one vector per step; a table can stand for them.
        other_weights: of the transformer, outside of its blocks.
        width, heads: of the transformer's tokens, and of its attention.
        vae_channels: at the full size of a picture.
        rest: part -> weights, for the parts beside the transformer.
        bytes_per_weight: part -> bytes.
        mapped: the parts whose files hold the numbers that they are computed with.
    """

    blocks: int
    block_weights: int
    largest_block_weights: int
    modulation_weights: int
    other_weights: int
    width: int
    heads: int
    vae_channels: int
    rest: Mapping[str, int]
    bytes_per_weight: Mapping[str, int]
    mapped: frozenset[str]

    def bytes_of(self, part: str) -> int:
        """Of a part beside the transformer."""
        return self.rest[part] * self.bytes_per_weight[part]


@dataclass(frozen=True)
class Workload:
    """What one section asks for: ``tokens`` of one transformer call, and the clip's size in pixels and frames.

    ``cached_tensors``: of the size of a call's tokens, what the step caches of all CFG branches keep from step to step;
    the branches run one after the other. TeaCache keeps two, its last input and residual.
    """

    height: int
    width: int
    tokens: int
    steps: int = 25
    frames: int = 73
    cached_tensors: int = 2

    @classmethod
    def of(cls, height: int, width: int, latent_window: int = 9, steps: int = 25, cached_tensors: int = 2) -> Workload:
        """The largest section of a video: 1 clean start frame and 1 clean, 2 2x and 16 4x context frames."""
        rows, columns = height // 16, width // 16
        coarse = -(-rows // 2) * -(-columns // 2) + 4 * -(-rows // 4) * -(-columns // 4)
        tokens = (latent_window + 2) * rows * columns + coarse + TEXT_TOKENS
        return cls(height, width, tokens, steps, 4 * (2 * latent_window + 1) - 3, cached_tensors)

    def decode_bytes(self, sizes: PartSizes, how: Decode) -> int:
        """Working memory of the VAE. ``cpu`` is where it goes when the GPU is too small: in tiles, in float32."""
        widest = DECODED_VALUES_PER_PIXEL * DECODED_AT_ONCE * self._pixels_at_once(how) * sizes.vae_channels
        clip = 3 * self.frames * self.height * self.width
        return int((widest + CLIP_COPIES * clip) * (4 if how == "cpu" else sizes.bytes_per_weight["vae"]))

    def _pixels_at_once(self, how: Decode) -> int:
        """Of a frame."""
        side = TILES.get(how, max(self.height, self.width))
        return min(self.height, side) * min(self.width, side)

    def gpu_decode_bytes(self, sizes: PartSizes, how: Decode, fused_attention: bool = True) -> int:
        """What the GPU gives for it."""
        if how == "cpu":
            return 0
        tokens = 0 if fused_attention else LATENTS_AT_ONCE * self._pixels_at_once(how) // PIXELS_PER_LATENT**2
        return self.decode_bytes(sizes, how) + BYTES_PER_MASKED_SCORE * tokens**2

    def cpu_decode_bytes(self, sizes: PartSizes) -> int:
        """Of RAM, for decoding there what the GPU cannot: a copy of the VAE in float32, and its working memory."""
        return 4 * sizes.rest["vae"] + self.decode_bytes(sizes, "cpu")


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
    preserved_bytes: int = LEAST_PRESERVED_GB * GB
    decode: Decode | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Way:
    """One way to run: what it needs and costs."""

    sizes: PartSizes
    workload: Workload
    wishes: Wishes
    on_gpu: bool
    precision: Precision
    decode: Decode
    take_turns: bool
    resident_blocks: int
    fused_attention: bool = True
    segments_grow: bool = True
    fused_vae_attention: bool = True
    libraries_loaded: bool = False

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
        per_token = ACTIVATIONS_PER_TOKEN + KEPT_STEPS * self.workload.cached_tensors
        values = self.workload.tokens * self.sizes.width * per_token
        scores = 0 if self.fused_attention else self.sizes.heads * self.workload.tokens**2
        return values * self.sizes.bytes_per_weight["transformer"] + scores * BYTES_PER_SCORE

    def step_bytes(self) -> int:
        """What the GPU gives a step to work with."""
        return int(self.activation_bytes() * (1 if self.segments_grow else FRAGMENTED_STEP))

    def clip_bytes(self) -> int:
        """What it gives the decoding of a clip."""
        return int(self.decode_bytes() * (1 if self.segments_grow else FRAGMENTED_CLIP))

    def vram(self) -> int:
        """The most that is needed at once on the GPU."""
        libraries = 0 if self.libraries_loaded else LIBRARIES_BYTES
        return libraries + max(self._sampling_vram(), self._decoding_vram()) if self.on_gpu else 0

    def _sampling_vram(self) -> int:
        activations = self.step_bytes()
        chosen = self.resident_blocks and self.precision not in STAY_ON_GPU
        free = max(self.wishes.preserved_bytes, activations) if chosen else activations
        return self.weights_vram() + free + (self.sizes.bytes_of("vae") if self._vae_stays() else 0)

    def weights_vram(self) -> int:
        """Of the transformer, while it samples."""
        buffers = 0 if self.all_resident else SWAP_BUFFERS * self._largest_block_bytes()
        return self.other_bytes() + self.resident_bytes() + buffers

    def _vae_stays(self) -> bool:
        return not self.take_turns and self.decode != "cpu"

    def _decoding_vram(self) -> int:
        vae = 0 if self.decode == "cpu" else self.sizes.bytes_of("vae")
        return self._held_while_decoding() + vae + self.clip_bytes()

    def _held_while_decoding(self) -> int:
        """Of the transformer: what is packed leaves as a whole, else what is no block stays."""
        if not self.take_turns:
            return self.weights_vram()
        return 0 if self.precision in STAY_ON_GPU else self.other_bytes()

    def decode_bytes(self) -> int:
        """Of the GPU, to work with."""
        return self.workload.gpu_decode_bytes(self.sizes, self.decode, self.fused_vae_attention)

    def ram(self) -> int:
        """The most that is needed at once in RAM. The transformer is loaded first, and may leave at once."""
        return SPARE_RAM + max(self._loading_ram(), self._working_ram())

    def _loading_ram(self) -> int:
        """int8 and fp8 are made tensor by tensor; all else is read whole, or mapped."""
        if self.precision in ("int8", "fp8"):
            return self.block_bytes() + self.other_bytes()
        weights = self.sizes.block_weights + self.sizes.modulation_weights + self.sizes.other_weights
        return 0 if self._is_mapped("transformer") else weights * self.sizes.bytes_per_weight["transformer"]

    def _working_ram(self) -> int:
        parts = sum(self.sizes.bytes_of(part) for part in self.sizes.rest if not self._is_mapped(part))
        if self.stays:
            return parts
        transformer = self.block_bytes() + self.other_bytes()
        if self.wishes.small_host_copy:
            transformer -= min(self.resident_bytes(), self.block_bytes())
        if self.on_gpu:
            return parts + transformer + (self.workload.cpu_decode_bytes(self.sizes) if self.decode == "cpu" else 0)
        return parts + transformer + max(self.activation_bytes(), self.workload.decode_bytes(self.sizes, "gpu"))

    def _is_mapped(self, part: str) -> bool:
        """What the CPU computes with it reads all the time: there it must fit."""
        return self.on_gpu and part in self.sizes.mapped

    def read_again_bytes(self) -> int:
        """Of the mapped parts beside the transformer, which want RAM above ``ram()`` to be there at once."""
        return sum(self.sizes.bytes_of(part) for part in self.sizes.rest if self._is_mapped(part))

    def kept_bytes(self) -> int:
        """What quantised weights take on the disk, so that they need not be made again at every start."""
        matrices = int(self.sizes.block_weights * BYTES_PER_WEIGHT.get(self.precision, 0))
        others = self.sizes.other_weights * self.sizes.bytes_per_weight["transformer"]
        return matrices + others if self.precision in ("int8", "fp8") else 0

    def cost(self) -> float:
        """Of a section, in operations: sampling, or the bus where it takes longer; and decoding."""
        operations = 2.0 * self.workload.tokens * (self.sizes.block_weights + self.sizes.other_weights)
        if not self.on_gpu:
            return CPU_SLOWNESS * operations * self.workload.steps
        unpacked = operations if self.precision == "as_is" else operations * (1 + UNPACKING)
        passing = 1 + PASSING * (1 - self.resident_blocks / self.sizes.blocks)
        step = passing * max(unpacked, float(self._streamed_bytes() * OPERATIONS_PER_BYTE))
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


def ways(machine: Machine, parts: PartSizes, workload: Workload, wishes: Wishes) -> Iterator[Way]:
    """Every way that the wishes and the rules allow; with more memory there is never one less."""
    on_gpu = machine.vram_total > 0
    precisions: tuple[Precision, ...] = ("as_is", "int8") if wishes.precision == "auto" else (wishes.precision,)
    decodes: tuple[Decode, ...] = ("gpu", *TILES) if wishes.decode == "auto" else (wishes.decode,)
    if not on_gpu:
        for precision in precisions:
            yield Way(parts, workload, wishes, False, precision, "cpu", False, 0)
        return
    counts = range(parts.blocks + 1) if wishes.swap else (parts.blocks,)
    for precision, decode, turns, count in product(precisions, decodes, (False, True), counts):
        there = (machine.fused_attention, machine.segments_grow, machine.fused_vae_attention, machine.libraries_loaded)
        way = Way(parts, workload, wishes, True, precision, decode, turns, count, *there)
        if _allowed(way, machine):
            yield way


def _allowed(way: Way, machine: Machine) -> bool:
    wanted = (way.decode_bytes(), way.resident_bytes())
    if any(lesson.forbids(*wanted, machine.vram_free) for lesson in machine.lessons):
        return False
    if way.wishes.small_host_copy and way.take_turns and way.resident_blocks:
        return False
    if way.precision in STAY_ON_GPU:
        leaves = way.precision == "bnb4" and way.wishes.bnb_cpu_offload
        return way.all_resident and (leaves or not way.take_turns)
    if way.wishes.precision == "auto" and way.precision == "as_is" and not way.stays:
        return machine.vram_total >= ENOUGH_VRAM and machine.ram_total >= ENOUGH_RAM
    return True
