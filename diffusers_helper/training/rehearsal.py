"""A training told before it is begun: what is learnt, how long it takes, and a sheet of what the model will see."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

import numpy as np

from ..engine import Engine
from ..errors import CancelRequested
from ..events import Events, Notice, Rehearsed
from ..media.fit import Fitted
from ..media.grid import labelled_grid
from ..media.metadata import write_png
from ..models.table import Checkpoint
from .batches import Batches
from .crops import FRAMES_PER_LATENT, excerpts_of, single_frame
from .examples import examples_of
from .gathering import Listed, listed, nothing_left, or_left_out
from .loop import Loop
from .network import Network
from .remarks import remarks
from .train import follow_plan, new_network
from .training import Training, check_kind
from .workload import workload_of

MOST_ROWS = 24
"""Files on the sheet."""
FRAMES_SHOWN = 5
"""Of an excerpt."""
CAPTIONS_TOLD = 3
EMPTY = np.full((16, 16, 3), 16, np.uint8)
Cell = tuple[str, np.ndarray]


@dataclass
class Looked:
    """What was found so far.

    Attributes:
        groups: of each example that is learnt the place of its data set, and its size in words.
        sizes: of each group how many are a batch.
        first: of each group the first file.
        held_out: how many examples are.
        rows: of the sheet, one for each picture and each excerpt of a video.
    """

    groups: list[tuple[int, str]] = field(default_factory=list)
    sizes: dict[tuple[int, str], int] = field(default_factory=dict)
    first: dict[tuple[int, str], Listed] = field(default_factory=dict)
    held_out: int = 0
    captions: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)

    def take(self, file: Listed, seen: list[Seen]) -> None:
        """What the model will see of one file."""
        self.captions = [*self.captions, file.entry.caption][:CAPTIONS_TOLD]
        self.rows = [*self.rows, *(each.cells for each in seen)][:MOST_ROWS]
        examples = [each.size for each in seen for _ in range(each.examples)]
        if file.held_out:
            self.held_out += len(examples)
            return
        for size in examples * file.data_set.num_repeats:
            self.sizes.setdefault((file.place, size), file.data_set.batch_size)
            self.first.setdefault((file.place, size), file)
            self.groups.append((file.place, size))

    def batches(self) -> Batches:
        """Of what is learnt."""
        numbers = {group: number for number, group in enumerate(self.sizes)}
        return Batches(tuple(numbers[group] for group in self.groups), tuple(self.sizes.values()))


@dataclass(frozen=True)
class Seen:
    """A picture or an excerpt: how many examples it is, of which size, and what of it is on the sheet."""

    examples: int
    size: str
    cells: list[Cell]


def rehearse(training: Training, engine: Engine) -> Events:
    """Look at every file as a training would, and try a step; the sheet is written beside where the LoRA would go.

    ``CancelRequested`` thrown into it ends it. Raises what a training raises before its second step.
    """
    check_kind(training, engine.checkpoint)
    network = new_network(training, engine)
    try:
        yield from (Notice(message=words) for words in remarks(training))
        looked = Looked()
        for file in chain.from_iterable(listed(training)):
            seen = yield from or_left_out(training, partial(_seen, file, engine.checkpoint))
            if seen:
                looked.take(file, seen)
        if not looked.groups:
            raise nothing_left()
        memory = str(engine.planner.plan.why)
        yield _told(training, network, looked, memory, _step_seconds(training, engine, network, looked))
    except CancelRequested:
        yield Notice(message="stopped; nothing was written")
    finally:
        network.leave()


def _step_seconds(training: Training, engine: Engine, network: Network, looked: Looked) -> float:
    """The time of a step of the size that most examples have: that of the second, as the first one warms up.

    What is learnt in them is lost with the network.
    """
    (most, _), *_ = Counter(looked.groups).most_common(1)
    file, batch = looked.first[most], looked.sizes[most]
    examples = examples_of(file.entry, file.data_set, engine, training.kind)[:1]
    follow_plan(engine, workload_of(training, examples, network), network)
    options = replace(training.loop, steps=2, accumulate=1)
    engine.parts.transformer.train()
    *_, last = Loop(engine.parts.transformer, network, examples, options, engine.compute.device).run()
    return last.seconds * batch * training.loop.accumulate


def _told(training: Training, network: Network, looked: Looked, memory: str, step_seconds: float) -> Rehearsed:
    batches = looked.batches()
    loop = training.lasting(len(batches)).loop
    sheet = training.target.with_name(f"{training.target.stem}.sheet.png")
    write_png(sheet, _sheet(looked.rows), {})
    return Rehearsed(
        data_sets=[data_set.place for data_set in training.data.data_sets],
        examples=len(looked.groups),
        held_out=looked.held_out,
        sizes=dict(Counter(size for _, size in looked.groups)),
        steps=loop.steps,
        epochs=loop.steps * loop.accumulate / len(batches),
        step_seconds=step_seconds,
        modules=len(network.modules),
        parameters=network.numbers,
        memory=memory,
        captions=looked.captions,
        path=str(sheet),
    )


def _seen(file: Listed, checkpoint: Checkpoint) -> list[Seen]:
    """What the model will see of a file."""
    entry, data_set = file.entry, file.data_set
    if data_set.result == "video":
        section = FRAMES_PER_LATENT * data_set.fp_latent_window_size
        excerpts = excerpts_of(entry, data_set, checkpoint)
        return [_of_frames(frames, entry.path.name, (len(frames) - 1) // section) for frames in excerpts]
    frame = single_frame(entry, data_set, checkpoint)
    controls = [cell for number, each in enumerate(frame.controls, 1) for cell in _of_control(each, number)]
    return [Seen(1, _size(frame.answer), [(entry.path.name, frame.answer), *controls])]


def _of_control(control: Fitted, number: int) -> list[Cell]:
    """The picture, and what counts of it, white."""
    shown: list[Cell] = [(f"control {number}", control.pixels)]
    if control.mask is None:
        return shown
    return [*shown, (f"mask {number}", np.repeat(control.mask[:, :, None], 3, axis=2))]


def _of_frames(frames: np.ndarray, name: str, sections: int) -> Seen:
    """Some frames of an excerpt, from its first to its last."""
    numbers = [number * (len(frames) - 1) // (FRAMES_SHOWN - 1) for number in range(FRAMES_SHOWN)]
    cells = [(f"{name} {number}" if not number else f"frame {number}", frames[number]) for number in numbers]
    return Seen(sections, _size(frames[0]), cells)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _sheet(rows: list[list[Cell]]) -> np.ndarray:
    """uint8 [H, W, 3]: a line for each row, those that are shorter with nothing behind."""
    columns = max(map(len, rows))
    cells = [cell for row in rows for cell in [*row, *[("", EMPTY)] * (columns - len(row))]]
    return labelled_grid([pixels for _, pixels in cells], [label for label, _ in cells], columns)
