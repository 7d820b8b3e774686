"""What of a training has no effect: told, since a switch that silently does nothing is worse than none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .dataset import DataSet
from .excerpts import FPS
from .loop import LoopOptions
from .network import NetworkOptions
from .noise import NoiseLevels
from .trackers import LogOptions

if TYPE_CHECKING:
    from .training import Training


def remarks(training: Training) -> Iterator[str]:
    """A sentence for each."""
    for name in training.data.ignored:
        yield f"{name} has no effect here"
    for name in training.sampling.samples.ignored:
        yield f"sample_prompts: {name} has no effect here"
    for data_set in training.data.data_sets:
        yield from (f"{name} has no effect {where}" for name, where in _of_data(data_set))
    of_parts = (*_of_levels(training.loop.levels), *_of_loop(training.loop), *_of_network(training.network))
    for flag, where in (*of_parts, *_of_watching(training)):
        yield f"{flag} has no effect {where}"


def _of_data(data_set: DataSet) -> Iterator[tuple[str, str]]:
    if data_set.bucket_no_upscale and not data_set.enable_bucket:
        yield "bucket_no_upscale", "without enable_bucket"
    if data_set.source_fps is not None and data_set.source_fps <= FPS:
        yield f"source_fps {data_set.source_fps:g}", f"up to {FPS}: frames are left out, and none are made up"
    if data_set.frame_stride > 1 and data_set.frame_extraction != "slide":
        yield "frame_stride", "but with frame_extraction slide"
    if data_set.frame_sample > 1 and data_set.frame_extraction != "uniform":
        yield "frame_sample", "but with frame_extraction uniform"
    yield from _of_lengths(data_set)


def _of_lengths(data_set: DataSet) -> Iterator[tuple[str, str]]:
    if data_set.max_frames is not None and data_set.frame_extraction != "full":
        yield "max_frames", "but with frame_extraction full"
    if data_set.target_frames is not None and data_set.frame_extraction == "full":
        yield "target_frames", "with frame_extraction full"


def _of_levels(levels: NoiseLevels) -> Iterator[tuple[str, str]]:
    plain, by_density = NoiseLevels(), levels.weighting if levels.sampling == "sigma" else ""
    if levels.weighting in ("logit_normal", "mode") and not by_density:
        yield f"--weighting-scheme {levels.weighting}", "but with --timestep-sampling sigma"
    normal = levels.sampling == "logsnr" or by_density == "logit_normal"
    if (levels.logit_mean, levels.logit_std) != (plain.logit_mean, plain.logit_std) and not normal:
        yield "--logit-mean and --logit-std", "but with logsnr, or sigma and logit_normal"
    if levels.mode_scale != plain.mode_scale and by_density != "mode":
        yield "--mode-scale", "but with sigma and mode"
    if levels.shift != plain.shift and levels.sampling not in ("shift", "sigma"):
        yield "--discrete-flow-shift", "but with shift and sigma"
    if levels.sigmoid_scale != plain.sigmoid_scale and levels.sampling not in ("shift", "sigmoid"):
        yield "--sigmoid-scale", "but with shift and sigmoid"
    if levels.keep_shape and (levels.least, levels.most) == (plain.least, plain.most):
        yield "--preserve-distribution-shape", "without --min-timestep or --max-timestep"


def _of_loop(options: LoopOptions) -> Iterator[tuple[str, str]]:
    if options.warmup_steps and options.scheduler == "constant":
        yield "--lr-warmup-steps", "with --lr-scheduler constant; constant_with_warmup has it"


def _of_network(options: NetworkOptions) -> Iterator[tuple[str, str]]:
    if options.args.loraplus_lr_ratio is not None and options.kind in ("loha", "lokr"):
        yield "loraplus_lr_ratio", f"on {options.kind}, which has no up factors"
    if options.args.factor != -1 and options.kind != "lokr":
        yield "factor", f"on {options.kind}"


def _of_watching(training: Training) -> Iterator[tuple[str, str]]:
    if training.validation.every and not training.validation.share:
        yield "--validate-every-n-steps", "without --validation-split"
    saving, logs = training.saving, training.logs
    if saving.last_steps and not saving.every_steps:
        yield "--save-last-n-steps", "without --save-every-n-steps"
    if saving.last_epochs and not saving.every_epochs:
        yield "--save-last-n-epochs", "without --save-every-n-epochs"
    if saving.comment is not None and not saving.metadata:
        yield "--training-comment", "with --no-metadata"
    if logs.run_name and "wandb" not in logs.trackers:
        yield "--wandb-run-name", "without --log-with wandb or all"
    if not logs.trackers and (logs.prefix, logs.tracker) != (LogOptions().prefix, LogOptions().tracker):
        yield "--log-prefix and --log-tracker-name", "without --logging-dir"
