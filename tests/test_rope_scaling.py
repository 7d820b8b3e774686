"""RoPE scaling from the request to the latents: when it acts, with which step cache, and which sizes it allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusers_helper.denoise.denoiser import Denoiser, Guidance, RopeScaling, TextInput
from diffusers_helper.errors import InvalidRequest
from diffusers_helper.events import Finished, Notice
from diffusers_helper.generate import generate
from diffusers_helper.preparation import check_offered, fit_pictures
from diffusers_helper.request import Request

from .asking import ask
from .parity.engine import PackEngine

KINDS = {"framepack": "run_i2v", "f1": "run_f1"}
CACHES = ["off", "auto", "teacache", "magcache", "easycache", "seacache", "first_block"]
RATIOS = {"magcache_mag_ratios": "1, 1, 1, 1, 1, 1"}


def text(value: float) -> TextInput:
    return TextInput(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), torch.full((1, 1), value))


def factors(rope: RopeScaling, *sigmas: float) -> list[float]:
    """What the model is told at each noise level, by both branches."""
    told = []

    def transformer(**inputs: Any) -> Tensor:
        told.append(inputs["rope_factor"])
        return torch.zeros_like(inputs["hidden_states"])

    guidance = Guidance(real_cfg=2.0)
    denoiser = Denoiser(transformer, {}, text(1), text(-1), guidance, torch.bfloat16, rope=rope)
    for sigma in sigmas:
        denoiser(torch.zeros(1, 16, 1, 2, 2), torch.tensor(sigma))
    assert told[::2] == told[1::2]
    return told[::2]


def test_it_acts_while_the_timestep_is_at_or_above_the_threshold() -> None:
    assert factors(RopeScaling(1.5, 400.0), 1.0, 0.4001, 0.4, 0.3999, 0.0) == [1.5, 1.5, 1.5, 1, 1]
    assert factors(RopeScaling(1.5, 0.0), 1.0, 0.0) == [1.5, 1.5]
    assert factors(RopeScaling(1.5, 1000.0), 1.0, 0.9999) == [1.5, 1]
    assert factors(RopeScaling(1.5, 1000.0), 0.99, 0.5) == factors(RopeScaling(), 0.99, 0.5) == [1, 1]


def latents(made: PackEngine, folder: Path, picture: Path, **fields: Any) -> Tensor:
    """Of a video of one section and six steps."""
    file = folder / "latents.safetensors"
    request = ask(picture, seconds=1, steps=6, **fields)
    assert isinstance(list(generate(request, made, folder, latents_result=file))[-1], Finished)
    return load_file(file)["latents"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", CACHES)
def test_with_every_step_cache_it_changes_the_video_and_not_the_next_one(
    kind: str, cache: str, tmp_path: Path, picture: Path
) -> None:
    made = PackEngine(KINDS[kind])
    asked = {"kind": kind, "step_cache": cache, **(RATIOS if cache == "magcache" else {})}
    plain = latents(made, tmp_path, picture, **asked)
    scaled = latents(made, tmp_path, picture, **asked, rope_scaling_factor=1.5)
    again = latents(made, tmp_path, picture, **asked, rope_scaling_factor=1.0, rope_scaling_timestep_threshold=0.0)
    assert torch.isfinite(scaled).all()
    assert not torch.equal(scaled, plain)
    assert torch.equal(again, plain)


def test_the_threshold_changes_the_video(tmp_path: Path, picture: Path) -> None:
    made = PackEngine("run_f1")
    first, _, last = [
        latents(made, tmp_path, picture, kind="f1", rope_scaling_factor=1.5, rope_scaling_timestep_threshold=threshold)
        for threshold in (1000.0, 400.0, 0.0)
    ]
    assert not torch.equal(first, last)


@pytest.mark.parametrize(
    ("size", "factor", "is_made"),
    [
        ("64x48", 1.0, True),
        ("80x48", 1.0, False),
        ("80x48", 1.25, True),
        ("80x64", 1.25, False),
        ("80x64", 1.34, True),
        ("96x72", 1.5, False),
        ("112x80", 1.75, True),
        ("128x96", 1.9, False),
        ("48x48", 2.0, False),
        ("64x48", 0.5, True),
        ("32x24", 0.5, False),
    ],
)
def test_it_allows_sizes_up_to_so_many_times_the_trained_ones(
    size: str, factor: float, is_made: bool, picture: Path
) -> None:
    """Of a checkpoint that makes 64x48; in steps of 16."""
    checkpoint = replace(PackEngine("run_i2v").checkpoint, buckets=((48, 64),))
    request = Request.parse({"picture": str(picture), "size": size, "rope_scaling_factor": factor})
    if is_made:
        check_offered(request, checkpoint)
        width, height = map(int, size.split("x"))
        assert fit_pictures(request, checkpoint)[0].pixels.shape == (height, width, 3)
        return
    with pytest.raises(InvalidRequest, match=r"give one of 64x48, or with rope_scaling_factor above 1 also") as refusal:
        check_offered(request, checkpoint)
    assert refusal.value.problems[0].field == "size"


def test_a_larger_video_is_made(tmp_path: Path, picture: Path) -> None:
    """By the noise, the context and the decoder alike."""
    made = PackEngine("run_f1")
    encode = made.encode

    def enlarged(request: Request, pictures: Any) -> Any:
        conditioning = encode(request, pictures)
        height, width = pictures[0].shape[:2]
        (encoded,) = conditioning.pictures
        mean = encoded.latent.mean.new_zeros(1, 16, 1, height // 8, width // 8)
        return replace(conditioning, pictures=(replace(encoded, latent=type(encoded.latent)(mean, mean)),))

    made.encode = enlarged  # type: ignore[method-assign]
    height, width = (2 * side for side in made.checkpoint.buckets[0])
    found = latents(made, tmp_path, picture, kind="f1", size=f"{width}x{height}", rope_scaling_factor=2.0)
    assert found.shape[-2:] == (height // 8, width // 8)


@pytest.mark.parametrize(("factor", "count"), [(2.0, 0), (2.1, 1)])
def test_a_notice_above_two(factor: float, count: int, tmp_path: Path, picture: Path) -> None:
    events = generate(ask(picture, seconds=1, rope_scaling_factor=factor), PackEngine("run_i2v"), tmp_path)
    told = [event.message for event in events if isinstance(event, Notice)]
    assert sum("RoPE scaling above 2" in message for message in told) == count


@pytest.mark.parametrize("factor", [0, -1, 0.0, float("nan")])
def test_zero_and_below_are_refused(factor: float) -> None:
    with pytest.raises(InvalidRequest, match=r"rope_scaling_factor: .* give a number from 0\.1 to 10"):
        Request.parse({"picture": "a.png", "rope_scaling_factor": factor})
