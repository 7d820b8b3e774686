"""A minute of video: whether memory grows with its length.

    python -m bench.long_video [--checkpoint pocket] [--seconds 60] [--steps 4] [--output webm] [--write]

Makes one F1 video and notes after each section what the process holds in RAM. Tells the largest growth from the fifth
section on, in MB and as a share.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import psutil
from PIL import Image
from skimage import data

from bench.machine import ROOT, machine, tell
from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished, SectionDone
from diffusers_helper.generate import generate
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request

SETTLED = 5
"""From this section on nothing new is needed: every buffer has had its first use."""


def main() -> None:
    """Make the video and tell what was held."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--output", default="mp4")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    options = parser.parse_args()
    report = _report(options)
    tell(report, "long_video" if options.write else None)


def _report(options: argparse.Namespace) -> dict[str, Any]:
    held = rss_by_section(options)
    settled = held[SETTLED - 1 :]
    growth = max(settled) - settled[0]
    values = f"--seconds {options.seconds:g} --steps {options.steps} --output {options.output}"
    return {
        "command": f"python -m bench.long_video {values}",
        "machine": machine(),
        "sections": len(held),
        "rss_mb": [round(each / 1e6) for each in held],
        "growth_mb": round(growth / 1e6, 1),
        "growth_share": round(growth / settled[0], 4),
    }


def rss_by_section(options: argparse.Namespace) -> list[int]:
    """Bytes after each section."""
    folder, process, held = Path(tempfile.mkdtemp()), psutil.Process(), []
    Image.fromarray(data.astronaut()).save(folder / "photo.png")
    fields = {"picture": str(folder / "photo.png"), "prompt": "the camera pans left", "kind": "f1", "seed": 1}
    wishes = {"seconds": options.seconds, "steps": options.steps, "output": options.output}
    with Engine.load(find_checkpoint(options.checkpoint, ROOT / "hf_download")) as engine:
        for event in generate(Request.parse({**fields, **wishes}), engine, folder):
            if isinstance(event, SectionDone):
                held.append(process.memory_info().rss)
    if not isinstance(event, Finished):
        raise SystemExit(f"the video was not made: {event}")
    return held


if __name__ == "__main__":
    main()
