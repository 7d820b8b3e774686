"""One call of the transformer, for every layout of the original and for one-frame layouts with absent levels."""

import pytest
import torch

from . import pack

FILES = ("forward_i2v", "forward_f1", "forward_oneframe")


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in FILES for case in pack.cases(name)])
@torch.inference_mode()
def test_velocity_equals_the_original(name: str, case: str) -> None:
    values = pack.group(pack.tensors(name), case)
    inputs = {
        key: values[key]
        for key in ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections", "guidance")
    }
    mask = values.get("encoder_attention_mask", pack.tensors(name).get("encoder_attention_mask"))
    velocity = pack.transformer()(
        **inputs,
        encoder_attention_mask=mask,
        image_embeds=values["image_embeddings"],
        **pack.context_inputs(values),
    )
    pack.assert_close(velocity, values["output"], 1e-5)
