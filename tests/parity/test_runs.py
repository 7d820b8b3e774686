"""Whole videos: the product's own road, driven by the pack's transformer, against the original's section loops."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from diffusers_helper.caches.step_cache import BlockPass
from diffusers_helper.caches.teacache import TeaCache, estimated_change
from diffusers_helper.denoise.schedule import flow_mu, flow_sigmas, token_count
from diffusers_helper.events import Finished, SectionDone, Step
from diffusers_helper.generate import generate, seeded
from diffusers_helper.request import Request
from diffusers_helper.sections.kinds import KINDS
from diffusers_helper.vae.stitch import Stitcher
from tests.plans import plan_video

from . import pack
from .engine import PackEngine

RUNS = ("run_i2v", "run_i2v_single", "run_f1")
CACHED_RUNS = ("teacache_i2v", "teacache_f1")


def kind_of(record: dict) -> str:
    return "framepack" if record["kind"] == "i2v" else "f1"


def run(name: str, folder: Path) -> tuple[PackEngine, list[Any], Tensor]:
    """The events of a run through the road, and its latents in time order."""
    record, engine = pack.record(name), PackEngine(name)
    picture = folder / "picture.png"
    Image.new("RGB", (64, 64)).save(picture)
    request = Request.parse(
        {"picture": str(picture), "teacache": record["teacache"], "decoding": "reference"}
    ).model_copy(
        update={  # unchecked: a pack may hold what a user may not ask for, such as half a second
            "kind": KINDS[kind_of(record)](),
            "seed": record["seed"],
            "steps": record["steps"],
            "seconds": record["total_second_length"],
            "latent_window": record["latent_window_size"],
            "distilled_guidance": record["distilled_guidance_scale"],
            "real_cfg": record["real_cfg"],
        }
    )
    latents = folder / "latents.safetensors"
    events = list(generate(request, engine, folder / "outputs", latents_result=latents))
    assert isinstance(events[-1], Finished), events[-1]
    return engine, events, load_file(latents)["latents"]


@pytest.mark.parametrize("name", RUNS)
def test_run(name: str, tmp_path: Path) -> None:
    engine, events, latents = run(name, tmp_path)
    record, values = pack.record(name), pack.tensors(name)
    pack.assert_close(latents, values["history.real"], pack.trajectory_tolerance(record["steps"]))
    assert [e.frames for e in events if isinstance(e, SectionDone)] == [
        section["pixel_frames_after"] for section in record["section"]
    ]
    assert events[-1].frames == values["pixels.final"].shape[2]
    pack.assert_close(stitched(engine, record), values["pixels.final"], 1e-4)


@pytest.mark.parametrize("name", [*RUNS, *CACHED_RUNS])
def test_context_of_every_section(name: str, tmp_path: Path) -> None:
    engine, _, _ = run(name, tmp_path)
    for context, section in zip(engine.contexts, pack.record(name)["section"], strict=True):
        assert context.target_index.tolist() == section["latent_indices"]
        assert context.index.tolist() == section["clean_latent_indices"]
        assert context.index_2x.tolist() == section["clean_latent_2x_indices"]
        assert context.index_4x.tolist() == section["clean_latent_4x_indices"]


@pytest.mark.parametrize("name", [*RUNS, *CACHED_RUNS])
def test_noise_and_noise_levels_of_every_section(name: str) -> None:
    record, values = pack.record(name), pack.tensors(name)
    generator = seeded(record["seed"])
    for number, section in enumerate(record["section"]):
        noise = values[f"section{number}.noise"]
        pack.assert_same_but_for_rounding(torch.randn(noise.shape, generator=generator), noise)
        sigmas = flow_sigmas(record["steps"], flow_mu(token_count(*noise.shape[2:])))
        pack.assert_same_but_for_rounding(sigmas[:-1], torch.tensor(section["timesteps"]) / 1000)


@pytest.mark.parametrize("name", CACHED_RUNS)
def test_what_teacache_measures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures: list[float] = []
    measure_change = TeaCache.measure

    def watched(self: TeaCache, blocks: BlockPass) -> float:
        measures.append(measure_change(self, blocks))
        return measures[-1]

    monkeypatch.setattr(TeaCache, "measure", watched)
    run(name, tmp_path)
    steps = pack.record(name)["steps"]
    for number, section in enumerate(pack.record(name)["section"]):
        mine = measures[number * steps : (number + 1) * steps][1:-1]
        for measure, (recorded, rescaled) in zip(mine, section["teacache_rel_l1_and_rescaled"], strict=True):
            assert measure == pytest.approx(recorded, rel=2e-3)
            assert estimated_change(recorded) == pytest.approx(rescaled, rel=1e-9)


@pytest.mark.parametrize("name", CACHED_RUNS)
def test_run_with_teacache(name: str, tmp_path: Path) -> None:
    _, events, latents = run(name, tmp_path)
    record, values = pack.record(name), pack.tensors(name)
    steps = [event for event in events if isinstance(event, Step)]
    for number, section in enumerate(record["section"], start=1):
        assert [step.computed for step in steps if step.section == number] == section["blocks_computed"]
    pack.assert_close(latents, values["history.real"], max(2e-3, pack.trajectory_tolerance(record["steps"])))


def stitched(engine: PackEngine, record: dict) -> Tensor:
    """The clips of a run blended by the product's stitcher, all frames in time order."""
    plan = plan_video(kind_of(record), record["total_second_length"], record["latent_window_size"])
    stitcher = Stitcher(plan.overlap_frames, plan.grows_at_front)
    parts = [stitcher.add(clip, number == record["sections"] - 1) for number, clip in enumerate(engine.decoded)]
    return torch.cat(parts[::-1] if plan.grows_at_front else parts, dim=2)
