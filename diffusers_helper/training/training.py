"""A training as an order wishes it, ready to begin: its data sets read, its options checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import InvalidRequest, OutputFailed
from ..lora.writing import FormName
from ..media.files import require_folder, require_writable
from ..models.table import Checkpoint
from ..names import quoted
from ..settings import given_path
from .dataset import Config, data_at
from .dynamo import DynamoOptions, backend_named
from .loop import LoopOptions
from .network import NetworkOptions, form_of
from .network_args import read_network_args
from .noise import NoiseLevels
from .optimisers import check_names
from .order import Kind, TrainingOrder, state_beside
from .samples import SampleOptions, read_samples
from .trackers import LogOptions, check_packages
from .validation import ValidationOptions


@dataclass(frozen=True)
class SaveOptions:
    """Which files there are besides the last, and what they say.

    Attributes:
        every_steps, every_epochs: how many lie between two; 0 keeps none of these.
        last_steps, last_epochs: files that are older, in steps and in files, are removed; 0 keeps all.
        comment: of the one who trains.
        metadata: whether a file says how it was made.
    """

    every_steps: int = 0
    every_epochs: int = 0
    last_steps: int = 0
    last_epochs: int = 0
    comment: str | None = None
    metadata: bool = True

    def old_step(self, step: int) -> int | None:
        """Which file goes when that of ``step`` is there; None where all stay."""
        if not self.last_steps:
            return None
        old = step - self.last_steps - 1
        return max(old - old % self.every_steps, 0) or None

    def old_epoch(self, epoch: int) -> int | None:
        """The same of epochs, which may have skipped some."""
        if not self.last_epochs:
            return None
        return max(epoch - self.every_epochs * self.last_epochs, 0) or None


@dataclass(frozen=True)
class Training:
    """All that a training is.

    Attributes:
        data: the data sets, and ``root``, from which their paths count.
        kind: as which videos are learnt.
        target: the LoRA's file; its state lies beside it, and both may be written on the way.
        resume: the state of a training that was stopped, to go on from.
        skip_broken: files that cannot be used are told and left out, where they are refused else.
        epochs: how often all examples are learnt; 0 where steps say it.
        checkpointing: activations are computed again in the backward pass, which takes less memory and more time.
        dynamo: how blocks are compiled.
    """

    data: Config
    root: Path
    target: Path
    resume: Path | None = None
    kind: Kind = "f1"
    network: NetworkOptions = field(default_factory=NetworkOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)
    form: FormName = "musubi"
    epochs: int = 0
    skip_broken: bool = False
    checkpointing: bool = False
    dynamo: DynamoOptions = field(default_factory=DynamoOptions)
    saving: SaveOptions = field(default_factory=SaveOptions)
    logs: LogOptions = field(default_factory=LogOptions)
    validation: ValidationOptions = field(default_factory=ValidationOptions)
    sampling: SampleOptions = field(default_factory=SampleOptions)

    @property
    def state(self) -> Path:
        """What a training that was stopped goes on from."""
        return state_beside(self.target)

    def lasting(self, batches: int, processes: int = 1) -> Training:
        """The same in steps; ``batches``: how many are an epoch; ``processes``: that learn together."""
        if not self.epochs:
            return self
        steps = math.ceil(self.epochs * batches / (self.loop.accumulate * processes))
        return replace(self, loop=replace(self.loop, steps=steps))


def training_of(order: TrainingOrder) -> Training:
    """What is ordered. Raises InvalidRequest; nothing but the data's lists is read."""
    check_names(order.optimizer_type, order.optimizer_args, order.lr_scheduler)
    check_packages(_logs(order))
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
        epochs=order.max_train_epochs,
        skip_broken=order.skip_broken_files,
        checkpointing=order.gradient_checkpointing,
        dynamo=DynamoOptions(
            backend=backend_named(order.dynamo_backend),
            mode=order.dynamo_mode,
            fullgraph=order.dynamo_fullgraph,
            dynamic=order.dynamo_dynamic,
        ),
        saving=_saving(order),
        logs=_logs(order),
        validation=ValidationOptions(share=order.validation_split, every=order.validate_every_n_steps),
        sampling=_sampling(order),
    )


def _sampling(order: TrainingOrder) -> SampleOptions:
    """Raises InvalidRequest for a file that cannot be read, and for times without one."""
    times = (order.sample_every_n_steps, order.sample_every_n_epochs, order.sample_at_first)
    if order.sample_prompts is None:
        if any(times):
            raise InvalidRequest("sample_prompts: is missing; it says what samples are made")
        return SampleOptions()
    return SampleOptions(read_samples(given_path(order.sample_prompts, "sample_prompts"), order.kind), *times)


def _saving(order: TrainingOrder) -> SaveOptions:
    return SaveOptions(
        every_steps=order.save_every_n_steps,
        every_epochs=order.save_every_n_epochs,
        last_steps=order.save_last_n_steps,
        last_epochs=order.save_last_n_epochs,
        comment=order.training_comment,
        metadata=not order.no_metadata,
    )


def _logs(order: TrainingOrder) -> LogOptions:
    return LogOptions(
        folder=given_path(order.logging_dir, "logging_dir") if order.logging_dir else None,
        prefix=order.log_prefix,
        trackers=order.trackers,
        tracker=order.log_tracker_name,
        run_name=order.wandb_run_name,
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
        ema_decay=order.ema_decay,
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


def check_kind(training: Training, checkpoint: Checkpoint) -> None:
    """Raises InvalidRequest where there are videos and the checkpoint does not make their kind."""
    has_videos = any(data_set.result == "video" for data_set in training.data.data_sets)
    if has_videos and training.kind not in checkpoint.kinds:
        raise InvalidRequest(f"--kind: {quoted(training.kind)} is not made by checkpoint {checkpoint.name}")


def check_files(training: Training) -> None:
    """Raises InvalidRequest for data that is not there, and for a target that could not be written."""
    for data_set in training.data.data_sets:
        data_set.entries(training.root)
    try:
        for target in (training.target, training.state):
            require_writable(target)
    except OutputFailed as error:
        raise InvalidRequest(f"out: {error}") from None
    try:
        if training.logs.folder:
            require_folder(training.logs.folder)
    except OutputFailed as error:
        raise InvalidRequest(f"logging_dir: {error}") from None


def check_target(training: Training) -> None:
    """Raises InvalidRequest where a training would write over what another has learnt."""
    if training.resume:
        return
    for file in (training.target, training.state):
        if file.exists():
            raise InvalidRequest(f"out: {file} is there already; go on with its state (resume), or give another name")
