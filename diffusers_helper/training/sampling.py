"""Samples while training: the program's own road, with the file that was just written, and then training goes on."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..engine import Engine
from ..errors import FramePackError, InvalidRequest
from ..events import Events, Failed, Finished, Notice, Sampled, Sampling, Step
from ..generate import generate
from ..media.files import make_folder, sha256_of
from ..memory.costs import Workload
from ..names import quoted
from ..preparation import fit_pictures
from ..request import Request
from ..request.parts import Lora
from .network import Network
from .saving import Files
from .training import Training


def check_samples(training: Training, engine: Engine) -> None:
    """Raises InvalidRequest or UnusablePicture for a sample that the checkpoint cannot make."""
    for number, request in enumerate(training.sampling.samples.requests, 1):
        if request.kind.name not in engine.checkpoint.kinds:
            told = f"{quoted(request.kind.name)} is not made by checkpoint {engine.checkpoint.name}"
            raise InvalidRequest(f"sample_prompts: sample {number}: {told}")
        fit_pictures(request, engine.checkpoint)


@dataclass(frozen=True)
class Sampler:
    """Makes the samples of a training under way.

    Attributes:
        workload: of its steps, for which memory is planned anew afterwards.
    """

    training: Training
    engine: Engine
    network: Network
    files: Files
    workload: Workload

    def at_first(self) -> Events:
        """Before the first step of a training that is not gone on with."""
        if self.training.sampling.at_first and self.files.loop.step == 0:
            yield from self._make()

    def after_step(self) -> Events:
        """After every so many steps and epochs."""
        loop, asked = self.files.loop, self.training.sampling
        if (asked.every_steps and loop.step % asked.every_steps == 0) or loop.ends_epochs(asked.every_epochs):
            yield from self._make()

    def _make(self) -> Events:
        """All of them, in the first process. One that fails is told, and training goes on."""
        requests = self.training.sampling.samples.requests
        if not requests or not self.files.loop.processes.is_first:
            return
        yield self.files.last()
        with self.network.away(), self.files.loop.in_ram():
            for number, request in enumerate(requests, 1):
                yield from self._sample(number, request)
            self.engine.prepare_training(self.workload)

    def _sample(self, number: int, request: Request) -> Events:
        loop, target = self.files.loop, self.training.target
        folder = make_folder(target.with_name(f"{target.stem}_samples"))
        result = folder / f"{target.stem}-{loop.step:06}-{number}{request.output.suffix}"
        told = {"step": loop.step, "number": number, "samples": len(self.training.sampling.samples.requests)}
        try:
            with tempfile.TemporaryDirectory(dir=folder) as work:
                events = generate(self._with_lora(request), self.engine, Path(work), result=result)
                with closing(events):
                    for event in events:
                        if isinstance(event, Step):
                            yield Sampling(**told, done=_share(event))
                        elif isinstance(event, Failed):
                            yield Notice(message=f"sample {number}: {event.error}")
                        elif isinstance(event, Finished):
                            yield Sampled(**told, path=str(result))
        except FramePackError as error:
            yield Notice(message=f"sample {number}: {error}")

    def _with_lora(self, request: Request) -> Request:
        """The file beside the weights, which merging would change for training."""
        target = self.training.target
        lora = Lora(name=target.name, sha256=sha256_of(target))
        return request.model_copy(update={"loras": (*request.loras, lora), "lora_mode": "beside"})


def _share(event: Step) -> float:
    """Of a sample, how many of its steps are done."""
    return (event.section - 1 + event.step / event.steps) / event.sections
