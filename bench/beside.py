"""Clips made beside the sampling against one thing after the other: the same video, in turns.

    python -m bench.beside [--checkpoint pocket] [--seconds 4.8] [--steps 8] [--repeats 3] [--write]

Each way is a process of its own with ``FRAMEPACK_DECODE_BESIDE``; they take turns (off on on off ...). Tells the
seconds from the request to the finished file of a warm engine, and whether the frames are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from skimage import data

from bench.machine import ROOT, machine, tell
from bench.turns import in_own_process, turns
from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished
from diffusers_helper.generate import generate
from diffusers_helper.media.video import read_frames
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request

WAYS = ("off", "on")


def main() -> None:
    """Measure both ways in turn, or one for the process that started this one."""
    options = _options()
    if options.one:
        sys.stdout.write(json.dumps(_measure(options)) + "\n")
        return
    report = _report(options, [{"way": way, **_in_own_process(way)} for way in turns(WAYS, options.repeats)])
    tell(report, "beside" if options.write else None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--seconds", type=float, default=4.8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each way")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_own_process(way: str) -> dict[str, Any]:
    return in_own_process("bench.beside", *sys.argv[1:], "--one", FRAMEPACK_DECODE_BESIDE=way)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """One video after a short one that warms the engine."""
    checkpoint = find_checkpoint(options.checkpoint, ROOT / "hf_download")
    with tempfile.TemporaryDirectory() as place, Engine.load(checkpoint) as engine:
        picture = Path(place, "astronaut.png")
        Image.fromarray(data.astronaut()).save(picture)
        fields = {"picture": str(picture), "prompt": "the camera pans left", "kind": "f1", "seed": 7}
        for seconds, steps in ((1.2, 2), (options.seconds, options.steps)):
            began = time.monotonic()
            request = Request.parse({**fields, "seconds": seconds, "steps": steps, "step_cache": "off"})
            *_, last = generate(request, engine, Path(place))
            taken = time.monotonic() - began
        if not isinstance(last, Finished):
            raise RuntimeError(last.to_json())
        frames = read_frames(Path(last.path or ""))
        return {
            "seconds": round(taken, 2),
            "decoding": last.seconds_decoding,
            "peak_memory_mb": last.peak_memory_mb,
            "frames": hashlib.sha256(frames.tobytes()).hexdigest(),
        }


def _report(options: argparse.Namespace, runs: list[dict[str, Any]]) -> dict[str, Any]:
    median = {way: statistics.median(run["seconds"] for run in runs if run["way"] == way) for way in WAYS}
    return {
        "command": f"python -m bench.beside --seconds {options.seconds:g} --steps {options.steps}",
        "machine": machine(),
        "seconds": {way: [run["seconds"] for run in runs if run["way"] == way] for way in WAYS},
        "seconds_decoding": {way: [run["decoding"] for run in runs if run["way"] == way] for way in WAYS},
        "peak_memory_mb": {way: max(run["peak_memory_mb"] for run in runs if run["way"] == way) for way in WAYS},
        "on_over_off": round(median["on"] / median["off"], 3),
        "same_frames": len({run["frames"] for run in runs}) == 1,
    }


if __name__ == "__main__":
    main()
