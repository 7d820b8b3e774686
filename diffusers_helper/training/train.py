"""A training from its data sets to its file, told as events."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import torch

from ..engine import Engine
from ..errors import BrokenNumbers, CancelRequested, OutOfMemory, OutputFailed, says_gpu_is_lost
from ..events import Events, Failed, Learning, Learnt, Notice, Validated
from ..lora.bases import shapes_in
from ..lora.shelf import Shelf, shelf_folder
from ..memory.costs import Workload
from ..memory.plan import MemoryPlan
from ..memory.shortage import is_out_of_memory
from ..models.table import Checkpoint
from ..settings import Settings
from ..words import Message, plain
from .gathering import Gathered, gather
from .loop import Done, Loop
from .metadata import Facts, metadata
from .network import Network
from .processes import Processes
from .remarks import remarks
from .sampling import Sampler, check_samples
from .saving import Files
from .trackers import Log
from .training import Training, check_kind
from .validation import LEVELS, Validation
from .workload import expected_workload, workload_of

FORGETS = 0.95
"""Of the smoothed loss, how much stays at each step."""


def load_engine(training: Training, checkpoint: Checkpoint, chosen: Settings) -> Engine:
    """For a training: its weights as a step has room for them, and the LoRA under way where samples find it.

    Raises what ``Engine.load`` does.
    """
    shelf = Shelf(shelf_folder(chosen.paths.models_dir), [training.target])
    return Engine.load(checkpoint, chosen, shelf=shelf, workload=expected_workload(training, checkpoint))


def train(training: Training, engine: Engine) -> Events:
    """Train; meanwhile the transformer of ``engine`` has adapters, and its memory is planned for training.

    ``CancelRequested`` thrown into it ends it after the step, with its files written. Raises FramePackError before the
    first event where it cannot be started; nothing was written then.
    """
    check_kind(training, engine.checkpoint)
    check_samples(training, engine)
    try:
        yield from _train(training, engine)
    except (BrokenNumbers, OutputFailed, OutOfMemory) as error:
        yield Failed.of(error.said, exit_code=error.exit_code, folder=None)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
        yield Failed.of(Message("failure.out_of_memory", reason=reason), exit_code=OutOfMemory.exit_code, folder=None)


def _train(training: Training, engine: Engine) -> Events:
    begun, files, processes, network = time.monotonic(), None, Processes.here(), new_network(training, engine)
    try:
        yield from map(_said, remarks(training))
        with processes.in_order():
            gathered = yield from gather(training, engine)
        training = training.lasting(len(gathered.batches), processes.count)
        yield from map(_said, _about(network, gathered))
        workload = workload_of(training, [*gathered.learnt, *gathered.held_out], network)
        yield Notice(message=str(follow_plan(engine, workload, network).why))
        loop = _begin(training, engine, gathered, network, processes)
        files = _files(training, engine, loop, gathered)
        sampler = Sampler(training, engine, network, files, workload)
        run = _Run(training, loop, _validation(training, gathered, loop), files, sampler, begun)
        with Log(training.logs, metadata(training, files.facts, files.facts.started), files.facts.started) as log:
            yield from log.following(_steps(run))
        yield files.last()
    except CancelRequested:
        if files is not None:
            files.last()
    except Exception as error:
        if files is not None and not says_gpu_is_lost(error):
            with suppress(OutputFailed):
                yield files.apart()
        raise
    finally:
        network.leave()
    path, step = (str(training.target), files.loop.step) if files else ("", 0)
    yield Learnt(step=step, steps=training.loop.steps, path=path, seconds_total=time.monotonic() - begun)


def new_network(training: Training, engine: Engine) -> Network:
    """New beside the transformer's linears; the seed decides its first weights, which peft draws."""
    torch.manual_seed(training.loop.seed)
    return Network(engine.parts.transformer, training.network, engine.compute.device)


def follow_plan(engine: Engine, workload: Workload, network: Network) -> MemoryPlan:
    """Weights and blocks are where the plan has them. Raises OutOfMemory."""
    with network.away():
        return engine.prepare_training(workload)


def _begin(training: Training, engine: Engine, gathered: Gathered, network: Network, processes: Processes) -> Loop:
    transformer = engine.parts.transformer
    transformer.train()
    training.dynamo.compile(transformer)
    origin = {
        "kind": training.kind,
        "validation-split": training.validation.share,
        "checkpoint": engine.checkpoint.fingerprint(("transformer",)),
    }
    together = (gathered.batches, processes, origin)
    loop = Loop(transformer, network, gathered.learnt, training.loop, engine.compute.device, *together)
    if training.resume:
        loop.load(training.resume)
    return loop


def _validation(training: Training, gathered: Gathered, loop: Loop) -> Validation | None:
    """None where nothing is held out."""
    if not gathered.held_out:
        return None
    return Validation(gathered.held_out, training.loop.guidance, training.loop.seed, loop.device)


def _files(training: Training, engine: Engine, loop: Loop, gathered: Gathered) -> Files:
    steps, batches = training.loop.steps, len(gathered.batches)
    facts = Facts(
        checkpoint=engine.checkpoint.name,
        session=secrets.randbits(32),
        started=datetime.now().astimezone(),
        items=len(gathered.learnt),
        batches=batches,
        epochs=math.ceil(steps * training.loop.accumulate * loop.processes.count / batches),
    )
    return Files(training, loop, shapes_in(engine.checkpoint.folders["transformer"]), facts)


def _about(network: Network, gathered: Gathered) -> Iterator[str]:
    held_out = f", {len(gathered.held_out)} held out" if gathered.held_out else ""
    yield (
        f"{len(gathered.learnt)} examples{held_out}; {len(network.modules)} modules, "
        f"{network.numbers / 1e6:.2f} million numbers to learn"
    )
    if network.left_out:
        yield f"DoRA leaves out what has a row of zeros: {', '.join(network.left_out)}"
    if network.options.args.verbose:
        yield "trained are " + ", ".join(network.modules)


def _said(words: str) -> Notice:
    return Notice(message=words)


@dataclass
class _Run:
    """A training under way, and its smoothed loss."""

    training: Training
    loop: Loop
    validation: Validation | None
    files: Files
    sampler: Sampler
    begun: float
    smooth: float | None = None

    def learning(self, done: Done, first: int) -> Learning:
        """What is told of a step; ``first``: how many were done before this run."""
        self.smooth = done.loss if self.smooth is None else FORGETS * self.smooth + (1 - FORGETS) * done.loss
        steps = self.training.loop.steps
        left = (time.monotonic() - self.begun) / (done.step - first) * (steps - done.step)
        told = {"loss": done.loss, "smooth": self.smooth, "rate": done.rate, "norm": done.norm, "seconds_left": left}
        return Learning(step=done.step, steps=steps, seconds=done.seconds, **told)

    def validated(self) -> Iterator[Validated]:
        """What is got wrong of what is held out; nothing where nothing is."""
        if self.validation is None:
            return
        with self.loop.averaged():
            measured = self.validation.measure(self.loop.model)
        if not math.isfinite(measured.loss):
            raise BrokenNumbers(plain(f"step {self.loop.step}: the loss of what is held out is no number any more"))
        yield Validated(
            step=self.loop.step, steps=self.training.loop.steps, loss=self.smooth,
            validation_loss=measured.loss, levels=list(LEVELS), losses=list(measured.losses),
        )  # fmt: skip


def _steps(run: _Run) -> Events:
    first = run.loop.step
    yield from run.validated()
    yield from run.sampler.at_first()
    for done in run.loop.run():
        yield run.learning(done, first)
        if run.training.validation.is_due(done.step, run.training.loop.steps):
            yield from run.validated()
        yield from run.files.after_step()
        yield from run.sampler.after_step()
