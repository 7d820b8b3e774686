"""Quantised linears: how far they are from float32, what they leave alone, and what they cannot take."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Laplace, StudentT

from diffusers_helper.errors import UnusableCheckpoint, UnusableInput
from diffusers_helper.memory.transport import CudaTransport, ThreadTransport
from diffusers_helper.models.modulation import modulation_linears, tabulate
from diffusers_helper.models.quantise import (
    KINDS,
    Fp8Linear,
    Int8Linear,
    Quantisation,
    bitsandbytes,
    can_multiply,
    quantisable,
    quantise,
    why_not_multiply,
)
from diffusers_helper.models.transformer import FramePackTransformer

from ..parity import pack
from .test_swapped_transformer import block_bytes, inputs, velocity

ROWS, COLUMNS = 256, 3072
SPREADS: dict[str, Callable[[], Tensor]] = {
    "normal": lambda: 0.02 * torch.randn(ROWS, COLUMNS),
    "small": lambda: 0.002 * torch.randn(ROWS, COLUMNS),
    "laplace": lambda: Laplace(0.0, 0.014).sample((ROWS, COLUMNS)),
    "heavy": lambda: 0.015 * StudentT(5.0).sample((ROWS, COLUMNS)),
    "rows of all sizes": lambda: torch.logspace(-4, -1, ROWS)[:, None] * torch.randn(ROWS, COLUMNS),
}
BOUNDS = {"int8": 0.020, "fp8": 0.028}


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual.float() - expected).norm() / expected.norm()).item()


def linear_of(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight
    return linear.requires_grad_(False)


@pytest.mark.parametrize("spread", SPREADS)
def test_int8_has_the_smallest_error(spread: str) -> None:
    torch.manual_seed(0)
    weight = SPREADS[spread]()
    errors = {name: relative(kind(linear_of(weight)).weight_in(torch.float32), weight) for name, kind in KINDS.items()}
    unscaled = relative(weight.to(torch.float8_e4m3fn), weight)
    assert errors["int8"] < errors["fp8"] < unscaled
    assert all(error <= BOUNDS[name] for name, error in errors.items())


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize("spread", SPREADS)
def test_the_output_is_as_near_as_the_weights(kind: type[Int8Linear | Fp8Linear], spread: str) -> None:
    torch.manual_seed(1)
    linear = linear_of(SPREADS[spread]())
    tokens = torch.randn(2, 40, COLUMNS)
    expected = linear(tokens)
    assert relative(kind(linear)(tokens), expected) < 0.03
    assert relative(kind(linear, multiply=True)(tokens), expected) < 0.05


def test_rows_of_zeros_stay_zeros() -> None:
    for kind in KINDS.values():
        assert not kind(linear_of(torch.zeros(4, 32))).weight_in(torch.float32).any()


@pytest.mark.parametrize("precision", KINDS)
def test_in_bfloat16_a_weight_is_rounded_once(precision: str) -> None:
    torch.manual_seed(2)
    made = KINDS[precision](linear_of(SPREADS["normal"]()))
    exact = made.weight_in(torch.float32)
    assert torch.equal(made.weight_in(torch.bfloat16), exact.to(torch.bfloat16))
    assert torch.equal(made.to(torch.bfloat16).weight_in(torch.float32), exact)


@pytest.mark.parametrize("precision", KINDS)
def test_only_the_blocks_matrices_change(precision: Quantisation) -> None:
    transformer = copy.deepcopy(pack.transformer())
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    changed = {f"{name}.weight" for name in quantisable(transformer)}
    quantise(transformer, precision)
    after = transformer.state_dict()
    assert before.keys() - after.keys() == changed
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - changed)
    assert not any("norm" in name or "embedder" in name for name in changed)


@pytest.mark.parametrize(("precision", "bound"), [("int8", 0.005), ("fp8", 0.02)])
@pytest.mark.parametrize("multiply", [False, True])
def test_the_velocity_stays_near(precision: Quantisation, bound: float, multiply: bool) -> None:
    transformer, given = copy.deepcopy(pack.transformer()), inputs()
    plain = velocity(transformer, given)
    quantise(transformer, precision, multiply=multiply)
    assert relative(velocity(transformer, given), plain) < (2 if multiply else 1) * bound


@pytest.mark.parametrize("precision", KINDS)
def test_swapped_and_tabulated_not_one_bit_differs(precision: Quantisation) -> None:
    transformer, given = copy.deepcopy(pack.transformer()), inputs()
    quantise(transformer, precision)
    plain = velocity(transformer, given)
    tabulate(transformer)
    with transformer.swap_blocks(ThreadTransport(), block_bytes(transformer) // 3) as swap:
        assert torch.equal(velocity(transformer, given), plain)
        assert swap.resident
        assert swap.bytes_per_pass


def test_the_bytes_of_a_step_at_full_size() -> None:
    """Counted from the config: 25.75 GB in 16 bits, 18.95 with a modulation table, 9.9 in int8."""
    config = json.loads((Path(__file__).parent / "data" / "framepack_transformer_config.json").read_text())
    with torch.device("meta"):
        transformer = FramePackTransformer.from_config(config)
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    counted = [transformer.weights_bytes()]
    tabulate(transformer, {})
    counted.append(transformer.weights_bytes())
    quantise(transformer, "int8")
    counted.append(transformer.weights_bytes())
    assert [round(size / 1e9, 2) for size in counted] == [25.75, 18.95, 9.9]
    assert all(not list(linear.parameters()) for linear in modulation_linears(transformer).values())


def test_weights_of_8_bits_are_refused() -> None:
    transformer = copy.deepcopy(pack.transformer())
    for linear in quantisable(transformer).values():
        linear.weight.data = linear.weight.data.to(torch.float8_e4m3fn)
    for precision in KINDS:
        with pytest.raises(UnusableCheckpoint, match=r"float8_e4m3fn already.*rounded twice.*checkpoint in 16 bits"):
            quantise(transformer, precision)  # type: ignore[arg-type]


def test_without_bitsandbytes_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("diffusers_helper.models.quantise.find_spec", lambda name: None)
    with pytest.raises(UnusableInput, match=r"bitsandbytes.*requirements-optional\.txt.*int8"):
        quantise(copy.deepcopy(pack.transformer()), "bnb4")


def test_a_broken_bitsandbytes_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bitsandbytes.py").write_text("raise OSError('libcudart.so.12: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    with pytest.raises(UnusableInput, match=r"cannot be used: libcudart\.so\.12.*int8"):
        bitsandbytes()


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(RuntimeError("CUDA binary not found\nmore"), UnusableInput), (torch.OutOfMemoryError("full"), None)],
)
def test_a_bitsandbytes_that_cannot_pack_is_named(
    failure: Exception, raised: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(nn.Linear):
        def __init__(self, *shape: int, bias: bool, **_: object) -> None:
            super().__init__(*shape, bias=bias)

        def to(self, *_: object) -> Failing:  # type: ignore[override]
            raise failure

    parameter = SimpleNamespace(Linear4bit=Failing, Params4bit=lambda weight, **_: nn.Parameter(weight, False))
    monkeypatch.setattr("diffusers_helper.models.quantise.bitsandbytes", lambda: SimpleNamespace(nn=parameter))
    with pytest.raises(raised or type(failure), match="full" if raised is None else r"CUDA binary not found\. Remove"):
        quantise(copy.deepcopy(pack.transformer()), "bnb4")


@pytest.mark.parametrize(("precision", "bound"), [("bnb8", 0.005), ("bnb4", 0.12)])
def test_with_bitsandbytes(precision: Quantisation, bound: float) -> None:
    pytest.importorskip("bitsandbytes")
    transformer, given = copy.deepcopy(pack.transformer()), inputs()
    plain = velocity(transformer, given)
    quantise(transformer, precision)
    assert relative(velocity(transformer, given), plain) < bound


@pytest.mark.parametrize("precision", KINDS)
def test_products_serve_after_their_self_test(precision: Quantisation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which PyTorch has code for which GPU is found out before the first step, not in it."""

    def refused(self: Any, tokens: Any) -> Any:
        raise RuntimeError("Rowwise scaling is not supported on your device\nmore")

    cpu = torch.device("cpu")
    assert can_multiply(precision, cpu)
    monkeypatch.setattr(KINDS[precision], "_product", lambda self, tokens: tokens[:, :1].expand(-1, self.out_features))
    assert "self-test differs by" in str(why_not_multiply(precision, cpu))
    monkeypatch.setattr(KINDS[precision], "_product", refused)
    assert str(why_not_multiply(precision, cpu)).endswith("failed: Rowwise scaling is not supported on your device")
    assert not can_multiply("bnb8", cpu)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", KINDS)
def test_on_a_gpu(precision: Quantisation) -> None:
    """Swapped and multiplied there, as near as on the CPU."""
    device = torch.device("cuda")
    linear = linear_of(SPREADS["normal"]())
    tokens = torch.randn(200, COLUMNS)
    expected = linear(tokens)
    for multiply in (False, can_multiply(precision, device)):
        made = KINDS[precision](linear, multiply).to(device)
        assert relative(made(tokens.to(device, torch.bfloat16)).cpu(), expected) < 0.05
    transformer, given = copy.deepcopy(pack.transformer()), inputs("cuda")
    quantise(transformer, precision)
    plain = velocity(transformer.to(device), given)
    with transformer.to("cpu").swap_blocks(CudaTransport(), block_bytes(transformer) // 3):
        assert torch.equal(velocity(transformer, given), plain)
