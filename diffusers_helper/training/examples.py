"""What a model learns from: sections as the application makes them, each with the latents that it has to come to.

An entry of a data set is a request with its answer. The request's own plan says what the model sees, so what is
trained is what is used later.

Shapes: latents are [1, C, T, H, W] float32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ..conditioning.picture import masked
from ..errors import InvalidRequest
from ..media.fit import resize_and_crop
from ..media.pictures import open_picture
from ..media.video import read_frames
from ..models.table import Checkpoint
from ..preparation import fit_pictures, video_size
from ..request import Request
from ..section_denoiser import Conditioning, section_inputs, text_input
from ..sections.history import Context, extend, gather_context, initial_history
from ..sections.kinds import OneFrame
from ..sections.plan import SectionPlan, VideoPlan
from ..vae.codec import LatentPosterior
from .dataset import DEFAULT_TARGET, DataSet, Entry

FRAMES_PER_LATENT = 4


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
    request = _one_frame_request(entry, data_set)
    fitted = fit_pictures(request, engine.checkpoint)
    height, width = fitted[0].pixels.shape[:2]
    answer = resize_and_crop(open_picture(entry.path), height, width)
    conditioning = engine.encode(request, [picture.pixels for picture in fitted])
    (section,) = request.plan().sections
    pairs = zip(conditioning.pictures, fitted, strict=True)
    pictures = [masked(encoded.latent.mean, picture.mask) for encoded, picture in pairs]
    context = gather_context(section.context, pictures[0][:, :, :0], pictures)
    inputs = partial(_inputs, conditioning, section, context)
    return Example(engine.encode_video(answer[None]).mean, inputs)


def _one_frame_request(entry: Entry, data_set: DataSet) -> Request:
    target = data_set.fp_1f_target_index
    kind = {
        "name": OneFrame.name,
        "target_index": DEFAULT_TARGET if target is None else target,
        "control_index": ";".join(map(str, data_set.indices)),
        "post": not data_set.fp_1f_no_post,
        "history_2x": not data_set.fp_1f_no_2x,
        "history_4x": not data_set.fp_1f_no_4x,
        "embedding": data_set.fp_1f_image_embedding_source,
    }
    pictures = [{"role": "control", "path": str(path)} for path in entry.controls]
    return Request.parse({**_common(entry, data_set), "kind": kind, "pictures": pictures})


def _common(entry: Entry, data_set: DataSet) -> dict[str, Any]:
    return {"prompt": entry.caption, "latent_window": data_set.fp_latent_window_size, "size": data_set.size}


def _of_video(entry: Entry, data_set: DataSet, engine: LearningEncoders, kind: str) -> Iterator[Example]:
    """Its sections, as many as are whole; each sees of the others what it would if they had been made."""
    frames = _frames(entry.path, data_set, engine.checkpoint)
    window = data_set.fp_latent_window_size
    sections = (len(frames) - 1) // (FRAMES_PER_LATENT * window)
    if not sections:
        needed = FRAMES_PER_LATENT * window + 1
        raise InvalidRequest(f"{entry.path}: {len(frames)} frames are too few for a section, which takes {needed}")
    request = Request.parse({**_common(entry, data_set), "size": None, "kind": kind, "picture": str(entry.path)})
    plan = request.kind.plan(_Length(request, sections), request.pictures)
    latents = engine.encode_video(frames[: sections * FRAMES_PER_LATENT * window + 1]).mean
    video = _Video(plan, latents, engine.encode(request, [frames[0]]))
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


def _frames(path: Path, data_set: DataSet, checkpoint: Checkpoint) -> np.ndarray:
    """uint8 [F, height, width, 3] at a size of the checkpoint."""
    frames = read_frames(path)[: data_set.target_frames]
    size = video_size(data_set.size, checkpoint, *frames.shape[1:3])
    return np.stack([resize_and_crop(frame, *size) for frame in frames])


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
