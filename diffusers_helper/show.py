"""Events on a terminal: as lines of JSON for programs, or as progress bars for people."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol

from tqdm import tqdm

from .caches.magcache import in_words
from .events import (
    Calibrated,
    Cancelled,
    Decoding,
    Downloaded,
    Downloading,
    Encoded,
    Event,
    Failed,
    Finished,
    Learning,
    Learnt,
    Merging,
    Notice,
    Plan,
    Rehearsed,
    Sampled,
    Sampling,
    Saved,
    SectionDone,
    Started,
    Step,
    Timed,
    Validated,
)
from .forecast import times_faster
from .names import shell_word


class Show(Protocol):
    """Somebody who is told every event."""

    def event(self, event: Event) -> None: ...
    def __enter__(self) -> Show: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class JsonLines:
    """One JSON object per line on stdout, each written out at once."""

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def event(self, event: Event) -> None:
        sys.stdout.write(event.to_json() + "\n")
        sys.stdout.flush()


class ProgressBars:
    """A bar per section with the time left, and plain sentences for the rest."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def event(self, event: Event) -> None:
        match event:
            case Step():
                self._step(event)
            case Decoding():
                self._close()
                _say(f"section {event.section} of {event.sections}: making frames{_time(event)}")
            case SectionDone():
                self._close()
                _say(f"section {event.section} of {event.sections} done: {event.frames} frames so far in {event.path}")
            case Downloading():
                self._bytes(event)
            case Merging():
                self._merging(event)
            case Calibrated():
                self._close()
                _say(_suggested(event))
            case Started() | Plan() | Notice() | Finished() | Failed() | Cancelled() | Downloaded():
                self._close()
                _say(_sentence(event))

    def _step(self, event: Step) -> None:
        if self._bar is None:
            self._bar = tqdm(total=event.steps, desc=f"section {event.section}/{event.sections}", unit="step")
        self._bar.set_postfix_str(f"{'' if event.computed else 'reused'}{_time(event)}".removeprefix(", "))
        self._bar.update(event.step - self._bar.n)
        if event.step == event.steps:
            self._close()

    def _merging(self, event: Merging) -> None:
        if self._bar is None:
            self._bar = tqdm(total=100, desc="merging LoRAs", unit="%", bar_format="{desc}: {percentage:.0f}%|{bar}|")
        self._bar.update(int(100 * event.share) - self._bar.n)

    def _bytes(self, event: Downloading) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=event.bytes_total, initial=event.bytes_done, unit="B", unit_scale=True, desc=event.checkpoint
            )
        self._bar.set_postfix_str(event.file.rpartition("/")[2])
        self._bar.update(event.bytes_done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class TrainingBar(ProgressBars):
    """The same for a training: a bar while files are encoded, and one of the steps, with the loss as it is lately."""

    def event(self, event: Event) -> None:
        match event:
            case Learning():
                self._learning(event)
            case Sampling():
                self._sampling(event)
            case Encoded():
                self._encoded(event)
            case Validated() | Sampled() | Saved() | Rehearsed() | Learnt():
                self._close()
                _say(_of_training(event))
            case _:
                super().event(event)

    def _encoded(self, event: Encoded) -> None:
        if self._bar is None:
            self._bar = tqdm(total=event.files, desc=f"encoding {event.data_set}", unit="file")
        self._bar.update(event.done - self._bar.n)
        if event.done == event.files:
            self._close()

    def _sampling(self, event: Sampling) -> None:
        if self._bar is None or self._bar.unit != "%":
            self._close()
            self._bar = tqdm(total=100, desc=f"sample {event.number} of {event.samples}", unit="%")
        self._bar.update(round(100 * event.done) - self._bar.n)

    def _learning(self, event: Learning) -> None:
        if self._bar is None:
            self._bar = tqdm(total=event.steps, initial=event.step - 1, desc="training", unit="step")
        self._bar.set_postfix_str(f"loss {event.smooth:.4g}, rate {event.rate:.3g}")
        self._bar.update(event.step - self._bar.n)


def _of_training(event: Validated | Sampled | Saved | Rehearsed | Learnt) -> str:
    match event:
        case Validated():
            return _held_out(event)
        case Sampled():
            return f"step {event.step}, sample {event.number} of {event.samples}: {event.path}"
        case Saved():
            return f"step {event.step}: {event.path}"
        case Rehearsed():
            return _rehearsed(event)
        case Learnt():
            how = "done" if event.step == event.steps else f"stopped after {event.step} of {event.steps} steps"
            return f"{how} in {event.seconds_total:.0f} s: {event.path}"


def _sentence(event: Started | Plan | Notice | Finished | Failed | Cancelled | Downloaded) -> str:
    match event:
        case Started():
            done = f", {event.sections_done} sections done before" if event.sections_done else ""
            return f"working in {event.folder} (seed {event.seed}{done})"
        case Plan():
            return (
                f"{event.checkpoint} makes {event.width}x{event.height}, {event.frames} frames, {event.seconds:.1f} s, "
                f"in {event.sections} section{'s'[: event.sections > 1]} of {event.steps} step{'s'[: event.steps > 1]}"
                f"\nmemory: {event.memory}"
            )
        case Notice():
            return f"note: {event.message}"
        case Finished():
            steps = f"{event.steps_computed} steps computed, {event.steps_reused} reused{_faster(event)}"
            return f"done in {event.seconds_total:.0f} s ({steps}): {event.path}"
        case Failed():
            return f"error: {event.error}{_kept(event)}"
        case Cancelled():
            return f"stopped{_kept(event)}"
        case Downloaded():
            return f"{event.checkpoint} is complete in {event.folder}"


def _held_out(event: Validated) -> str:
    """What is got wrong of what is held out, noise level by noise level."""
    pairs = zip(event.levels, event.losses, strict=True)
    at_levels = ", ".join(f"{loss:.4g} at {level:g}" for level, loss in pairs)
    trained = "" if event.loss is None else f", trained {event.loss:.4g}"
    return f"step {event.step}: loss held out {event.validation_loss:.4g}{trained} ({at_levels})"


def _rehearsed(event: Rehearsed) -> str:
    """What would be learnt, and for how long."""
    sizes = ", ".join(f"{count} of {size}" for size, count in event.sizes.items())
    held_out = f", {event.held_out} held out" if event.held_out else ""
    lines = [
        f"data: {', '.join(event.data_sets)}",
        f"examples: {event.examples} ({sizes}){held_out}",
        f"length: {event.steps} steps, {event.epochs:.4g} epochs",
        f"time: about {event.step_seconds:.2g} s a step, {_hours(event.step_seconds * event.steps)} in all",
        f"network: {event.modules} modules, {event.parameters / 1e6:.2f} million numbers to learn",
        f"memory: {event.memory}",
        *(f"caption: {caption or '(empty)'}" for caption in event.captions),
        f"sheet: {event.path}",
    ]
    return "\n".join(lines)


def _hours(seconds: float) -> str:
    """As people say it."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _suggested(event: Calibrated) -> str:
    """The lists, ready to be given to a later video."""
    lists = [f"section {number}:\n{in_words(ratios)}" for number, ratios in enumerate(event.sections, start=1)]
    words = f"mean, which {event.checkpoint} uses from now on with {len(event.mean)} steps" if event.kept else "mean"
    mean = f"{words}:\n{in_words(event.mean)}"
    return "\n".join(["Suggested --magcache_mag_ratios (copy and paste):", *lists, mean])


def _time(event: Timed) -> str:
    """How far the whole video is and when it is ready; nothing as long as that is not known."""
    if event.seconds_left is None or event.fraction is None:
        return ""
    return f", {int(100 * event.fraction)}% of the video, ready in {max(event.seconds_left, 1):.0f} s"


def _faster(event: Finished) -> str:
    faster = times_faster(event)
    return "" if faster is None else f", about {faster:.1f} times faster"


def _kept(event: Failed | Cancelled) -> str:
    kept = f"\nfinished so far: {event.frames} frames in {event.path}" if event.path else ""
    return f"{kept}\ngo on with: bash start.sh generate --resume {shell_word(event.folder)}" if event.folder else kept


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
