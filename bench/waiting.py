"""Decoding with OpenMP threads that spin or sleep while they wait, alone and beside another busy program.

    python -m bench.waiting [--repeats 3] [--write]

Every measurement is a process of its own that decodes the same latents several times; the neighbour is a second such
process. The policies take turns. Prints seconds per decode, and the ratio sleep / spin in both situations.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch

from bench.machine import RESULTS, ROOT, machine
from diffusers_helper.models.load import choose_compute, load_parts
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.vae.codec import decode_clip

POLICIES = {"spin": "ACTIVE", "sleep": "PASSIVE"}
DECODES = 4


def main() -> None:
    """Measure all four cases in turn, or one for the process that started this one."""
    parser = argparse.ArgumentParser(description="Spinning against sleeping threads.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--decode", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.decode:
        sys.stdout.write(f"{_seconds_per_decode()}\n")
        return
    report = _report(options.repeats)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if options.write:
        (RESULTS / "waiting.json").write_text(json.dumps(report, indent=1) + "\n")


def _report(repeats: int) -> dict[str, object]:
    cases = {(place, policy): [] for place in ("alone", "beside a busy program") for policy in POLICIES}
    for _ in range(repeats):
        for place, policy in cases:
            cases[place, policy].append(_measure(policy, busy=place != "alone"))
    seconds = {f"{policy}, {place}": statistics.median(found) for (place, policy), found in cases.items()}
    return {
        "command": f"python -m bench.waiting --repeats {repeats}",
        "machine": machine(),
        "seconds_per_decode": {case: round(value, 3) for case, value in seconds.items()},
        "sleep_over_spin": {
            place: round(seconds[f"sleep, {place}"] / seconds[f"spin, {place}"], 3)
            for place in ("alone", "beside a busy program")
        },
    }


def _measure(policy: str, busy: bool) -> float:
    """Seconds per decode in a process of its own; the neighbour, where there is one, decodes as well."""
    command = [sys.executable, "-m", "bench.waiting", "--decode"]
    environment = {**os.environ, "OMP_WAIT_POLICY": POLICIES[policy]}
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
