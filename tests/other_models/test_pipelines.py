"""diffusers' own pipelines, guided and not, twice each: they open contexts or not, and say where a run ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    ChromaPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxPipeline,
    HunyuanVideoPipeline,
    UniPCMultistepScheduler,
    WanPipeline,
)

from diffusers_helper.other_models import PRESETS, apply_magcache

from .tiny import tiny

WORDS = {"prompt_embeds": torch.ones(1, 3, 8)}
OTHER_WORDS = {"negative_prompt_embeds": -torch.ones(1, 3, 8)}
POOLED, OTHER_POOLED = ({f"{key}pooled_prompt_embeds": torch.ones(1, 8)} for key in ("", "negative_"))
MASK, OTHER_MASK = ({f"{key}prompt_attention_mask": torch.ones(1, 3)} for key in ("", "negative_"))
GUIDED_FLUX = {**OTHER_WORDS, **OTHER_POOLED, "true_cfg_scale": 2.0}


def euler() -> Any:
    return FlowMatchEulerDiscreteScheduler()


def unipc() -> Any:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


MADE: dict[str, Callable[[Any], Any]] = {
    "FLUX": lambda model: FluxPipeline(euler(), None, None, None, None, None, model),
    "FLUX-Kontext": lambda model: FluxKontextPipeline(euler(), None, None, None, None, None, model),
    "Chroma": lambda model: ChromaPipeline(euler(), None, None, None, model),
    "HunyuanVideo-T2V": lambda model: HunyuanVideoPipeline(None, None, model, None, euler(), None, None),
    "Wan2.1-T2V-1.3B": lambda model: WanPipeline(None, None, None, unipc(), model),
}
SMALLER: dict[str, dict[str, Any]] = {
    **{name: {"in_channels": 16} for name in ("FLUX", "FLUX-Kontext", "Chroma")},
    "Wan2.1-T2V-1.3B": {"image_dim": None, "added_kv_proj_dim": None},
}


@pytest.mark.parametrize(
    ("preset", "given", "branches"),
    [
        ("FLUX", POOLED, ["cond"]),
        ("FLUX", {**POOLED, **GUIDED_FLUX}, ["cond", "uncond"]),
        ("FLUX-Kontext", {**POOLED, **GUIDED_FLUX, "max_area": 1024}, ["first call", "second call"]),
        ("Chroma", {**MASK, **OTHER_WORDS, **OTHER_MASK, "guidance_scale": 3.0}, ["first call", "second call"]),
        ("HunyuanVideo-T2V", {**POOLED, **MASK, "num_frames": 5}, ["cond"]),
        ("Wan2.1-T2V-1.3B", {**OTHER_WORDS, "guidance_scale": 3.0, "num_frames": 5}, ["cond", "uncond"]),
    ],
)
def test_a_pipeline_skips_by_the_pattern_run_after_run(preset: str, given: dict[str, Any], branches: list[str]) -> None:
    transformer = tiny(PRESETS[preset].transformer, **SMALLER.get(preset, {}))
    pipeline = MADE[preset](transformer)
    pipeline.set_progress_bar_config(disable=True)
    applied = apply_magcache(transformer, preset, 12)

    def make(steps: int = 12, **further: Any) -> Any:
        call = {**WORDS, **given, "height": 32, "width": 32, "num_inference_steps": steps, "output_type": "latent"}
        return pipeline(**call, **further, generator=torch.Generator().manual_seed(0))[0]

    first = make()
    assert "." in applied.pattern
    assert applied.made == dict.fromkeys(branches, applied.pattern)
    with pytest.raises(InterruptedError):
        make(callback_on_step_end=_stop)
    assert torch.equal(make(), first)
    assert applied.made == dict.fromkeys(branches, applied.pattern)


def _stop(pipeline: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
    if step == 4:
        raise InterruptedError
    return {}
