"""The attention that training uses on a CPU is attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tools.pocket import attention


@pytest.fixture(params=[1, 200, 10**6])
def cached_scores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(attention, "CACHED_SCORES", request.param)
    return int(request.param)


@pytest.mark.usefixtures("cached_scores")
@pytest.mark.parametrize("masked", [False, True])
def test_output_and_gradients_are_those_of_torch(masked: bool) -> None:
    torch.manual_seed(1)
    query, key, value, wanted = (torch.randn(2, 9, 3, 4, dtype=torch.float64) for _ in range(4))
    inputs = [t.requires_grad_() for t in (query, key, value)]
    mask = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    mask[1, :, :, 5:] = not masked
    made = attention.small_attention(*inputs, attn_mask=mask if masked else None)
    true = scaled_dot_product_attention(*(t.transpose(1, 2) for t in inputs), attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(made, true, atol=1e-6, rtol=1e-5)
    for one, other in zip(
        torch.autograd.grad(made, inputs, wanted), torch.autograd.grad(true, inputs, wanted), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_in_the_arithmetic_of_training() -> None:
    torch.manual_seed(2)
    inputs = [torch.randn(2, 40, 3, 8).requires_grad_() for _ in range(3)]
    wanted = torch.randn(2, 40, 3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = attention.small_attention(*inputs)
    true = scaled_dot_product_attention(*(t.transpose(1, 2) for t in inputs)).transpose(1, 2)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), true, atol=2e-2, rtol=2e-2)
    for one, other in zip(
        torch.autograd.grad(made.float(), inputs, wanted), torch.autograd.grad(true, inputs, wanted), strict=True
    ):
        assert float((one - other).norm() / other.norm()) < 2e-2
