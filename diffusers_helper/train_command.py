"""The command ``train``: a LoRA from videos, or from pictures made of others. Its flags are the fields of an order."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from typing import Any

from .errors import InvalidRequest
from .events import Event, Failed, Learnt
from .interrupt import INTERRUPTED, StopSignal, stoppable
from .request.fields import Field, fields
from .settings import Settings, given_path
from .show import JsonLines, Show, TrainingBar
from .training.order import TrainingOrder

OTHER_NAMES = {
    "data": "dataset_config",
    "steps": "max_train_steps",
    "optimizer_type": "optimizer",
}
"""musubi's, or older ones, of flags that are called otherwise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes. Underscores do in the place of hyphens."""
    for field in fields(TrainingOrder).values():
        _add_field(parser, field)
    parser.add_argument("--order", metavar="FILE.json", help="all of it as JSON; - reads it from standard input")
    words = "tell what would be learnt, write a sheet of it beside the LoRA's place, and train nothing"
    parser.add_argument("--dry-run", action="store_true", help=words)
    words = "the same as --fp8-scaled"
    parser.add_argument("--fp8-base", dest="fp8_scaled", action="store_const", const="1", default=None, help=words)
    parser.add_argument("--json", action="store_true", help="print every event as a line of JSON")
    parser.set_defaults(run=run)


def _add_field(parser: argparse.ArgumentParser, field: Field) -> None:
    """The flag of a field. Absent means the order's own default."""
    names = [field.name, *([OTHER_NAMES[field.name]] if field.name in OTHER_NAMES else [])]
    flags = ["--" + name.replace("_", "-") for name in names]
    parser.add_argument(*flags, dest=field.name, **_taken(field), help=_help(field))


def _taken(field: Field) -> dict[str, Any]:
    """How argparse takes it; what it may be, the order says."""
    info = field.info
    if field.name.startswith("no_"):
        return {"action": "store_true", "default": None}
    if info.annotation is bool:
        return {"action": argparse.BooleanOptionalAction, "default": None}
    if info.annotation == tuple[str, ...]:
        return {"nargs": "+", "metavar": "NAME=VALUE"}
    return {"type": info.annotation if info.annotation in (int, float) else str}


def _help(field: Field) -> str:
    choices = f": {', '.join(field.names)}" if field.names else ""
    default = "" if field.default in (None, (), False) else f" (default {field.default})"
    return f"{field.info.description}{choices}{default}"


def order_of(options: argparse.Namespace) -> TrainingOrder:
    """What the flags ask for. Raises InvalidRequest."""
    named = {name: getattr(options, name) for name in fields(TrainingOrder)}
    given = {name: value for name, value in named.items() if value is not None}
    if options.order is None:
        return TrainingOrder.parse(given)
    if given:
        raise InvalidRequest(f"--order says all of the training; leave out {', '.join(given)}")
    return TrainingOrder.from_json(_text_of(options.order))


def _text_of(source: str) -> str:
    """What the file holds, or standard input. Raises InvalidRequest."""
    try:
        return sys.stdin.read() if source == "-" else given_path(source, "--order").read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"--order: it is not UTF-8: {error}") from None


def run(options: argparse.Namespace, chosen: Settings) -> int:
    """Carry it out; returns the exit code."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    order = order_of(options)
    from .models.table import find_checkpoint
    from .training.processes import Processes
    from .training.rehearsal import rehearse
    from .training.train import load_engine, train
    from .training.training import check_files, check_target, training_of

    training, processes = training_of(order), Processes.here()
    check_files(training)
    if not options.dry_run:
        check_target(training)
    show: Show = JsonLines() if options.json else TrainingBar()
    code = 0
    with StopSignal() as stop, show, ExitStack() as loaded:
        checkpoint = find_checkpoint(chosen.paths.checkpoint, chosen.paths.models_dir)
        engine = loaded.enter_context(load_engine(training, checkpoint, chosen))
        events = (rehearse if options.dry_run else train)(training, engine)
        for event in stoppable(events, lambda: stop.received):
            if processes.is_first:
                show.event(event)
            code = _exit_code(event, code)
    return code


def _exit_code(event: Event, before: int) -> int:
    """After this event: one that was stopped is interrupted."""
    if isinstance(event, Failed):
        return event.exit_code
    return INTERRUPTED if isinstance(event, Learnt) and event.step < event.steps else before
