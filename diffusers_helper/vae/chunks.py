"""A clip decoded in chunks of latent frames, and where that is not enough in tiles, on the CPU's side put together.

Shapes: B batch, C latent channels, T latent frames, F = 4 T - 3 video frames, H and W latent rows and columns; pixels
are 8 H by 8 W.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from ..errors import UnusableArgument
from ..limits import MOST_DECODED_AT_ONCE
from ..memory import vram
from ..memory.shortage import is_out_of_memory
from .codec import PIXEL_DTYPE
from .streaming import CONVOLVED_AT_ONCE, Following, StreamingDecoder
from .tiles import PIXELS_PER_LATENT, Cut, cuts

log = logging.getLogger(__name__)


class CompiledSource(Protocol):
    """Where compiled decoders come from (compiled.py)."""

    def following(self, vae: AutoencoderKLHunyuanVideo, shape: tuple[int, int, int, int]) -> Following | None:
        """One for chunks of B, T, H, W that follow others; None while there is none."""


USUAL_LATENTS = 4
"""Latent frames in a chunk at most where nobody asks for more, which would gain nothing but take memory."""
QUALITY_LATENTS = 4
"""Latent frames in a chunk of quality mode at least: the group norms then see as many frames as in training's clips."""
HELD_VALUES, HELD_VALUES_PER_FRAME, HELD_PER_CONVOLVED = 42, 5.1, 7.4
"""Per pixel of a tile and channel of its VAE at the widest point, counted from its tensors: what chunks hand on to
each other with the rest, what each of the frames takes that are computed at once, and a convolution's copies of each
frame that it takes at once, of twice the channels (``tests/memory/test_cards.py``)."""
KEYS_AND_VALUES = 0.125
"""The same, of the middle's attention, for each latent frame of the clip."""


def vae_decode_chunked(
    latents: Tensor, vae: AutoencoderKLHunyuanVideo, chunk_size: int | None = None, quality_mode: bool = False
) -> Tensor:
    """[B, C, T, H, W] scaled latents to [B, 3, F, 8 H, 8 W] pixels, about -1 to 1, float16 on the CPU.

    Args:
        chunk_size: latent frames that are decoded at once, 1 to 8; None takes what fits into the memory that is free.
            When memory runs out it is halved, down to 1, or 4 in quality mode.
        quality_mode: chunks of at least 4.

    Raises:
        UnusableArgument: latents without a frame, with numbers that are not finite; a chunk size that is none.
    """
    check_latents(latents)
    least = QUALITY_LATENTS if quality_mode else 1
    chunk = max(usable_chunk_size(chunk_size) or automatic_chunk_size(vae, latents.shape, quality_mode), least)
    while True:
        try:
            return decode_in_chunks(vae, latents, chunk)
        except RuntimeError as error:
            if chunk == least or not is_out_of_memory(error):
                raise
        chunk = max(chunk // 2, least)
        vram.free_unused()
        log.warning("decoding ran out of memory: it is tried again in chunks of %d latent frames", chunk)


def check_latents(latents: Tensor) -> None:
    """Raises UnusableArgument for what is no clip, or would become a black one."""
    if latents.ndim != 5 or not latents.numel():
        raise UnusableArgument(f"latents must be [B, C, T, H, W] with at least one frame, not {list(latents.shape)}")
    if not torch.isfinite(latents).all():
        raise UnusableArgument(
            "latents must be finite; these hold NaN or infinite numbers, which decode to black frames"
        )


def usable_chunk_size(value: int | None) -> int | None:
    """``value``, None included. Raises UnusableArgument for anything but whole numbers from 1 to 8."""
    if value is not None and (type(value) is not int or not 1 <= value <= MOST_DECODED_AT_ONCE):
        raise UnusableArgument(
            f"chunk_size must be a whole number from 1 to {MOST_DECODED_AT_ONCE}, or None, not {value!r}"
        )
    return value


def automatic_chunk_size(
    vae: AutoencoderKLHunyuanVideo, shape: Sequence[int], quality_mode: bool = False, free_bytes: int | None = None
) -> int:
    """The largest chunk of latents of ``shape``, [B, C, T, H, W], that fits into what is free; 1 where none does.

    ``free_bytes``: of the device that computes; by default what it says. On the CPU memory is no matter.
    """
    batch, _, latents, rows, columns = shape
    most = MOST_DECODED_AT_ONCE if quality_mode else USUAL_LATENTS
    if free_bytes is None:
        if vae.device.type != "cuda":
            return most
        free_bytes = vram.unused_bytes(vae.device)
    pixels, channels = batch * PIXELS_PER_LATENT**2 * rows * columns, int(vae.config.block_out_channels[0])
    needed = {n: chunked_values(pixels, channels, n, latents) * vae.dtype.itemsize for n in range(1, most + 1)}
    return max((n for n, each in needed.items() if each <= free_bytes), default=1)


def chunked_values(pixels: int, channels: int, chunk: int, latents: int = 18) -> float:
    """Numbers that the VAE holds at most while it decodes tiles of so many pixels, ``chunk`` latent frames at once.

    Args:
        channels: of the VAE at the full size of a picture.
        latents: of the clip.
    """
    frame = pixels * channels
    convolved = min(max(CONVOLVED_AT_ONCE // (2 * frame), 1), 4 * chunk)
    per_value = HELD_VALUES + HELD_VALUES_PER_FRAME * 4 * chunk + HELD_PER_CONVOLVED * convolved
    return frame * (per_value + KEYS_AND_VALUES * latents)


@torch.no_grad()
def decode_in_chunks(
    vae: AutoencoderKLHunyuanVideo,
    latents: Tensor,
    chunk: int,
    tile: int = 0,
    compiled: CompiledSource | None = None,
    least: int = 1,
) -> Tensor:
    """[B, C, T, H, W] scaled latents to [B, 3, F, 8 H, 8 W] pixels, about -1 to 1, float16 on the CPU.

    Args:
        chunk: latent frames at once; those of a clip are spread evenly.
        tile: decode frames in tiles of at most so many pixels, which overlap; 0 decodes them whole.
        compiled: where a compiled decoder for full chunks may be had; see ``chunk_sizes``.
        least: latent frames in a chunk that is not full, where a compiled decoder serves.
    """
    batch, _, frames, height, width = latents.shape
    unscaled = (latents / vae.config.scaling_factor).to(vae.device, vae.dtype)
    rows, columns = cuts(height, width, tile)
    following = compiled.following(vae, (batch, chunk, rows.size, columns.size)) if compiled else None
    sizes = chunk_sizes(frames, chunk, least if following else None)
    clip = torch.zeros(
        batch, 3, 4 * frames - 3, PIXELS_PER_LATENT * height, PIXELS_PER_LATENT * width, dtype=PIXEL_DTYPE
    )
    for down, top in enumerate(rows.starts):
        for across, left in enumerate(columns.starts):
            part = unscaled[..., top : top + rows.size, left : left + columns.size]
            weights = _weights(rows, down, columns, across)
            _add(clip, top, left, _decoded(StreamingDecoder(vae, following), part, sizes), weights)
    return clip


def chunk_sizes(frames: int, chunk: int, least: int | None = None) -> list[int]:
    """How a clip of so many latent frames is cut into chunks.

    Where ``least`` is None, evenly into as few as there can be. Else into full ones, which a compiled decoder can
    serve, after what does not divide: that comes first, since it must be decoded plain anyway, and has ``least`` at
    least where there are so many.
    """
    full = 0 if least is None else max((frames - least) // chunk, 0)
    before = frames - full * chunk
    count = math.ceil(before / chunk)
    return [*(before // count + (number < before % count) for number in range(count)), *[chunk] * full]


def _weights(rows: Cut, down: int, columns: Cut, across: int) -> Tensor | None:
    """Of a tile's pixels, [8 H, 8 W]; None where it is the only one."""
    if len(rows.starts) == len(columns.starts) == 1:
        return None
    return torch.outer(rows.weights(down, PIXELS_PER_LATENT), columns.weights(across, PIXELS_PER_LATENT))


def _decoded(decoder: StreamingDecoder, latents: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    """The clip of unscaled latents, chunk by chunk, as it comes from the device."""
    for part in latents.split(sizes, dim=2):
        yield decoder(part).to("cpu", PIXEL_DTYPE)


def _add(clip: Tensor, top: int, left: int, parts: Iterator[Tensor], weights: Tensor | None) -> None:
    """Put the frames of a tile, in chunks that follow each other, at its place in the clip."""
    begin = 0
    for pixels in parts:
        end = begin + pixels.shape[2]
        y, x = PIXELS_PER_LATENT * top, PIXELS_PER_LATENT * left
        place = clip[:, :, begin:end, y : y + pixels.shape[3], x : x + pixels.shape[4]]
        place += pixels if weights is None else pixels * weights
        begin = end
