"""The tables: noise levels, rounding of timestep and guidance, section plans. All exact."""

import math

import pytest
import torch

from diffusers_helper.denoise.schedule import flow_mu, flow_sigmas, token_count
from tests.plans import plan_video

from . import pack

TABLES = pack.record("tables")


@pytest.mark.parametrize(
    "row", TABLES["sigmas"], ids=lambda row: f"{row['latent_t']}x{row['latent_h']}x{row['latent_w']}n{row['steps']}"
)
def test_noise_levels(row: dict) -> None:
    tokens = token_count(row["latent_t"], row["latent_h"], row["latent_w"])
    sigmas = flow_sigmas(row["steps"], flow_mu(tokens))
    timesteps = sigmas[:-1] * 1000
    assert tokens == row["seq_length"]
    assert flow_mu(tokens) == row["mu"]
    assert math.exp(flow_mu(tokens)) == row["shift"]
    assert sigmas.tolist() == row["sigmas"]
    float32, bfloat16 = (
        next(v for k, v in row.items() if k.startswith("timestep") and k.endswith(d)) for d in ("32", "16")
    )
    assert timesteps.tolist() == float32
    assert timesteps.bfloat16().float().tolist() == bfloat16


@pytest.mark.parametrize("row", TABLES["guidance_embed"], ids=lambda row: str(row["scale"]))
def test_guidance_rounding(row: dict) -> None:
    value = row["scale"] * 1000 * torch.ones(1)
    assert value.item() == row["float32"]
    assert value.bfloat16().float().item() == row["bfloat16"]


@pytest.mark.parametrize(
    "row", TABLES["section_plans"], ids=lambda r: f"{r['kind']}-{r['total_second_length']}s-w{r['latent_window_size']}"
)
def test_section_plans(row: dict) -> None:
    kind = "framepack" if row["kind"] == "i2v" else "f1"
    sections = plan_video(kind, row["total_second_length"], row["latent_window_size"]).sections
    assert len(sections) == row["sections"]
    assert [[s.context.target[0], s.context.target[-1]] for s in sections] == row["latent_index_first_last"]
    assert [s.decode_frames for s in sections] == row["decoder_input_frames"]
    assert [s.frames_after for s in sections] == row["pixel_frames_after"]
    assert [s.latents_after for s in sections] == row["total_latent_frames_after"]
