"""The loop on the tiny model of the pack: every option changes the weights, going on ends in the same bits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_helper.errors import BrokenNumbers, InvalidRequest, UnusableInput
from diffusers_helper.lora.reading import read_lora
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.training.examples import Example
from diffusers_helper.training.loop import Loop, LoopOptions
from diffusers_helper.training.network import Network, NetworkOptions
from diffusers_helper.training.network_args import NetworkArgs
from diffusers_helper.training.noise import NoiseLevels
from diffusers_helper.training.optimisers import make_optimiser, make_scheduler

from ..parity import pack

CASES = ("with_history", "single_clean", "no_2x_4x")
CPU = torch.device("cpu")


def example(case: str) -> Example:
    values = pack.group(pack.tensors("forward_oneframe"), case)
    names = ("encoder_hidden_states", "encoder_attention_mask", "pooled_projections")
    inputs = {**{name: values[name] for name in names}, **pack.context_inputs(values)}
    inputs["encoder_attention_mask"] = inputs["encoder_attention_mask"].bool()
    return Example(values["hidden_states"], lambda: {**inputs, "image_embeds": values["image_embeddings"]})


EXAMPLES = [example(case) for case in CASES]
SHORT = LoopOptions(steps=3, rate=1e-2)


def begun(options: LoopOptions = SHORT, network: NetworkOptions | None = None, examples: Any = EXAMPLES) -> Loop:
    torch.manual_seed(7)
    model = FramePackTransformer.from_pretrained(pack.PACK / "model").train()
    return Loop(model, Network(model, network or NetworkOptions(rank=2, alpha=2.0)), examples, options, CPU)


def weights(loop: Loop) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in loop.network.parameters().items()}


def trained(options: LoopOptions = SHORT, network: NetworkOptions | None = None) -> dict[str, Tensor]:
    loop = begun(options, network)
    assert len(list(loop.run())) == options.steps
    return weights(loop)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    return trained()


def test_it_learns_and_the_seed_decides(plain: dict[str, Tensor]) -> None:
    assert same(plain, trained())
    loop = begun(replace(SHORT, steps=40, seed=3), examples=EXAMPLES[:1])
    losses = [done.loss for done in loop.run()]
    assert sum(losses[-10:]) < sum(losses[:10])


CHANGES: dict[str, dict[str, Any]] = {
    "rate": {"rate": 2e-2},
    "seed": {"seed": 1},
    "guidance": {"guidance": 10.0},
    "accumulate": {"accumulate": 2},
    "most_norm": {"most_norm": 1e-3, "optimiser": "SGD"},
    "optimiser": {"optimiser": "SGD"},
    "optimiser_args": {"optimiser_args": ("weight_decay=0.5",)},
    "scheduler": {"scheduler": "linear"},
    "warmup_steps": {"scheduler": "constant_with_warmup", "warmup_steps": 3},
    "sampling": {"levels": NoiseLevels(sampling="uniform")},
    "shift": {"levels": NoiseLevels(shift=6.0)},
    "sigmoid_scale": {"levels": NoiseLevels(sigmoid_scale=2.0)},
    "weighting": {"levels": NoiseLevels(weighting="cosmap"), "optimiser": "SGD"},
    "least": {"levels": NoiseLevels(least=500)},
    "most": {"levels": NoiseLevels(most=500)},
    "keep_shape": {"levels": NoiseLevels(least=700, keep_shape=True)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_changes_the_weights(name: str, plain: dict[str, Tensor]) -> None:
    changed = trained(replace(SHORT, **CHANGES[name]))
    assert changed.keys() == plain.keys()
    assert not same(changed, plain)
    assert all(torch.isfinite(each).all() for each in changed.values())


NETWORKS: dict[str, NetworkOptions] = {
    "rank": NetworkOptions(rank=3, alpha=2.0),
    "alpha": NetworkOptions(rank=2, alpha=1.0),
    "dora": NetworkOptions("dora", 2, 2.0),
    "loha": NetworkOptions("loha", 2, 2.0),
    "lokr": NetworkOptions("lokr", 2, 2.0),
    "loraplus": NetworkOptions(rank=2, alpha=2.0, args=NetworkArgs(loraplus_lr_ratio=16.0)),
    "rank_dropout": NetworkOptions(rank=2, alpha=2.0, args=NetworkArgs(rank_dropout=0.5)),
    "module_dropout": NetworkOptions(rank=2, alpha=2.0, args=NetworkArgs(module_dropout=0.5)),
    "exclude": NetworkOptions(rank=2, alpha=2.0, args=NetworkArgs(exclude_patterns=("single.*",))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_learns(name: str, plain: dict[str, Tensor]) -> None:
    before = weights(begun(SHORT, NETWORKS[name]))
    after = trained(SHORT, NETWORKS[name])
    assert not same(after, plain)
    assert any(not torch.equal(after[key], before[key]) for key in before)
    assert same(after, trained(SHORT, NETWORKS[name])), "the seed decides dropouts too"


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "dora"])
@pytest.mark.parametrize("form", ["musubi", "diffusers"])
def test_the_file_holds_what_was_learnt(kind: Any, form: Any, tmp_path: Path) -> None:
    loop = begun(SHORT, NetworkOptions(kind, 2, 1.0))
    list(loop.run())
    network = loop.network
    model: Any = loop.model
    shapes = {
        name.replace(".base_layer", ""): (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    }
    target = tmp_path / "made.safetensors"
    if (kind, form) in {("loha", "diffusers"), ("lokr", "diffusers"), ("dora", "musubi")}:
        with pytest.raises(UnusableInput, match=r"has no names for|cannot be written|no form"):
            network.save(target, form, {}, shapes)
        assert not target.exists()
        return
    network.save(target, form, {"ss_seed": "3"}, shapes)
    found = read_lora(target, shapes)
    assert sorted(found.outline) == sorted(network.modules)
    assert found.unmatched == ()
    assert found.metadata["ss_seed"] == "3"
    name = network.modules[0]
    wrapped = model.get_submodule(name)
    if kind != "dora":
        expected = wrapped.get_delta_weight("default").detach()
        apart = (found.adapters[name].delta() - expected).norm() / expected.norm()
        assert apart < 1e-2, "as near as bfloat16 is"
    assert [file.name for file in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("options", [SHORT, replace(SHORT, optimiser="SGD", scheduler="cosine", accumulate=2)])
def test_going_on_ends_in_the_same_bits(options: LoopOptions, tmp_path: Path) -> None:
    dropouts = NetworkOptions(rank=2, alpha=2.0, args=NetworkArgs(rank_dropout=0.5))
    options = replace(options, steps=5)
    whole = trained(options, dropouts)
    first = begun(options, dropouts)
    steps = first.run()
    for _ in range(2):
        next(steps)
    first.save(tmp_path / "state.safetensors")
    again = begun(options, dropouts)
    again.load(tmp_path / "state.safetensors")
    assert [done.step for done in again.run()] == [3, 4, 5]
    assert same(weights(again), whole)


@pytest.mark.parametrize("content", [b"", b"no state", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_state_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes(content)
    for file in ("s.safetensors", "gone.safetensors"):
        with pytest.raises(UnusableInput, match="training cannot go on from it"):
            begun().load(tmp_path / file)


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    begun().save(tmp_path / "s.safetensors")
    with pytest.raises(UnusableInput, match="training cannot go on from it"):
        begun(SHORT, NetworkOptions("loha", 2, 2.0)).load(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    ("options", "network", "flag"),
    [
        ({"rate": 0.5}, {}, "learning-rate 0.01"),
        ({"optimiser": "SGD"}, {}, "optimizer-type adamw"),
        ({"scheduler": "linear"}, {}, "lr-scheduler constant"),
        ({}, {"alpha": 9.0}, "network-alpha 2.0"),
        ({}, {"rank": 4}, "network-dim 2"),
        ({}, {"kind": "dora"}, "network-module lora"),
    ],
)
def test_going_on_otherwise_is_refused(
    options: dict[str, Any], network: dict[str, Any], flag: str, tmp_path: Path
) -> None:
    begun().save(tmp_path / "s.safetensors")
    other = begun(replace(SHORT, **options), replace(NetworkOptions(rank=2, alpha=2.0), **network))
    with pytest.raises(UnusableInput, match=f"it was begun with {flag}; give the same"):
        other.load(tmp_path / "s.safetensors")


def test_numbers_that_break_stop_it_before_the_weights(tmp_path: Path) -> None:
    loop = begun(replace(SHORT, steps=9))
    steps = loop.run()
    next(steps)
    kept = weights(loop)
    loop._examples = [replace(EXAMPLES[0], target=EXAMPLES[0].target * math.nan)]
    loop._order = []
    with pytest.raises(BrokenNumbers, match="step 2: the loss is no number any more"):
        next(steps)
    assert same(weights(loop), kept)


def test_all_examples_come_once_before_any_again() -> None:
    loop = begun()
    assert sorted(loop._next() for _ in EXAMPLES) == [[0], [1], [2]]
    assert sorted(loop._next() for _ in EXAMPLES) == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("adamx", [], "'adamx' is not known; known are Adadelta"),
        ("AdamW", ["weight_decay"], "'weight_decay' is not key=value"),
        ("AdamW", ["weight_decay=x"], "'x' is no number"),
        ("AdamW", ["colour=1"], "AdamW does not take them"),
        ("AdamW", ["eps=-1"], "AdamW does not take them"),
    ],
)
def test_optimisers_that_cannot_be_had_are_refused(name: str, given: list[str], words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make_optimiser(name, [{"params": [torch.nn.Parameter(torch.ones(2, 2))], "lr": 0.1}], given)
    assert words in str(refused.value)


def test_a_scheduler_that_there_is_not_is_refused() -> None:
    optimiser = make_optimiser("SGD", [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1}])
    with pytest.raises(InvalidRequest, match="'step' is not known; known are linear, cosine"):
        make_scheduler("step", optimiser, 0, 10)


def test_going_on_with_other_data_begins_a_new_round(tmp_path: Path) -> None:
    """Places in the old order mean nothing then."""
    loop = begun(replace(SHORT, steps=1))
    list(loop.run())
    loop.save(tmp_path / "state.safetensors")
    fewer = begun(replace(SHORT, steps=9), examples=EXAMPLES[:1])
    fewer.load(tmp_path / "state.safetensors")
    assert [done.step for done in fewer.run()] == list(range(2, 10))


@pytest.mark.parametrize(
    "other",
    [
        {"guidance": 3.0}, {"accumulate": 2}, {"most_norm": 2.0}, {"warmup_steps": 3},
        {"levels": NoiseLevels(sampling="uniform")}, {"rate": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_going_on_by_other_rules_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    begun().save(tmp_path / "state.safetensors")
    with pytest.raises(UnusableInput, match="it was begun with"):
        begun(replace(SHORT, **other)).load(tmp_path / "state.safetensors")


def test_going_on_from_elsewhere_is_refused(tmp_path: Path) -> None:
    """From another checkpoint, or another kind of video."""
    loops = [
        Loop(each.model, each.network, EXAMPLES, SHORT, CPU, origin={"checkpoint": name})
        for name in ("one", "other")
        for each in [begun()]
    ]
    loops[0].save(tmp_path / "state.safetensors")
    with pytest.raises(UnusableInput, match="it was begun with checkpoint one"):
        loops[1].load(tmp_path / "state.safetensors")
