"""A training from its data sets to its file, told as events."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

from ..encoders import keep_nothing
from ..engine import Engine
from ..errors import BrokenNumbers, CancelRequested, InvalidRequest
from ..events import Encoded, Event, Events, Failed, Learning, Learnt, Notice, Saved
from ..lora.bases import shapes_in
from ..memory.plan import MemoryPlan
from ..names import quoted
from .cache import KeptEncodings, encodings_folder
from .dataset import Config, DataSet
from .examples import Example, examples_of
from .loop import Loop
from .network import Network
from .remarks import remarks
from .training import Training
from .workload import workload_of

FORGETS = 0.95
"""Of the smoothed loss, how much stays at each step."""


def train(training: Training, engine: Engine) -> Events:
    """Train; the transformer of ``engine`` has adapters from then on, so it serves no video any more.

    ``CancelRequested`` thrown into it ends it after the step, with its files written. Raises FramePackError before the
    first event where it cannot be started; nothing was written then.
    """
    if _has_videos(training.data) and training.kind not in engine.checkpoint.kinds:
        raise InvalidRequest(f"--kind: {quoted(training.kind)} is not made by checkpoint {engine.checkpoint.name}")
    begun, loop = time.monotonic(), None
    try:
        yield from map(_said, remarks(training))
        examples = yield from _examples(training, engine)
        network = Network(engine.parts.transformer, training.network, engine.compute.device)
        yield from map(_said, _about(network, len(examples)))
        yield Notice(message=str(_follow_plan(training, engine, examples, network).why))
        loop = _begin(training, engine, examples, network)
        yield from _steps(training, engine, loop, begun)
        yield _saved(training, engine, loop)
    except CancelRequested:
        if loop is not None:
            _saved(training, engine, loop)
    except BrokenNumbers as error:
        yield Failed.of(error.said, exit_code=error.exit_code, folder=None)
        return
    path, step = (str(training.target), loop.step) if loop else ("", 0)
    yield Learnt(step=step, steps=training.loop.steps, path=path, seconds_total=time.monotonic() - begun)


def _examples(training: Training, engine: Engine) -> Generator[Event, None, list[Example]]:
    """What is learnt, each as often as its data set says. Raises what ``examples_of`` does, naming the file."""
    found: list[Example] = []
    for data_set in training.data.data_sets:
        kept = _kept_encodings(training, data_set, engine)
        entries = data_set.entries(training.root)
        for number, entry in enumerate(entries, 1):
            found += examples_of(entry, data_set, engine, training.kind) * data_set.num_repeats
            yield Encoded(data_set=data_set.place, done=number, files=len(entries))
        if kept and kept.trouble:
            yield _said(f"{data_set.place}: what was encoded is not kept for another time: {kept.trouble}")
    return found


def _kept_encodings(training: Training, data_set: DataSet, engine: Engine) -> KeptEncodings | None:
    """Where what is encoded of a data set is kept from now on; None for nowhere."""
    usual = encodings_folder(engine.models_dir) if engine.models_dir else None
    folder = training.root / data_set.cache_directory if data_set.cache_directory else usual
    kept = KeptEncodings(folder, engine.checkpoint, engine.compute) if folder else None
    engine.keep_encodings(kept or keep_nothing)
    return kept


def _follow_plan(training: Training, engine: Engine, examples: Sequence[Example], network: Network) -> MemoryPlan:
    """Weights and blocks are where the plan has them. Raises OutOfMemory."""
    with network.away():
        return engine.prepare_training(workload_of(training, examples, network))


def _begin(training: Training, engine: Engine, examples: Sequence[Example], network: Network) -> Loop:
    transformer = engine.parts.transformer
    transformer.train()
    loop = Loop(transformer, network, examples, training.loop, engine.compute.device)
    if training.resume:
        loop.load(training.resume)
    return loop


def _about(network: Network, examples: int) -> Iterator[str]:
    count = sum(each.numel() for each in network.parameters().values())
    yield f"{examples} examples; {len(network.modules)} modules, {count / 1e6:.2f} million numbers to learn"
    if network.left_out:
        yield f"DoRA leaves out what has a row of zeros: {', '.join(network.left_out)}"
    if network.options.args.verbose:
        yield "trained are " + ", ".join(network.modules)


def _said(words: str) -> Notice:
    return Notice(message=words)


def _has_videos(data: Config) -> bool:
    return any(data_set.result == "video" for data_set in data.data_sets)


def _steps(training: Training, engine: Engine, loop: Loop, begun: float) -> Iterator[Event]:
    smooth, first = None, loop.step
    for done in loop.run():
        smooth = done.loss if smooth is None else FORGETS * smooth + (1 - FORGETS) * done.loss
        left = (time.monotonic() - begun) / (done.step - first) * (training.loop.steps - done.step)
        told = {"loss": done.loss, "smooth": smooth, "rate": done.rate, "norm": done.norm, "seconds_left": left}
        yield Learning(step=done.step, steps=training.loop.steps, **told)
        if training.save_every and done.step % training.save_every == 0 and done.step < training.loop.steps:
            yield _saved(training, engine, loop, numbered=True)


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
