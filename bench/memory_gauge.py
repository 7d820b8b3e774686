"""Where bench.memory runs and how it measures: device, sizes, clocks, caps of memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch
from torch import Tensor

from bench.memory_model import DRY, FULL, Size, random_transformer, section_inputs
from diffusers_helper.memory.shortage import is_out_of_memory
from diffusers_helper.memory.vram import free_unused
from diffusers_helper.models.transformer import FramePackTransformer

WARM_UP_STEPS = 2
BESIDE_THE_BLOCKS_BYTES = int(4.2e9)
"""Of a cap: embedders, and what a step computes with."""
LARGEST_DRY_CAP_GB = 30
REFUSALS = (RuntimeError, MemoryError, ValueError, OSError)
"""What a way that does not fit, or does not work, raises; torch.OutOfMemoryError is one."""
Row = dict[str, Any]


class Bench:
    """One run: where, how large, how often.

    Attributes:
        dry: a tiny model on the CPU.
        steps: that are timed for one row.
        caps: GB of GPU memory.
    """

    def __init__(self, dry: bool, steps: int, caps: Sequence[int]) -> None:
        self.dry, self.steps, self.caps = dry, steps, caps
        self.size: Size = DRY if dry else FULL
        self.device = torch.device("cpu" if dry else "cuda")
        self.dtype = torch.float32 if dry else torch.bfloat16
        self.on_gpu = self.device.type == "cuda"

    def model(self, home: torch.device | None = None) -> FramePackTransformer:
        """Fresh weights, on the device or at ``home``; what nobody holds is freed before."""
        self.free()
        return random_transformer(self.size, self.device, self.dtype, home)

    def step(self, transformer: FramePackTransformer, **more: Any) -> Callable[[], Tensor]:
        """One call of the transformer."""
        inputs = section_inputs(transformer, self.size, self.device)

        @torch.inference_mode()
        def run() -> Tensor:
            velocity: Tensor = transformer(**inputs, **more)
            return velocity

        return run

    def output(self, transformer: FramePackTransformer) -> Tensor:
        """Of one step; raises RuntimeError for NaN and infinity."""
        velocity = self.step(transformer)().cpu()
        if not velocity.isfinite().all():
            raise RuntimeError("a step gave NaN or infinity")
        return velocity

    def timed(self, run: Callable[[], object], warm_up: int = WARM_UP_STEPS, steps: int | None = None) -> Row:
        """Median seconds and the spread between the quartiles, with the most memory that it took."""
        self._forget_peaks()
        for _ in range(warm_up):
            run()
        seconds, on_device = zip(*(self._clocked(run) for _ in range(steps or self.steps)), strict=True)
        row = {"seconds": median(seconds), "quartile_spread": _spread(seconds)}
        if self.on_gpu:
            row["device_seconds"] = median(on_device)
        return {**row, **self.memory()}

    def seconds(self, run: Callable[[], object]) -> float:
        """Of one run, by the clock on the wall."""
        return round(self._clocked(run)[0], 5)

    def cap(self, gb: float | None) -> None:
        """Let PyTorch use so much of the GPU; None for all of it."""
        if self.on_gpu:
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, gb * 1e9 / total) if gb else 1.0)

    def resident_bytes(self, gb: float, sizes: Sequence[int]) -> int:
        """What a cap leaves for blocks that stay; of the tiny model, that share of its blocks."""
        if self.dry:
            return int(gb / LARGEST_DRY_CAP_GB * sum(sizes))
        return max(int(gb * 1e9) - BESIDE_THE_BLOCKS_BYTES - 3 * max(sizes), 0)

    def memory(self) -> Row:
        """In use, in GB; of the GPU the most since the peaks were forgotten."""
        used = {"ram_gb": round(psutil.Process().memory_info().rss / 1e9, 2)}
        if self.on_gpu:
            used["vram_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            used["vram_reserved_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
        return used

    def free(self) -> None:
        """Give back what no variable holds: memory of the GPU, and the host's locked memory."""
        if self.on_gpu:
            self._wait()
            free_unused()
            newer = getattr(torch.accelerator.memory, "empty_host_cache", None)  # which PyTorch 2.11 lacks
            (newer or torch._C._host_emptyCache)()

    def _clocked(self, run: Callable[[], object]) -> tuple[float, float]:
        """Seconds of the wall's clock, and of the device's."""
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.on_gpu else []
        self._wait()
        began = time.perf_counter()
        for mark in marks[:1]:
            mark.record()
        run()
        for mark in marks[1:]:
            mark.record()
        self._wait()
        seconds = time.perf_counter() - began
        return seconds, marks[0].elapsed_time(marks[1]) / 1000 if marks else seconds

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def _forget_peaks(self) -> None:
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def median(seconds: Sequence[float]) -> float:
    """Rounded to 10 microseconds."""
    return round(statistics.median(seconds), 5)


def told(error: BaseException) -> Row:
    """A refusal as a row tells it."""
    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return {"does_not_fit" if is_out_of_memory(error) else "failed": words}


def weights(transformer: FramePackTransformer) -> Row:
    """What a step reads of them, in GB."""
    return {"weights_gb": round(transformer.weights_bytes() / 1e9, 4)}


def relative(found: Tensor, expected: Tensor) -> float:
    """The difference's norm as a share of what was expected."""
    return round(float((found - expected).norm() / expected.norm()), 6)


def _spread(seconds: Sequence[float]) -> float:
    if len(seconds) < 2:
        return 0.0
    quarters = statistics.quantiles(seconds, n=4)
    return round(quarters[2] - quarters[0], 5)
