"""The ways to decode a clip. A decoder knows what it costs, what memory it takes, and its words.

The memory plan chooses the cheapest way to run, decoder included. When memory runs out, the next decoder of the table
takes over. A new one is a class and a line in DECODERS.

The factors are estimates for the full VAE, from counting its operations; they err to the safe side.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from ..memory.costs import WHOLE_CLIP_STEPS, DecoderCosts, PartSizes, Workload
from ..words import Message
from .codec import decode_clip

LATENTS_AT_ONCE, PIXELS_PER_LATENT = 5, 8
"""Of the VAE: frames, which become ``DECODED_AT_ONCE``, and the side of the square that a latent becomes."""
DECODED_AT_ONCE = 17
DECODED_VALUES_PER_PIXEL = 13.5
"""Values per pixel and VAE channel at the widest point of decoding 17 frames at once: 9.2 that tensors hold, and a
convolution's input and output once more, which cuDNN is taken to bring into another order."""
CLIP_COPIES = 1.5
"""Of the clip, while its parts are put together."""
BYTES_PER_MASKED_SCORE = 12
"""Of attention that is not fused: a score, its mask and its softmax, in float32."""
FLOAT32_BYTES = 4


class VaeSource(Protocol):
    """Where a decoder gets the VAE."""

    def on_device(self) -> AbstractContextManager[AutoencoderKLHunyuanVideo]:
        """Where it computes, while this lasts; the transformer has left as far as the plan says."""

    def in_ram(self) -> AutoencoderKLHunyuanVideo:
        """A copy of it in float32, on the CPU."""


class Decoder(DecoderCosts, Protocol):
    """One way to decode a clip."""

    def __call__(self, vae: VaeSource, latents: Tensor) -> Tensor:
        """[1, C, T, H, W] to a clip [1, 3, 4 T - 3, 8 H, 8 W], about -1 to 1, float16 on the CPU."""


@dataclass(frozen=True)
class OnDevice:
    """The VAE on its device: whole frames, or squares of ``tile`` pixels, the smaller the less memory they take."""

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
class OnCpu:
    """A copy of the VAE on the CPU, in tiles, in float32, for what the GPU cannot hold."""

    name: str
    words: Message | None
    cost_in_steps: float
    tile: int
    remark: Message | None = None
    uses_device: bool = False

    def device_bytes(self, sizes: PartSizes, workload: Workload, fused_attention: bool = True) -> int:
        """None."""
        return 0

    def ram_bytes(self, sizes: PartSizes, workload: Workload) -> int:
        """The copy, and what it works with."""
        weights_and_values = sizes.rest["vae"] + working_values(sizes, workload, self.tile)
        return int(FLOAT32_BYTES * weights_and_values)

    def __call__(self, vae: VaeSource, latents: Tensor) -> Tensor:
        """See Decoder."""
        return decode_clip(vae.in_ram(), latents, self.tile)


def working_values(sizes: PartSizes, workload: Workload, tile: int) -> float:
    """Numbers that the VAE holds at most while it decodes a clip, its attention aside."""
    widest = DECODED_VALUES_PER_PIXEL * DECODED_AT_ONCE * pixels_at_once(workload, tile) * sizes.vae_channels
    return widest + CLIP_COPIES * 3 * workload.frames * workload.height * workload.width


def pixels_at_once(workload: Workload, tile: int) -> int:
    """Of a frame."""
    side = tile or max(workload.height, workload.width)
    return min(workload.height, side) * min(workload.width, side)


DECODERS: Mapping[str, Decoder] = {
    decoder.name: decoder
    for decoder in (
        OnDevice("whole", None, WHOLE_CLIP_STEPS),
        OnDevice("tiled", Message("decoder.tiled"), 2.1, tile=256),
        OnDevice("small_tiles", Message("decoder.small_tiles"), 2.4, tile=128),
        OnCpu("cpu", Message("decoder.cpu"), 60.0, tile=256, remark=Message("decoder.cpu_remark")),
    )
}
"""From the one that takes the most memory of the device to the one that takes the least. Without a GPU, where there is
no memory to be spared for the transformer, the first one decodes."""
