"""This engine against diffusers' own FramePack pipeline: the same weights, size, steps and sections, caches off.

    python -m bench.pipeline [--checkpoint pocket] [--steps 25] [--sections 2] [--repeats 2]

Each measurement is a process of its own, so that the peak of memory is its own; the two take turns (A B B A ...), so
that a machine that slows down slows both. Time is that of a warm engine, from the request to the finished frames:
ours includes encoding and joining the mp4, previews and resume points; the pipeline's ends with the array of frames.
Both run in the same dtypes. Prints a table, and with ``--write`` keeps it in bench/results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage import data

from bench.machine import ROOT, machine, tell
from bench.turns import in_own_process, turns
from diffusers_helper.memory.host import peak_process_memory_mb
from diffusers_helper.models.load import choose_compute
from diffusers_helper.models.table import Checkpoint, find_checkpoint

PROMPT, SEED, WINDOW, FPS = "the camera pans left", 7, 9, 30
SIDES = ("engine", "pipeline")
Make = Callable[[int, np.ndarray, str], int]


def main() -> None:
    """Measure both sides in turn, or one side for the process that started this one."""
    options = _options()
    if options.side:
        sys.stdout.write(json.dumps(_measure(options)) + "\n")
        return
    report = _report(options, [_in_own_process(side, options) for side in turns(SIDES, options.repeats)])
    tell(report, "pipeline" if options.write else None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--sections", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="measurements of each side")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_own_process(side: str, options: argparse.Namespace) -> dict[str, Any]:
    values = ("--checkpoint", options.checkpoint, "--steps", str(options.steps), "--sections", str(options.sections))
    return {"side": side, **in_own_process("bench.pipeline", "--side", side, *values)}


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """A short run to warm up, then one that counts."""
    checkpoint = find_checkpoint(options.checkpoint, ROOT / "hf_download")
    prepare = _engine if options.side == "engine" else _pipeline
    photograph = data.astronaut()
    with prepare(checkpoint, options.sections) as make:
        make(1, np.ascontiguousarray(photograph[::-1]), "a warm-up that no cache can serve from")
        began = time.perf_counter()
        frames = make(options.steps, photograph, PROMPT)
        seconds = time.perf_counter() - began
    return {"seconds_per_frame": seconds / frames, "frames": frames, "peak_memory_mb": _peak_memory_mb()}


def _peak_memory_mb() -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else peak_process_memory_mb()


@contextmanager
def _engine(checkpoint: Checkpoint, sections: int) -> Iterator[Make]:
    """``make(steps, photograph, prompt)`` -> frames made, through this project's road."""
    from diffusers_helper.engine import Engine
    from diffusers_helper.events import Finished
    from diffusers_helper.generate import generate
    from diffusers_helper.request import Request

    engine = Engine.load(checkpoint)
    folder = Path(tempfile.mkdtemp())

    def make(steps: int, photograph: np.ndarray, prompt: str) -> int:
        Image.fromarray(photograph).save(folder / "photo.png")
        fields = {"picture": str(folder / "photo.png"), "prompt": prompt, "seed": SEED, "steps": steps}
        seconds = sections * 4 * WINDOW / FPS
        last = list(generate(Request.parse({**fields, "seconds": seconds, "teacache": False}), engine, folder))[-1]
        if not isinstance(last, Finished):
            raise SystemExit(f"the engine failed: {last}")
        return last.frames

    with engine:
        yield make


@contextmanager
def _pipeline(checkpoint: Checkpoint, sections: int) -> Iterator[Make]:
    """``make(steps, photograph, prompt)`` -> frames made, through diffusers' pipeline in this project's dtypes."""
    from diffusers import HunyuanVideoFramepackPipeline

    from diffusers_helper.conditioning.prompt import TEMPLATE
    from diffusers_helper.media.fit import choose_bucket, resize_and_crop

    compute = choose_compute()
    pipeline = HunyuanVideoFramepackPipeline.from_pretrained(
        checkpoint.folders["transformer"].parent, torch_dtype=compute.transformer_dtype
    )
    pipeline.vae.to(compute.vae_dtype)
    pipeline.to(compute.device).set_progress_bar_config(disable=True)
    template = {"template": TEMPLATE}

    def make(steps: int, photograph: np.ndarray, prompt: str) -> int:
        height, width = choose_bucket(photograph.shape[0], photograph.shape[1], checkpoint.buckets)
        frames: np.ndarray = pipeline(
            image=Image.fromarray(resize_and_crop(photograph, height, width)),
            prompt=prompt,
            prompt_template=template,
            height=height,
            width=width,
            num_frames=sections * (4 * WINDOW - 3),
            latent_window_size=WINDOW,
            num_inference_steps=steps,
            guidance_scale=10.0,
            generator=torch.Generator().manual_seed(SEED),
            output_type="np",
        ).frames[0]
        return len(frames)

    yield make


def _report(options: argparse.Namespace, measured: list[dict[str, Any]]) -> dict[str, Any]:
    def median(side: str, field: str) -> float:
        return statistics.median(row[field] for row in measured if row["side"] == side)

    fields = ("seconds_per_frame", "peak_memory_mb")
    sides = {side: {field: round(median(side, field), 4) for field in fields} for side in SIDES}
    ratios = {field: round(median("engine", field) / median("pipeline", field), 3) for field in fields}
    return {
        "command": f"python -m bench.pipeline --steps {options.steps} --sections {options.sections} "
        f"--repeats {options.repeats}",
        "machine": machine(),
        **sides,
        "engine_over_pipeline": ratios,
        "runs": measured,
    }


if __name__ == "__main__":
    main()
