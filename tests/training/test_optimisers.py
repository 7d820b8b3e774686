"""Every optimiser that can be made: it changes what is trained and nothing else, and goes on in the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusers_helper.errors import InvalidRequest
from diffusers_helper.training.loop import Loop, LoopOptions
from diffusers_helper.training.network import NetworkOptions
from diffusers_helper.training.network_args import NetworkArgs
from diffusers_helper.training.optimisers import known_optimisers, make_optimiser

from .test_loop import SHORT, begun, same, weights

PACKAGES = {"AdamW8bit": "bitsandbytes", "Prodigy": "prodigyopt"}


def rest(loop: Loop) -> dict[str, Tensor]:
    """What of the model is not trained."""
    model: nn.Module = loop.model
    return {name: each.detach().clone() for name, each in model.named_parameters() if not each.requires_grad}


@pytest.mark.parametrize("name", known_optimisers())
def test_it_changes_the_network_alone_and_goes_on_in_the_same_bits(name: str, tmp_path: Path) -> None:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason="an optional package")
    options = replace(SHORT, steps=3, optimiser=name, rate=1e-3)
    whole, first, again = begun(options), begun(options), begun(options)
    before, around = weights(whole), rest(whole)
    losses = [done.loss for done in whole.run()]
    assert same(rest(whole), around)
    assert all(torch.isfinite(each).all() for each in weights(whole).values())
    assert any(not torch.equal(each, before[key]) for key, each in weights(whole).items()), losses
    next(first.run())
    first.save(tmp_path / "state.safetensors")
    again.load(tmp_path / "state.safetensors")
    assert [done.loss for done in again.run()] == losses[1:]
    assert same(weights(again), weights(whole))


ARGUMENTS: dict[str, tuple[str, str]] = {
    "AdamW": ("weight_decay=0.5", "betas=(0.5,0.5)"),
    "SGD": ("momentum=0.9", "nesterov=True"),
    "Adafactor": ("weight_decay=0.5", "clip_threshold=0.1"),
    "RAdam": ("weight_decay=0.5", "eps=0.1"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_its_arguments_reach_it(name: str) -> None:
    network = nn.Parameter(torch.ones(2, 2))
    made = make_optimiser(name, [{"params": [network], "lr": 0.1}], ARGUMENTS[name])
    (group,) = made.param_groups
    for text in ARGUMENTS[name]:
        key, _, value = text.partition("=")
        assert str(group[key]).replace(" ", "") == value
    assert group["lr"] == 0.1


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (PACKAGES[name], f"{PACKAGES[name]}.optim"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(InvalidRequest, match=f"{name} needs the package {PACKAGES[name]}, which is not installed"):
        make_optimiser(name, [{"params": [nn.Parameter(torch.ones(2, 2))], "lr": 0.1}])


def moved(options: LoopOptions, network: NetworkOptions) -> dict[str, Tensor]:
    """How far each parameter goes in one step."""
    loop = begun(options, network)
    before = weights(loop)
    list(loop.run())
    return {name: each - before[name] for name, each in weights(loop).items()}


PLAIN = replace(SHORT, steps=1, rate=1e-3, optimiser="SGD", most_norm=0.0)


def network(**args: Any) -> NetworkOptions:
    return NetworkOptions(rank=4, alpha=4.0, args=NetworkArgs(**args))


def test_lora_plus_speeds_up_the_up_factors_alone() -> None:
    """By plain descent each goes as far as its rate says: the up factors sixteen times."""
    plain, faster = moved(PLAIN, network()), moved(PLAIN, network(loraplus_lr_ratio=16.0))
    for name, step in plain.items():
        times = 16.0 if ".lora_B." in name else 1.0
        torch.testing.assert_close(faster[name], times * step, rtol=2e-3, atol=1e-9)
    assert any(step.any() for name, step in plain.items() if ".lora_B." in name)


def test_dropouts_act_on_what_they_say() -> None:
    """In the first step, when the up factors are zero, of an up factor those ranks have no gradient that are left out;
    of a module that is left out all of them."""

    def up(step: dict[str, Tensor]) -> list[Tensor]:
        return [each for name, each in step.items() if ".lora_B." in name and each.numel()]

    none = up(moved(PLAIN, network()))
    assert all(each.any(dim=0).all() for each in none if each.any())
    ranks = [each.any(dim=0) for each in up(moved(PLAIN, network(rank_dropout=0.5)))]
    shares = torch.stack(ranks).float()
    assert 0.3 < float(shares.mean()) < 0.7
    assert any(0 < float(each.float().mean()) < 1 for each in ranks)
    modules = [bool(each.any()) for each in up(moved(PLAIN, network(module_dropout=0.5)))]
    assert 0.3 < sum(modules) / len(modules) < 0.7


def test_patterns_leave_the_rest_as_it_is() -> None:
    """What is trained of less starts as that does of all, and the first step of it is the same."""
    whole, part = begun(PLAIN, network()), begun(PLAIN, network(exclude_patterns=("single.*",)))
    names = {name for name in weights(whole) if name.startswith("transformer_blocks")}
    assert set(weights(part)) == names
    assert 0 < len(names) < len(weights(whole))
    assert {name: each.shape for name, each in weights(part).items()} == {
        name: each.shape for name, each in weights(whole).items() if name in names
    }
