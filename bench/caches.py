"""Every step cache at three strengths: how much faster than none, and how near to what none makes.

    python -m bench.caches [--checkpoint pocket] [--rows NAME ...] [--write]

Five fixed requests (two kinds, 1 to 3 s) are made without a cache and with each, in one process; those without take
turns with the others, so that a machine that slows down slows both. The time ratio is that of sampling, the sum over
the requests. PSNR and SSIM compare the decoded frames with those made without a cache, before any file is compressed,
as means over the frames of all requests. With ``--write`` the result goes to bench/results, with its frontier as a
picture.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from PIL import Image
from skimage import data
from skimage.metrics import structural_similarity
from torch import Tensor

from bench.machine import RESULTS, ROOT, machine
from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished
from diffusers_helper.generate import generate
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request

STEPS = 25
BETWEEN = 6
"""So many rows are made between two runs without a cache."""
REQUESTS: tuple[Mapping[str, Any], ...] = (
    {"image": "astronaut", "kind": "f1", "seconds": 1.0, "seed": 1, "prompt": "the camera pans left"},
    {"image": "cat", "kind": "f1", "seconds": 2.0, "seed": 2, "prompt": "the camera zooms in"},
    {"image": "coffee", "kind": "f1", "seconds": 3.0, "seed": 3, "prompt": "the picture fades to grey"},
    {"image": "rocket", "kind": "framepack", "seconds": 1.0, "seed": 4, "prompt": "the camera moves up"},
    {"image": "astronaut", "kind": "framepack", "seconds": 2.0, "seed": 5, "prompt": "the camera zooms out"},
)
STRENGTHS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "teacache": ({"threshold": 0.1}, {"threshold": 0.15}, {"threshold": 0.25}),
    "magcache": ({"threshold": 0.1, "k": 3}, {"threshold": 0.15, "k": 4}, {"threshold": 0.24, "k": 6}),
    "easycache": ({"threshold": 0.025}, {"threshold": 0.05}, {"threshold": 0.1}),
    "seacache": ({"threshold": 0.15}, {"threshold": 0.25}, {"threshold": 0.5}),
    "first_block": ({"threshold": 0.035}, {"threshold": 0.05}, {"threshold": 0.1}),
}


def rows() -> dict[str, dict[str, Any] | None]:
    """Name -> the step cache, as a request has it."""
    found: dict[str, dict[str, Any] | None] = {}
    for name, strengths in STRENGTHS.items():
        for parameters in strengths:
            words = " ".join(f"{value:g}" for value in parameters.values())
            found[f"{name} {words}"] = {"name": name, **parameters}
            found[f"{name} {words} forecast"] = {"name": name, **parameters, "forecast": True}
            if name == "magcache":
                found[f"{name} {words} gate"] = {"name": name, **parameters, "gate": 0.06}
    return found


@dataclass
class Made:
    """One request, made: what sampling took, and its frames, uint8 [frames, height, width, 3] per clip."""

    seconds: float
    computed: int
    reused: int
    clips: list[np.ndarray] = field(repr=False)


class Bench:
    """An engine whose decoded clips are kept."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._clips: list[np.ndarray] = []
        decode = engine.decode

        def kept(latents: Tensor) -> Tensor:
            clip = decode(latents)
            self._clips.append(_as_bytes(clip))
            return clip

        engine.decode = kept  # type: ignore[method-assign]

    def make(self, asked: Mapping[str, Any], step_cache: Mapping[str, Any] | None, steps: int = STEPS) -> Made:
        """One request with this step cache."""
        values = dict(asked)
        picture = self._folder / f"{values.pop('image')}.png"
        if not picture.exists():
            Image.fromarray(getattr(data, picture.stem)()).save(picture)
        self._clips = []
        request = Request.parse({**values, "picture": str(picture), "steps": steps, "step_cache": step_cache or "off"})
        last = list(generate(request, self._engine, self._folder))[-1]
        if not isinstance(last, Finished):
            raise SystemExit(f"it failed: {last}")
        return Made(last.seconds_sampling, last.steps_computed, last.steps_reused, self._clips)


def _as_bytes(clip: Tensor) -> np.ndarray:
    frames: np.ndarray = ((clip[0].float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    return frames


def psnr(made: np.ndarray, wanted: np.ndarray) -> float:
    """Of one frame, in dB; 100 at most."""
    error = float(np.square(made.astype(np.float64) - wanted).mean())
    return 100.0 if error == 0 else min(10 * float(np.log10(255**2 / error)), 100.0)


def likeness(made: Made, wanted: Made) -> Iterator[tuple[float, float]]:
    """(PSNR, SSIM) of each frame."""
    for mine, theirs in zip(made.clips, wanted.clips, strict=True):
        for frame, other in zip(mine, theirs, strict=True):
            yield psnr(frame, other), float(structural_similarity(frame, other, channel_axis=-1))


def main() -> None:
    """Measure, print the table, and keep it where asked."""
    options = _options()
    wanted = {name: cache for name, cache in rows().items() if not options.rows or name.split()[0] in options.rows}
    with (
        tempfile.TemporaryDirectory() as folder,
        Engine.load(find_checkpoint(options.checkpoint, ROOT / "hf_download")) as engine,
    ):
        report = measure(Bench(engine, Path(folder)), wanted)
    report = {
        "command": " ".join(["python -m bench.caches", *sys.argv[1:]]),
        "machine": machine(),
        "checkpoint": options.checkpoint,
        **report,
    }
    if options.write:
        (RESULTS / "caches.json").write_text(json.dumps(report, indent=1) + "\n")


def measure(bench: Bench, wanted: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """All rows, against the runs without a cache."""
    bench.make(REQUESTS[0], None, steps=2)
    plain = [[bench.make(request, None) for request in REQUESTS]]
    found = {}
    for number, (name, cache) in enumerate(wanted.items(), start=1):
        made = [bench.make(request, cache) for request in REQUESTS]
        found[name] = {"step_cache": cache, **_row(made, plain[0])}
        if number % BETWEEN == 0:
            plain.append([bench.make(request, None) for request in REQUESTS])
        sys.stderr.write(f"{name}: {found[name]}\n")
    seconds = [sum(each.seconds for each in run) for run in plain]
    for row in found.values():
        row["times_faster"] = round(median(seconds) / row["seconds_sampling"], 2)
    return {"steps": STEPS, "seconds_without": [round(each, 2) for each in seconds], "rows": found}


def _row(made: list[Made], plain: list[Made]) -> dict[str, Any]:
    alike = [pair for mine, theirs in zip(made, plain, strict=True) for pair in likeness(mine, theirs)]
    computed, reused = sum(each.computed for each in made), sum(each.reused for each in made)
    return {
        "seconds_sampling": round(sum(each.seconds for each in made), 2),
        "steps_computed": computed,
        "steps_reused": reused,
        "times_fewer_steps": round((computed + reused) / computed, 2),
        "psnr_db": round(fmean(pair[0] for pair in alike), 2),
        "ssim": round(fmean(pair[1] for pair in alike), 4),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--rows", nargs="*", default=[], help="step caches by name; by default all")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
