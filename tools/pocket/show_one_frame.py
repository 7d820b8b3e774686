"""What one-frame inference does on the pocket, measured, and the picture of it.

    python -m tools.pocket.show_one_frame [--picture docs/one_frame.png] [--pairs 24] [--steps 6] [--photos 5]

Three things are looked at, in pictures that the application makes by its own road: that the way moved grows with the
target index; that a kisekaeichi LoRA paints a shape as the reference's, and paints nothing where the reference is
masked black or the LoRA is off; that with a 1f-mc LoRA the second picture's shape stands on the first one's ground, in
either order. The pairs are drawn from a seed that no training has drawn from. Prints JSON.

Shape legend: H x W pixels.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
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
from diffusers_helper.media.grid import labelled_grid
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request
from diffusers_helper.sections.kinds import OneFrame
from diffusers_helper.sections.modes import MODES, Mode
from tools.pocket.camera import PAN_PIXELS_PER_SECOND
from tools.pocket.evaluation import motion
from tools.pocket.evaluation.measures import rank_correlation, share
from tools.pocket.evaluation.pairs import Seen, look
from tools.pocket.evaluation.photos import load_photos
from tools.pocket.evaluation.studio import as_bytes
from tools.pocket.one_frame_scenes import Pair, Way, draw_pair, paint
from tools.pocket.train_one_frame import PROMPTS, SIDE

HELD_OUT_SEED = 20_000
LORAS = Path("tests/lora/data")
GROUPS = ["distance", "kisekaeichi", "1f-mc"]
TARGETS = (1, 2, 4, 8, 16)
PAN, PAN_SIDE = "the camera pans left", 128
LONGEST_PAN = 4.0
"""Seconds of the pan, at its usual pace, among which the way moved is looked for."""
SHOWN = 3
"""Pairs of each way in the picture."""
Columns = dict[str, list[np.ndarray]]
"""Pictures [H, W, 3] of each pair, by what they are."""


def request(mode: Mode, pictures: Sequence[Path], masks: Sequence[Path | None], **more: Any) -> Request:
    """What asks for one picture of ``pictures``; ``more`` are fields of a request."""
    controls = [
        {"role": "control", "path": str(path), "mask": str(mask) if mask else None}
        for path, mask in zip(pictures, masks, strict=True)
    ]
    return Request.parse({"kind": OneFrame.name, **mode.flat(), "pictures": controls, "step_cache": "off", **more})


@dataclass(frozen=True)
class Table:
    """Where pictures are made: an engine, a folder with a shelf of LoRAs, and how many steps there are."""

    engine: Engine
    folder: Path
    steps: int = 6

    def make(
        self, mode: Mode, prompt: str, pictures: Sequence[np.ndarray], lora: str | None, black: bool = False
    ) -> np.ndarray:
        """The picture [H, W, 3] that is made of others of its size; with ``black``, the last one is masked."""
        side, paths = len(pictures[0]), [self.folder / f"given_{n}.png" for n in range(len(pictures))]
        for path, pixels in zip(paths, pictures, strict=True):
            Image.fromarray(pixels).save(path)
        Image.new("L", (side, side)).save(self.folder / "black.png")
        masks = [None] * (len(paths) - 1) + [self.folder / "black.png" if black else None]
        more = {"prompt": prompt, "steps": self.steps, "size": f"{side}x{side}", "loras": self._loras(lora)}
        *_, last = generate(request(mode, paths, masks, **more), self.engine, self.folder)
        if not isinstance(last, Finished):
            raise RuntimeError(last.to_json())
        with Image.open(last.path or "") as made:
            return np.asarray(made.convert("RGB"))

    def _loras(self, name: str | None) -> list[dict[str, Any]]:
        shelf = shelf_folder(self.folder)
        return [{"name": name, "sha256": Shelf(shelf).sha256(shelf / name), "weight": 1.0}] if name else []

    def make_of(self, pair: Pair, way: Way, lora: bool = True, black: bool = False) -> np.ndarray:
        """The picture [H, W, 3] that is made of a pair."""
        given = [paint(scene, SIDE) for scene in (pair.first, pair.second)]
        return self.make(MODES[way], PROMPTS[way], given, lora_file(way) if lora else None, black)


def lora_file(way: Way) -> str:
    """The name of the LoRA that was trained for it."""
    return f"{way.replace('-', '_')}_shapes.safetensors"


def stocked(folder: Path) -> Path:
    """A folder for models, with the LoRAs on its shelf."""
    shelf_folder(folder).mkdir(parents=True, exist_ok=True)
    for way in PROMPTS:
        shutil.copy(LORAS / lora_file(way), shelf_folder(folder))
    return folder


def ways_moved(table: Table, photo: torch.Tensor, targets: Sequence[int] = TARGETS) -> list[float]:
    """Pixels that a photograph [3, H, W] in -1..1 is panned by, for each target index."""
    found = []
    for target in targets:
        mode = Mode(OneFrame(target_index=target))
        made = torch.from_numpy(table.make(mode, PAN, [as_bytes(photo)], None) / 127.5 - 1).permute(2, 0, 1).float()
        found.append(motion.extent(photo, made, "left", LONGEST_PAN) * PAN_PIXELS_PER_SECOND)
    return found


def distances(table: Table, count: int) -> dict[str, Any]:
    """(a): the way moved grows with the target index."""
    photos = dict(list(load_photos(PAN_SIDE, PAN_SIDE).items())[:count])
    ways = {name: ways_moved(table, photo) for name, photo in photos.items()}
    return {
        "target_index": TARGETS,
        "pixels": {name: [round(v, 1) for v in way] for name, way in ways.items()},
        "mean": [round(float(v), 1) for v in np.mean(list(ways.values()), axis=0)],
        "rank_correlation": round(float(np.mean([rank_correlation(TARGETS, way) for way in ways.values()])), 3),
    }


def rates(seen: Sequence[Seen]) -> dict[str, float]:
    """Shares of what is as it should be."""
    return {
        name: round(share([getattr(each, name) for each in seen]), 3)
        for name in ("whole", "colour", "texture", "ground")
    }


def kisekaeichi(table: Table, pairs: Sequence[Pair]) -> tuple[dict[str, Any], Columns]:
    """(b): rates with the LoRA, with the reference masked, and without the LoRA; and the pictures."""
    way: Way = "kisekaeichi"
    cases: Mapping[str, dict[str, bool]] = {"made": {}, "reference masked": {"black": True}, "no LoRA": {"lora": False}}
    made = {name: [table.make_of(pair, way, **case) for pair in pairs] for name, case in cases.items()}
    found = {name: rates([look(*each, way) for each in zip(made[name], pairs, strict=True)]) for name in cases}
    return found, {**given("start", "reference", pairs), **made}


def in_order(table: Table, pairs: Sequence[Pair]) -> tuple[dict[str, Any], Columns]:
    """(c): rates with the LoRA in either order, each looked at as its own order and as the other; and without it."""
    way: Way = "1f-mc"
    swapped = [pair.swapped() for pair in pairs]
    made, turned = ([table.make_of(pair, way) for pair in each] for each in (pairs, swapped))
    without = [table.make_of(pair, way, lora=False) for pair in pairs]
    cases = {
        "made": (made, pairs),
        "order swapped": (turned, swapped),
        "made, looked at as swapped": (made, swapped),
        "order swapped, looked at as made": (turned, pairs),
        "no LoRA": (without, pairs),
    }
    found = {name: rates([look(*each, way) for each in zip(*case, strict=True)]) for name, case in cases.items()}
    return found, {**given("first", "second", pairs), "made": made, "order swapped": turned, "no LoRA": without}


def given(first: str, second: str, pairs: Sequence[Pair]) -> Columns:
    """The pictures that are given, under their names."""
    return {first: [paint(pair.first, SIDE) for pair in pairs], second: [paint(pair.second, SIDE) for pair in pairs]}


def sheet(columns: Columns) -> np.ndarray:
    """The first pictures of each column [H, W, 3], a row for each pair."""
    rows = list(zip(*columns.values(), strict=True))[:SHOWN]
    return labelled_grid([picture for row in rows for picture in row], list(columns) * len(rows), len(columns))


def measured(table: Table, options: argparse.Namespace) -> dict[str, tuple[dict[str, Any], Columns]]:
    """Figures and pictures of what is asked for."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    pairs = [draw_pair(rng) for _ in range(options.pairs)]
    groups: dict[str, Callable[[], tuple[dict[str, Any], Columns]]] = {
        "distance": lambda: (distances(table, options.photos), {}),
        "kisekaeichi": lambda: kisekaeichi(table, pairs),
        "1f-mc": lambda: in_order(table, pairs),
    }
    return {name: groups[name]() for name in options.only}


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--picture", type=Path, help="where the rows of pictures go")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--photos", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Measure, print, and draw."""
    options = parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = stocked(Path(place))
        chosen = settings.resolve({"models_dir": place}, {}, folder / "none")
        with Engine.load(find_checkpoint("pocket", folder), chosen) as engine:
            found = measured(Table(engine, folder, options.steps), options)
    if options.picture:
        sheets = [sheet(columns) for _, columns in found.values() if columns]
        Image.fromarray(np.concatenate(sheets)).save(options.picture)
    sys.stdout.write(json.dumps({name: figures for name, (figures, _) in found.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
