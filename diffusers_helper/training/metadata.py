"""What a LoRA's file says of its making, by kohya's and musubi's names; no path is among it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from ..lora.streamed import LEGACY_HASH, MODEL_HASH
from .order import MUSUBI_MODULES
from .training import Training

MINIMUM = ("ss_base_model_version", "ss_network_")
"""What is kept without metadata: how the keys of what other programs need to load it begin."""
IMPLEMENTATION = "https://github.com/lllyasviel/FramePack"


@dataclass(frozen=True)
class Facts:
    """What is known once a training runs.

    Attributes:
        session: a number that all files of one run have.
        items: how many examples are learnt, repeats counted.
        batches: how many of them make an epoch.
        epoch: how many are whole; ``epochs``: those of the whole training.
    """

    checkpoint: str
    session: int
    started: datetime
    items: int
    batches: int
    epochs: int
    step: int = 0
    epoch: int = 0


def metadata(training: Training, facts: Facts, now: datetime) -> dict[str, str]:
    """All of it, or what loading needs where none is wanted; the two hashes are filled in when it is written."""
    told = {**_of_training(training), **_of_options(training), **_of_facts(facts, now), **_of_model(training, now)}
    if not training.saving.metadata:
        told = {name: text for name, text in told.items() if name.startswith(MINIMUM)}
    return {**told, MODEL_HASH: "", LEGACY_HASH: ""}


def _of_training(training: Training) -> dict[str, str]:
    network = training.network
    modules = {kind: name for name, kind in MUSUBI_MODULES.items()}
    return {
        "ss_base_model_version": "framepack",
        "ss_output_name": training.target.stem,
        "ss_network_module": modules.get(network.kind, f"networks.{network.kind}_framepack"),
        "ss_network_dim": str(network.rank),
        "ss_network_alpha": str(network.alpha),
        "ss_network_args": json.dumps(network.args.model_dump(exclude_defaults=True)),
        "ss_training_comment": str(training.saving.comment),
        "ss_gradient_checkpointing": str(training.checkpointing),
        "ss_datasets": json.dumps([each.told() for each in training.data.data_sets]),
    }


def _of_options(training: Training) -> dict[str, str]:
    options, levels = training.loop, training.loop.levels
    return {
        "ss_learning_rate": str(options.rate),
        "ss_optimizer": " ".join([options.optimiser, *options.optimiser_args]),
        "ss_lr_scheduler": options.scheduler,
        "ss_lr_warmup_steps": str(options.warmup_steps),
        "ss_max_train_steps": str(options.steps),
        "ss_gradient_accumulation_steps": str(options.accumulate),
        "ss_max_grad_norm": str(options.most_norm),
        "ss_ema_decay": str(options.ema_decay),
        "ss_seed": str(options.seed),
        "ss_guidance_scale": str(options.guidance),
        "ss_timestep_sampling": levels.sampling,
        "ss_discrete_flow_shift": str(levels.shift),
        "ss_sigmoid_scale": str(levels.sigmoid_scale),
        "ss_weighting_scheme": levels.weighting,
        "ss_logit_mean": str(levels.logit_mean),
        "ss_logit_std": str(levels.logit_std),
        "ss_mode_scale": str(levels.mode_scale),
    }


def _of_facts(facts: Facts, now: datetime) -> dict[str, str]:
    return {
        "ss_sd_model_name": facts.checkpoint,
        "ss_session_id": str(facts.session),
        "ss_training_started_at": str(facts.started.timestamp()),
        "ss_training_finished_at": str(now.timestamp()),
        "ss_num_train_items": str(facts.items),
        "ss_num_batches_per_epoch": str(facts.batches),
        "ss_num_epochs": str(facts.epochs),
        "ss_epoch": str(facts.epoch),
        "ss_steps": str(facts.step),
    }


def _of_model(training: Training, now: datetime) -> dict[str, str]:
    """Stability AI's specification of a model's metadata, as musubi fills it."""
    levels = training.loop.levels
    sizes = [each.size for each in training.data.data_sets if each.size]
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "framepack/lora",
        "modelspec.implementation": IMPLEMENTATION,
        "modelspec.title": training.target.stem,
        "modelspec.date": now.isoformat(timespec="seconds"),
        "modelspec.timestep_range": f"{levels.least},{levels.most}",
        **({"modelspec.resolution": sizes[0]} if sizes else {}),
    }
