"""Every step cache at three strengths: how much faster than none, and how near to what none makes.

    python -m bench.caches [--checkpoint pocket] [--rows NAME ...] [--write]
    python -m bench.caches --a-step [--write]

Five fixed requests (two kinds, 1 to 3 s) are made without a cache and with each, in one process; those without take
turns with the others, so that a machine that slows down slows both. The time ratio is that of sampling, the sum over
the requests. PSNR and SSIM compare the decoded frames with those made without a cache, before any file is compressed,
as means over the frames of all requests. Fewer steps without a cache stand beside them, as the plain way to save time.

``--a-step`` measures what a step of each costs: of a cache that never skips against none, and a reused one against a
computed one. With ``--write`` the result goes to bench/results, and its frontier to docs as a picture, for which
matplotlib is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from bench.machine import RESULTS, ROOT, machine
from diffusers_helper.caches.auto import STRENGTHS
from diffusers_helper.denoise.sample import sample
from diffusers_helper.denoise.schedule import flow_mu, flow_sigmas, token_count
from diffusers_helper.engine import Engine, SectionDenoiser
from diffusers_helper.events import Finished
from diffusers_helper.generate import generate
from diffusers_helper.media.fit import resize_and_crop
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request
from diffusers_helper.sections.history import gather_context

STEPS, SIZE = 25, "128x128"
BETWEEN = 6
"""So many rows are made between two runs without a cache."""
REQUESTS: tuple[Mapping[str, Any], ...] = (
    {"image": "astronaut", "kind": "f1", "seconds": 1.0, "seed": 1, "prompt": "the camera pans left"},
    {"image": "cat", "kind": "f1", "seconds": 2.0, "seed": 2, "prompt": "the camera zooms in"},
    {"image": "coffee", "kind": "f1", "seconds": 3.0, "seed": 3, "prompt": "the picture fades to grey"},
    {"image": "rocket", "kind": "framepack", "seconds": 1.0, "seed": 4, "prompt": "the camera moves up"},
    {"image": "astronaut", "kind": "framepack", "seconds": 2.0, "seed": 5, "prompt": "the camera zooms out"},
)
THRESHOLDS: Mapping[str, tuple[float, ...]] = {
    "teacache": (0.15, 0.25, 0.4),
    "easycache": (0.05, 0.1, 0.2),
    "seacache": (0.15, 0.25, 0.5),
    "first_block": (0.05, 0.1, 0.2),
}
PAIRS = ((0.1, 3), (0.15, 4), (0.24, 6))
"""MagCache's published strengths: threshold and K."""
FEWER_STEPS = (12, 10, 7, 5)
METHODS = ("magcache", *THRESHOLDS)
Row = Mapping[str, Any]
"""What a row changes of a request."""


def rows() -> dict[str, Row]:
    """By name, all that are measured."""
    found: dict[str, Row] = {f"{steps} steps": {"steps": steps, "step_cache": "off"} for steps in FEWER_STEPS}
    found |= {f"auto {strength}": {"step_cache": {"name": "auto", "strength": strength}} for strength in STRENGTHS}
    strengths = [(name, {"threshold": each}) for name, thresholds in THRESHOLDS.items() for each in thresholds]
    strengths += [("magcache", {"threshold": threshold, "k": k}) for threshold, k in PAIRS]
    for name, parameters in strengths:
        words = " ".join([name, *(f"{value:g}" for value in parameters.values())])
        found[words] = {"step_cache": {"name": name, **parameters}}
        found[f"{words} forecast"] = {"step_cache": {"name": name, **parameters, "forecast": True}}
    for threshold, k in PAIRS[:1]:
        cache = {"name": "magcache", "threshold": threshold, "k": k, "gate": 0.03, "forecast": True}
        found[f"magcache {threshold:g} {k} gate 0.03 forecast"] = {"step_cache": cache}
    return found


@dataclass
class Made:
    """One request, made: what sampling took, and its frames, uint8 [frames, height, width, 3] per clip.

    Attributes:
        steps: seconds of each step that was computed, and of each that was reused.
    """

    seconds: float
    steps: Mapping[bool, list[float]]
    clips: list[np.ndarray] = field(repr=False)


class Bench:
    """An engine whose decoded clips and steps are looked at."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._clips: list[np.ndarray] = []
        self._steps: dict[bool, list[float]] = {}
        decode, denoiser = engine.decode, engine.denoiser
        engine.decode = lambda latents: self._kept(decode(latents))  # type: ignore[method-assign]
        engine.denoiser = lambda *asked: Timed(denoiser(*asked), self._steps)  # type: ignore[method-assign]

    def make(self, asked: Mapping[str, Any], row: Row) -> Made:
        """One request as a row has it."""
        values = {"steps": STEPS, "size": SIZE, **asked, **row}
        picture = self._folder / f"{values.pop('image')}.png"
        if not picture.exists():
            Image.fromarray(getattr(data, picture.stem)()).save(picture)
        self._clips, self._steps = [], {True: [], False: []}
        last = list(generate(Request.parse({**values, "picture": str(picture)}), self._engine, self._folder))[-1]
        if not isinstance(last, Finished):
            raise SystemExit(f"it failed: {last}")
        return Made(last.seconds_sampling, self._steps, self._clips)

    def _kept(self, clip: Tensor) -> Tensor:
        self._clips.append(_as_bytes(clip))
        return clip


class Timed:
    """A section's denoiser, with the time of each step."""

    def __init__(self, made: SectionDenoiser, steps: Mapping[bool, list[float]]) -> None:
        self._made, self._steps = made, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        began = time.perf_counter()
        denoised = self._made(x, sigma)
        self._steps[self._made.last_step_computed].append(time.perf_counter() - began)
        return denoised


def _as_bytes(clip: Tensor) -> np.ndarray:
    frames: np.ndarray = ((clip[0].float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    return frames


def psnr(made: np.ndarray, wanted: np.ndarray) -> float:
    """Of one frame, in dB; 100 at most."""
    return 100.0 if np.array_equal(made, wanted) else min(float(peak_signal_noise_ratio(wanted, made)), 100.0)


def likeness(made: Made, wanted: Made) -> Iterator[tuple[float, float]]:
    """(PSNR, SSIM) of each frame."""
    for mine, theirs in zip(made.clips, wanted.clips, strict=True):
        for frame, other in zip(mine, theirs, strict=True):
            yield psnr(frame, other), float(structural_similarity(frame, other, channel_axis=-1))


def main() -> None:
    """Measure, print each row as it comes, and keep them where asked."""
    options = _options()
    wanted = {name: row for name, row in rows().items() if not options.rows or name.split()[0] in options.rows}
    checkpoint = find_checkpoint(options.checkpoint, ROOT / "hf_download")
    about = {"command": " ".join(["python -m bench.caches", *sys.argv[1:]]), "machine": machine()}
    with tempfile.TemporaryDirectory() as folder, Engine.load(checkpoint) as engine:
        if options.a_step:
            height, width = checkpoint.buckets[0]
            found = {"a_step": {**about, **overheads(engine, resize_and_crop(data.astronaut(), height, width))}}
        else:
            found = {**about, "checkpoint": options.checkpoint, **measure(Bench(engine, Path(folder)), wanted)}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    if options.write:
        _keep(found)


def _keep(found: Mapping[str, Any]) -> None:
    """Beside what was kept of the other measurement."""
    file = RESULTS / "caches.json"
    report = {**(json.loads(file.read_text()) if file.exists() else {}), **found}
    file.write_text(json.dumps(report, indent=1) + "\n")
    if "rows" in report:
        draw(report, ROOT / "docs" / "caches.png")


def measure(bench: Bench, wanted: Mapping[str, Row]) -> dict[str, Any]:
    """All rows, against the runs without a cache."""
    off: Row = {"step_cache": "off"}
    bench.make(REQUESTS[0], {**off, "steps": 2})
    plain = [[bench.make(request, off) for request in REQUESTS]]
    found = {}
    for number, (name, row) in enumerate(wanted.items(), start=1):
        made = [bench.make(request, row) for request in REQUESTS]
        found[name] = {**row, **_row(made, plain[0])}
        if number % BETWEEN == 0:
            plain.append([bench.make(request, off) for request in REQUESTS])
        sys.stderr.write(f"{name}: {found[name]}\n")
    seconds = [sum(each.seconds for each in run) for run in plain]
    for row in found.values():
        row["times_faster"] = round(median(seconds) / row["seconds_sampling"], 2)
    return {"steps": STEPS, "seconds_without": [round(each, 2) for each in seconds], "rows": found}


def _row(made: list[Made], plain: list[Made]) -> dict[str, Any]:
    alike = [pair for mine, theirs in zip(made, plain, strict=True) for pair in likeness(mine, theirs)]
    computed, reused = (sum(len(each.steps[kind]) for each in made) for kind in (True, False))
    of_plain = sum(len(each.steps[True]) for each in plain)
    return {
        "seconds_sampling": round(sum(each.seconds for each in made), 2),
        "steps_computed": computed,
        "steps_reused": reused,
        "times_fewer_steps": round(of_plain / computed, 2),
        "psnr_db": round(fmean(pair[0] for pair in alike), 2),
        "ssim": round(fmean(pair[1] for pair in alike), 4),
    }


def overheads(engine: Engine, picture: np.ndarray, repeats: int = 4) -> dict[str, dict[str, float]]:
    """Of each method: a step of a cache that never skips, and a reused one, against a step without.

    Every step of a section is made without and with each, one right after the other, from the same latents. So what
    slows the machine down slows all alike. Medians over the steps.
    """
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, taken in _steps_in_turns(engine, picture):
            seconds.setdefault(name, []).append(taken)
    step = median(seconds["off"])
    return {
        name: {
            "never_skipping": round(median(seconds[f"{name} never"]) / step - 1, 4),
            "reused": round(median(seconds[f"{name} reused"]) / step, 4),
        }
        for name in METHODS
    }


def _steps_in_turns(engine: Engine, picture: np.ndarray) -> Iterator[tuple[str, float]]:
    """(what, seconds) of every step of one section; the first one is left out, which pays for what is made once."""
    asked: dict[str, Any] = {"off": "off"}
    for name in METHODS:
        asked[f"{name} never"] = {"name": name, "threshold": 0.0}
        asked[f"{name} reused"] = {"name": name, "threshold": 1.0}
    requests = {
        name: Request.parse({"picture": "-", "steps": STEPS, "step_cache": cache}) for name, cache in asked.items()
    }
    plain = requests["off"]
    engine.prepare(plain, *picture.shape[:2])
    conditioning = engine.encode(plain, [picture])
    start = conditioning.pictures[0].latent.mean
    section = plain.plan().sections[0]
    context = gather_context(section.context, start.repeat(1, 1, 19, 1, 1), [start])
    noise = torch.randn((*start.shape[:2], 9, *start.shape[3:]), generator=torch.Generator().manual_seed(1))
    sigmas = flow_sigmas(STEPS, flow_mu(token_count(*noise.shape[2:])))
    made = {name: engine.denoiser(each, conditioning, section, context, sigmas[:-1]) for name, each in requests.items()}
    made["off"].begin()
    for state in sample(made["off"], noise, sigmas):
        for name, denoiser in made.items():
            began = time.perf_counter()
            denoiser(state.x, state.sigma)
            taken = time.perf_counter() - began
            if state.step and denoiser.last_step_computed != name.endswith("reused"):
                yield name, taken


def draw(report: Mapping[str, Any], file: Path) -> None:
    """The frontier, against computed steps and against time: a colour for each method, dashed without a forecast."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(13, 5), sharey=True, layout="constrained")
    words = {"times_fewer_steps": "times fewer computed steps", "times_faster": "times faster (sampling time)"}
    for axes, (measure, label) in zip(panels, words.items(), strict=True):
        colours = {"steps": "black"}
        for (method, forecast), points in lines(report["rows"], measure).items():
            colour = colours.setdefault(method, f"C{len(colours)}")
            held = not forecast and method != "steps"
            name = {"steps": "fewer steps, no cache"}.get(
                method, method + (", residual held" if held else ", forecast")
            )
            axes.plot(
                *zip(*points, strict=True), "o--" if held else "o-", color=colour, label=name, alpha=0.5 if held else 1
            )
        axes.set(xlabel=label, title=report["checkpoint"])
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("PSNR to no cache, dB")
    panels[1].legend(fontsize=8)
    figure.savefig(file, dpi=100)


def lines(rows: Mapping[str, Mapping[str, Any]], measure: str) -> dict[tuple[str, bool], list[tuple[float, float]]]:
    """(method, with forecast) -> its (measure, PSNR), in their order. What is another row's twin has none."""
    found: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for name, row in rows.items():
        if not name.startswith("auto") and "gate" not in name:
            method = "steps" if name.endswith(" steps") else name.split()[0]
            found.setdefault((method, name.endswith("forecast")), []).append((row[measure], row["psnr_db"]))
    return {key: sorted(points) for key, points in found.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--rows", nargs="*", default=[], help="step caches by name; by default all")
    parser.add_argument("--a-step", action="store_true", help="what a step of each costs, in the place of the rows")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
