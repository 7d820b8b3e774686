"""THE ROAD: a request becomes a video, told as events.

    for event in generate(request, engine, output_dir):
        ...

The iterator does its work between two events. ``throw(CancelRequested())`` into it stops at the next step and yields
the last event; ``close`` stops without one. Whatever ends it, the finished sections stay as a playable video in the
work folder, and ``resume`` goes on from there to the same frames as an unbroken run.

Shapes: latents are [1, C, T, H, W] float32 on the CPU.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from . import faults
from .caches.magcache import mean_of
from .clips import ClipDecoder, Clips
from .conditioning.picture import masked
from .denoise.sample import StepState, sample
from .denoise.schedule import flow_mu, flow_sigmas, token_count
from .errors import (
    BrokenNumbers,
    CancelRequested,
    FramePackError,
    OutputFailed,
    UnusableResumeFolder,
    says_gpu_is_lost,
    unforeseen,
)
from .events import (
    Calibrated,
    Cancelled,
    Decoding,
    Event,
    Events,
    Failed,
    Finished,
    Merging,
    Notice,
    Plan,
    Preview,
    SectionDone,
    Started,
    Step,
)
from .forecast import UNKNOWN, Paces, Work
from .growing_result import growing_result
from .media.fit import Fitted
from .media.video import frames_in
from .memory.plan import MemoryPlan
from .memory.shortage import is_out_of_memory, is_out_of_ram
from .models.table import Checkpoint
from .preparation import bytes_needed, fit_pictures, notices, picture_notices
from .progress import Progress
from .request import Request
from .section_denoiser import Conditioning, SectionDenoiser
from .sections.history import Context, extend, gather_context, initial_history, newest
from .sections.plan import SectionPlan
from .words import Message
from .workfolder import SavedSection, WorkFolder

log = logging.getLogger(__name__)


class GenerationEngine(ClipDecoder, Protocol):
    """What the road asks of an engine; see engine.py."""

    checkpoint: Checkpoint
    fingerprint: str

    def check(self, request: Request) -> None: ...
    def merge(self, request: Request) -> Generator[float, None, None]: ...
    def prepare(self, request: Request, height: int, width: int) -> MemoryPlan: ...
    def encode(self, request: Request, pictures: Sequence[np.ndarray]) -> Conditioning: ...
    def denoiser(
        self, request: Request, conditioning: Conditioning, section: SectionPlan, context: Context, sigmas: Tensor
    ) -> SectionDenoiser: ...
    def preview(self, latents: Tensor) -> np.ndarray: ...
    def notices(self) -> list[Message]: ...
    def peak_memory_mb(self) -> float: ...
    def close(self) -> None: ...


def generate(
    request: Request,
    engine: GenerationEngine,
    output_dir: Path,
    result: Path | None = None,
    latents_result: Path | None = None,
    known: Paces = UNKNOWN,
    pictures: Sequence[Fitted] | None = None,
    keep_ratios: bool = True,
) -> Events:
    """Make the video of ``request``, or its picture.

    Args:
        output_dir: gets a folder per day, with the finished video and its picture, and a work folder meanwhile.
        result: where the finished video goes instead.
        latents_result: a safetensors file for the latents of the whole video.
        known: what earlier videos took on this machine.
        pictures: what ``fit_pictures`` made of the request, where that was asked before.
        keep_ratios: whether a calibration counts by itself.

    Raises:
        FramePackError: the request cannot be started; nothing was written.
    """
    request = request.with_seed()
    engine.check(request)
    pictures = fit_pictures(request, engine.checkpoint) if pictures is None else pictures
    height, width = pictures[0].pixels.shape[:2]
    needed_bytes = bytes_needed(request.plan(), height, width, request.output)
    folder = WorkFolder.create(
        output_dir, request, engine.checkpoint, engine.fingerprint, pictures, needed_bytes, result, latents_result
    )
    return _to_the_end(Run(folder, engine, pictures, saved=[], known=known, keep_ratios=keep_ratios))


def resume(path: Path, engine: GenerationEngine, known: Paces = UNKNOWN) -> Events:
    """Go on with the generation whose work folder is ``path``.

    Raises:
        UnusableResumeFolder: it is foreign, damaged, or of another checkpoint.
        UnusableLora: a LoRA that it was begun with is not there any more, or is another file.
    """
    folder = WorkFolder.reopen(path)
    if folder.manifest.fingerprint != engine.fingerprint:
        raise UnusableResumeFolder(Message("resume.other_weights", folder=str(path), checkpoint=engine.checkpoint.name))
    engine.check(folder.request)
    return _to_the_end(Run(folder, engine, folder.load_pictures(), folder.load_sections(), known))


class Run:
    """One generation under way: what stays the same from section to section."""

    def __init__(
        self,
        folder: WorkFolder,
        engine: GenerationEngine,
        pictures: Sequence[Fitted],
        saved: Sequence[SavedSection],
        known: Paces,
        keep_ratios: bool = True,
    ) -> None:
        self.folder, self.engine, self.pictures, self.saved = folder, engine, pictures, saved
        self.request = folder.request
        self.plan = self.request.plan()
        self.height, self.width = pictures[0].pixels.shape[:2]
        self.result = growing_result(folder, self.plan)
        self.noise = seeded(self.request.seed)
        self.ratios: list[tuple[float, ...]] = []
        self.keep_ratios = keep_ratios
        self.first_to_decode = self.result.first_to_decode(len(saved))
        work = Work.of(self.request, self.height * self.width)
        ratio = engine.checkpoint.steps_per_frame
        self.progress = Progress(work, ratio, known, len(saved), self.first_to_decode)
        self.clips = Clips(engine, self.result, self.progress)
        if frames := frames_in(folder.video):
            self.progress.path, self.progress.frames = folder.video, frames

    def notices(self) -> Iterator[Notice]:
        """What the engine has to say since the last time."""
        return map(Notice.of, self.engine.notices())

    def totals(self) -> dict[str, Any]:
        """What the last event carries."""
        shape = {"fps": self.request.fps, "width": self.width, "height": self.height, "seed": self.request.seed}
        return {**self.progress.totals(), **shape, "peak_memory_mb": round(self.engine.peak_memory_mb(), 1)}


def _to_the_end(run: Run) -> Events:
    """The road, and the one event that ends it whatever happens."""
    folder = str(run.folder.path)
    try:
        with closing(run.clips):
            yield from _run_sections(run)
        yield Finished(**run.totals())
    except CancelRequested:
        yield Cancelled(**run.totals(), folder=folder)
    except FramePackError as error:
        yield Failed.of(error.said, exit_code=error.exit_code, folder=folder, **run.totals())
    except Exception as error:
        log.exception("unexpected error in %s", folder)
        lost = says_gpu_is_lost(error)
        yield Failed.of(_said(error), exit_code=1, folder=folder, gpu_lost=lost, **run.totals())


def _said(error: Exception) -> Message:
    """What is told of an error that nobody has foreseen."""
    if is_out_of_memory(error):
        return Message("failure.out_of_ram" if is_out_of_ram(error) else "failure.out_of_memory", reason=str(error))
    if says_gpu_is_lost(error):
        return Message("failure.gpu_lost", reason=str(error).splitlines()[0])
    return unforeseen(error)


def _run_sections(run: Run) -> Events:
    yield Started(folder=str(run.folder.path), seed=run.request.seed, sections_done=len(run.saved))
    yield from _merged(run)
    memory = run.engine.prepare(run.request, run.height, run.width)
    yield _plan_event(run, memory)
    yield from map(Notice.of, picture_notices(run.request, run.pictures))
    faults.passing("encode")
    conditioning = run.engine.encode(run.request, [picture.pixels for picture in run.pictures])
    told = notices(run.request, run.plan, run.engine.checkpoint, conditioning.tokens_cut)
    yield from map(Notice.of, (*run.folder.notices, *memory.notices, *told))
    yield from run.notices()
    pictures = _picture_latents(run, conditioning)
    history = initial_history(run.plan, pictures)
    for section in run.plan.sections:
        if section.number < len(run.saved):
            latents = _restore(run, section)
        else:
            latents = yield from _sample_section(run, section, conditioning, history, pictures)
            run.folder.save_section(section.number, latents, run.noise)
        history = extend(history, latents, section, run.plan, pictures)
        if section.number >= run.first_to_decode:
            yield from _show_section(run, section, history)
    yield from _shown(run)
    yield from _calibrated(run)
    run.folder.save_latents(history)
    run.progress.path = run.result.finish()


def _merged(run: Run) -> Iterator[Event]:
    """The request's LoRAs in the weights, where they are merged; told for each percent."""
    told = -1
    with closing(run.engine.merge(run.request)) as shares:
        for share in shares:
            if int(100 * share) > told:
                told = int(100 * share)
                yield Merging(share=share)


def _picture_latents(run: Run, conditioning: Conditioning) -> tuple[Tensor, ...]:
    """[1, C, 1, H, W] each, in the request's order, zero where they do not count. What is drawn depends on the seed,
    the role and the place in it."""
    roles = [picture.role for picture in run.request.pictures]
    numbers = [roles[:n].count(role) for n, role in enumerate(roles)]
    purposes = [f"{role} picture" + (f" {n}" if n else "") for role, n in zip(roles, numbers, strict=True)]
    latents = [
        picture.latent.sample(seeded(run.request.seed, purpose))
        for picture, purpose in zip(conditioning.pictures, purposes, strict=True)
    ]
    return tuple(masked(latent, picture.mask) for latent, picture in zip(latents, run.pictures, strict=True))


def _sample_section(
    run: Run, section: SectionPlan, conditioning: Conditioning, history: Tensor, pictures: Sequence[Tensor]
) -> Generator[Event, None, Tensor]:
    """Denoise one section, telling each step; returns its latents."""
    context = gather_context(section.context, history, pictures)
    shape = pictures[0].shape
    noise = torch.randn((*shape[:2], len(section.context.target), *shape[3:]), generator=run.noise)
    sigmas = flow_sigmas(run.request.steps, flow_mu(token_count(*noise.shape[2:])))
    denoiser = run.engine.denoiser(run.request, conditioning, section, context, sigmas[:-1])
    denoiser.begin()
    for state in run.progress.timed(sample(denoiser, noise, sigmas)):
        yield from run.notices()
        _check_finite(state, section)
        run.progress.stepped(denoiser.last_step_computed)
        yield _step_event(run, section, state, denoiser.last_step_computed)
        yield _preview_event(run, section, state)
        if run.clips.ready:
            yield from _shown(run)
    if denoiser.ratios:
        run.ratios.append(denoiser.ratios)
    return state.denoised


def _restore(run: Run, section: SectionPlan) -> Tensor:
    """The latents of a section of an earlier run; the noise goes on where that run had it."""
    saved = run.saved[section.number]
    run.noise.set_state(saved.generator_state)
    return saved.latents


def _show_section(run: Run, section: SectionPlan, history: Tensor) -> Iterator[Event]:
    """Decode what is new and join it to the playable video so far, or begin to: the clip before is shown by then."""
    yield from _shown(run)
    yield Decoding(**_place(run, section), **run.progress.forecast())
    run.clips.begin(section, newest(history, section, run.plan))
    if run.clips.ready:
        yield from _shown(run)


def _shown(run: Run) -> Iterator[Event]:
    """The clip under way, if there is one, once it is in the video."""
    if section := run.clips.finish():
        yield from run.notices()
        path = str(run.progress.path)
        yield SectionDone(**_place(run, section), frames=section.frames_after, path=path, **run.progress.forecast())


def _calibrated(run: Run) -> Iterator[Event]:
    """What a calibration has measured, kept for later videos where that is wished. One that was broken off is none."""
    if not (run.request.step_cache and run.request.step_cache.calibrates):
        return
    if len(run.ratios) < len(run.plan.sections):
        yield Notice.of(Message("step_cache.broken_off"))
        return
    yield from calibrated(run.ratios, run.engine.checkpoint, run.keep_ratios)


def calibrated(sections: Sequence[Sequence[float]], checkpoint: Checkpoint, keep: bool = True) -> Iterator[Event]:
    """What was measured, a number per step for each section. What cannot be kept is told all the same."""
    mean = mean_of(sections)
    if keep:
        try:
            checkpoint.keep_ratios(mean)
        except OutputFailed as error:
            keep = False
            yield Notice.of(Message("step_cache.not_kept", reason=error.said))
    yield Calibrated(checkpoint=checkpoint.name, sections=[list(each) for each in sections], mean=list(mean), kept=keep)


def _place(run: Run, section: SectionPlan) -> dict[str, int]:
    """Where an event is: the section, counted from 1, and how many there are."""
    return {"section": section.number + 1, "sections": len(run.plan.sections)}


def _plan_event(run: Run, memory: MemoryPlan) -> Plan:
    return Plan(
        checkpoint=run.folder.manifest.checkpoint,
        kind=run.request.kind.name,
        sections=len(run.plan.sections),
        steps=run.request.steps,
        frames=run.plan.frames,
        fps=run.request.fps,
        seconds=round(run.plan.frames / run.request.fps, 3),
        width=run.width,
        height=run.height,
        memory=str(memory.why),
        said=memory.why,
        **run.progress.forecast(),
    )


def _step_event(run: Run, section: SectionPlan, state: StepState, computed: bool) -> Step:
    return Step(
        **_place(run, section),
        step=state.step + 1,
        steps=run.request.steps,
        computed=computed,
        **run.progress.forecast(),
    )


def _preview_event(run: Run, section: SectionPlan, state: StepState) -> Preview:
    run.folder.save_preview(run.engine.preview(state.denoised))
    return Preview(section=section.number + 1, step=state.step + 1, path=str(run.folder.preview))


def _check_finite(state: StepState, section: SectionPlan) -> None:
    if not torch.isfinite(state.denoised).all():
        raise BrokenNumbers(Message("failure.broken_numbers", section=section.number + 1, step=state.step + 1))


def seeded(seed: int, purpose: str = "") -> torch.Generator:
    """A CPU generator that the seed decides. The section noise takes the seed itself, as the original does; any other
    purpose takes its own stream, so that it cannot shift the noise."""
    if purpose:
        digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
    return torch.Generator().manual_seed(seed)


def until_finished(
    events: Events, seen: Callable[[Event], None] = lambda event: None
) -> Generator[Event, None, Finished | None]:
    """The events of a generation that is one of several, each handed to ``seen`` first. The one that says that it is
    finished is returned; None where none does."""
    with closing(events):
        for event in events:
            if isinstance(event, Finished):
                return event
            seen(event)
            try:
                yield event
            except CancelRequested as wish:
                yield events.throw(wish)
                return None
    return None
