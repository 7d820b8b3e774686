"""A training as an order wishes it, ready to begin: its data sets read, its options checked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InvalidRequest, OutputFailed
from ..lora.writing import FormName
from ..media.files import require_writable
from ..settings import given_path
from .dataset import Config, data_at
from .loop import LoopOptions
from .network import NetworkOptions, form_of
from .network_args import read_network_args
from .noise import NoiseLevels
from .optimisers import check_names
from .order import Kind, TrainingOrder, state_beside


@dataclass(frozen=True)
class Training:
    """All that a training is.

    Attributes:
        data: the data sets, and ``root``, from which their paths count.
        kind: as which videos are learnt.
        target: the LoRA's file; its state lies beside it, and every ``save_every`` steps both are written.
        resume: the state of a training that was stopped, to go on from.
        checkpointing: activations are computed again in the backward pass, which takes less memory and more time.
    """

    data: Config
    root: Path
    target: Path
    resume: Path | None = None
    kind: Kind = "f1"
    network: NetworkOptions = field(default_factory=NetworkOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)
    form: FormName = "musubi"
    save_every: int = 0
    checkpointing: bool = False

    @property
    def state(self) -> Path:
        """What a training that was stopped goes on from."""
        return state_beside(self.target)

    def metadata(self, checkpoint: str) -> dict[str, str]:
        """What the file says of its making, by kohya's and musubi's names."""
        options, network = self.loop, self.network
        sets = [each.told() for each in self.data.data_sets]
        return {
            "modelspec.title": self.target.stem,
            "ss_base_model_version": "framepack",
            "ss_network_module": f"networks.{network.kind}_framepack",
            "ss_network_dim": str(network.rank),
            "ss_network_alpha": str(network.alpha),
            "ss_network_args": json.dumps(network.args.model_dump(exclude_defaults=True)),
            "ss_learning_rate": str(options.rate),
            "ss_optimizer": options.optimiser,
            "ss_lr_scheduler": options.scheduler,
            "ss_max_train_steps": str(options.steps),
            "ss_seed": str(options.seed),
            "ss_guidance_scale": str(options.guidance),
            "ss_timestep_sampling": options.levels.sampling,
            "ss_discrete_flow_shift": str(options.levels.shift),
            "ss_sd_model_name": checkpoint,
            "ss_datasets": json.dumps(sets),
        }


def training_of(order: TrainingOrder) -> Training:
    """What is ordered. Raises InvalidRequest; nothing but the data's lists is read."""
    check_names(order.optimizer_type, order.optimizer_args, order.lr_scheduler)
    data, root = data_at(given_path(order.data, "data"))
    return Training(
        data=data,
        root=root,
        target=given_path(order.out, "out"),
        resume=given_path(order.resume, "resume") if order.resume else None,
        kind=order.kind,
        network=NetworkOptions(
            kind=order.network_module,
            rank=order.network_dim,
            alpha=order.network_alpha,
            args=read_network_args(order.network_args),
        ),
        loop=_loop(order),
        form=form_of(order.network_module, order.form),
        save_every=order.save_every_n_steps,
        checkpointing=order.gradient_checkpointing,
    )


def _loop(order: TrainingOrder) -> LoopOptions:
    return LoopOptions(
        steps=order.steps,
        rate=order.learning_rate,
        optimiser=order.optimizer_type,
        optimiser_args=order.optimizer_args,
        scheduler=order.lr_scheduler,
        warmup_steps=order.lr_warmup_steps,
        accumulate=order.gradient_accumulation_steps,
        most_norm=order.max_grad_norm,
        guidance=order.guidance_scale,
        seed=order.seed,
        levels=NoiseLevels(
            sampling=order.timestep_sampling,
            shift=order.discrete_flow_shift,
            sigmoid_scale=order.sigmoid_scale,
            weighting=order.weighting_scheme,
            logit_mean=order.logit_mean,
            logit_std=order.logit_std,
            mode_scale=order.mode_scale,
            least=order.min_timestep,
            most=order.max_timestep,
            keep_shape=order.preserve_distribution_shape,
        ),
    )


def check_files(training: Training) -> None:
    """Raises InvalidRequest for data that is not there, and for a target that could not be written."""
    for data_set in training.data.data_sets:
        data_set.entries(training.root)
    for target in (training.target, training.state):
        try:
            require_writable(target)
        except OutputFailed as error:
            raise InvalidRequest(f"out: {error}") from None
