"""A LoRA's factor keeps no GELU's output: it is made again, to the same bits, where blocks are not made again whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.training_memory import counted
from diffusers_helper.memory.candidates import TRAINED_PER_TOKEN
from diffusers_helper.training import factor
from diffusers_helper.training.factor import Factor, made_again

Made = Callable[[Tensor], Tensor]


def gelu(x: Tensor) -> Tensor:
    return functional.gelu(x * 2, approximate="tanh")


AGAIN: dict[str, Made] = {
    "a GELU": gelu,
    "the exact GELU": lambda x: functional.gelu(x * 2),
    "put together": lambda x: torch.cat([x * 3, gelu(x), x[..., :1]], dim=2),
    "put together, from behind": lambda x: torch.cat([gelu(x), x * 3], dim=-1),
}
AS_IT_IS: dict[str, Made] = {
    "no GELU": lambda x: x * 2,
    "nothing of a GELU": lambda x: torch.cat([x, x * 2], dim=-1),
    "another dimension": lambda x: torch.cat([x * 3, gelu(x)], dim=1),
    "a part without a gradient": lambda x: torch.cat([gelu(x), torch.ones_like(x)], dim=-1),
}


def start() -> Tensor:
    return torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("made", AGAIN.values(), ids=AGAIN)
def test_the_same_bits_are_made_again(made: Made) -> None:
    tensor = made(start())
    make = made_again(tensor)
    assert make is not None
    assert torch.equal(torch.cat(make(), dim=-1), tensor)


@pytest.mark.parametrize("made", AS_IT_IS.values(), ids=AS_IT_IS)
def test_all_else_is_kept_as_it_is(made: Made) -> None:
    assert made_again(made(start())) is None
    assert made_again(start()) is None


@pytest.mark.parametrize("made", [*AGAIN.values(), *AS_IT_IS.values()], ids=[*AGAIN, *AS_IT_IS])
def test_gradients_are_a_linears(made: Made) -> None:
    found = []
    for keeps in (True, False):
        x = start()
        tensor = made(x)
        torch.manual_seed(1)
        linear = Factor(nn.Linear(tensor.shape[-1], 3, bias=False), lambda keeps=keeps: keeps)  # type: ignore[misc]
        out = linear(tensor)
        (out.square().sum() + tensor.sum()).backward()
        found.append((out.detach(), x.grad, linear.weight.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("blocks", [(1, 0), (0, 1)], ids=["double", "single"])
def test_a_block_keeps_a_fifth_less(blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted at full size without numbers; the memory plan counts on no less."""
    ours = counted(*blocks, again=False, rank=16)
    monkeypatch.setattr(factor, "made_again", lambda tensor: None)
    plain = counted(*blocks, again=False, rank=16)
    assert ours["kept"] <= 0.83 * plain["kept"]
    at_once, kept = TRAINED_PER_TOKEN["kept"]
    assert ours["kept"] <= kept
    assert ours["at once"] <= kept + at_once
