"""From noisy latents to the clean prediction: real CFG, re-scale, and the bfloat16 rounding policy."""

import re

import pytest
import torch

from diffusers_helper.denoise.denoiser import Denoiser, Guidance, TextInput

from . import pack

NAME = re.compile(r"x0(?P<half>_bf16)?\.cfg(?P<cfg>[\d.]+?)(_rescale(?P<rescale>[\d.]+))?")
CASES = sorted(key for key in pack.tensors("denoiser") if NAME.fullmatch(key))


def text(branch: str) -> TextInput:
    values = pack.group(pack.tensors("denoiser"), branch)
    return TextInput(values["encoder_hidden_states"], values["encoder_attention_mask"], values["pooled_projections"])


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_clean_prediction_equals_the_original(name: str) -> None:
    values = pack.tensors("denoiser")
    case = NAME.fullmatch(name)
    assert case is not None
    distilled = float(pack.metadata("denoiser")["guidance_embed_value"]) / 1000
    guidance = Guidance(distilled, float(case["cfg"]), float(case["rescale"] or 0))
    dtype = torch.bfloat16 if case["half"] else torch.float32
    conditioning = {
        "image_embeds": values["image_embeddings"],
        **pack.context_inputs(pack.group(values, "layout")),
    }
    denoiser = Denoiser(pack.transformer(dtype), conditioning, text("pos"), text("neg"), guidance, dtype)
    prediction = denoiser(values["x"], values["sigma"][0])
    if case["half"]:
        pack.assert_close(prediction, values[name], 3e-2)
    else:
        pack.assert_near(prediction, values[name])
