"""What machine a measurement ran on."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from diffusers_helper.models.load import choose_compute

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent


def machine() -> dict[str, Any]:
    """Device, threads, versions: what a reader needs to judge a number."""
    abilities = torch.cpu.get_capabilities()
    cpu = abilities.get("cpu_name") or platform.processor() or platform.machine()
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        "threads": torch.get_num_threads(),
        "abilities": [name for name in ("avx2", "avx512_bf16", "amx_bf16") if abilities.get(name)],
        "torch": torch.__version__,
        "compute": choose_compute().reason,
    }
