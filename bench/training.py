"""Training beside a plain loop of peft on diffusers' own model: time of a step and most memory, in one run.

    python -m bench.training [--checkpoint pocket] [--rank 16] [--cells 32] [--steps 6] [--repeats 3] [--write]

The same model, example, noise, network and optimiser; each run is a process of its own, the ways in turns. ``plain``
is what one writes by hand: ``get_peft_model`` around diffusers' transformer, AdamW, a forward and a backward pass.
``again`` is this program's loop with activations made again in the backward pass. Memory is the most that the process
had in RAM beyond what it had with its libraries loaded. Of each way the losses are told: they are the same but for
rounding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from peft import LoraConfig, get_peft_model
from torch import Tensor

from bench.machine import ROOT, machine, tell
from bench.memory_model import Size, section_inputs
from bench.turns import turns
from diffusers_helper.memory.recompute import Recompute
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.training.examples import Example
from diffusers_helper.training.loop import Loop, LoopOptions
from diffusers_helper.training.modules import trainable
from diffusers_helper.training.network import Network, NetworkOptions
from diffusers_helper.training.noise import NoiseLevels, noisy

WAYS = ("plain", "kept", "again")
TEXT, IMAGE = 40, 16
RATE, GUIDANCE = 1e-4, 10.0
CPU = torch.device("cpu")


def main() -> None:
    """Measure all, and tell."""
    options = _options()
    if options.way:
        json.dump(_measured(options), sys.stdout)
        return
    runs = [_run(options, way) for way in turns(WAYS, options.repeats)]
    of_way = {way: [run for run in runs if run["way"] == way] for way in WAYS}
    rows = {way: {name: statistics.median(run[name] for run in found) for name in ("seconds", "mb", "loss")}
            for way, found in of_way.items()}  # fmt: skip
    ratios = {
        way: {name: round(rows[way][name] / rows["plain"][name], 3) for name in ("seconds", "mb")} for way in WAYS
    }
    tell(
        {"command": " ".join(["python -m bench.training", *sys.argv[1:]]), "machine": machine(), "medians": rows,
         "over plain": ratios, "runs": runs},
        "training" if options.write else None,
    )  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--cells", type=int, default=32, help="latent rows and columns, of 8 pixels each")
    parser.add_argument("--steps", type=int, default=6, help="that are timed, after one that is not")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each way")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """One way in a process of its own."""
    same = [f"--{name}={getattr(options, name)}" for name in ("checkpoint", "rank", "cells", "steps")]
    command = [sys.executable, "-m", "bench.training", "--way", way, *same]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    before, peak = psutil.Process().memory_info().rss, Peak()
    torch.manual_seed(0)
    steps = (_plain if options.way == "plain" else _ours)(options)
    seconds, losses = list[float](), list[float]()
    with peak:
        for _ in range(1 + options.steps):
            begun = time.perf_counter()
            losses.append(next(steps))
            seconds.append(time.perf_counter() - begun)
    return {
        "way": options.way,
        "seconds": round(statistics.median(seconds[1:]), 4),
        "mb": round((peak.bytes - before) / 1e6, 1),
        "loss": round(losses[-1], 6),
    }


class Peak:
    """The most RAM that the process has had meanwhile, as the system counts it."""

    bytes = 0

    def __enter__(self) -> Peak:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return self

    def __exit__(self, *ended: object) -> None:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        self.bytes = 1024 * int(line.split()[1])


def _folder(options: argparse.Namespace) -> Path:
    return find_checkpoint(options.checkpoint, ROOT / "hf_download").folders["transformer"]


def _inputs(transformer: Any, cells: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents of a section to learn, and what goes with them."""
    given = section_inputs(transformer, Size({}, cells, cells, TEXT, IMAGE), CPU)
    rest = {name: each for name, each in given.items() if name not in ("hidden_states", "timestep", "guidance")}
    return given["hidden_states"], rest


def _plain(options: argparse.Namespace) -> Iterator[float]:
    model = HunyuanVideoFramepackTransformer3DModel.from_pretrained(_folder(options), torch_dtype=torch.float32)
    names = list(trainable(model))
    target, inputs = _inputs(model, options.cells)
    learning = get_peft_model(model, LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=names)).train()
    optimiser = torch.optim.AdamW([each for each in learning.parameters() if each.requires_grad], lr=RATE)
    for sigma, noise in _drawn(target):
        optimiser.zero_grad()
        made = learning(
            hidden_states=noisy(target, noise, sigma), timestep=sigma * 1000,
            guidance=torch.tensor([GUIDANCE * 1000]), **inputs, return_dict=False,
        )[0]  # fmt: skip
        loss = (made - (noise - target)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([each for each in learning.parameters() if each.requires_grad], 1.0)
        optimiser.step()
        yield float(loss.detach())


def _drawn(target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The noise level and the noise of every step, as the loop draws them."""
    generator = torch.Generator().manual_seed(0)
    while True:
        torch.randperm(1, generator=generator)
        sigma = NoiseLevels().draw(1, generator)
        yield sigma, torch.randn(target.shape, generator=generator)
        torch.randint(2**62, (), generator=generator)


def _ours(options: argparse.Namespace) -> Iterator[float]:
    model = FramePackTransformer.from_pretrained(_folder(options), torch_dtype=torch.float32).train()
    target, inputs = _inputs(model, options.cells)
    if options.way == "again":
        model.enable_gradient_checkpointing(Recompute(None))
    network = Network(model, NetworkOptions(rank=options.rank, alpha=options.rank))
    asked = LoopOptions(steps=10**6, rate=RATE, guidance=GUIDANCE)
    take: Callable[[], dict[str, Tensor]] = lambda: inputs  # noqa: E731 - a name for a callable that gives them
    for done in Loop(model, network, [Example(target, take)], asked, CPU).run():
        yield done.loss


if __name__ == "__main__":
    main()
