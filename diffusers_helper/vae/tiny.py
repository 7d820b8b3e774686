"""A tiny decoder of HunyuanVideo's latents, for looks at them: the decoder of TAEHV, with the weights of its file.

Layers and their names are those of ``taehv.py`` in the repository madebyollin/taehv: the file numbers them, and here
they stand in stages. Its latents are those that the sampler works in, times the VAE's scaling factor: its README says
that it takes what diffusion models use, without scale or shift of its own.

Shapes: F frames of a clip, one of them for each latent frame at first; T latent frames, H and W latent rows and
columns; C channels, which the file tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UnusableInput
from ..words import Message

LATENT_CHANNELS, COLOURS = 16, 3
BLOCKS = 3
"""Of a stage."""
GROWTH = (1, 2, 2)
"""Of one frame as many come out of each stage."""
UNSHOWN = 3
"""Of the four video frames of the first latent frame as many are none of the video: T latents are 4 T - 3 frames."""
PREFIX = "decoder."
WIDTHS = tuple(f"{PREFIX}{layer}.weight" for layer in (1, 8, 14, 20))
"""The weights in the file whose first size is the width of a stage, and of what comes out of the last one."""

Seen: TypeAlias = tuple[Tensor | None, ...]
"""For each block of a stage the last frame that it was given, [1, C, rows, columns]; None before the first one."""


def _conv(of: int, to: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(of, to, 3, padding=1, bias=bias)


class Block(nn.Module):
    """A residual block that sees each frame beside the one before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        self.conv = nn.Sequential(_conv(2 * width, width), relu, _conv(width, width), relu, _conv(width, width))

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        """[F, C, rows, columns] to the same; ``before``: the frame before them, zeros where there is none."""
        first = torch.zeros_like(x[:1]) if before is None else before
        beside = torch.cat([x, torch.cat([first, x[:-1]])], dim=1)
        return functional.relu(self.conv(beside) + x)


class Stage(nn.Module):
    """Blocks that look back, then more frames of twice the size. Only the blocks know of other frames."""

    def __init__(self, width: int, width_after: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(BLOCKS))
        self.grow = nn.Conv2d(width, growth * width, 1, bias=False)
        self.out = _conv(width, width_after, bias=False)

    def forward(self, x: Tensor, seen: Seen, newest: bool) -> tuple[Tensor, Seen]:
        """[F, C, rows, columns] to [growth F, C after, 2 rows, 2 columns], and what the blocks have seen now.

        ``newest``: of the frames that come out, make the last one alone.
        """
        now: list[Tensor] = []
        for block, before in zip(self.blocks, seen, strict=True):
            now.append(x[-1:].clone())  # a view would keep the others
            x = block(x, before)
        return self._enlarged(x, newest), tuple(now)

    def _enlarged(self, x: Tensor, newest: bool) -> Tensor:
        """TAEHV doubles the size first. Convolved by single pixels before it, they are the same for less work."""
        frames = self.grow(x[-1:] if newest else x).unflatten(1, (-1, x.shape[1])).flatten(0, 1)
        return self.out(functional.interpolate(frames[-1:] if newest else frames, scale_factor=2))


class TinyDecoder(nn.Module):
    """The decoder of a file, see ``of``."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.first = _conv(LATENT_CHANNELS, widths[0])
        self.stages = nn.ModuleList(map(Stage, widths[:-1], widths[1:], GROWTH))
        self.last = _conv(widths[-1], COLOURS)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> TinyDecoder:
        """One with copies of the weights that a file of TAEHV names ``decoder.``; others are left alone.

        Raises:
            UnusableInput: names or sizes are not those of a decoder for HunyuanVideo's latents; says which.
        """
        ours = {name: tensor for name, tensor in weights.items() if name.startswith(PREFIX)}
        if lacking := [name for name in WIDTHS if name not in ours or not ours[name].ndim]:
            raise UnusableInput(Message("preview.other_layers", name=lacking[0]))
        with torch.device("meta"):
            made = cls(tuple(ours[name].shape[0] for name in WIDTHS))
        _check(ours, {theirs: made.get_parameter(name) for name, theirs in _names(made)})
        copies = {name: ours[theirs].to(device, dtype, copy=True) for name, theirs in _names(made)}
        made.load_state_dict(copies, assign=True)
        return made.requires_grad_(False)

    def clip(self, latents: Tensor) -> Tensor:
        """[1, 16, T, H, W] to colours from 0 to 1, [4 T - 3, 3, 8 H, 8 W]."""
        return torch.cat(list(self._decoded(latents)))[UNSHOWN:]

    def newest(self, latents: Tensor) -> Iterator[Tensor]:
        """For each latent frame of [1, 16, T, H, W] the last of its video frames: [1, 3, 8 H, 8 W], from 0 to 1."""
        return self._decoded(latents, newest=True)

    def _decoded(self, latents: Tensor, newest: bool = False) -> Iterator[Tensor]:
        """One latent frame after the other, so that memory is for one, as 4 video frames or the ``newest`` of them."""
        seen: list[Seen] = [(None,) * BLOCKS for _ in self.stages]
        for x in latents[0].transpose(0, 1).to(self.last.weight).split(1):
            x = functional.relu(self.first(3 * torch.tanh(x / 3)))
            for place, stage in enumerate(self.stages):
                x, seen[place] = stage(x, seen[place], newest and stage is self.stages[-1])
            yield self.last(functional.relu(x)).clamp(0, 1)


def _names(decoder: TinyDecoder) -> Iterator[tuple[str, str]]:
    """Of each weight the name here and in the file, where layers without weights have numbers too."""
    layers = {"first": "1", "last": "22"}
    for stage in range(len(GROWTH)):
        begin = 3 + stage * (BLOCKS + 3)
        layers |= {f"stages.{stage}.blocks.{block}": f"{begin + block}" for block in range(BLOCKS)}
        layers |= {f"stages.{stage}.grow": f"{begin + BLOCKS + 1}.conv", f"stages.{stage}.out": f"{begin + BLOCKS + 2}"}
    for name, _ in decoder.named_parameters():
        layer = next(layer for layer in layers if name.startswith(f"{layer}."))
        yield name, f"{PREFIX}{layers[layer]}{name.removeprefix(layer)}"


def _check(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises UnusableInput, naming the first weight that is missing, too many or of another size."""
    if others := sorted(found.keys() ^ wanted.keys()):
        raise UnusableInput(Message("preview.other_layers", name=others[0]))
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            sizes = {"found": str(list(found[name].shape)), "wanted": str(list(tensor.shape))}
            raise UnusableInput(Message("preview.other_sizes", name=name, **sizes))
