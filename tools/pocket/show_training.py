"""What the command ``train`` has taught the pocket, measured on pictures that no training has seen; and the picture.

    python -m tools.pocket.show_training style.safetensors pictures.safetensors motion.safetensors clothes.safetensors
        [--picture docs/training.png] [--photos 10] [--pairs 24] [--steps 10]

The LoRAs are those of ``tools.pocket.training_sets``, in this order. All is made by the application's own road, with
each LoRA at weight 0, 0.5 and 1. Style: by how much bluer than red the last frames of a photograph's video
are. Motion: the way that the view has swung to the left at the middle, and that it is back at the end. Clothes: whether
a shape is painted as the reference's. Prints JSON.

Shape legend: F frames, H x W pixels.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffusers_helper import settings
from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished
from diffusers_helper.generate import generate
from diffusers_helper.lora.shelf import Shelf, shelf_folder
from diffusers_helper.media.video import read_frames
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request
from diffusers_helper.sections.modes import MODES
from tools.pocket.evaluation import motion
from tools.pocket.evaluation.measures import share
from tools.pocket.evaluation.pairs import look
from tools.pocket.evaluation.photos import load_photos
from tools.pocket.evaluation.studio import as_bytes
from tools.pocket.one_frame_scenes import Pair, draw_pair, paint
from tools.pocket.show_one_frame import HELD_OUT_SEED, request
from tools.pocket.train_one_frame import PROMPTS
from tools.pocket.training_sets import FRAMES, SIDE, SWING_PIXELS, SWINGS

WEIGHTS = (0.0, 0.5, 1.0)
SHOWN = (0, 9, 18, 27, 36)
LAST = 8
"""Frames at the end over which blue and red are counted."""
BLUE_ENOUGH = 60.0
"""Blue less red of the last frames, of 255: half of what is taught."""
SWUNG_ENOUGH, BACK_ENOUGH = SWING_PIXELS / 2, SWING_PIXELS / 4
"""Pixels to the left in the middle, and from where it began at the end."""
Rows = list[np.ndarray]
"""Pictures [H, W, 3] of all weights, one below the other."""


@dataclass(frozen=True)
class Studio:
    """Where videos and pictures are made: an engine, and a folder with a shelf of LoRAs."""

    engine: Engine
    folder: Path
    steps: int

    def _made(self, asked: Request) -> Path:
        *_, last = generate(asked, self.engine, self.folder)
        if not isinstance(last, Finished):
            raise RuntimeError(last.to_json())
        return Path(last.path or "")

    def lora(self, name: str, weight: float) -> list[dict[str, Any]]:
        """As a request says it."""
        shelf = shelf_folder(self.folder)
        return [{"name": name, "sha256": Shelf(shelf).sha256(shelf / name), "weight": weight}]

    def video(self, photo: torch.Tensor, prompt: str, name: str, weight: float) -> np.ndarray:
        """A section of F1, uint8 [F, H, W, 3]."""
        picture = self.folder / "photo.png"
        Image.fromarray(as_bytes(photo)).save(picture)
        asked = {"kind": "f1", "seconds": 1.2, "steps": self.steps, "size": f"{SIDE}x{SIDE}", "step_cache": "off"}
        loras = self.lora(name, weight)
        return read_frames(
            self._made(Request.parse({"picture": str(picture), "prompt": prompt, "loras": loras, **asked}))
        )

    def dressed(self, pair: Pair, name: str, weight: float) -> np.ndarray:
        """The first picture of a pair, [H, W, 3], with what the LoRA makes of it."""
        paths = [self.folder / f"given_{number}.png" for number in range(2)]
        for path, scene in zip(paths, (pair.first, pair.second), strict=True):
            Image.fromarray(paint(scene, SIDE)).save(path)
        more = {"prompt": PROMPTS["kisekaeichi"], "steps": self.steps, "size": f"{SIDE}x{SIDE}"}
        asked = request(MODES["kisekaeichi"], paths, [None, None], loras=self.lora(name, weight), **more)
        with Image.open(self._made(asked)) as made:
            return np.asarray(made.convert("RGB"))


def style(studio: Studio, photos: dict[str, torch.Tensor], name: str) -> tuple[dict[str, Any], Rows]:
    """Blue less red, by weight."""
    videos = {w: [studio.video(photo, "the camera pans left", name, w) for photo in photos.values()] for w in WEIGHTS}
    blue = {weight: [_blue(video) for video in made] for weight, made in videos.items()}
    reached = [bluer > BLUE_ENOUGH for bluer in blue[1.0]]
    between = [blue[0.0][n] < blue[0.5][n] < blue[1.0][n] for n in range(len(photos))]
    found = {"blue less red": _means(blue), "blue": share(reached), "0.5 between": share(between)}
    return found, [np.concatenate(list(videos[weight][0][list(SHOWN)]), axis=1) for weight in WEIGHTS]


def _blue(video: np.ndarray) -> float:
    """Of the last frames less that of the first, of 255."""
    bluer = video[..., 2].astype(np.float32) - video[..., 0]
    return float(bluer[-LAST:].mean() - bluer[0].mean())


def swings(studio: Studio, photos: dict[str, torch.Tensor], name: str) -> tuple[dict[str, Any], Rows]:
    """Pixels by which the content has gone to the right in the middle and at the end, by weight."""
    videos = {w: [studio.video(photo, SWINGS, name, w) for photo in photos.values()] for w in WEIGHTS}
    ways = {weight: [_swing(video) for video in made] for weight, made in videos.items()}
    reached = [middle > SWUNG_ENOUGH and abs(end) < BACK_ENOUGH for middle, end in ways[1.0]]
    between = [ways[0.0][n][0] < ways[0.5][n][0] < ways[1.0][n][0] for n in range(len(photos))]
    found = {
        "pixels in the middle": _means({weight: [middle for middle, _ in way] for weight, way in ways.items()}),
        "pixels at the end": _means({weight: [end for _, end in way] for weight, way in ways.items()}),
        "swung": share(reached),
        "0.5 between": share(between),
    }
    return found, [np.concatenate(list(videos[weight][0][list(SHOWN)]), axis=1) for weight in WEIGHTS]


def _swing(video: np.ndarray) -> tuple[float, float]:
    """Pixels to the right in the middle and at the end."""
    clip = torch.from_numpy(video / 127.5 - 1).permute(3, 0, 1, 2).float()[:, :FRAMES]
    right = motion.trace(clip)[:, 0].cumsum(0)
    return float(right[len(right) // 2 - 1]), float(right[-1])


def clothes(studio: Studio, pairs: Sequence[Pair], name: str) -> tuple[dict[str, Any], Rows]:
    """Shares of pairs that are dressed as they should be, by weight; and how near to that the colours come."""
    made = {weight: [studio.dressed(pair, name, weight) for pair in pairs] for weight in WEIGHTS}
    whole = {w: share([look(each, pair, "kisekaeichi").whole for each, pair in zip(all_, pairs, strict=True)])
             for w, all_ in made.items()}  # fmt: skip
    missing = {w: [_apart(each, pair) for each, pair in zip(all_, pairs, strict=True)] for w, all_ in made.items()}
    between = [missing[0.0][n] > missing[0.5][n] > missing[1.0][n] for n in range(len(pairs))]
    found = {"dressed": whole[1.0], "dressed, by weight": _rounded(whole), "0.5 between": share(between)}
    given = [np.concatenate([paint(scene, SIDE) for scene in (pair.first, pair.second)], axis=1) for pair in pairs[:2]]
    rows = [np.concatenate([*made[weight][:2], given[0][:, :SIDE], given[0][:, SIDE:], given[1][:, SIDE:]], axis=1)
            for weight in WEIGHTS]  # fmt: skip
    return found, rows


def _apart(made: np.ndarray, pair: Pair) -> float:
    """How far a picture is from what it should be, in squares of 255."""
    target = paint(pair.target("kisekaeichi"), SIDE)
    return float(np.square(made.astype(np.float32) - target).mean())


def _means(values: dict[float, list[float]]) -> dict[str, float]:
    return {str(weight): round(float(np.mean(each)), 1) for weight, each in values.items()}


def _rounded(values: dict[float, float]) -> dict[str, float]:
    return {str(weight): round(each, 3) for weight, each in values.items()}


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("loras", type=Path, nargs=4, metavar="FILE")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    rng = np.random.default_rng(HELD_OUT_SEED)
    pairs = [draw_pair(rng) for _ in range(options.pairs)]
    photos = dict(list(load_photos(SIDE, SIDE).items())[: options.photos])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shelf_folder(folder).mkdir()
        names = [Path(shutil.copy(file, shelf_folder(folder))).name for file in options.loras]
        chosen = settings.resolve({"models_dir": place}, {}, folder / "none")
        with Engine.load(find_checkpoint("pocket", folder), chosen) as engine:
            studio = Studio(engine, folder, options.steps)
            found = {
                "style": style(studio, photos, names[0]),
                "pictures": style(studio, photos, names[1]),
                "motion": swings(studio, photos, names[2]),
                "clothes": clothes(studio, pairs, names[3]),
            }
    json.dump({name: figures for name, (figures, _) in found.items()}, sys.stdout, indent=2)
    sys.stdout.write("\n")
    if options.picture:
        Image.fromarray(np.concatenate([row for _, rows in found.values() for row in rows])).save(options.picture)


if __name__ == "__main__":
    main()
