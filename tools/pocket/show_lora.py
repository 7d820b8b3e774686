"""The picture of a LoRA at work: a video with it at each weight, a row of frames each.

python -m tools.pocket.show_lora tests/lora/data/turns_blue.safetensors docs/lora.png [--weights 0 0.5 1]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from diffusers_helper import settings
from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished
from diffusers_helper.generate import generate
from diffusers_helper.lora.shelf import Shelf, shelf_folder
from diffusers_helper.media.video import read_frames
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request

SHOWN = (0, 9, 18, 27, 36)
"""Frames of a section."""


def frames(engine: Engine, folder: Path, picture: Path, file: str, weight: float, steps: int = 10) -> np.ndarray:
    """A section of F1, uint8 [F, height, width, 3], with a LoRA of the shelf in ``folder``."""
    lora = {"name": file, "sha256": Shelf(shelf_folder(folder)).sha256(shelf_folder(folder) / file), "weight": weight}
    asked = {"prompt": "the camera pans left", "kind": "f1", "seconds": 1.2, "steps": steps, "size": "128x128"}
    *_, last = generate(Request.parse({"picture": str(picture), **asked, "loras": [lora]}), engine, folder)
    if not isinstance(last, Finished):
        raise RuntimeError(last.to_json())
    return read_frames(Path(last.path or ""))


def main() -> None:
    """Make the videos, and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shelf_folder(folder).mkdir()
        shutil.copy(options.file, shelf_folder(folder))
        Image.fromarray(data.astronaut()).save(folder / "astronaut.png")
        chosen = settings.resolve({"models_dir": place}, {}, folder / "none")
        with Engine.load(find_checkpoint("pocket", folder), chosen) as engine:
            asked = (engine, folder, folder / "astronaut.png", options.file.name)
            rows = [np.concatenate(list(frames(*asked, weight)[list(SHOWN)]), axis=1) for weight in options.weights]
    Image.fromarray(np.concatenate(rows)).save(options.picture)


if __name__ == "__main__":
    main()
