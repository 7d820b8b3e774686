"""The pocket runs in diffusers' own pipeline as well, and does what is written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HunyuanVideoFramepackPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from skimage.registration import phase_cross_correlation

from diffusers_helper.conditioning.prompt import TEMPLATE
from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished
from diffusers_helper.generate import generate
from diffusers_helper.media.video import read_frames
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request
from tools.pocket.evaluation.photos import load_photos
from tools.pocket.evaluation.studio import Studio


def test_diffusers_own_pipeline_runs_it(pocket: Path, photograph: Path) -> None:
    diffusers_logging.disable_progress_bar()
    pipeline: Any = HunyuanVideoFramepackPipeline.from_pretrained(pocket, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        image=Image.open(photograph),
        prompt="the camera pans left",
        prompt_template={"template": TEMPLATE},
        height=128,
        width=128,
        num_frames=33,
        num_inference_steps=1,
        guidance_scale=10.0,
        output_type="np",
    ).frames[0]
    assert frames.shape == (37, 128, 128, 3)
    assert np.isfinite(frames).all()


@pytest.fixture(scope="module")
def engine(pocket: Path) -> Iterator[Engine]:
    with Engine.load(find_checkpoint("pocket", pocket)) as made:
        yield made


def make(engine: Engine, photograph: Path, folder: Path, prompt: str) -> np.ndarray:
    """Frames of a one-second video, [T, height, width, 3]."""
    fields = {"picture": str(photograph), "prompt": prompt, "seconds": 1, "steps": 12, "seed": 1}
    last = list(generate(Request.parse(fields), engine, folder))[-1]
    assert isinstance(last, Finished), last
    return read_frames(Path(last.path or ""))


def shift(frames: np.ndarray) -> np.ndarray:
    """How far the picture has moved from the first frame to the last, (down, right) in pixels."""
    grey = frames[[0, len(frames) * 2 // 3]].astype(np.float64).mean(axis=3)
    moved, _, _ = phase_cross_correlation(grey[0], grey[1], upsample_factor=4, normalization=None)
    return -np.asarray(moved)


def test_what_is_written_is_seen(engine: Engine, photograph: Path, tmp_path: Path) -> None:
    """The first frame is the photograph; a camera that pans to one side moves the picture to the other."""
    frames = make(engine, photograph, tmp_path, "the camera pans left")
    (picture,) = tmp_path.rglob("*.png")
    error = frames[0].astype(np.float64) - np.asarray(Image.open(picture))
    assert 10 * np.log10(255**2 / (error**2).mean()) > 20
    left, up = shift(frames), shift(make(engine, photograph, tmp_path, "the camera pans up"))
    assert left[1] > 4 > abs(left[0])
    assert up[0] > 4 > abs(up[1])


def test_the_evaluation_makes_videos_and_single_frames(engine: Engine) -> None:
    studio, photo = Studio(engine, steps=1, seed=1), load_photos(128, 128)["chelsea"]
    clip = studio.video(photo, "the camera holds still", "f1")
    assert clip.shape == (3, 37, 128, 128)
    assert (clip[:, 0] - photo).square().mean() < 0.02
    assert studio.one_frame(photo, "the camera pans left", 16).shape == (3, 128, 128)
