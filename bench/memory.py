"""Weights in little memory: steps of a full-size transformer of random weights, under caps of GPU memory.

    python -m bench.memory [--rows roofline resident swap skipped] [--caps 12 24] [--steps 5] [--write]
    python -m bench.memory --dry-run

Beside the prefetching swap runs, in the same process and with the same resident blocks, a swap as the original program
does it (tensor by tensor, from ordinary memory, waited for), and diffusers' group offload. Each row is the median of
timed steps after two that warm up; ours and the blocking one take turns (A B A). The weights are random, so no quality
is measured. ``--dry-run`` goes the same way with a tiny model on the CPU: it shows that the script works, no more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psutil
import torch
from torch.nn import functional

from bench.machine import RESULTS, machine
from bench.memory_model import (
    DRY,
    FULL,
    WAYS,
    Size,
    Step,
    block_sizes,
    ours,
    random_transformer,
    section_inputs,
)
from diffusers_helper.caches.step_cache import BlockCache
from diffusers_helper.models.modulation import tabulate
from diffusers_helper.models.quantise import Quantisation, can_multiply, quantise
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.transport import best_transport, bytes_per_second

ROWS = ("roofline", "resident", "swap", "skipped")
WARM_UP_STEPS = 2
BESIDE_THE_BLOCKS_BYTES = int(4e9)
"""Of a cap: embedders, activations of a step, the context of CUDA."""
Row = dict[str, Any]


class Bench:
    """One run: where, how large, how often."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.size: Size = DRY if options.dry_run else FULL
        self.device = torch.device("cpu" if options.dry_run else "cuda")
        self.dtype = torch.float32 if options.dry_run else torch.bfloat16
        self.steps: int = options.steps
        self.caps: list[int] = options.caps

    def model(self) -> FramePackTransformer:
        """Fresh weights, on the device."""
        return random_transformer(self.size, self.device, self.dtype)

    def step(self, transformer: FramePackTransformer, **more: Any) -> Step:
        inputs = section_inputs(transformer, self.size, self.device)

        @torch.inference_mode()
        def run() -> torch.Tensor:
            velocity: torch.Tensor = transformer(**inputs, **more)
            return velocity

        return run

    def timed(self, run: Callable[[], object]) -> Row:
        """Median seconds and the spread between the quartiles, with the memory it took."""
        self._clear()
        for _ in range(WARM_UP_STEPS):
            run()
        seconds = [self._seconds(run) for _ in range(self.steps)]
        quarters = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
        spread = round(quarters[2] - quarters[0], 5)
        return {"seconds": round(statistics.median(seconds), 5), "quartile_spread": spread, **self._memory()}

    def cap(self, gb: float | None) -> None:
        """Let this process use so much of the GPU."""
        if self.device.type == "cuda":
            total = torch.cuda.mem_get_info()[1]
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(min(1.0, gb * 1e9 / total) if gb else 1.0)

    def resident_bytes(self, gb: float, sizes: list[int]) -> int:
        """What a cap leaves for blocks that stay; of the tiny model, that share of its blocks."""
        if self.size is DRY:
            return int(gb / 30 * sum(sizes))
        return max(int(gb * 1e9) - BESIDE_THE_BLOCKS_BYTES - 3 * max(sizes), 0)

    def _seconds(self, run: Callable[[], object]) -> float:
        began = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _clear(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _memory(self) -> Row:
        used = {"ram_gb": round(psutil.Process().memory_info().rss / 1e9, 2)}
        if self.device.type == "cuda":
            used["vram_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
        return used


def roofline(bench: Bench) -> Iterator[Row]:
    """What the machine can: matrix products and attention at the model's shapes, and the bus."""
    width, tokens = (3072, 18289) if bench.size is FULL else (128, 200)
    make = partial(torch.randn, device=bench.device, dtype=bench.dtype)
    x = make(tokens, width)
    for name, outputs in (("attention's projections", width), ("feed-forward, up", 4 * width)):
        weight = make(outputs, width)
        row = bench.timed(partial(functional.linear, x, weight))
        yield {"row": name, **row, "tflops": round(2 * tokens * width * outputs / row["seconds"] / 1e12, 2)}
    q = make(1, width // 128, tokens, 128)
    row = bench.timed(partial(functional.scaled_dot_product_attention, q, q, q))
    yield {"row": "attention", **row, "tflops": round(4 * tokens**2 * width / row["seconds"] / 1e12, 2)}
    transport = best_transport(bench.device)
    yield {"row": "bus, locked memory", "gb_per_second": round(bytes_per_second(transport) / 1e9, 2)}
    transport.close()
    pageable = torch.empty(2**27, dtype=torch.uint8)
    row = bench.timed(lambda: pageable.to(bench.device, copy=True))
    yield {"row": "bus, ordinary memory", "gb_per_second": round(pageable.nbytes / row["seconds"] / 1e9, 2)}


def resident(bench: Bench) -> Iterator[Row]:
    """Everything on the device: as it is, with the table, and in 8 bits."""
    transformer = bench.model()
    plain = bench.step(transformer)()
    yield {"row": "16 bits", **bench.timed(bench.step(transformer)), **_weights(transformer)}
    tabulate(transformer)
    row = bench.timed(bench.step(transformer))
    same = float((bench.step(transformer)() - plain).abs().max())
    yield {"row": "modulation table", **row, **_weights(transformer), "max_difference": same}
    precision: Quantisation
    for precision in ("int8", "fp8"):
        for multiply in (False, True):
            if not multiply or can_multiply(precision, bench.device):
                yield _quantised(bench, plain, precision, multiply)


def _quantised(bench: Bench, plain: torch.Tensor, precision: Quantisation, multiply: bool) -> Row:
    transformer = bench.model()
    quantise(transformer, precision, multiply=multiply)
    step = bench.step(transformer)
    error = float((step() - plain).norm() / plain.norm())
    name = f"{precision}, {'8-bit products' if multiply else '16-bit products'}"
    return {"row": name, **bench.timed(step), **_weights(transformer), "relative_difference": round(error, 5)}


def _weights(transformer: FramePackTransformer) -> Row:
    return {"weights_gb": round(transformer.weights_bytes() / 1e9, 3)}


def swap(bench: Bench) -> Iterator[Row]:
    """At each cap: blocking, ours, blocking again; then group offload, whose model cannot be used afterwards."""
    precision: Quantisation | None
    for precision in (None, "int8"):
        transformer = bench.model()
        tabulate(transformer)
        if precision:
            quantise(transformer, precision)
        transformer.to("cpu")
        for cap in bench.caps:
            for way in ("blocking", "ours", "blocking"):
                yield {"weights": precision or "16 bits", **_swapped(bench, transformer, way, cap)}
        yield {"weights": precision or "16 bits", **_swapped(bench, transformer, "group offload", max(bench.caps))}


def _swapped(bench: Bench, transformer: FramePackTransformer, way: str, cap: int) -> Row:
    """One way at one cap; where it needs more, that is the result."""
    bench.cap(cap)
    try:
        row = _swapped_step(bench, transformer, way, bench.resident_bytes(cap, block_sizes(transformer)))
    except RuntimeError as error:
        row = {"failed": str(error).partition("\n")[0]}
    bench.cap(None)
    return {"row": way, "cap_gb": cap, **row}


def _swapped_step(bench: Bench, transformer: FramePackTransformer, way: str, held: int) -> Row:
    with WAYS[way](transformer, bench.device, held) as bytes_moved:
        step = bench.step(transformer)
        step()
        before = bytes_moved()
        row = bench.timed(step)
        moved = (bytes_moved() - before) / (bench.steps + WARM_UP_STEPS)
    return {**row, "gb_moved": round(moved / 1e9, 4)}


class Skips:
    """A step-cache policy that computes the first step only."""

    def compute(self, measure: float | None) -> bool:
        return measure is None


def skipped(bench: Bench) -> Iterator[Row]:
    """A step whose blocks are skipped: its time, and that it moves nothing."""
    transformer = bench.model()
    tabulate(transformer)
    transformer.to("cpu")
    held = bench.resident_bytes(min(bench.caps), block_sizes(transformer))
    with ours(transformer, bench.device, held) as bytes_moved:
        full = bench.timed(bench.step(transformer))
        step = bench.step(transformer, step_cache=BlockCache(Skips()))
        step()
        before = bytes_moved()
        row = bench.timed(step)
        moved = bytes_moved() - before
    share = round(row["seconds"] / full["seconds"], 4)
    yield {"row": "skipped step", **row, "share_of_a_full_step": share, "bytes_moved": moved}


MEASURES = {"roofline": roofline, "resident": resident, "swap": swap, "skipped": skipped}


def main() -> None:
    """Measure, print, and keep what a GPU said where that is asked for."""
    options = _options()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --dry-run goes the same way on the CPU, with a tiny model")
    bench = Bench(options)
    report = {
        "command": "python -m bench.memory " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "dry_run": options.dry_run,
        "rows": {name: list(MEASURES[name](bench)) for name in options.rows},
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if options.write:
        (RESULTS / "memory.json").write_text(json.dumps(report, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--caps", nargs="+", type=int, default=[12, 24], help="GB of GPU memory")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each row")
    parser.add_argument("--dry-run", action="store_true", help="a tiny model on the CPU; measures nothing of worth")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results; not of a dry run")
    options = parser.parse_args()
    if options.write and options.dry_run:
        parser.error("a dry run is no measurement: nothing to keep")
    return options


if __name__ == "__main__":
    main()
