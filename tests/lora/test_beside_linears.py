"""LoRAs beside the linears: what merging them densely gives, whatever the base is kept in; and gone without a trace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusers_helper.caches.teacache import TeaCacheOption
from diffusers_helper.lora.adapters import Adapter, Dense, Dora, LoHa, LoKr, LowRank
from diffusers_helper.lora.beside import Added, BesideLinears, bytes_beside, own_weight, without_weight, work_beside
from diffusers_helper.lora.reading import LoRA
from diffusers_helper.memory.transport import ThreadTransport
from diffusers_helper.models.modulation import tabulate
from diffusers_helper.models.quantise import KINDS, quantise
from diffusers_helper.models.transformer import FramePackTransformer

from ..models.tiny import tiny_inputs, tiny_transformer

CPU = torch.device("cpu")
ROWS, COLUMNS = 12, 8


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def low_rank(height: int = ROWS, width: int = COLUMNS, seed: int = 0) -> LowRank:
    return LowRank(down=random(3, width, seed=seed) / 4, up=random(height, 3, seed=seed + 1) / 4, alpha=1.5)


def dora(height: int = ROWS, width: int = COLUMNS) -> Dora:
    plain = low_rank(height, width, seed=5)
    return Dora(down=plain.down, up=plain.up, alpha=2.0, magnitude=random(height).abs() + 0.5)


KINDS_OF_ADAPTER: Mapping[str, Callable[[], Adapter]] = {
    "low rank": low_rank,
    "DoRA": dora,
    "LoHa": lambda: LoHa(
        w1_a=random(ROWS, 2),
        w1_b=random(2, COLUMNS),
        w2_a=random(ROWS, 2, seed=3),
        w2_b=random(2, COLUMNS, seed=4),
        alpha=1.0,
    ),
    "LoKr": lambda: LoKr(w1=random(3, 2), w2_a=random(4, 2), w2_b=random(2, 4), alpha=1.0),
    "dense": lambda: Dense(diff=random(ROWS, COLUMNS)),
}


def lora_of(adapters: Mapping[str, Adapter], unmatched: tuple[str, ...] = ()) -> LoRA:
    return LoRA(Path("style.safetensors"), 1, adapters, adapters, {}, unmatched, ("diffusers",), 2)


def dense_delta(adapter: Adapter, weight: Tensor) -> Tensor:
    """In float64, by the formulas of the papers."""
    factors = {name: tensor.double() for name, tensor in adapter.factors().items()}
    match adapter:
        case Dora():
            changed = weight + adapter.scale * (factors["up"] @ factors["down"])
            return changed / changed.norm(dim=1, keepdim=True) * factors["magnitude"][:, None] - weight
        case LowRank():
            return adapter.scale * (factors["up"] @ factors["down"])
        case LoHa():
            return adapter.scale * (factors["w1_a"] @ factors["w1_b"]) * (factors["w2_a"] @ factors["w2_b"])
        case LoKr():
            return adapter.scale * torch.kron(factors["w1"], factors["w2_a"] @ factors["w2_b"])
    return factors["diff"]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", KINDS_OF_ADAPTER)
@pytest.mark.parametrize("strength", [-10.0, -0.5, 0.8, 10.0])
@pytest.mark.parametrize("base", ["float", *KINDS])
def test_beside_is_what_merging_gives(kind: str, strength: float, base: str) -> None:
    adapter, plain = KINDS_OF_ADAPTER[kind](), nn.Linear(COLUMNS, ROWS).requires_grad_(False)
    plain.weight.copy_(random(ROWS, COLUMNS))
    linear = KINDS[base](plain) if base in KINDS else plain
    weight, x = own_weight(linear), random(2, 5, COLUMNS)
    assert weight is not None
    merged = weight.double() + strength * dense_delta(adapter, weight.double())
    expected = functional.linear(x.double(), merged, plain.bias.double())
    found = Added(((strength, adapter),))(x, linear(x), weight)
    assert relative(found, expected) < 1e-6


def test_several_are_summed() -> None:
    linear, x = nn.Linear(COLUMNS, ROWS).requires_grad_(False), random(5, COLUMNS)
    parts = tuple((0.5 + n, make()) for n, make in enumerate(KINDS_OF_ADAPTER.values()))
    weight = linear.weight.double()
    merged = weight + sum(strength * dense_delta(adapter, weight) for strength, adapter in parts)
    expected = functional.linear(x.double(), merged, linear.bias.double())
    assert relative(Added(parts)(x, linear(x), linear.weight), expected) < 1e-6


def everywhere(transformer: FramePackTransformer, only: str = "", seed: int = 0) -> dict[str, Adapter]:
    """A LoRA of each linear whose name holds ``only``."""
    return {
        name: low_rank(module.out_features, module.in_features, seed=seed + number)
        for number, (name, module) in enumerate(transformer.named_modules())
        if isinstance(module, nn.Linear) and only in name
    }


def merged(transformer: FramePackTransformer, strength: float, adapters: Mapping[str, Adapter]) -> FramePackTransformer:
    changed = copy.deepcopy(transformer)
    for name, adapter in adapters.items():
        changed.get_submodule(name).weight.add_(strength * adapter.delta())  # type: ignore[operator, union-attr]
    return changed


@torch.inference_mode()
def velocity(transformer: FramePackTransformer) -> Tensor:
    return transformer(**tiny_inputs())


def beside(transformer: FramePackTransformer) -> BesideLinears:
    return BesideLinears(transformer, CPU, transformer.dtype)


@pytest.mark.parametrize("only", ["", "norm1.linear", "time_text_embed", "context_embedder"])
def test_every_linear_of_the_transformer_acts(only: str) -> None:
    transformer = tiny_transformer()
    adapters = everywhere(transformer, only)
    plain, expected = velocity(transformer), velocity(merged(transformer, 0.7, adapters))
    beside(transformer).attach([("a", lora_of(adapters), 0.7)])
    found = velocity(transformer)
    assert not torch.equal(found, plain)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(everywhere(tiny_transformer())))
def test_no_linear_is_passed_over(name: str) -> None:
    """Whatever the forward pass does with it, the projection at its end included."""
    transformer = tiny_transformer()
    adapters = {name: everywhere(transformer)[name]}
    plain, expected = velocity(transformer), velocity(merged(transformer, 1.0, adapters))
    beside(transformer).attach([("a", lora_of(adapters), 1.0)])
    found = velocity(transformer)
    assert torch.equal(expected, plain) == torch.equal(found, plain)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_taken_away_leaves_no_trace() -> None:
    transformer = tiny_transformer()
    weights, plain = copy.deepcopy(transformer.state_dict()), velocity(transformer)
    made = beside(transformer)
    made.attach([("a", lora_of(everywhere(transformer)), 1.0)])
    made.keep([])
    assert torch.equal(velocity(transformer), plain)
    assert weights.keys() == transformer.state_dict().keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in transformer.state_dict().items())
    assert not any(module._forward_hooks for module in transformer.modules())


class CountedReads(dict[str, Adapter]):
    reads = 0

    def items(self) -> object:  # type: ignore[override]
        self.reads += 1
        return super().items()


def test_another_weight_reads_nothing_again_and_another_set_lets_go() -> None:
    transformer = tiny_transformer()
    made, counted = beside(transformer), CountedReads(everywhere(transformer))
    lora = LoRA(Path("a"), 1, counted, MappingProxyType({}), {}, (), ("diffusers",), 2)
    made.attach([("a", lora, 1.0)])
    one = velocity(transformer)
    made.attach([("a", lora, 0.5)])
    assert not torch.equal(velocity(transformer), one)
    made.attach([("a", lora, 0.5), ("a", lora, 0.5)])
    torch.testing.assert_close(velocity(transformer), one, rtol=1e-4, atol=1e-5)
    assert counted.reads == 1
    made.keep([])
    made.attach([("a", lora, 1.0)])
    assert torch.equal(velocity(transformer), one)
    assert counted.reads == 2


@pytest.mark.parametrize("precision", ["as is", *KINDS])
def test_swapped_blocks_give_the_same_bits(precision: str) -> None:
    transformer = tiny_transformer()
    adapters = everywhere(transformer)
    if precision in KINDS:
        quantise(transformer, precision)  # type: ignore[arg-type]
    made = beside(transformer)
    made.attach([("a", lora_of(adapters), 0.7)])
    plain = velocity(transformer)
    with transformer.swap_blocks(ThreadTransport()):
        for _ in range(2):
            assert torch.equal(velocity(transformer), plain)
        made.keep([])
        assert not torch.equal(velocity(transformer), plain)


@pytest.mark.parametrize("make", [low_rank, dora])
def test_the_modulation_table_gives_the_bits_of_the_linears(make: Callable[[int, int], Adapter]) -> None:
    transformer = tiny_transformer()
    names = [name for name in everywhere(transformer, "norm") if "transformer_blocks" in name and "refiner" not in name]
    adapters = {
        name: make(transformer.get_submodule(name).out_features, transformer.get_submodule(name).in_features)  # type: ignore[arg-type]
        for name in names
    }
    assert len(adapters) == 4
    plain, tabulated = velocity(transformer), copy.deepcopy(transformer)
    linears = beside(transformer)
    linears.attach([("a", lora_of(adapters), 0.7)])
    expected = velocity(transformer)
    table = tabulate(tabulated)
    assert torch.equal(velocity(tabulated), plain)
    rows, in_table = table.rows_made, beside(tabulated)
    in_table.attach([("a", lora_of(adapters), 0.7)])
    assert torch.equal(velocity(tabulated), expected)
    in_table.attach([("a", lora_of(adapters), 0.2)])
    assert not torch.equal(velocity(tabulated), expected)
    in_table.keep([])
    assert torch.equal(velocity(tabulated), plain)
    assert table.rows_made == 4 * rows
    assert without_weight(lora_of(adapters), tabulated) is None


def test_step_caches_see_what_is_added_to_the_first_norm() -> None:
    """They look at the modulated input of the first block."""
    transformer, seen = tiny_transformer(), list[Tensor]()
    cache = TeaCacheOption().make([1.0, 0.5], None)  # type: ignore[arg-type]
    watch = type(cache).estimate

    def estimate(self: object, blocks: object) -> float:
        seen.append(blocks.modulated().clone())  # type: ignore[attr-defined]
        return watch(self, blocks)  # type: ignore[arg-type]

    cache.estimate = estimate.__get__(cache)  # type: ignore[attr-defined, method-assign]
    with torch.inference_mode():
        transformer(**tiny_inputs(), step_cache=cache)
        adapters = everywhere(transformer, "transformer_blocks.0.norm1.linear")
        beside(transformer).attach([("a", lora_of(adapters), 1.0)])
        transformer(**tiny_inputs(), step_cache=cache)
    assert len(seen) == 2
    assert not torch.equal(*seen)


def test_dora_needs_a_weight_that_is_there_as_numbers() -> None:
    transformer = tiny_transformer()
    name = "transformer_blocks.0.attn.to_q"
    lora = lora_of({name: dora(32, 32)})
    assert without_weight(lora, transformer) is None
    transformer.get_submodule(name).weight = nn.Parameter(torch.zeros(512, 1, dtype=torch.uint8), requires_grad=False)
    assert without_weight(lora, transformer) == name
    assert without_weight(lora_of({name: low_rank(32, 32)}), transformer) is None


def test_the_bytes_are_of_the_factors_as_they_compute() -> None:
    assert bytes_beside([lora_of({"a": low_rank(), "b": low_rank()})], torch.bfloat16) == 2 * 2 * 3 * (ROWS + COLUMNS)
    assert (
        bytes_beside([lora_of({"a": Dense(diff=random(ROWS, COLUMNS))})], torch.bfloat16) == (2 + 16) * ROWS * COLUMNS
    )


def test_work_is_counted_by_kind() -> None:
    """Of one linear among two that are as large, beside which all is computed."""
    shapes = {"a": (ROWS, COLUMNS), "b": (ROWS, COLUMNS)}
    factors = 3 * (ROWS + COLUMNS)
    expected = {"low rank": factors, **dict.fromkeys(("DoRA", "LoHa", "LoKr", "dense"), ROWS * COLUMNS)}
    for kind, make in KINDS_OF_ADAPTER.items():
        lora = lora_of({"a": make()})
        assert work_beside([lora, lora], shapes) == 2 * expected[kind] / (2 * ROWS * COLUMNS)
