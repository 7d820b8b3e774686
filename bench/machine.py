"""What machine a measurement ran on."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from diffusers_helper.models.load import choose_compute

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
OF_THE_GPU = (
    *("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit"),
    *("pcie.link.gen.max", "pcie.link.width.max"),
)


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
        **(_gpu() if torch.cuda.is_available() else {}),
    }


def tell(report: dict[str, Any], keep_as: str | None) -> None:
    """Print a report as JSON, and keep it under that name in bench/results."""
    text = json.dumps(report, indent=1) + "\n"
    sys.stdout.write(text)
    if keep_as:
        (RESULTS / f"{keep_as}.json").write_text(text)


def _gpu() -> dict[str, Any]:
    """Memory, versions, and what nvidia-smi tells of clocks and bus, where it is there."""
    properties = torch.cuda.get_device_properties()
    known = {
        "vram_gb": round(properties.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    command = [
        "nvidia-smi",
        f"--id=GPU-{properties.uuid}",
        f"--query-gpu={','.join(OF_THE_GPU)}",
        "--format=csv,noheader",
    ]
    try:
        line = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return known
    return {**known, **dict(zip(OF_THE_GPU, line.strip().split(", "), strict=False))}
