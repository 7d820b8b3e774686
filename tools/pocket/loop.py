"""What every training stage shares: device, clock, learning rate, averaged weights, resumable state."""

from __future__ import annotations

import ctypes.util
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

LOG = logging.getLogger(__name__)
_LAYOUT = torch.channels_last_3d


def pick_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA where there is one."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 arithmetic with float32 weights: about four times faster on a CPU that has avx512_bf16."""
    return torch.autocast(device.type, dtype=torch.bfloat16)


def warm_cosine(progress: float, warm: float = 0.02, floor: float = 0.05) -> float:
    """Learning-rate factor for a progress of 0..1: linear warm-up, then half a cosine down to `floor`."""
    if progress < warm:
        return max(progress / warm, 0.01)
    share = min((progress - warm) / (1 - warm), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's own peak rate (`peak`) by `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


class KernelMuon(torch.optim.Muon):
    """Muon for convolution kernels `[O, I, T, H, W]` in `channels_last_3d`, each seen as the matrix `[O, T*H*W*I]`.

    Its parameters are views: a step changes the kernels themselves.
    """

    def __init__(self, kernels: list[nn.Parameter], peak: float) -> None:
        self.kernels = kernels
        self.matrices = [nn.Parameter(_as_matrix(kernel.detach())) for kernel in kernels]
        group = {"params": self.matrices, "peak": peak}
        super().__init__([group], lr=peak, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: Any = None) -> Any:
        """One step from the kernels' gradients."""
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            gradient = kernel.grad
            matrix.grad = None if gradient is None else _as_matrix(gradient.contiguous(memory_format=_LAYOUT))
        return super().step(closure)


def _as_matrix(kernel: torch.Tensor) -> torch.Tensor:
    return kernel.permute(0, 2, 3, 4, 1).view(len(kernel), -1)


class Average:
    """Exponential moving average of a module's parameters, in float32."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.shadow = {k: v.detach().clone().float() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's present weights; young averages forget faster."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in module.state_dict().items():
            self.shadow[key].lerp_(value.float(), 1 - decay)


class Clock:
    """Progress of a stage that is given minutes rather than steps."""

    def __init__(self, minutes: float) -> None:
        self.total = minutes * 60
        self.start = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self.start

    @property
    def progress(self) -> float:
        """Share of the stage that is over, from 0 up."""
        return self.spent / max(self.total, 1e-9)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resumable state in one step, so that an interrupted write leaves the older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The state of an earlier run, or None."""
    if not path.exists():
        return None
    LOG.info("going on from %s", path)
    return torch.load(path, map_location="cpu", weights_only=True)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of giving it back: page faults cost more than the arithmetic of small models.

    The numbers are glibc's M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD and M_ARENA_MAX.
    """
    name = ctypes.util.find_library("c")
    if sys.platform == "linux" and name:
        library = ctypes.CDLL(name)
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 << 20), (-8, 1)):
            library.mallopt(option, value)


def start_logging() -> None:
    """Plain lines with the time of day on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
