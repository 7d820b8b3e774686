"""Decoding on a CPU with what the program sets for it in the environment, and without, alone and beside a busy program.

    python -m bench.cpu_decoding [--repeats 3] [--write]

Threads of OpenMP that wait may spin or sleep; large tensors may lie in pages of 4 kB or, where Linux grants them on
request, in huge ones. Every measurement is a process of its own that decodes the same latents several times; the
neighbour is a second such process. The ways take turns. Prints seconds per decode, and ratios in both situations.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch

from bench.machine import ROOT, machine, tell
from diffusers_helper.models.load import choose_compute, load_parts
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.vae.codec import decode_clip

WAYS = {
    "spin": {"OMP_WAIT_POLICY": "ACTIVE", "THP_MEM_ALLOC_ENABLE": "0"},
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "0"},
    "sleep, huge pages": {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"},
}
PLACES = ("alone", "beside a busy program")
DECODES = 4


def main() -> None:
    """Measure all cases in turn, or one for the process that started this one."""
    parser = argparse.ArgumentParser(description="Decoding on a CPU.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--decode", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.decode:
        sys.stdout.write(f"{_seconds_per_decode()}\n")
        return
    report = _report(options.repeats)
    tell(report, "cpu_decoding" if options.write else None)


def _report(repeats: int) -> dict[str, object]:
    cases: dict[tuple[str, str], list[float]] = {(place, way): [] for place in PLACES for way in WAYS}
    for _ in range(repeats):
        for place, way in cases:
            cases[place, way].append(_measure(way, busy=place != "alone"))
    seconds = {case: statistics.median(found) for case, found in cases.items()}
    return {
        "command": f"python -m bench.cpu_decoding --repeats {repeats}",
        "machine": machine(),
        "seconds_per_decode": {f"{way}, {place}": round(value, 3) for (place, way), value in seconds.items()},
        "sleep_over_spin": _ratios(seconds, "sleep", "spin"),
        "huge_pages_over_small": _ratios(seconds, "sleep, huge pages", "sleep"),
    }


def _ratios(seconds: dict[tuple[str, str], float], way: str, other: str) -> dict[str, float]:
    return {place: round(seconds[place, way] / seconds[place, other], 3) for place in PLACES}


def _measure(way: str, busy: bool) -> float:
    """Seconds per decode in a process of its own; the neighbour, where there is one, decodes as well."""
    command = [sys.executable, "-m", "bench.cpu_decoding", "--decode"]
    environment = {**os.environ, **WAYS[way]}
    neighbour = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment) if busy else None
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    if neighbour:
        neighbour.kill()
        neighbour.wait()
    return float(done.stdout.splitlines()[-1])


def _seconds_per_decode() -> float:
    vae = load_parts(find_checkpoint("pocket", ROOT / "hf_download"), choose_compute()).vae
    latents = torch.randn(1, 16, 10, 16, 16, generator=torch.Generator().manual_seed(0))
    seconds = []
    with torch.inference_mode():
        for _ in range(DECODES):
            began = time.perf_counter()
            decode_clip(vae, latents)
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
