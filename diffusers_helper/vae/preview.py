"""A cheap look at latents: a linear map to RGB, or a tiny decoder where there is one.

Shapes: C latent channels, T latent frames, H and W latent rows and columns.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import unforeseen
from ..words import Message
from .tiny import TinyDecoder

log = logging.getLogger(__name__)

CELL = 256
"""Pixels of the longer side of a decoded frame in a strip, at most: it is written to a file after every step."""
HUNYUAN_FACTORS = (
    (-0.0395, -0.0331, 0.0445),
    (0.0696, 0.0795, 0.0518),
    (0.0135, -0.0945, -0.0282),
    (0.0108, -0.0250, -0.0765),
    (-0.0209, 0.0032, 0.0224),
    (-0.0804, -0.0254, -0.0639),
    (-0.0991, 0.0271, -0.0669),
    (-0.0646, -0.0422, -0.0400),
    (-0.0696, -0.0595, -0.0894),
    (-0.0799, -0.0208, -0.0375),
    (0.1166, 0.1627, 0.0962),
    (0.1165, 0.0432, 0.0407),
    (-0.2315, -0.1920, -0.1355),
    (-0.0270, 0.0401, -0.0821),
    (-0.0616, -0.0997, -0.0727),
    (0.0249, -0.0469, -0.1703),
)
HUNYUAN_BIAS = (0.0259, -0.0192, -0.0761)


@dataclass(frozen=True)
class LatentToRGB:
    """The linear map of one VAE: ``factors`` [C, 3] and ``bias`` [3], to colours from 0 to 1."""

    factors: Sequence[Sequence[float]] = HUNYUAN_FACTORS
    bias: Sequence[float] = HUNYUAN_BIAS

    def __call__(self, latents: Tensor) -> Tensor:
        """[1, C, T, H, W] scaled latents to [1, 3, T, H, W] colours from 0 to 1."""
        rgb = torch.einsum("bcthw,cr->brthw", latents.float(), torch.tensor(self.factors).to(latents.device))
        bias = torch.tensor(self.bias).to(latents.device)
        return (rgb + bias[:, None, None, None]).clamp(0, 1)

    def strip(self, latents: Tensor) -> np.ndarray:
        """The frames of [1, C, T, H, W] side by side, uint8 [H, T * W, 3]."""
        return _side_by_side(self(latents)[0].transpose(0, 1))


class Previews:
    """Looks at latents: by a tiny decoder where there is one and as long as it can, else by the linear map."""

    def __init__(self, linear: LatentToRGB, tiny: TinyDecoder | None = None) -> None:
        self._linear, self._tiny = linear, tiny
        self._notices: list[Message] = []

    def strip(self, latents: Tensor) -> np.ndarray:
        """The frames of [1, C, T, H, W] side by side, a cell for each: uint8 [rows, T * columns, 3].

        No video fails by this: whatever goes wrong with the tiny decoder is a notice, and the linear map serves on.
        """
        if self._tiny is not None:
            try:
                return _side_by_side(torch.cat([_cell(frame) for frame in self._tiny.newest(latents)]))
            except Exception as error:
                log.warning("the tiny decoder failed", exc_info=True)
                self._tiny = None
                self._notices.append(Message("preview.gave_up", reason=unforeseen(error)))
        return self._linear.strip(latents)

    def notices(self) -> list[Message]:
        """What there is to say, since the last time."""
        said, self._notices = self._notices, []
        return said


def _cell(frame: Tensor) -> Tensor:
    """[1, 3, height, width] with its longer side at most ``CELL``, each pixel the mean of those that it covers."""
    height, width = frame.shape[2:]
    share = min(1.0, CELL / max(height, width))
    size = max(1, round(height * share)), max(1, round(width * share))
    return functional.interpolate(frame.float(), size=size, mode="area")


def _side_by_side(frames: Tensor) -> np.ndarray:
    """Colours from 0 to 1, [T, 3, rows, columns], to uint8 [rows, T * columns, 3]."""
    return (frames * 255).to(torch.uint8).permute(2, 0, 3, 1).flatten(1, 2).cpu().contiguous().numpy()
