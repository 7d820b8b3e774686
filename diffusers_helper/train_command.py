"""The command ``train``: a LoRA from videos, or from pictures made of others. Most flags are musubi's."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from .errors import InvalidRequest, OutputFailed
from .events import Event, Failed, Learnt
from .interrupt import INTERRUPTED, StopSignal, stoppable
from .names import quoted
from .settings import Settings, given_path
from .show import JsonLines, Show, TrainingBar

if TYPE_CHECKING:
    from .training.train import Training

MODULES = {"networks.lora_framepack": "lora", "networks.loha": "loha", "networks.lokr": "lokr"}
"""musubi's names of the kinds of network."""
NUMBERS: dict[str, tuple[type, Any, str]] = {
    "steps": (int, 1600, "training steps"),
    "learning_rate": (float, 2e-4, "how large a step is"),
    "network_dim": (int, 4, "the rank"),
    "network_alpha": (float, 1.0, "what the change is multiplied with, over the rank"),
    "lr_warmup_steps": (int, 0, "steps in which the rate rises from 0"),
    "gradient_accumulation_steps": (int, 1, "examples whose gradients are one step"),
    "max_grad_norm": (float, 1.0, "gradients are made no longer than this; 0 leaves them"),
    "guidance_scale": (float, 1.0, "distilled guidance that the model is told while it learns"),
    "discrete_flow_shift": (float, 3.0, "above 1 more of the noise levels are high"),
    "sigmoid_scale": (float, 1.0, "how far noise levels spread"),
    "logit_mean": (float, 0.0, "of the weighting logit_normal, and of logsnr"),
    "logit_std": (float, 1.0, "the same, its width"),
    "mode_scale": (float, 1.29, "of the weighting mode"),
    "min_timestep": (int, 0, "timesteps below are not trained"),
    "max_timestep": (int, 1000, "timesteps above are not trained"),
    "save_every_n_steps": (int, 0, "keep the LoRA of every so many steps too; 0 keeps the last alone"),
    "seed": (int, 0, "the same seed gives the same LoRA on the same machine"),
}
"""Flag -> its type, its default, and what it is."""
LEAST = {"steps": 1, "network_dim": 1, "gradient_accumulation_steps": 1}
ABOVE_ZERO = ("learning_rate", "network_alpha", "discrete_flow_shift", "sigmoid_scale", "logit_std")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes. Underscores do in the place of hyphens."""
    words = "a folder of videos with a caption beside each, or data sets in musubi's TOML"
    parser.add_argument("--data", "--dataset-config", required=True, metavar="FOLDER or FILE.toml", help=words)
    parser.add_argument("--out", required=True, metavar="FILE.safetensors", help="where the LoRA goes")
    parser.add_argument("--kind", choices=("framepack", "f1"), help="as which videos are learnt (default f1)")
    for name, (kind, default, words) in NUMBERS.items():
        flags = ["--" + name.replace("_", "-"), *(["--max-train-steps"] if name == "steps" else [])]
        parser.add_argument(*flags, dest=name, type=kind, default=default, help=f"{words} (default {default})")
    _add_choices(parser)
    parser.add_argument("--resume", metavar="FILE.state.safetensors", help="go on with a training that was stopped")
    parser.add_argument("--json", action="store_true", help="print every event as a line of JSON")
    parser.set_defaults(run=run)


def _add_choices(parser: argparse.ArgumentParser) -> None:
    words = f"lora, dora, loha or lokr, or {', '.join(MODULES)} (default lora)"
    parser.add_argument("--network-module", default="lora", help=words)
    words = "name=value: loraplus_lr_ratio, rank_dropout, module_dropout, exclude_patterns, include_patterns, factor"
    parser.add_argument("--network-args", nargs="+", default=[], metavar="NAME=VALUE", help=words)
    words = "AdamW, AdamW8bit, Adafactor, Prodigy, Muon, or another of torch.optim (default AdamW)"
    parser.add_argument("--optimizer-type", "--optimizer", dest="optimizer", default="AdamW", help=words)
    parser.add_argument("--optimizer-args", nargs="+", default=[], metavar="NAME=VALUE", help="what it takes besides")
    words = "how the rate changes: constant, constant_with_warmup, linear, cosine and more (default constant)"
    parser.add_argument("--lr-scheduler", default="constant", help=words)
    words = "how noise levels are drawn: sigma, uniform, sigmoid, shift, logsnr (default shift)"
    parser.add_argument("--timestep-sampling", default="shift", help=words)
    words = (
        "how losses count by noise level: none, sigma_sqrt, cosmap; logit_normal and mode draw levels (default none)"
    )
    parser.add_argument("--weighting-scheme", default="none", help=words)
    words = "draw anew what min and max timestep leave out, rather than squeeze all between them"
    parser.add_argument("--preserve-distribution-shape", action="store_true", help=words)
    words = "compute activations again in the backward pass: less memory, a third more time"
    parser.add_argument("--gradient-checkpointing", action="store_true", help=words)
    words = "whose names the file has (default musubi, of a DoRA diffusers)"
    parser.add_argument("--form", choices=("musubi", "diffusers"), help=words)


def run(options: argparse.Namespace, chosen: Settings) -> int:
    """Carry it out; returns the exit code."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    training = training_of(options)
    from .engine import Engine
    from .models.table import find_checkpoint
    from .training.train import train

    resume = given_path(options.resume, "--resume") if options.resume else None
    _check_data(training)
    show: Show = JsonLines() if options.json else TrainingBar()
    code = 0
    with StopSignal() as stop, show, ExitStack() as loaded:
        checkpoint = find_checkpoint(chosen.paths.checkpoint, chosen.paths.models_dir)
        engine = loaded.enter_context(Engine.load(checkpoint, chosen))
        for event in stoppable(train(training, engine, resume), lambda: stop.received):
            show.event(event)
            code = _exit_code(event, code)
    return code


def _exit_code(event: Event, before: int) -> int:
    """After this event: one that was stopped is interrupted."""
    if isinstance(event, Failed):
        return event.exit_code
    return INTERRUPTED if isinstance(event, Learnt) and event.step < event.steps else before


def _check_data(training: Training) -> None:
    """Refuse before anything is loaded what is not there, and what could not be written."""
    from .media.files import require_writable

    for data_set in training.data.data_sets:
        data_set.entries(training.root)
    for target in (training.target, training.state):
        try:
            require_writable(target)
        except OutputFailed as error:
            raise InvalidRequest(f"--out: {error}") from None


def training_of(options: argparse.Namespace) -> Training:
    """What the flags ask for. Raises InvalidRequest; nothing but the data's lists is read."""
    _check_numbers(options)
    from .training.dataset import of_folder, read_config
    from .training.loop import LoopOptions
    from .training.network import Kind, NetworkOptions, form_of
    from .training.network_args import read_network_args
    from .training.noise import NoiseLevels, Sampling, Weighting
    from .training.optimisers import check_names
    from .training.train import Training

    data, target = given_path(options.data, "--data"), given_path(options.out, "--out")
    if target.suffix.lower() != ".safetensors":
        raise InvalidRequest(f"--out: {target} is not the name of a .safetensors file")
    kind = MODULES.get(options.network_module, options.network_module)
    _check_choice("network_module", kind, get_args(Kind))
    _check_choice("timestep_sampling", options.timestep_sampling, get_args(Sampling))
    _check_choice("weighting_scheme", options.weighting_scheme, get_args(Weighting))
    check_names(options.optimizer, options.optimizer_args, options.lr_scheduler)
    network = NetworkOptions(
        kind=kind,
        rank=options.network_dim,
        alpha=options.network_alpha,
        args=read_network_args(options.network_args),
    )
    levels = NoiseLevels(
        sampling=options.timestep_sampling,
        shift=options.discrete_flow_shift,
        sigmoid_scale=options.sigmoid_scale,
        weighting=options.weighting_scheme,
        logit_mean=options.logit_mean,
        logit_std=options.logit_std,
        mode_scale=options.mode_scale,
        least=options.min_timestep,
        most=options.max_timestep,
        keep_shape=options.preserve_distribution_shape,
    )
    loop = LoopOptions(
        steps=options.steps,
        rate=options.learning_rate,
        optimiser=options.optimizer,
        optimiser_args=tuple(options.optimizer_args),
        scheduler=options.lr_scheduler,
        warmup_steps=options.lr_warmup_steps,
        accumulate=options.gradient_accumulation_steps,
        most_norm=options.max_grad_norm,
        guidance=options.guidance_scale,
        seed=options.seed,
        levels=levels,
    )
    return Training(
        data=read_config(data) if data.is_file() else of_folder(data),
        root=data.parent if data.is_file() else Path(),
        target=target,
        kind=options.kind or "f1",
        network=network,
        loop=loop,
        form=form_of(network.kind, options.form),
        save_every=options.save_every_n_steps,
        checkpointing=options.gradient_checkpointing,
    )


def _check_numbers(options: argparse.Namespace) -> None:
    for name, (kind, _, _) in NUMBERS.items():
        value, flag = getattr(options, name), "--" + name.replace("_", "-")
        least = LEAST.get(name, 0) if name != "logit_mean" else float("-inf")
        wrong = value != value or value < least or (name in ABOVE_ZERO and value == 0) or value == float("inf")
        if wrong:
            allowed = f"a whole number from {least} on" if kind is int else "a number above 0"
            raise InvalidRequest(f"{flag}: {value} is not allowed; give {allowed}")
    if not options.min_timestep < options.max_timestep <= 1000:
        given = f"{options.min_timestep} to {options.max_timestep}"
        raise InvalidRequest(f"--min-timestep: {given} is not allowed; give two that rise, up to 1000")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        flag = "--" + name.replace("_", "-")
        raise InvalidRequest(f"{flag}: {quoted(value)} is not known; known are {', '.join(known)}")
