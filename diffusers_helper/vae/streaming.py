"""The decoder of the VAE over diffusers' parameters, a clip in chunks one after the other.

Its convolutions are causal: each keeps the two frames that its next chunk begins after, and the attention its keys and
values. So chunks follow each other as one clip, and nothing is decoded twice. What a chunk cannot see is the rest of
the clip in the statistics of its group norms, which span all frames that are computed at once. Decoded as one chunk, a
clip is that of diffusers' decoder but for rounding.

Shapes: B batch, C channels, T frames of a chunk at the rate of its layer, H and W rows and columns there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import torch
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import HunyuanVideoCausalConv3d
from torch import Tensor
from torch.nn import functional

Layer: TypeAlias = Any
"""A module of diffusers, whose parts have no types."""

CONVOLVED_AT_ONCE = 2**27
"""Values that a convolution takes at once, or one frame. It holds a copy of them with margins, and a kernel that brings
them into another order one more; of a whole chunk that would be the most there is."""


class Following(Protocol):
    """What serves the upper part of the decoder for chunks that follow others, in its place."""

    def __call__(self, x: Tensor, before: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]] | None:
        """What ``StreamingDecoder.upper`` makes of ``x``, and the frames that its convolutions keep, from those that
        they have kept before; None where it cannot. It changes nothing of what it is given."""


class StreamingDecoder:
    """Decodes one clip, chunk by chunk. For another clip make another one."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo, following: Following | None = None) -> None:
        self._vae, self._following = vae, following
        self._frames_before: dict[Layer, Tensor] = {}
        self._keys_and_values: dict[Layer, tuple[Tensor, Tensor]] = {}
        self._at_start = True

    def __call__(self, chunk: Tensor) -> Tensor:
        """The next latents of the clip, unscaled, [B, C, T, H, W], to its next frames: 4 T, but 4 T - 3 at the start.

        Returns [B, 3, frames, 8 H, 8 W], about -1 to 1.
        """
        x = self.lower(chunk)
        done = None if self._at_start or self._following is None else self._following(x, self.kept())
        if done is None:
            pixels = self.upper(x)
        else:
            pixels, kept = done
            self.follow(kept)
        self._at_start = False
        return pixels

    def lower(self, chunk: Tensor) -> Tensor:
        """A small part of the work, and the attention: latents to what the upper part takes, [B, channels, T, H, W]."""
        x = self._convolve(self._vae.decoder.conv_in, self._vae.post_quant_conv(chunk))
        return self._middle(self._vae.decoder.mid_block, x)

    def upper(self, x: Tensor) -> Tensor:
        """Nearly all of the work, in which only convolutions look back: to pixels as of ``__call__``."""
        decoder = self._vae.decoder
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                x = self._residual(resnet, x)
            for upsampler in block.upsamplers or ():
                x = self._convolve(upsampler.conv, x, upsampler.upsample_factor)
        return self._convolve(decoder.conv_out, functional.silu(decoder.conv_norm_out(x), inplace=True))

    def kept(self) -> list[Tensor]:
        """The frames that the upper part's convolutions keep after a chunk, in the order of ``_upper_convolutions``."""
        return [self._frames_before[conv] for conv in _upper_convolutions(self._vae)]

    def follow(self, kept: Sequence[Tensor]) -> None:
        """Let the next chunk follow one that has kept this."""
        self._frames_before.update(zip(_upper_convolutions(self._vae), kept, strict=True))
        self._at_start = False

    def _middle(self, block: Layer, x: Tensor) -> Tensor:
        x = self._residual(block.resnets[0], x)
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            x = x if attention is None else self._attend(attention, x)
            x = self._residual(resnet, x)
        return x

    def _residual(self, block: Layer, x: Tensor) -> Tensor:
        """A residual block. What its layers hand on is theirs, so it is changed in place."""
        h = self._convolve(block.conv1, functional.silu(block.norm1(x), inplace=True))
        h = self._convolve(block.conv2, functional.silu(block.norm2(h), inplace=True))
        if block.conv_shortcut is None:
            return h.add_(x)
        at_once = _frames_at_once(x)
        for sums, piece in zip(h.split(at_once, dim=2), x.split(at_once, dim=2), strict=True):
            sums.add_(block.conv_shortcut.conv(piece))
        return h

    def _convolve(self, conv: Layer, x: Tensor, factor: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
        """A causal convolution over [B, C, T, H, W], enlarged by ``factor``, after the frames that it has seen before.

        A clip's first frame stays one. What is enlarged is never held as a whole, nor kept for the next chunk.
        """
        skipped = factor[0] - 1 if self._at_start else 0
        frames, height, width = (size * by for size, by in zip(x.shape[2:], factor, strict=True))
        out = x.new_empty(x.shape[0], conv.conv.out_channels, frames - skipped, height, width)
        before = self._frames_before.get(conv, x[:, :, :1].expand(-1, -1, 2 // factor[0], -1, -1))
        done = 0
        for piece in x.split(_frames_at_once(x, factor), dim=2):
            larger = _enlarged(piece, factor)[:, :, 0 if done else skipped :]
            out[:, :, done : done + larger.shape[2]] = conv.conv(_with_margins(_enlarged(before, factor), larger))
            before = _last(before, piece)
            done += larger.shape[2]
        self._frames_before[conv] = before.clone()
        return out

    def _attend(self, attention: Layer, x: Tensor) -> Tensor:
        """Each frame attends to itself and to all before it, which is diffusers' causal mask without the mask."""
        height, width = x.shape[3:]
        tokens = x.permute(0, 2, 3, 4, 1).flatten(2, 3)  # [B, T, H W, C]
        normed = attention.group_norm(x).permute(0, 2, 3, 4, 1).flatten(2, 3)
        query = attention.to_q(normed)
        keys, values = self._follow(attention, attention.to_k(normed), attention.to_v(normed))
        seen = keys.shape[1] - query.shape[1]
        frames = [_attended(query[:, t], keys[:, : seen + t + 1], values[:, : seen + t + 1]) for t in range(x.shape[2])]
        out = attention.to_out[0](torch.stack(frames, dim=1)) + tokens
        return out.unflatten(2, (height, width)).permute(0, 4, 1, 2, 3).contiguous()

    def _follow(self, attention: Layer, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the clip so far, [B, frames so far, H W, C] each."""
        if attention in self._keys_and_values:
            before = self._keys_and_values[attention]
            keys, values = torch.cat([before[0], keys], dim=1), torch.cat([before[1], values], dim=1)
        self._keys_and_values[attention] = keys, values
        return keys, values


def _upper_convolutions(vae: AutoencoderKLHunyuanVideo) -> list[Layer]:
    """Those of the upper part that look back."""
    layers = (*vae.decoder.up_blocks.modules(), vae.decoder.conv_out)
    return [layer for layer in layers if isinstance(layer, HunyuanVideoCausalConv3d) and layer.time_causal_padding[4]]


def _frames_at_once(x: Tensor, factor: tuple[int, int, int] = (1, 1, 1)) -> int:
    """Of ``x``, how many frames a convolution takes at once when they are enlarged by ``factor``."""
    return max(CONVOLVED_AT_ONCE // (math.prod(factor) * x[:, :, 0].numel()), 1)


def _last(before: Tensor, x: Tensor) -> Tensor:
    """As many frames as ``before`` has, the last ones of ``x`` after it."""
    kept = before.shape[2]
    return x[:, :, -kept:] if x.shape[2] >= kept else torch.cat([before, x], dim=2)[:, :, -kept:]


def _enlarged(x: Tensor, factor: tuple[int, int, int]) -> Tensor:
    return x if factor == (1, 1, 1) else functional.interpolate(x, scale_factor=factor, mode="nearest")


def _attended(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One frame, [B, H W, C], to frames [B, frames, H W, C], by one head."""
    heads = query[:, None], keys.flatten(1, 2)[:, None], values.flatten(1, 2)[:, None]
    return functional.scaled_dot_product_attention(*heads)[:, 0]


def _with_margins(before: Tensor, x: Tensor) -> Tensor:
    """``x`` [B, C, T, H, W] after the two frames ``before``, with a margin of one row and column that repeats the
    outermost: [B, C, T + 2, H + 2, W + 2]. One copy, where two pads make three."""
    b, c, t, h, w = x.shape
    padded = x.new_empty(b, c, t + 2, h + 2, w + 2)
    inside = padded[..., 1:-1, 1:-1]
    inside[:, :, :2], inside[:, :, 2:] = before, x
    padded[..., 0, 1:-1], padded[..., -1, 1:-1] = padded[..., 1, 1:-1], padded[..., -2, 1:-1]
    padded[..., 0], padded[..., -1] = padded[..., 1], padded[..., -2]
    return padded
