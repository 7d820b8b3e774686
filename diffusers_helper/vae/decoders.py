"""The ways to decode a clip. A decoder knows what it costs, what memory it takes, and its words.

The memory plan chooses the cheapest way to run, decoder included. When memory runs out, the next decoder of the table
takes over. Which table there is depends on the decoding that is asked for: a new decoder is a class and a line there.

The factors are estimates for the full VAE, from counting its operations; they err to the safe side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from ..limits import MOST_DECODED_AT_ONCE, DecodingName
from ..memory.costs import LEAN_STEPS, REFERENCE_STEPS, DecoderCosts, PartSizes, Workload
from ..words import Message
from .chunks import QUALITY_LATENTS, USUAL_LATENTS, CompiledSource, chunked_values, decode_in_chunks
from .codec import decode_clip
from .tiles import PIXELS_PER_LATENT, cuts

LATENTS_AT_ONCE = 5
"""Latent frames of diffusers' windows, which become ``DECODED_AT_ONCE``."""
DECODED_AT_ONCE = 17
DECODED_VALUES_PER_PIXEL = 13.5
"""Values per pixel and VAE channel at the widest point of decoding 17 frames at once: 9.2 that tensors hold, and a
convolution's input and output once more, which cuDNN is taken to bring into another order."""
CLIP_COPIES = 1.5
"""Of the clip, while its parts are put together."""
BYTES_PER_MASKED_SCORE = 12
"""Of attention that is not fused: a score, its mask and its softmax, in float32."""
BYTES_PER_SCORE = 8
"""The same without a mask."""
FLOAT32_BYTES = 4
QUALITY_STEPS = LEAN_STEPS * 13 / 11
"""What it costs to decode two more latent frames again."""
CHUNK_SHARE = 0.04
"""What a chunk costs beside its frames, in those of a latent frame: launches, and copies of what chunks hand on."""
TILED = 1.5
"""Tiles compute a twelfth more, and leave seams: they count as half as much again, so that blocks rather leave the GPU
for a clip than that it is cut."""
CPU_STEPS = 60.0


class VaeSource(Protocol):
    """Where a decoder gets the VAE."""

    @property
    def compiled(self) -> CompiledSource | None:
        """Where compiled decoders for it come from; None where none are wanted."""

    def on_device(self) -> AbstractContextManager[AutoencoderKLHunyuanVideo]:
        """Where it computes, while this lasts; the transformer has left as far as the plan says."""

    def in_ram(self) -> AutoencoderKLHunyuanVideo:
        """A copy of it in float32, on the CPU."""


class Decoder(DecoderCosts, Protocol):
    """One way to decode a clip."""

    def __call__(self, vae: VaeSource, latents: Tensor) -> Tensor:
        """[1, C, T, H, W] to a clip [1, 3, 4 T - 3, 8 H, 8 W], about -1 to 1, float16 on the CPU."""


@dataclass(frozen=True)
class Reference:
    """diffusers' own decode, as the original calls it: in windows of five latent frames, whole or in squares of
    ``tile`` pixels, the smaller the less memory they take."""

    name: str
    words: Message | None
    cost_in_steps: float
    tile: int = 0
    remark: Message | None = None
    uses_device: bool = True

    def device_bytes(self, sizes: PartSizes, workload: Workload, fused_attention: bool = True) -> int:
        """See DecoderCosts."""
        pixels = pixels_at_once(workload, self.tile)
        tokens = 0 if fused_attention else LATENTS_AT_ONCE * pixels // PIXELS_PER_LATENT**2
        values = working_values(sizes, workload, self.tile)
        return int(values * sizes.bytes_per_weight["vae"]) + BYTES_PER_MASKED_SCORE * tokens**2

    def ram_bytes(self, sizes: PartSizes, workload: Workload) -> int:
        """None."""
        return 0

    def __call__(self, vae: VaeSource, latents: Tensor) -> Tensor:
        """See Decoder."""
        with vae.on_device() as model:
            return decode_clip(model, latents, self.tile)


@dataclass(frozen=True)
class Chunked:
    """So many latent frames at once that follow each other, of whole frames or of tiles of at most ``tile`` pixels.

    Attributes:
        least: latent frames in the first chunk, where those after it are decoded by a compiled decoder.
    """

    name: str
    words: Message | None
    cost_in_steps: float
    chunk: int
    tile: int = 0
    least: int = 1
    remark: Message | None = None
    uses_device: bool = True

    def device_bytes(self, sizes: PartSizes, workload: Workload, fused_attention: bool = True) -> int:
        """See DecoderCosts."""
        rows, columns = cuts(workload.height // PIXELS_PER_LATENT, workload.width // PIXELS_PER_LATENT, self.tile)
        pixels = rows.size * columns.size * PIXELS_PER_LATENT**2
        latents = workload.frames // 4 + 1
        scores = 0 if fused_attention else BYTES_PER_SCORE * latents * (rows.size * columns.size) ** 2
        values = chunked_values(pixels, sizes.vae_channels, self.chunk, latents)
        return int(values * sizes.bytes_per_weight["vae"]) + scores

    def ram_bytes(self, sizes: PartSizes, workload: Workload) -> int:
        """None."""
        return 0

    def __call__(self, vae: VaeSource, latents: Tensor) -> Tensor:
        """See Decoder."""
        with vae.on_device() as model:
            return decode_in_chunks(model, latents, self.chunk, self.tile, vae.compiled, self.least)


@dataclass(frozen=True)
class OnCpu:
    """As ``like``, by a copy of the VAE on the CPU, in float32, for what the GPU cannot hold."""

    name: str
    words: Message | None
    cost_in_steps: float
    like: Reference | Chunked
    remark: Message | None = None
    uses_device: bool = False

    def device_bytes(self, sizes: PartSizes, workload: Workload, fused_attention: bool = True) -> int:
        """None."""
        return 0

    def ram_bytes(self, sizes: PartSizes, workload: Workload) -> int:
        """The copy, and what it works with."""
        in_float32 = replace(sizes, bytes_per_weight={**sizes.bytes_per_weight, "vae": FLOAT32_BYTES})
        return in_float32.bytes_of("vae") + self.like.device_bytes(in_float32, workload)

    def __call__(self, vae: VaeSource, latents: Tensor) -> Tensor:
        """See Decoder."""
        return self.like(InRam(vae), latents)


@dataclass(frozen=True)
class InRam:
    """A source whose device is the CPU."""

    source: VaeSource
    compiled: None = None

    def on_device(self) -> AbstractContextManager[AutoencoderKLHunyuanVideo]:
        """See VaeSource."""
        return nullcontext(self.source.in_ram())

    def in_ram(self) -> AutoencoderKLHunyuanVideo:
        """See VaeSource."""
        return self.source.in_ram()


def working_values(sizes: PartSizes, workload: Workload, tile: int) -> float:
    """Numbers that the VAE holds at most while it decodes a clip, its attention aside."""
    widest = DECODED_VALUES_PER_PIXEL * DECODED_AT_ONCE * pixels_at_once(workload, tile) * sizes.vae_channels
    return widest + CLIP_COPIES * 3 * workload.frames * workload.height * workload.width


def pixels_at_once(workload: Workload, tile: int) -> int:
    """Of a frame."""
    side = tile or max(workload.height, workload.width)
    return min(workload.height, side) * min(workload.width, side)


def decoders(decoding: DecodingName = "lean", chunk_size: int | None = None) -> Mapping[str, Decoder]:
    """By name, from the one that takes the most memory of the device to the one that takes the least; where frames are
    too small to be cut, some take the same. Without a GPU the first one decodes for which RAM has room.

    ``chunk_size``: latent frames that are decoded at once at most, 1 to 8; None for what is usual. Quality never
    decodes fewer than 4 at once.
    """
    if decoding == "reference":
        found = _reference()
    elif decoding == "quality":
        found = _chunked(max(chunk_size or MOST_DECODED_AT_ONCE, QUALITY_LATENTS), QUALITY_LATENTS, QUALITY_STEPS)
    else:
        found = _chunked(chunk_size or USUAL_LATENTS, 1, LEAN_STEPS)
    return {decoder.name: decoder for decoder in found}


def _reference() -> Iterator[Decoder]:
    yield Reference("whole", None, REFERENCE_STEPS)
    yield (tiled := Reference("tiled", Message("decoder.tiled"), 2.1, tile=256))
    yield Reference("small_tiles", Message("decoder.small_tiles"), 2.4, tile=128)
    yield OnCpu("cpu", Message("decoder.cpu"), CPU_STEPS, tiled, Message("decoder.cpu_remark"))


def _chunked(largest: int, least: int, steps: float) -> Iterator[Decoder]:
    """Whole frames in chunks of which each is half of the one before, then smaller and smaller tiles, then the CPU."""
    chunks = [largest >> halved for halved in range(largest.bit_length()) if largest >> halved > least] + [least]
    for chunk in chunks:
        words = Message("decoder.chunks", chunk=chunk) if chunk < largest else None
        yield Chunked(f"chunks_{chunk}", words, steps * (1 + CHUNK_SHARE / chunk), chunk, least=least)
    for chunk in chunks[-2:]:
        words = Message("decoder.tiles", chunk=chunk)
        yield Chunked(f"tiles_{chunk}", words, TILED * steps * (1 + CHUNK_SHARE / chunk), chunk, 2**18, least)
    small = Chunked("small_tiles", Message("decoder.small_tiles"), 1.1 * TILED * steps, chunks[-1], 2**17, least)
    yield small
    yield Chunked("smallest_tiles", Message("decoder.smallest_tiles"), 1.5 * TILED * steps, chunks[-1], 2**14, least)
    yield OnCpu("cpu", Message("decoder.cpu"), CPU_STEPS, small, Message("decoder.cpu_remark"))
