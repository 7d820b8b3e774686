"""UniPC: alone on an analytic denoiser, on the model, and with a single frame."""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_helper.denoise.denoiser import Denoiser, Guidance, TextInput
from diffusers_helper.denoise.sample import sample
from diffusers_helper.denoise.schedule import flow_mu, flow_sigmas, token_count

from . import pack


def runs(name: str) -> list[str]:
    return sorted({key.rsplit(".", 1)[0] for key in pack.tensors(name) if key.endswith(".result")})


def steps_of(run: str) -> int:
    return int(re.findall(r"n(\d+)", run)[-1])


def assert_trajectory(states: list[Any], values: dict[str, Tensor], tolerance: float) -> None:
    """Every state the model saw, every clean prediction, and the result."""
    assert len(states) == len(values["x_in"])
    for state, x in zip(states, values["x_in"], strict=True):
        pack.assert_close(state.x[0], x, tolerance)
    for state, x0 in zip(states, values.get("x0", ()), strict=False):
        pack.assert_close(state.denoised[0], x0, tolerance)
    pack.assert_close(states[-1].denoised, values["result"], tolerance)


@pytest.mark.parametrize("run", runs("unipc_analytic"))
def test_analytic_trajectory(run: str) -> None:
    values, steps = pack.group(pack.tensors("unipc_analytic"), run), steps_of(run)
    sigmas = flow_sigmas(steps, math.log(7) if steps % 2 == 0 else 0.9)
    pack.assert_same_but_for_rounding(sigmas, values["sigmas"])

    def denoiser(x: Tensor, s: Tensor) -> Tensor:
        return torch.tanh(1.3 * x) * (1 - 0.5 * s) + 0.1 * torch.cos(3 * s)

    states = list(sample(denoiser, pack.tensors("unipc_analytic")["noise"], sigmas, solver_type=run.split(".")[0]))
    assert_trajectory(states, values, 1e-5)


def model_states(name: str, layout: str, noise: Tensor, sigmas: Tensor) -> Iterator[Any]:
    values = pack.tensors(name)
    conditioning = {"image_embeds": values["image_embeddings"], **pack.context_inputs(pack.group(values, layout))}
    text = TextInput(values["encoder_hidden_states"], values["encoder_attention_mask"], values["pooled_projections"])
    guidance = Guidance(distilled=float(pack.metadata(name)["guidance_embed_value"]) / 1000)
    return sample(Denoiser(pack.transformer(), conditioning, text, None, guidance, torch.float32), noise, sigmas)


@pytest.mark.parametrize("run", runs("unipc_model"))
@torch.inference_mode()
def test_trajectory_on_the_model(run: str) -> None:
    values, steps = pack.group(pack.tensors("unipc_model"), run), steps_of(run)
    noise = values["x_in"][:1]
    generator = torch.Generator().manual_seed(int(pack.metadata("unipc_model")["noise_seed"]))
    pack.assert_same_but_for_rounding(torch.randn(noise.shape, generator=generator), noise)
    fixed_shift = re.match(r"shift(\d+)", run)
    mu = math.log(int(fixed_shift[1])) if fixed_shift else flow_mu(token_count(*noise.shape[2:]))
    sigmas = flow_sigmas(steps, mu)
    pack.assert_same_but_for_rounding(sigmas, values["sigmas"])
    if "timestep" in values:
        pack.assert_same_but_for_rounding(sigmas[:-1], values["timestep"] / 1000)
    tolerance = 3e-2 if fixed_shift else pack.trajectory_tolerance(steps)
    assert_trajectory(list(model_states("unipc_model", "layout", noise, sigmas)), values, tolerance)


@pytest.mark.parametrize("variant", runs("run_oneframe"))
@torch.inference_mode()
def test_single_frame(variant: str) -> None:
    values, steps = pack.group(pack.tensors("run_oneframe"), variant), int(pack.metadata("run_oneframe")["steps"])
    noise = values["x_in"][:1]
    sigmas = flow_sigmas(steps, flow_mu(token_count(*noise.shape[2:])))
    states = list(model_states("run_oneframe", f"{variant}.layout", noise, sigmas))
    assert_trajectory(states, values, pack.trajectory_tolerance(steps))
