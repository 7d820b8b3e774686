"""A LoRA that was trained on the pocket does its thing, which is to turn everything blue: by its weight."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffusers_helper import settings
from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished
from diffusers_helper.generate import generate
from diffusers_helper.lora.shelf import Shelf
from diffusers_helper.media.video import read_frames
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request

FILE = Path(__file__).parent / "lora" / "data" / "turns_blue.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    (made / "lora").mkdir()
    shutil.copy(FILE, made / "lora")
    return made


@pytest.fixture(scope="module")
def engine(folder: Path, pocket: Path) -> Iterator[Engine]:
    chosen = settings.resolve({"models_dir": str(folder)}, {}, folder / "none")
    with Engine.load(find_checkpoint("pocket", pocket), chosen) as made:
        yield made


def last_frames(engine: Engine, folder: Path, photograph: Path, *weights: float) -> np.ndarray:
    """The last second of a video, with the LoRA at each of these weights."""
    sha256 = Shelf(folder / "lora").sha256(folder / "lora" / FILE.name)
    loras = [{"name": FILE.name, "sha256": sha256, "weight": weight} for weight in weights]
    asked = {
        "prompt": "the camera pans left",
        "kind": "f1",
        "seconds": 1.2,
        "steps": 4,
        "size": "128x128",
        "step_cache": "off",
    }
    request = Request.parse({"picture": str(photograph), **asked, "loras": loras})
    *_, last = generate(request, engine, folder)
    assert isinstance(last, Finished), last
    return read_frames(Path(last.path or ""))[-8:]


def blueness(frames: np.ndarray) -> float:
    """Blue less red, of 255."""
    red, _, blue = frames.astype(float).mean((0, 1, 2))
    return float(blue - red)


def test_its_weight_says_how_blue_it_gets(engine: Engine, folder: Path, photographs: dict[str, Path]) -> None:
    photograph = photographs["astronaut"]
    plain = last_frames(engine, folder, photograph, 0.0)
    half, whole = (blueness(last_frames(engine, folder, photograph, w)) - blueness(plain) for w in (0.5, 1.0))
    assert whole > 100
    assert 0.35 < half / whole < 0.65
