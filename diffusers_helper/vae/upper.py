"""The upper part of the decoder as a pure function, for compilers: what a chunk needs of others goes in and out.

Its weights go in as well. So a compiled function holds none: nothing lies in memory twice, a VAE may come and go with
its weights, and one function serves every VAE of the same build.

Shapes: B batch, T latent frames of a chunk, H and W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from .streaming import Layer, StreamingDecoder

Shape = tuple[int, int, int, int]
"""B, T, H, W of a chunk of latents."""


class Given(NamedTuple):
    """What the function takes: weights, the lower part's [B, channels, T, H, W], frames that convolutions have kept."""

    weights: list[Tensor]
    x: Tensor
    kept: list[Tensor]

    @property
    def all(self) -> list[Tensor]:
        """One after the other."""
        return [*self.weights, self.x, *self.kept]


class _Traced(StreamingDecoder):
    """The same with each convolution as a few whole operations, which a compiler joins better than copies in place."""

    def _convolve(self, conv: Layer, x: Tensor, factor: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
        before = self._frames_before[conv]
        x = torch.cat([before, x], dim=2)
        self._frames_before[conv] = x[:, :, -before.shape[2] :].clone()
        if factor != (1, 1, 1):
            x = functional.interpolate(x, scale_factor=factor, mode="nearest")
        return conv.conv(functional.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate"))


class UpperPart(nn.Module):
    """The layers of the upper part, from weights of their own or from those that it is handed."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        super().__init__()
        decoder = vae.decoder
        self.up_blocks, self.conv_norm_out, self.conv_out = decoder.up_blocks, decoder.conv_norm_out, decoder.conv_out
        self._vae = (vae,)  # in a tuple, so that the lower part's weights are none of this module's

    def forward(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        """Pixels [B, 3, 4 T, 8 H, 8 W], and the frames that the convolutions keep now."""
        decoder = _Traced(self._vae[0])
        decoder.follow(kept)
        pixels = decoder.upper(x)
        return (pixels, *decoder.kept())


class PureUpperPart(nn.Module):
    """``UpperPart`` as a function of its weights, which is what is compiled."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        super().__init__()
        self._part = (UpperPart(vae),)
        self._names = [name for name, _ in self._part[0].named_parameters()]

    def forward(self, weights: Sequence[Tensor], x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See ``UpperPart``."""
        named = dict(zip(self._names, weights, strict=True))
        return functional_call(self._part[0], named, (x, *kept))


def weights_of(vae: AutoencoderKLHunyuanVideo) -> list[Tensor]:
    """Those of the upper part, as the function takes them."""
    return [weight.detach() for weight in UpperPart(vae).parameters()]


def without_weights(config: Mapping[str, Any], dtype: torch.dtype) -> AutoencoderKLHunyuanVideo:
    """A VAE of this build that takes no memory."""
    with torch.device("meta"):
        vae = AutoencoderKLHunyuanVideo.from_config(dict(config)).eval().requires_grad_(False)
    return nn.Module.to(vae, dtype)  # diffusers' own warns of layers that this model does not have


@torch.no_grad()
def expected(vae: AutoencoderKLHunyuanVideo, shape: Shape) -> Given:
    """Sizes and types of what the function takes for chunks of this shape, without contents; ``vae`` has no weights."""
    batch, latents, height, width = shape
    decoder = StreamingDecoder(vae)
    chunk = torch.empty(batch, vae.config.latent_channels, latents, height, width, dtype=vae.dtype, device="meta")
    decoder(chunk[:, :, :1])
    return Given(weights_of(vae), decoder.lower(chunk), decoder.kept())
