"""What is held out: which files, what is measured of them, and that the training does not notice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffusers_helper.errors import InvalidRequest
from diffusers_helper.training.examples import Example
from diffusers_helper.training.network import NetworkOptions
from diffusers_helper.training.network_args import NetworkArgs
from diffusers_helper.training.noise import NoiseLevels
from diffusers_helper.training.step import loss_of
from diffusers_helper.training.validation import LEVELS, Validation, ValidationOptions, held_out

from .test_loop import CPU, EXAMPLES, SHORT, begun, same, weights

COLOURS = 4.0
"""How far from grey the pictures of one colour are."""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Ten of them, with different contents."""
    for number in range(10):
        (tmp_path / f"{number}.png").write_text(f"picture {number}", encoding="utf-8")
    return sorted(tmp_path.iterdir())


def test_the_share_is_chosen_by_content_and_seed_not_by_name(files: list[Path], tmp_path: Path) -> None:
    chosen = {file.read_text(encoding="utf-8") for file in held_out(files, 0.3, seed=1)}
    assert len(chosen) == 3
    for number, file in enumerate(files):
        file.rename(tmp_path / f"renamed_{9 - number}.png")
    renamed = sorted(tmp_path.iterdir())
    assert {file.read_text(encoding="utf-8") for file in held_out(renamed, 0.3, seed=1)} == chosen
    others = [{file.read_text(encoding="utf-8") for file in held_out(renamed, 0.3, seed)} for seed in range(2, 6)]
    assert any(each != chosen for each in others)


def test_copies_are_held_out_together(files: list[Path], tmp_path: Path) -> None:
    for file in files:
        (tmp_path / f"copy_of_{file.name}").write_bytes(file.read_bytes())
    aside = held_out(sorted(tmp_path.iterdir()), 0.2, seed=0)
    assert len(aside) == 4
    assert len({file.read_bytes() for file in aside}) == 2


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (0.5, 5), (0.9, 9)])
def test_at_least_one_file_is_held_out_and_one_is_left(share: float, count: int, files: list[Path]) -> None:
    assert len(held_out(files, share, seed=0)) == count
    assert len(held_out(files[:2], share, seed=0)) == min(count, 1)
    if share:
        with pytest.raises(InvalidRequest, match="validation_split: of 1 file none can be held out"):
            held_out(files[:1], share, seed=0)


def test_when_it_is_looked_at() -> None:
    assert [step for step in range(1, 8) if ValidationOptions(0.1, 3).is_due(step, 7)] == [3, 6, 7]
    assert [step for step in range(1, 8) if ValidationOptions(0.1).is_due(step, 7)] == [7]


def test_it_is_the_mean_error_at_each_level_of_the_same_noise() -> None:
    loop = begun()
    loop.model.eval()
    measured = Validation(EXAMPLES[:1], 6.0, 5, CPU).measure(loop.model)
    noise = torch.randn(EXAMPLES[0].target.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = [
            float(loss_of(loop.model, EXAMPLES[0], noise, torch.tensor([level]), NoiseLevels(), 6.0))
            for level in LEVELS
        ]
    assert measured.losses == pytest.approx(expected, rel=1e-6)
    assert measured.loss == pytest.approx(sum(expected) / len(expected))
    assert Validation(EXAMPLES[:1], 6.0, 5, CPU).measure(loop.model) == measured
    assert Validation(EXAMPLES[:1], 6.0, 6, CPU).measure(loop.model) != measured


@pytest.mark.parametrize("args", [NetworkArgs(), NetworkArgs(rank_dropout=0.5, module_dropout=0.5)])
def test_the_training_does_not_notice(args: NetworkArgs) -> None:
    """The same weights to the bit with and without; dropouts are off meanwhile, and on again afterwards."""
    network = NetworkOptions(rank=2, alpha=2.0, args=args)
    plain, watched = begun(SHORT, network), begun(SHORT, network)
    validation = Validation(EXAMPLES[2:], 1.0, 0, CPU)
    for _ in plain.run():
        pass
    for _ in watched.run():
        before = torch.get_rng_state()
        assert validation.measure(watched.model) == validation.measure(watched.model)
        assert torch.equal(torch.get_rng_state(), before)
        assert watched.model.training
    assert same(weights(plain), weights(watched))


def coloured(seed: int) -> Example:
    """A picture of one colour, 4 by 4 cells, made of noise."""
    generator = torch.Generator().manual_seed(seed)
    colour = COLOURS * torch.randn(1, 16, 1, 1, 1, generator=generator)
    clean = torch.randn(1, 16, 2, 4, 4, generator=generator)
    inputs = {**EXAMPLES[2].inputs(), "latents_clean": clean}
    return Example(colour.expand(1, 16, 1, 4, 4).contiguous(), lambda: inputs)


def test_learning_two_examples_by_heart_is_seen() -> None:
    """The training's loss falls by nearly half, the loss held out rises at each noise level."""
    examples: list[Example] = [coloured(seed) for seed in range(4)]
    loop = begun(replace(SHORT, steps=15, rate=2e-2), NetworkOptions(rank=8, alpha=8.0), examples[:2])
    validation = Validation(examples[2:], 1.0, 0, CPU)
    before = validation.measure(loop.model)
    losses: list[float] = [done.loss for done in loop.run()]
    after = validation.measure(loop.model)
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    assert after.loss > 1.05 * before.loss
    risen: list[bool] = [late > early for early, late in zip(before.losses, after.losses, strict=True)]
    assert all(risen), (before, after)
