"""What a model learns from: sections as the application makes them, each with the latents that it has to come to.

An entry of a data set is a request with its answer. The request's own plan says what the model sees, so what is
trained is what is used later.

Shapes: latents are [1, C, T, H, W] float32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from torch import Tensor

from ..conditioning.picture import masked
from ..models.table import Checkpoint
from ..request import Request
from ..section_denoiser import Conditioning, section_inputs, text_input
from ..sections.history import Context, extend, gather_context, initial_history
from ..sections.plan import SectionPlan, VideoPlan
from ..vae.codec import LatentPosterior
from .crops import FRAMES_PER_LATENT, common, excerpts_of, single_frame
from .dataset import DataSet, Entry


@dataclass(frozen=True)
class Example:
    """One section and its answer.

    Attributes:
        target: the latents that the section has to come to.
        inputs: gives what diffusers' transformer is given besides, all but noise and its level. It is put together when
            the example is drawn: of many examples RAM holds only what files do not.
    """

    target: Tensor
    inputs: Callable[[], dict[str, Tensor]]


class LearningEncoders(Protocol):
    """What of an engine examples are made with; see engine.py."""

    checkpoint: Checkpoint

    def encode(self, request: Request, pictures: list[np.ndarray]) -> Conditioning: ...
    def encode_video(self, frames: np.ndarray) -> LatentPosterior: ...


def examples_of(entry: Entry, data_set: DataSet, engine: LearningEncoders, kind: str) -> list[Example]:
    """All sections that an entry teaches; ``kind``: as which videos are learnt.

    Raises:
        InvalidRequest: a video is too short for a section.
        UnusablePicture, UnusableInput: a file cannot be read.
    """
    if data_set.result == "video":
        return list(_of_video(entry, data_set, engine, kind))
    return [_of_picture(entry, data_set, engine)]


def _of_picture(entry: Entry, data_set: DataSet, engine: LearningEncoders) -> Example:
    """A single frame, made of the entry's control pictures."""
    seen = single_frame(entry, data_set, engine.checkpoint)
    conditioning = engine.encode(seen.request, [picture.pixels for picture in seen.controls])
    (section,) = seen.request.plan().sections
    pairs = zip(conditioning.pictures, seen.controls, strict=True)
    pictures = [masked(encoded.latent.mean, picture.mask) for encoded, picture in pairs]
    context = gather_context(section.context, pictures[0][:, :, :0], pictures)
    inputs = partial(_inputs, conditioning, section, context)
    return Example(engine.encode_video(seen.answer[None]).mean, inputs)


def _of_video(entry: Entry, data_set: DataSet, engine: LearningEncoders, kind: str) -> Iterator[Example]:
    """The sections of its excerpts; each sees of the others what it would if they had been made."""
    request = Request.parse({**common(entry, data_set), "kind": kind, "picture": str(entry.path)})
    for frames in excerpts_of(entry, data_set, engine.checkpoint):
        sections = (len(frames) - 1) // (FRAMES_PER_LATENT * data_set.fp_latent_window_size)
        plan = request.kind.plan(_Length(request, sections), request.pictures)
        video = _Video(plan, engine.encode_video(frames).mean, engine.encode(request, [frames[0]]))
        for section in plan.sections:
            yield Example(video.target(section), partial(video.inputs, section))


@dataclass(frozen=True)
class _Video:
    """A video that is there, in sections.

    Attributes:
        latents: [1, C, 1 + T of all sections, H, W]; the first frame is the start picture.
    """

    plan: VideoPlan
    latents: Tensor
    conditioning: Conditioning

    def target(self, section: SectionPlan) -> Tensor:
        """What the section has to come to."""
        frames = (self.latents.shape[2] - 1) // len(self.plan.sections)
        place = len(self.plan.sections) - 1 - section.number if self.plan.grows_at_front else section.number
        return self.latents[:, :, 1 + place * frames : 1 + (place + 1) * frames]

    def inputs(self, section: SectionPlan) -> dict[str, Tensor]:
        """What the section is given if those before it have come to what they had to."""
        pictures = [self.latents[:, :, :1]]
        history = initial_history(self.plan, pictures)
        for before in self.plan.sections[: self.plan.sections.index(section)]:
            history = extend(history, self.target(before), before, self.plan, pictures)
        return _inputs(self.conditioning, section, gather_context(section.context, history, pictures))


class _Length:
    """A request for just so many sections, however short."""

    def __init__(self, request: Request, sections: int) -> None:
        self.latent_window, self.fps, self.prompts = request.latent_window, request.fps, request.prompts
        self.seconds = sections * FRAMES_PER_LATENT * request.latent_window / request.fps
        self.decoding = request.decoding


def _inputs(conditioning: Conditioning, section: SectionPlan, context: Context) -> dict[str, Tensor]:
    """All that is there of a section's inputs, and its text. What is absent has no tokens."""
    text = text_input(conditioning.prompts[0])
    of_text = {
        "encoder_hidden_states": text.tokens,
        "encoder_attention_mask": text.mask,
        "pooled_projections": text.pooled,
    }
    of_section = section_inputs(conditioning.pictures, section, context)
    return {**of_text, **{name: tensor for name, tensor in of_section.items() if tensor is not None}}
