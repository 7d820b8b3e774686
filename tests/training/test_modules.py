"""Which linears are trained, and what the network's arguments say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffusers_helper.errors import InvalidRequest
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.training.modules import trainable
from diffusers_helper.training.network import Network, NetworkOptions
from diffusers_helper.training.network_args import NetworkArgs, read_network_args

from ..parity import pack


@pytest.fixture
def model() -> FramePackTransformer:
    return FramePackTransformer.from_pretrained(pack.PACK / "model").eval()


def test_full_size_has_what_musubi_trains() -> None:
    """12 linears of each of 20 double blocks, 5 of each of 40 single ones."""
    with torch.device("meta"):
        full = FramePackTransformer()
    assert len(trainable(full)) == 12 * 20 + 5 * 40


def test_norms_are_left_out_unless_they_are_included(model: FramePackTransformer) -> None:
    plain = set(trainable(model))
    assert not any("norm" in name for name in plain)
    assert {name.split(".")[0] for name in plain} == {"transformer_blocks", "single_transformer_blocks"}
    with_norms = set(trainable(model, include=[r".*norm1\.linear"]))
    assert with_norms - plain
    assert all(name.endswith("norm1.linear") for name in with_norms - plain)


def test_excluded_goes_first_and_included_rescues(model: FramePackTransformer) -> None:
    plain = set(trainable(model))
    without = set(trainable(model, exclude=[r"single_transformer_blocks\..*"]))
    assert without == {name for name in plain if not name.startswith("single")}
    rescued = set(trainable(model, exclude=[".*"], include=[r".*attn\.to_q"]))
    assert rescued == {name for name in plain if name.endswith("attn.to_q")}
    assert set(trainable(model, include=[r".*attn\.to_q"])) == plain, "include alone leaves all as it is"
    with pytest.raises(
        InvalidRequest, match="exclude_patterns: 'to_q' matches no module; a pattern matches whole names"
    ):
        trainable(model, exclude=["to_q"])


def test_hunyuan_s_names_are_understood(model: FramePackTransformer) -> None:
    ours = set(trainable(model, exclude=[r"single_transformer_blocks\..*"]))
    assert set(trainable(model, exclude=[r"single_blocks\..*"])) == ours
    theirs = set(trainable(model, exclude=[".*"], include=[r"double_blocks\.0\..*"]))
    of_first = {name for name in trainable(model) if name.startswith("transformer_blocks.0.")}
    assert {name for name in theirs if "norm" not in name} == of_first
    assert theirs - of_first, "norms are excluded by a pattern too, so including rescues them"


@pytest.mark.parametrize(
    ("exclude", "include", "words"),
    [
        ([".*"], [], "no module is left to train"),
        (["("], [], "exclude_patterns: '(' is no regular expression"),
        ([], ["*"], "include_patterns: '*' is no regular expression"),
        (["single.*", "block_7.*"], [], "exclude_patterns: 'block_7.*' matches no module"),
        ([], ["transformer_blocks.9"], "include_patterns: 'transformer_blocks.9' matches no module"),
    ],
)
def test_patterns_that_leave_nothing_or_are_none_are_refused(
    exclude: list[str], include: list[str], words: str, model: FramePackTransformer
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        trainable(model, exclude, include)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ("verbose=True", "verbose", True),
        ("loraplus_lr_ratio=16", "loraplus_lr_ratio", 16.0),
        ("rank_dropout=0.25", "rank_dropout", 0.25),
        ("module_dropout=0.1", "module_dropout", 0.1),
        ("factor=4", "factor", 4),
        ("exclude_patterns=['.*a=b.*', 'x']", "exclude_patterns", (".*a=b.*", "x")),
        ("include_patterns=.*img_mlp.*", "include_patterns", (".*img_mlp.*",)),
    ],
)
def test_network_args_are_read(given: str, field: str, value: Any) -> None:
    assert getattr(read_network_args([given]), field) == value
    assert (
        read_network_args([given]).model_copy(update={field: NetworkArgs.model_fields[field].default}) == NetworkArgs()
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("loraplus=3", "'loraplus=3' is not known; give name=value of verbose, loraplus_lr_ratio"),
        ("verbose", "'verbose' is not known"),
        ("verbose=yes", "verbose: 'yes' is not what it takes"),
        ("loraplus_lr_ratio=0", "loraplus_lr_ratio"),
        ("rank_dropout=1", "rank_dropout"),
        ("rank_dropout=x", "'x' is not what it takes"),
        ("exclude_patterns=[1]", "is not what it takes"),
        ("exclude_patterns=['a'", "is not what it takes"),
    ],
)
def test_network_args_that_are_none_are_refused(given: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_network_args([given])
    assert words in str(refused.value)


def test_lora_plus_lets_the_up_factors_learn_faster(model: FramePackTransformer) -> None:
    network = Network(model, NetworkOptions(args=NetworkArgs(loraplus_lr_ratio=16.0)))
    slow, fast = network.groups(1e-3)
    assert (slow["lr"], fast["lr"]) == (1e-3, 16e-3)
    assert len(slow["params"]) == len(fast["params"]) == len(network.modules)
    assert not any(parameter.any() for parameter in fast["params"]), "up begins with nothing"
    (all_of_them,) = Network(FramePackTransformer.from_pretrained(pack.PACK / "model"), NetworkOptions()).groups(1e-3)
    assert len(all_of_them["params"]) == 2 * len(network.modules)


@pytest.mark.parametrize("name", ["rank_dropout", "module_dropout"])
@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_dropouts_act_in_training_alone(kind: Any, name: str, model: FramePackTransformer) -> None:
    dropped = {name: 0.5}
    network = Network(model, NetworkOptions(kind, args=NetworkArgs(**dropped)))
    linear = model.get_submodule(network.modules[0])
    for parameter in network.parameters().values():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    x = torch.randn(4, linear.in_features, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model.train()
    trained = {float(linear(x).sum()) for _ in range(12)}
    model.eval()
    plain = {float(linear(x).sum()) for _ in range(3)}
    assert len(trained) > 1
    assert len(plain) == 1
