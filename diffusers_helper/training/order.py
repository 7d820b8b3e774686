"""What a training is asked to be: the flags of the command, the fields of the page and the JSON of a job. No tensors.

Names are musubi's where it has one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from typing_extensions import Self

from ..errors import InvalidRequest, Problem
from ..options import STRICT
from ..request.explain import refusal

Kind = Literal["framepack", "f1"]
NetworkKind = Literal["lora", "dora", "loha", "lokr"]
Sampling = Literal["sigma", "uniform", "sigmoid", "shift", "logsnr"]
Weighting = Literal["none", "sigma_sqrt", "cosmap", "logit_normal", "mode"]
DynamoMode = Literal["default", "reduce-overhead", "max-autotune"]
Form = Literal["musubi", "diffusers"]
LogWith = Literal["tensorboard", "wandb", "all"]
TIMESTEPS = 1000
MUSUBI_MODULES: Mapping[str, NetworkKind] = {
    "networks.lora_framepack": "lora",
    "networks.loha": "loha",
    "networks.lokr": "lokr",
}
"""musubi's names of the kinds of network."""


class TrainingOrder(BaseModel):
    """One training. Build it with ``parse``, whose messages name the field, the value and the remedy."""

    model_config = STRICT

    data: str = Field(
        min_length=1,
        description="a folder of videos or pictures with a caption beside each, or data sets in musubi's TOML",
    )
    out: str = Field(
        pattern=r"(?i).\.safetensors$", description="where the LoRA goes, a name that ends in .safetensors"
    )
    skip_broken_files: bool = Field(
        False, description="files that cannot be used are told and left out, where else the first of them ends it"
    )
    resume: str | None = Field(None, description="the state of a training that was stopped, to go on with it")
    kind: Kind = Field("f1", description="as which videos are learnt")
    steps: int = Field(1600, ge=1, le=10_000_000, description="training steps")
    max_train_epochs: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="how often all examples are learnt, which goes before steps; 0 leaves it to them",
    )
    learning_rate: float = Field(2e-4, ge=1e-12, le=100, description="how large a step is")
    network_module: NetworkKind = Field("lora", description="the kind of network; musubi's names do too")
    network_dim: int = Field(4, ge=1, le=4096, description="the rank")
    network_alpha: float = Field(1.0, ge=1e-6, le=1e6, description="what the change is multiplied with, over the rank")
    network_args: tuple[str, ...] = Field(
        (),
        strict=False,
        description="name=value: loraplus_lr_ratio, rank_dropout, module_dropout, exclude_patterns, include_patterns, "
        "factor, verbose",
    )
    optimizer_type: str = Field(
        "AdamW", description="AdamW, AdamW8bit, Adafactor, Prodigy, Muon, or another of torch.optim"
    )
    optimizer_args: tuple[str, ...] = Field(
        (), strict=False, description="name=value: what the optimiser takes besides"
    )
    lr_scheduler: str = Field(
        "constant", description="how the rate changes: constant, constant_with_warmup, linear, cosine and more"
    )
    lr_warmup_steps: int = Field(0, ge=0, le=10_000_000, description="steps in which the rate rises from 0")
    gradient_accumulation_steps: int = Field(1, ge=1, le=100_000, description="examples whose gradients are one step")
    max_grad_norm: float = Field(
        1.0, ge=0, le=1e9, description="gradients are made no longer than this; 0 leaves them as they are"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, a third more time"
    )
    dynamo_backend: str = Field("no", description="compile the blocks by inductor, eager or another of accelerate's")
    dynamo_mode: DynamoMode | None = Field(
        None, description="how much is tried out: default, reduce-overhead or max-autotune"
    )
    dynamo_fullgraph: bool = Field(False, description="refuse what would fall back to Python within a block")
    dynamo_dynamic: bool = Field(False, description="one code for all sizes, rather than one for each")
    guidance_scale: float = Field(
        1.0, ge=0, le=100, description="distilled guidance that the model is told while it learns"
    )
    timestep_sampling: Sampling = Field("shift", description="how noise levels are drawn")
    discrete_flow_shift: float = Field(3.0, ge=0.001, le=1000, description="above 1 more of the noise levels are high")
    sigmoid_scale: float = Field(1.0, ge=0.001, le=1000, description="how far noise levels spread")
    weighting_scheme: Weighting = Field(
        "none", description="how losses count by noise level; logit_normal and mode draw levels"
    )
    logit_mean: float = Field(0.0, ge=-100, le=100, description="of the weighting logit_normal, and of logsnr")
    logit_std: float = Field(1.0, ge=0.001, le=100, description="the same, its width")
    mode_scale: float = Field(1.29, ge=0, le=100, description="of the weighting mode")
    min_timestep: int = Field(0, ge=0, le=TIMESTEPS, description="timesteps below are not trained")
    max_timestep: int = Field(TIMESTEPS, ge=0, le=TIMESTEPS, description="timesteps above are not trained")
    preserve_distribution_shape: bool = Field(
        False, description="draw anew what min and max timestep leave out, rather than squeeze all between them"
    )
    save_every_n_steps: int = Field(
        0, ge=0, le=10_000_000, description="keep the LoRA of every so many steps too; 0 keeps the last alone"
    )
    save_every_n_epochs: int = Field(0, ge=0, le=10_000_000, description="the same of every so many epochs")
    save_last_n_steps: int = Field(
        0, ge=0, le=10_000_000, description="files of steps go when they are more steps old; 0 keeps them"
    )
    save_last_n_epochs: int = Field(
        0, ge=0, le=10_000_000, description="of the files of epochs so many stay; 0 keeps all"
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="the file holds the average of the weights, of which so much stays at a step; 0 is off",
    )
    training_comment: str | None = Field(None, max_length=10_000, description="said in the file's metadata")
    no_metadata: bool = Field(False, description="say in the file only what loading needs")
    logging_dir: str | None = Field(None, description="a folder for logs; each run makes one of its own in it")
    log_prefix: str = Field(
        "", max_length=200, pattern=r"^[^/\\]*$", description="before the time in that folder's name"
    )
    log_with: LogWith | None = Field(None, description="which logs; tensorboard where there is a logging_dir")
    log_tracker_name: str = Field(
        "network_train",
        pattern=r"^[^/\\]{1,128}$",
        description="what the runs are called together; of wandb the project",
    )
    wandb_run_name: str | None = Field(None, max_length=200, description="what this run is called by wandb")
    validation_split: float = Field(
        0.0, ge=0, le=0.9, description="share of the files that is held out, to see what the model gets wrong of them"
    )
    validate_every_n_steps: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="steps between two looks at them; 0 looks before the first and after the last",
    )
    sample_prompts: str | None = Field(
        None,
        description="what is made to look at meanwhile: a file of musubi's (txt, toml, json) or of requests (json)",
    )
    sample_every_n_steps: int = Field(0, ge=0, le=10_000_000, description="make samples after every so many steps")
    sample_every_n_epochs: int = Field(0, ge=0, le=10_000_000, description="make samples after every so many epochs")
    sample_at_first: bool = Field(False, description="make samples before the first step too")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="the same seed gives the same LoRA on the same machine")
    form: Form | None = Field(None, description="whose names the file has; by default musubi's, of a DoRA diffusers'")

    @property
    def state(self) -> Path:
        """What the training goes on from once it was stopped: beside the LoRA, on the way too."""
        return state_beside(Path(self.out))

    def as_far_as_it_is(self) -> Self:
        """The same from its own state, where it has left one."""
        return self.model_copy(update={"resume": str(self.state)}) if self.state.is_file() else self

    @model_validator(mode="before")
    @classmethod
    def _known_by_musubi(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        module = str(given.get("network_module"))
        return {**given, "network_module": MUSUBI_MODULES[module]} if module in MUSUBI_MODULES else given

    @classmethod
    def parse(cls, named: Mapping[str, Any]) -> Self:
        """From values by name. Raises InvalidRequest: naming each wrong field, its value and what is allowed."""
        try:
            made = cls.model_validate(dict(named))
        except ValidationError as error:
            raise refusal(error.errors(), cls, cls) from None
        if made.min_timestep >= made.max_timestep:
            given = f"{made.min_timestep} to {made.max_timestep}"
            raise InvalidRequest(
                f"min_timestep: {given} is not allowed; give two that rise, up to {TIMESTEPS}",
                [Problem("min_timestep", "whole_number", given, {"low": 0, "high": made.max_timestep - 1})],
            )
        if "tensorboard" in made.trackers and not made.logging_dir:
            raise InvalidRequest(
                f"log_with: {made.log_with!r} is not allowed without a folder; give logging_dir too",
                [Problem("log_with", "choice", made.log_with, {"choices": ("wandb",)})],
            )
        return made

    @property
    def trackers(self) -> tuple[str, ...]:
        """Which programs are logged for."""
        if self.log_with == "all":
            return ("tensorboard", "wandb")
        if self.log_with:
            return (self.log_with,)
        return ("tensorboard",) if self.logging_dir else ()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of ``to_json``. Raises InvalidRequest."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"this is no training: {error}") from None
        if not isinstance(content, Mapping):
            raise InvalidRequest("this is no training: it has to be an object")
        return cls.parse(content)

    def to_json(self) -> str:
        """All of it."""
        return self.model_dump_json()


def state_beside(lora: Path) -> Path:
    """Where the state of the training lies that has made this file."""
    return lora.with_name(f"{lora.stem}.state.safetensors")
