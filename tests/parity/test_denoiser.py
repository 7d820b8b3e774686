"""From noisy latents to the clean prediction: real CFG, re-scale, and the bfloat16 rounding policy."""

import pytest
import torch

from diffusers_helper.denoise.denoiser import Denoiser, Guidance, TextInput

from . import pack

CASES = {
    "x0.cfg1": (Guidance(), torch.float32, 1e-5),
    "x0.cfg2.5": (Guidance(real_cfg=2.5), torch.float32, 1e-5),
    "x0.cfg2.5_rescale0.7": (Guidance(real_cfg=2.5, rescale=0.7), torch.float32, 1e-5),
    "x0_bf16.cfg1": (Guidance(), torch.bfloat16, 3e-2),
}


def text(branch: str) -> TextInput:
    values = pack.group(pack.tensors("denoiser"), branch)
    return TextInput(values["encoder_hidden_states"], values["encoder_attention_mask"], values["pooled_projections"])


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_clean_prediction_equals_the_original(name: str) -> None:
    values = pack.tensors("denoiser")
    guidance, dtype, tolerance = CASES[name]
    assert float(pack.metadata("denoiser")["guidance_embed_value"]) == guidance.distilled * 1000
    conditioning = {
        "image_embeds": values["image_embeddings"],
        **pack.context_inputs(pack.group(values, "layout")),
    }
    denoiser = Denoiser(pack.transformer(dtype), conditioning, text("pos"), text("neg"), guidance, dtype)
    pack.assert_close(denoiser(values["x"], values["sigma"][0]), values[name], tolerance)
