"""LoRAs beside the weights: what they cost at each step, against merged ones, and what another weight costs.

    python -m bench.lora_beside [--checkpoint pocket] [--rank 16] [--steps 8] [--repeats 3] [--write]

One engine, one video of two sections for each count of LoRAs, the counts in turns. A LoRA has an adapter for every
linear of the blocks. Of each video: the seconds of a step. Then videos with one LoRA whose weight is another each time,
and with the same: the seconds from the start to the plan, in which a weight is changed, as a share of the job's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data

from bench.machine import ROOT, machine, tell
from bench.turns import turns
from diffusers_helper import settings
from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished, Plan
from diffusers_helper.generate import generate
from diffusers_helper.lora.bases import shapes_in
from diffusers_helper.lora.beside import work_beside
from diffusers_helper.lora.reading import read_lora
from diffusers_helper.lora.shelf import Shelf, shelf_folder
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request

COUNTS = (0, 1, 2, 5, 10)
MOST = max(COUNTS)
WAYS = (*map(str, COUNTS), f"{MOST} merged")


def main() -> None:
    """Measure all, and tell."""
    options = _options()
    with tempfile.TemporaryDirectory() as place, _Bench(options, Path(place)) as bench:
        bench.made("0")
        runs = [{"way": way, **bench.made(way)} for way in turns(WAYS, options.repeats)]
        report = _report(options, bench, runs)
    tell(report, "lora_beside" if options.write else None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="videos for each count")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    return parser.parse_args()


class _Bench:
    """An engine with a shelf of random LoRAs."""

    def __init__(self, options: argparse.Namespace, place: Path) -> None:
        self._place, self._steps = place, options.steps
        self._checkpoint = find_checkpoint(options.checkpoint, ROOT / "hf_download")
        self._shapes = shapes_in(self._checkpoint.folders["transformer"])
        self._folder = shelf_folder(place)
        self._folder.mkdir()
        for number in range(MOST):
            save_file(_random(self._shapes, options.rank, number), self._folder / f"{number}.safetensors")
        Image.fromarray(data.astronaut()).save(place / "astronaut.png")
        chosen = settings.resolve({"models_dir": str(place)}, {}, place / "none")
        self._engine = Engine.load(self._checkpoint, chosen)

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def made(self, way: str, weight: float = 0.1) -> dict[str, float]:
        """A video with as many LoRAs as ``way`` says: seconds of a step, before the plan, and in all."""
        count, _, merged = way.partition(" ")
        shelf = Shelf(self._folder)
        names = [f"{number}.safetensors" for number in range(int(count))]
        loras = [{"name": name, "sha256": shelf.sha256(self._folder / name), "weight": weight} for name in names]
        asked = {"kind": "f1", "seconds": 2.4, "steps": self._steps, "step_cache": "off", "prompt": "-", "seed": 7}
        mode = {"lora_mode": "merged" if merged else "beside", "picture": str(self._place / "astronaut.png")}
        began, planned = time.monotonic(), 0.0
        for event in generate(Request.parse({**asked, **mode, "loras": loras}), self._engine, self._place):
            if isinstance(event, Plan):
                planned = time.monotonic() - began
        if not isinstance(event, Finished):
            raise RuntimeError(event.to_json())
        return {"step": event.seconds_sampling / (2 * self._steps), "planned": planned, "job": time.monotonic() - began}

    def work(self) -> float:
        """Of one LoRA, as a share of all linears' multiplications."""
        return work_beside([read_lora(self._folder / "0.safetensors", self._shapes)], self._shapes)


def _random(shapes: Any, rank: int, seed: int) -> dict[str, torch.Tensor]:
    generator, factors = torch.Generator().manual_seed(seed), dict[str, torch.Tensor]()
    for name, (height, width) in shapes.items():
        if "transformer_blocks." in name:
            factors[f"transformer.{name}.lora_A.weight"] = torch.randn(rank, width, generator=generator) / width**0.5
            factors[f"transformer.{name}.lora_B.weight"] = 0.1 * torch.randn(height, rank, generator=generator)
    return factors


def _report(options: argparse.Namespace, bench: _Bench, runs: list[dict[str, Any]]) -> dict[str, Any]:
    steps = {way: statistics.median(run["step"] for run in runs if run["way"] == way) for way in WAYS}
    bench.made("1")
    others = [bench.made("1", 0.1 + 0.1 * number) for number in range(1, options.repeats + 1)]
    same = [bench.made("1", 0.1 + 0.1 * options.repeats) for _ in range(options.repeats)]
    return {
        "command": f"python -m bench.lora_beside --rank {options.rank} --steps {options.steps}"
        f" --repeats {options.repeats}",
        "machine": machine(),
        "checkpoint": options.checkpoint,
        "multiplications_of_one": round(bench.work(), 4),
        "seconds_of_a_step": {way: round(seconds, 4) for way, seconds in steps.items()},
        "over_none": {way: round(seconds / steps["0"], 3) for way, seconds in steps.items()},
        "seconds_to_the_plan": {
            "another weight": [round(run["planned"], 4) for run in others],
            "the same": [round(run["planned"], 4) for run in same],
        },
        "share_of_the_job": round(statistics.median(run["planned"] / run["job"] for run in others), 4),
    }


if __name__ == "__main__":
    main()
