"""What a model gets wrong of files that it is not trained on, at noise that is always the same.

A loss that falls in training and rises here says that the model learns its examples by heart. The levels are told one
by one, since a model forgets the shape of things (high noise) and their surface (low noise) at different times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..errors import InvalidRequest
from ..media.files import sha256_of
from .examples import Example
from .noise import NoiseLevels
from .step import loss_of

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Noise levels sigma at which is measured."""
FEWEST = 2


@dataclass(frozen=True)
class ValidationOptions:
    """What is held out, and how often it is looked at.

    Attributes:
        share: of the files, from 0, which is none, to below 1.
        every: steps between two looks; 0 looks before the first and after the last alone.
    """

    share: float = 0.0
    every: int = 0

    def is_due(self, step: int, steps: int) -> bool:
        """Whether it is looked at after ``step``."""
        return step == steps or bool(self.every and step % self.every == 0)


@dataclass(frozen=True)
class Measured:
    """The mean squared error of the velocity: of each of LEVELS, and their mean."""

    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Over all levels."""
        return sum(self.losses) / len(self.losses)


def held_out(files: Sequence[Path], share: float, seed: int) -> set[Path]:
    """Which files are held out: that many of them, at least one, chosen by the seed and what is in them.

    So neither names nor places decide, and copies of a file are held out together or not at all.

    Raises InvalidRequest where the files are all one.
    """
    if not share:
        return set()
    chances = {file: hashlib.sha256(f"{seed} {_content(file)}".encode()).hexdigest() for file in files}
    drawn = sorted(set(chances.values()))
    if len(drawn) < FEWEST:
        raise InvalidRequest(
            f"validation_split: of {len(drawn)} file none can be held out; give two or more, or leave it out"
        )
    most = drawn[: min(max(1, round(share * len(drawn))), len(drawn) - 1)][-1]
    return {file for file, chance in chances.items() if chance <= most}


def _content(file: Path) -> str:
    """Of a file that cannot be read its name; it is refused, or left out, when it is opened."""
    try:
        return sha256_of(file)
    except OSError:
        return str(file)


class Validation:
    """Examples that are held out, looked at with noise of their own, which no training draws."""

    def __init__(self, examples: Sequence[Example], guidance: float, seed: int, device: torch.device) -> None:
        self._examples, self._guidance, self._seed, self._device = examples, guidance, seed, device

    @torch.no_grad()
    def measure(self, model: nn.Module) -> Measured:
        """The mean over the examples at each level. The model comes back as it was, and no generator is touched."""
        generator = torch.Generator().manual_seed(self._seed)
        with _without_dropouts(model):
            found = [self._losses(model, example, generator) for example in self._examples]
        return Measured(tuple(sum(at_level) / len(found) for at_level in zip(*found, strict=True)))

    def _losses(self, model: nn.Module, example: Example, generator: torch.Generator) -> list[float]:
        """One for each level; at all of them the example has the same noise."""
        noise = torch.randn(example.target.shape, generator=generator).to(self._device)
        sigmas = (torch.tensor([level]) for level in LEVELS)
        return [float(loss_of(model, example, noise, sigma, NoiseLevels(), self._guidance)) for sigma in sigmas]


@contextmanager
def _without_dropouts(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
