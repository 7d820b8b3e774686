"""One call of the transformer, for every layout of the original and for one-frame layouts with absent levels."""

import pytest
import torch

from . import pack

FILES = ("forward_i2v", "forward_f1", "forward_oneframe")


CASES = [(name, case) for name in FILES for case in pack.cases(name)]
ROUNDED = 2e-6
"""Of the output's norm: float32 arithmetic against float64, 3e-7 seen."""


def velocity(name: str, case: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Of the pack's inputs, computed in ``dtype``."""
    values = pack.group(pack.tensors(name), case)
    inputs = {
        key: values[key].to(dtype)
        for key in ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections", "guidance")
    }
    context = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in pack.context_inputs(values).items()
    }
    return pack.transformer(dtype)(
        **inputs,
        **context,
        encoder_attention_mask=values.get("encoder_attention_mask", pack.tensors(name).get("encoder_attention_mask")),
        image_embeds=values["image_embeddings"].to(dtype),
    )


@pytest.mark.parametrize(("name", "case"), CASES)
@torch.inference_mode()
def test_velocity_equals_the_original(name: str, case: str) -> None:
    pack.assert_near(velocity(name, case), pack.tensors(name)[f"{case}.output"])


@pytest.mark.parametrize(("name", "case"), CASES)
@torch.inference_mode()
def test_velocity_equals_that_of_twice_the_digits(name: str, case: str) -> None:
    """Needs no recording, so it is as sharp on every processor."""
    pack.assert_near(velocity(name, case), velocity(name, case, torch.float64), ROUNDED)
