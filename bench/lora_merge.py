"""Merging a LoRA into a random transformer of two billion weights, against peft's ``fuse_lora``: time and memory.

    python -m bench.lora_merge [--repeats 2] [--rank 32] [--dry-run] [--write]

The transformer lies in a folder as diffusers writes it, in bfloat16, the LoRA beside it, an adapter for each linear of
the blocks. Each way is a process of its own, in turns, from the two on the disk to a merged transformer:

    kept        ours: written while it is made, and mapped
    in memory   ours where nothing can be kept
    peft        diffusers' class, ``load_lora_adapter``, ``fuse_lora``, ``unload_lora``

Memory is what the process has beyond what it had before, at its peak, twenty times a second: of its own (RssAnon), and
with the mapped files that were touched (RSS), which the system may take back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.machine import machine, tell
from bench.memory_model import BOTH
from bench.turns import in_own_process, turns
from diffusers_helper.lora.bases import shapes_in
from diffusers_helper.lora.merge import Merge
from diffusers_helper.lora.reading import read_lora
from diffusers_helper.memory.plan import MemoryPlan
from diffusers_helper.models.load import Compute
from diffusers_helper.models.table import PARTS, Checkpoint
from diffusers_helper.models.weights import TransformerWeights, finished

CPU = torch.device("cpu")
WAYS = ("kept", "in memory", "peft")
TOUCHED = "transformer_blocks.0.attn.to_q.weight"
HEADS = {"num_attention_heads": 24, "attention_head_dim": 128}
SIZES: dict[str, dict[str, Any]] = {
    "two billion": {**HEADS, "num_layers": 3, "num_single_layers": 6},
    "dry": {**HEADS, "num_attention_heads": 2, "num_layers": 1, "num_single_layers": 1},
}


def main() -> None:
    """Measure every way in turn, or one for the process that started this one."""
    options = _options()
    if options.one:
        sys.stdout.write(json.dumps(_measure(options.one, Path(options.place))) + "\n")
        return
    with tempfile.TemporaryDirectory() as place:
        weights = _prepare(Path(place), SIZES["dry" if options.dry_run else "two billion"], options.rank)
        runs = [{"way": way, **_in_own_process(way, place)} for way in turns(WAYS, options.repeats)]
    report = _report(options, weights, runs)
    tell(report, "lora_merge" if options.write else None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=2, help="measurements of each way")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--dry-run", action="store_true", help="a small one, to see that everything works")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_own_process(way: str, place: str) -> dict[str, Any]:
    return in_own_process("bench.lora_merge", "--one", way, "--place", place)


def _prepare(place: Path, size: dict[str, Any], rank: int) -> int:
    """The transformer and the LoRA in ``place``; returns how many weights the transformer has."""
    torch.manual_seed(0)
    with torch.device("meta"):
        transformer = HunyuanVideoFramepackTransformer3DModel(**size, **BOTH)
    state = {
        name: torch.empty(each.shape, dtype=torch.bfloat16).normal_(std=0.02)
        for name, each in transformer.state_dict().items()
    }
    folder = place / "transformer"
    transformer.save_config(folder)
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    factors: dict[str, Tensor] = {}
    for name, (height, width) in shapes_in(folder).items():
        if "transformer_blocks." in name:
            factors[f"transformer.{name}.lora_A.weight"] = torch.randn(rank, width).bfloat16() / width**0.5
            factors[f"transformer.{name}.lora_B.weight"] = 0.01 * torch.randn(height, rank).bfloat16()
    save_file(factors, place / "lora.safetensors")
    return sum(each.numel() for each in state.values())


def _measure(way: str, place: Path) -> dict[str, Any]:
    with _memory() as peaks:
        began = time.monotonic()
        weights = _by_peft(place) if way == "peft" else _ours(place, keep=way == "kept")
        seconds = time.monotonic() - began
    plain = load_file(place / "transformer" / "diffusion_pytorch_model.safetensors")[TOUCHED].double()
    changed = float((weights[TOUCHED].double() - plain).norm() / plain.norm())
    return {"seconds": round(seconds, 2), **peaks, "changed": round(changed, 4)}


def _ours(place: Path, keep: bool) -> dict[str, Tensor]:
    """By the classes that the engine has."""
    (place / "none").mkdir(exist_ok=True)
    folders = {**dict.fromkeys(PARTS, place / "none"), "transformer": place / "transformer"}
    checkpoint = Checkpoint("bench", "bench", ("f1",), folders, ((64, 64),))
    nothing: dict[str, Any] = dict.fromkeys((each.name for each in fields(MemoryPlan) if each.type == "int"), 0)
    plan = MemoryPlan(
        "as_is", False, {"transformer": "cpu"}, take_turns=False, decode="", decoder_words=None, **nothing
    )
    compute = Compute(CPU, torch.bfloat16, torch.bfloat16, torch.bfloat16, "bench")
    with tempfile.TemporaryDirectory(dir=place) as models:
        models_dir = Path(models) if keep else None
        weights = TransformerWeights(checkpoint, compute, plan, models_dir=models_dir, changed_limit_bytes=10**11)
        transformer = weights.load()
        lora = read_lora(place / "lora.safetensors", shapes_in(checkpoint.folders["transformer"]))
        finished(weights.change(transformer, Merge((("lora", lora, 1.0),), CPU)))
        return transformer.state_dict()


def _by_peft(place: Path) -> dict[str, Tensor]:
    transformer = HunyuanVideoFramepackTransformer3DModel.from_pretrained(
        place / "transformer", torch_dtype=torch.bfloat16
    )
    transformer.load_lora_adapter(load_file(place / "lora.safetensors"), prefix="transformer")
    transformer.fuse_lora()
    transformer.unload_lora()
    return transformer.state_dict()


@contextmanager
def _memory() -> Iterator[dict[str, int]]:
    """Peaks while it lasts, in MB, beyond what there was before."""
    before, peaks, over = _status(), {"own_mb": 0, "rss_mb": 0}, threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for name, value in _status().items():
                peaks[name] = max(peaks[name], value - before[name])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _status() -> dict[str, int]:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"own_mb": "RssAnon", "rss_mb": "VmRSS"}
    return {name: int(lines[key].split()[0]) // 1024 for name, key in names.items()}


def _report(options: argparse.Namespace, weights: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    def of(way: str, what: str) -> list[Any]:
        return [run[what] for run in runs if run["way"] == way]

    def over_peft(way: str, what: str) -> float:
        return round(statistics.median(of(way, what)) / statistics.median(of("peft", what)), 3)

    measured = ("seconds", "own_mb", "rss_mb")
    return {
        "command": f"python -m bench.lora_merge --rank {options.rank} --repeats {options.repeats}",
        "machine": machine(),
        "weights": weights,
        "rank": options.rank,
        **{way: {what: of(way, what) for what in (*measured, "changed")} for way in WAYS},
        **{f"{way} over peft": {what: over_peft(way, what) for what in measured} for way in WAYS if way != "peft"},
    }


if __name__ == "__main__":
    main()
