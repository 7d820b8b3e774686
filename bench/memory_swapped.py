"""The rows of bench.memory at a cap of GPU memory: steps, skipped steps, sections, and what lies between sections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bench.memory_gauge import REFUSALS, WARM_UP_STEPS, Bench, Row, told
from bench.memory_model import FRAMES_PER_SECTION, block_sizes
from bench.memory_swaps import Swapped, Way, ways
from diffusers_helper.caches.step_cache import BlockPass, Rule
from diffusers_helper.caches.teacache import TeaCache
from diffusers_helper.models.modulation import modulation_linears, tabulate
from diffusers_helper.models.quantise import Quantisation, quantise
from diffusers_helper.models.transformer import FramePackTransformer

STEPS, COMPUTED = 25, 12
MASK = frozenset(round(number * (STEPS - 1) / (COMPUTED - 1)) for number in range(COMPUTED))
"""The steps of a section that are computed: the first, the last, and evenly between."""
BOUNDARIES = 1
CPU = torch.device("cpu")


class Mask(TeaCache):
    """Measures as TeaCache does, and computes certain steps, whatever is measured."""

    def __init__(self, computed_steps: frozenset[int]) -> None:
        super().__init__(Rule([1 - step / STEPS for step in range(STEPS + 1)], 0.5))
        self._computed_steps = computed_steps

    def estimate(self, blocks: BlockPass) -> float:
        self.measure(blocks)
        return float(len(self.computed) in self._computed_steps)


@dataclass
class Pass:
    """A transformer under way at one cap."""

    bench: Bench
    transformer: FramePackTransformer
    swapped: Swapped
    steps: int

    @cached_property
    def full(self) -> Row:
        """A step that computes everything."""
        before = self.swapped.bytes_moved()
        row = self.bench.timed(self.bench.step(self.transformer), steps=self.steps)
        moved = (self.swapped.bytes_moved() - before) // (self.steps + WARM_UP_STEPS)
        held = {"resident_gb": _gb(self.swapped.resident_bytes), "pinned_gb": _gb(self.swapped.pinned_bytes)}
        return {**row, "gb_moved": _gb(moved), **held}


def step(run: Pass) -> Row:
    """A step that computes everything, with the bytes that it brings to the device."""
    return run.full


def skipped(run: Pass) -> Row:
    """A step whose blocks are skipped: its time, and that it moves nothing."""
    one = run.bench.step(run.transformer, step_cache=Mask(frozenset({0})))
    one()
    before = run.swapped.bytes_moved()
    row = run.bench.timed(one)
    share = round(row["seconds"] / run.full["seconds"], 4)
    return {**row, "share_of_a_full_step": share, "bytes_moved": run.swapped.bytes_moved() - before}


def section(run: Pass) -> Row:
    """A whole section with a fixed mask: random weights would make a step cache's own decisions meaningless."""
    one = run.bench.step(run.transformer, step_cache=Mask(MASK))
    before = run.swapped.bytes_moved()
    seconds = run.bench.seconds(lambda: [one() for _ in range(STEPS)])
    moved = _gb(run.swapped.bytes_moved() - before)
    per_frame = round(seconds / FRAMES_PER_SECTION, 5)
    counts = {"steps": STEPS, "computed": len(MASK)}
    return {"seconds": seconds, "seconds_per_frame": per_frame, "gb_moved": moved, **counts, **run.bench.memory()}


def boundary(run: Pass) -> Row:
    """Between two sections the device is left to another model, and entered again."""
    if run.swapped.between_sections is None:
        return {"left_out": "nothing stays on the device"}
    before = run.swapped.bytes_moved()
    row = run.bench.timed(run.swapped.between_sections, warm_up=0, steps=BOUNDARIES)
    moved = (run.swapped.bytes_moved() - before) // BOUNDARIES
    return {**row, "gb_moved": _gb(moved)}


MEASURES: dict[str, Callable[[Pass], Row]] = {
    "swap": step,
    "skipped": skipped,
    "section": section,
    "boundary": boundary,
}
TURNS: tuple[tuple[str, Sequence[str]], ...] = (
    ("official style", tuple(MEASURES)),
    ("ours", tuple(MEASURES)),
    ("official style", ("swap",)),
    ("official style, with the table", ("swap",)),
    ("group offload, blocks", ("swap",)),
    ("group offload, leaves", ("swap",)),
)
"""At each cap, in this order. Of ours all steps are timed, of the others half: the official style has two turns."""


def swapped(bench: Bench, names: Sequence[str], precision: Quantisation | None = None) -> Iterator[tuple[str, Row]]:
    """The measures that are named, at every cap, by every way; (name, row)."""
    transformer = bench.model(home=CPU)
    linears = modulation_linears(transformer)
    tabulate(transformer)
    if precision:
        quantise(transformer, precision)
    for cap in bench.caps:
        turns = Turns(bench, transformer, cap, ways(linears))
        for way, measured in TURNS:
            wanted = [name for name in names if name in measured]
            if wanted:
                yield from turns.take(way, wanted)


class Turns:
    """The ways at one cap, each compared with the first one's velocity."""

    def __init__(
        self, bench: Bench, transformer: FramePackTransformer, cap: int, ways_by_name: Mapping[str, Way]
    ) -> None:
        self._bench, self._transformer, self._cap, self._ways = bench, transformer, cap, ways_by_name
        self._first: Tensor | None = None

    def take(self, way: str, names: list[str]) -> Iterator[tuple[str, Row]]:
        """Measure one way; where it does not fit, or fails, that is its result."""
        label, left, failure = {"row": way, "cap_gb": self._cap}, list(names), Row()
        self._bench.cap(self._cap)
        try:
            for name, row in self._measure(way, names):
                left.remove(name)
                yield name, {**label, **row}
        except REFUSALS as error:
            failure = told(error)
        self._bench.cap(None)
        self._bench.free()
        yield from ((name, {**label, **failure}) for name in left)

    def _measure(self, way: str, names: list[str]) -> Iterator[tuple[str, Row]]:
        held = self._bench.resident_bytes(self._cap, block_sizes(self._transformer))
        steps = self._bench.steps if way == "ours" else (self._bench.steps + 1) // 2
        with self._ways[way](self._transformer, self._bench.device, held) as under_way:
            run = Pass(self._bench, self._transformer, under_way, steps)
            difference = self._difference(self._bench.output(self._transformer))
            for name in names:
                yield name, {**MEASURES[name](run), **({"max_difference": difference} if name == "swap" else {})}

    def _difference(self, velocity: Tensor) -> float:
        """From the first way's."""
        if self._first is None:
            self._first = velocity
        return float((velocity - self._first).abs().max())


def _gb(size: float) -> float:
    return round(size / 1e9, 6)
