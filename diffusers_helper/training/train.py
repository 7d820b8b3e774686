"""A training from its data sets to its file, told as events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..engine import Engine
from ..errors import BrokenNumbers, CancelRequested, InvalidRequest
from ..events import Event, Events, Failed, Learning, Learnt, Notice, Saved, Validated
from ..lora.bases import shapes_in
from ..names import quoted
from .dataset import Config
from .gathering import Gathered, gather
from .loop import Done, Loop
from .network import Network
from .remarks import remarks
from .training import Training
from .validation import LEVELS, Validation

FORGETS = 0.95
"""Of the smoothed loss, how much stays at each step."""


def train(training: Training, engine: Engine) -> Events:
    """Train; the transformer of ``engine`` has adapters from then on, so it serves no video any more.

    ``CancelRequested`` thrown into it ends it after the step, with its files written. Raises FramePackError before the
    first event where it cannot be started; nothing was written then.
    """
    if _has_videos(training.data) and training.kind not in engine.checkpoint.kinds:
        raise InvalidRequest(f"--kind: {quoted(training.kind)} is not made by checkpoint {engine.checkpoint.name}")
    if engine.planner.plan.residency["transformer"] == "swapped":
        raise InvalidRequest("training needs all of the transformer on the GPU, and this one is too small for that yet")
    begun, loop = time.monotonic(), None
    try:
        yield from map(_said, remarks(training))
        gathered = yield from gather(training, engine)
        loop = _begin(training, engine, gathered)
        yield from map(_said, _about(loop.network, gathered))
        yield from _steps(_Run(training, engine, loop, _validation(training, gathered, loop), begun))
        yield _saved(training, engine, loop)
    except CancelRequested:
        if loop is not None:
            _saved(training, engine, loop)
    except BrokenNumbers as error:
        yield Failed.of(error.said, exit_code=error.exit_code, folder=None)
        return
    path, step = (str(training.target), loop.step) if loop else ("", 0)
    yield Learnt(step=step, steps=training.loop.steps, path=path, seconds_total=time.monotonic() - begun)


def _begin(training: Training, engine: Engine, gathered: Gathered) -> Loop:
    transformer = engine.parts.transformer
    if training.checkpointing:
        transformer.enable_gradient_checkpointing()
    transformer.train()
    torch.manual_seed(training.loop.seed)  # peft draws the first weights
    network = Network(transformer, training.network)
    loop = Loop(transformer, network, gathered.learnt, training.loop, torch.device(transformer.device))
    if training.resume:
        loop.load(training.resume)
    return loop


def _validation(training: Training, gathered: Gathered, loop: Loop) -> Validation | None:
    """None where nothing is held out."""
    if not gathered.held_out:
        return None
    return Validation(gathered.held_out, training.loop.guidance, training.loop.seed, loop.device)


def _about(network: Network, gathered: Gathered) -> Iterator[str]:
    count = sum(each.numel() for each in network.parameters().values())
    held_out = f", {len(gathered.held_out)} held out" if gathered.held_out else ""
    yield (
        f"{len(gathered.learnt)} examples{held_out}; {len(network.modules)} modules, "
        f"{count / 1e6:.2f} million numbers to learn"
    )
    if network.left_out:
        yield f"DoRA leaves out what has a row of zeros: {', '.join(network.left_out)}"
    if network.options.args.verbose:
        yield "trained are " + ", ".join(network.modules)


def _said(words: str) -> Notice:
    return Notice(message=words)


def _has_videos(data: Config) -> bool:
    return any(data_set.result == "video" for data_set in data.data_sets)


@dataclass
class _Run:
    """A training under way, and its smoothed loss."""

    training: Training
    engine: Engine
    loop: Loop
    validation: Validation | None
    begun: float
    smooth: float | None = None

    def learning(self, done: Done, first: int) -> Learning:
        """What is told of a step; ``first``: how many were done before this run."""
        self.smooth = done.loss if self.smooth is None else FORGETS * self.smooth + (1 - FORGETS) * done.loss
        steps = self.training.loop.steps
        left = (time.monotonic() - self.begun) / (done.step - first) * (steps - done.step)
        told = {"loss": done.loss, "smooth": self.smooth, "rate": done.rate, "norm": done.norm, "seconds_left": left}
        return Learning(step=done.step, steps=steps, **told)

    def validated(self) -> Iterator[Validated]:
        """What is got wrong of what is held out; nothing where nothing is."""
        if self.validation is None:
            return
        measured = self.validation.measure(self.loop.model)
        yield Validated(
            step=self.loop.step, steps=self.training.loop.steps, loss=self.smooth,
            validation_loss=measured.loss, levels=list(LEVELS), losses=list(measured.losses),
        )  # fmt: skip


def _steps(run: _Run) -> Iterator[Event]:
    training, loop = run.training, run.loop
    first, steps = loop.step, training.loop.steps
    yield from run.validated()
    for done in loop.run():
        yield run.learning(done, first)
        if training.validation.is_due(done.step, steps):
            yield from run.validated()
        if training.save_every and done.step % training.save_every == 0 and done.step < steps:
            yield _saved(training, run.engine, loop, numbered=True)


def _saved(training: Training, engine: Engine, loop: Loop, numbered: bool = False) -> Saved:
    """The LoRA and the state to go on from; one of many has its step in its name."""
    target = training.target
    if numbered:
        target = target.with_name(f"{target.stem}-{loop.step:06}{target.suffix}")
    shapes = shapes_in(engine.checkpoint.folders["transformer"])
    metadata = {**training.metadata(engine.checkpoint.name), "ss_steps": str(loop.step)}
    loop.save(training.state)
    loop.network.save(target, training.form, metadata, shapes)
    return Saved(step=loop.step, path=str(target), state=str(training.state))
