"""Logs of a training that other programs show: TensorBoard and Weights & Biases, through accelerate's trackers.

Names of values: ``loss/current``, ``loss/average`` (the smoothed one), ``lr``, ``grad_norm``, ``seconds_per_step``,
``loss/validation`` and ``validation/0.1`` ... for each noise level.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from accelerate import PartialState
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from ..errors import InvalidRequest, OutputFailed
from ..events import Event, Events, Learning, Validated
from ..media.files import make_folder


@dataclass(frozen=True)
class LogOptions:
    """Where and how is logged; nothing is by default.

    Attributes:
        folder: each run makes one of its own in it, ``prefix`` and the time; None where only W&B wants none.
        trackers: ``tensorboard``, ``wandb`` or both.
        tracker: what the runs of it are called together; of W&B the project.
        run_name: of W&B, which draws one where there is none.
    """

    folder: Path | None = None
    prefix: str = ""
    trackers: tuple[str, ...] = ()
    tracker: str = "network_train"
    run_name: str | None = None


def check_packages(options: LogOptions) -> None:
    """Raises InvalidRequest where a package is missing, with how it is installed."""
    for name in options.trackers:
        if importlib.util.find_spec(name) is None:
            how = f"install it with: .venv/bin/python -m pip install {name} -c requirements-optional.txt"
            raise InvalidRequest(f"log_with: {name} needs the package {name}, which is not installed; {how}")


class Log:
    """Trackers that are told every event while entered. Raises OutputFailed where they cannot write."""

    def __init__(self, options: LogOptions, config: Mapping[str, str], now: datetime) -> None:
        """``config``: what is logged once, as it is."""
        self._options, self._config = options, dict(config)
        self._folder = options.folder and options.folder / f"{options.prefix}{now:%Y%m%d%H%M%S}"
        self._trackers: list[GeneralTracker] = []

    def __enter__(self) -> Log:
        if self._options.trackers:
            PartialState()  # accelerate asks it which process this is
        with _written(self._folder):
            for tracker in self._made():
                tracker.start()
                self._trackers.append(tracker)
                tracker.store_init_configuration(self._config)
        return self

    def _made(self) -> Iterator[GeneralTracker]:
        options = self._options
        if self._folder and options.trackers:
            make_folder(self._folder)
        if "tensorboard" in options.trackers:
            yield TensorBoardTracker(options.tracker, str(self._folder))
        if "wandb" in options.trackers:
            quiet = {"console": "off", "silent": True}  # stdout is the events'
            yield WandBTracker(options.tracker, name=options.run_name, dir=self._folder, settings=quiet)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._trackers:
            with suppress(OSError):
                tracker.finish()

    def following(self, events: Events) -> Events:
        """The same events, each logged first."""
        with closing(events):
            for event in events:
                self._log(event)
                yield event

    def _log(self, event: Event) -> None:
        if isinstance(event, Learning | Validated):
            with _written(self._folder):
                for tracker in self._trackers:
                    tracker.log(values_of(event), step=event.step)


def values_of(event: Learning | Validated) -> dict[str, float]:
    """What is logged of an event, by the names that the logs show."""
    if isinstance(event, Validated):
        pairs = zip(event.levels, event.losses, strict=True)
        return {"loss/validation": event.validation_loss, **{f"validation/{level:g}": loss for level, loss in pairs}}
    return {
        "loss/current": event.loss,
        "loss/average": event.smooth,
        "lr": event.rate,
        "grad_norm": event.norm,
        "seconds_per_step": event.seconds,
    }


@contextmanager
def _written(folder: Path | None) -> Iterator[None]:
    """An error of the disk as one of ours."""
    try:
        yield
    except OSError as error:
        raise OutputFailed(f"{folder}: the log cannot be written: {error.strerror or error}") from None
