"""Measure the exported checkpoint on what it was never trained on, through the application's own road.

`python -m tools.pocket.evaluate --json` prints one object: a table of figures with the bounds they should keep, and
details of every group. `--only moves speed` measures some groups, `--photos 5 --steps 15 --scenes 2` makes it quick,
`--save FOLDER` keeps pictures. Photographs ship inside scikit-image and scikit-learn; scenes are drawn afresh.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from diffusers_helper.engine import Engine
from diffusers_helper.models.table import Checkpoint, find_checkpoint
from tools.pocket import loop
from tools.pocket.bank import DEFAULT_WORK, HELD_OUT, HELD_OUT_SEED, load_canvases
from tools.pocket.evaluation import photographs
from tools.pocket.evaluation.measures import Row
from tools.pocket.evaluation.photos import load_photos
from tools.pocket.evaluation.scenes import shape_moves
from tools.pocket.evaluation.studio import Studio

LOG = logging.getLogger(__name__)
KINDS = ["framepack", "f1"]
GROUPS = [
    "vae",
    "moves",
    "speed",
    "soft-starts",
    "real-cfg",
    "shapes",
    "long",
    "one-frame",
    "bad-prompts",
    "size",
    "time",
]


def folder_size(checkpoint: Checkpoint) -> photographs.Group:
    """Megabytes of the whole folder."""
    folder = checkpoint.folders["transformer"].parent
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    return [Row("size of the folder in MB", size, at_most=40)], {"megabytes": round(size, 1)}


def speed_of_making(args: argparse.Namespace) -> photographs.Group:
    """Seconds for a one-second video at the default size and steps, beside diffusers' own pipeline."""
    values = ["--checkpoint", args.checkpoint, "--steps", "25", "--sections", "1", "--repeats", str(args.repeats)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.pipeline", *values], stdout=subprocess.PIPE, text=True, check=True
    )
    report = json.loads(done.stdout)
    frames = next(run["frames"] for run in report["runs"] if run["side"] == "engine")
    seconds = {side: report[side]["seconds_per_frame"] * frames for side in ("engine", "pipeline")}
    ratio = report["engine_over_pipeline"]["seconds_per_frame"]
    what = f"seconds for a 1 s video, 25 steps ({ratio:.2f} of diffusers' time)"
    return [Row(what, seconds["engine"], at_most=60)], {
        "seconds": {side: round(value, 1) for side, value in seconds.items()},
        "engine_over_diffusers_pipeline": ratio,
        "machine": report["machine"],
    }


def groups(args: argparse.Namespace, loaded: ExitStack) -> dict[str, Callable[[], photographs.Group]]:
    """Everything that can be measured; what is not asked for is not made, the studio included.

    ``loaded`` closes the studio's engine.
    """
    checkpoint = find_checkpoint(args.checkpoint, Path("hf_download"))
    size, kinds = (args.size[0], args.size[1]), args.kinds
    photos = dict(list(load_photos(*size).items())[: args.photos])

    @functools.cache
    def studio() -> Studio:
        return Studio(loaded.enter_context(Engine.load(checkpoint)), args.steps, args.seed, args.save, args.real_cfg)

    def shapes() -> photographs.Group:
        canvases = load_canvases(DEFAULT_WORK, HELD_OUT, HELD_OUT_SEED)
        return shape_moves(studio(), canvases, args.scenes, kinds, size)

    return {
        "vae": lambda: photographs.vae(studio(), photos),
        "moves": lambda: photographs.moves(studio(), photos, kinds),
        "speed": lambda: photographs.speed(studio(), photos, kinds),
        "soft-starts": lambda: photographs.soft_starts(studio(), photos, kinds),
        "real-cfg": lambda: photographs.real_cfg(studio(), photos, kinds),
        "shapes": shapes,
        "long": lambda: photographs.long_videos(studio(), photos, kinds),
        "one-frame": lambda: photographs.one_frame(studio(), photos),
        "bad-prompts": lambda: photographs.bad_prompts(studio(), photos, kinds),
        "size": lambda: folder_size(checkpoint),
        "time": lambda: speed_of_making(args),
    }


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """The table and the details of the groups that are asked for."""
    table: list[Row] = []
    how = {name: getattr(args, name) for name in ("size", "steps", "seed", "real_cfg", "photos", "scenes", "kinds")}
    details: dict[str, Any] = {}
    with ExitStack() as loaded:
        for name, measure in groups(args, loaded).items():
            if name not in args.only:
                continue
            started = time.monotonic()
            rows, found = measure()
            table += rows
            details[name] = {**found, "minutes": round((time.monotonic() - started) / 60, 1)}
            LOG.info("%s", as_text(rows))
    return {"how": how, "table": [row.content() for row in table], "details": details}


def as_text(rows: list[Row]) -> str:
    """The table for a terminal."""
    lines = [f"{r.what:60} {r.value:8.3f}  {r.wanted:16} {'reached' if r.reached else 'NOT REACHED'}" for r in rows]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/pocket")
    parser.add_argument("--json", action="store_true", help="the object on one line")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--scenes", type=int, default=5, help="shape scenes for every move and kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=31337)
    parser.add_argument("--real-cfg", type=float, default=1.0, help="for all groups but real-cfg")
    parser.add_argument("--repeats", type=int, default=2, help="measurements of the time, for either side")
    parser.add_argument("--save", type=Path, help="keep a strip of seven frames of every video here")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Entry."""
    loop.start_logging()
    args = parse()
    torch.set_num_threads(args.threads)
    sys.stdout.write(json.dumps(evaluate(args), indent=None if args.json else 2) + "\n")


if __name__ == "__main__":
    main()
