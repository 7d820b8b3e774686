"""What the model will see of an entry, in pixels: cropped, masked, and cut into excerpts. Nothing is encoded here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidRequest
from ..media.fit import Fitted, resize_and_crop
from ..media.pictures import open_picture
from ..media.video import read_frames
from ..models.table import Checkpoint
from ..preparation import check_offered, fit_pictures, fit_to, refuse_size, video_size
from ..request import Request
from ..sections.kinds import OneFrame
from .dataset import DEFAULT_TARGET, DataSet, Entry
from .excerpts import excerpts, kept_frames
from .sizes import bucket_of

FRAMES_PER_LATENT = 4


@dataclass(frozen=True)
class SingleFrame:
    """A picture that is made of others, or by itself.

    Attributes:
        controls: pixels and masks, all at one size. A picture alone is made of a black one under a black mask: were its
            own seen, by the image encoder too, there would be little left to learn of it.
        answer: uint8 [height, width, 3], what comes of them.
    """

    request: Request
    controls: tuple[Fitted, ...]
    answer: np.ndarray


def single_frame(entry: Entry, data_set: DataSet, checkpoint: Checkpoint) -> SingleFrame:
    """The picture and its control pictures at one size: a bucket of the picture's shape, or the set's resolution, or
    the checkpoint's size that is nearest to the first control picture's shape.

    Raises:
        InvalidRequest: the checkpoint does not make single pictures of others, or not this size; buckets may have any.
        UnusablePicture: naming the file.
    """
    answer, request = open_picture(entry.path), one_frame_request(entry, data_set)
    size = _bucket(data_set, answer)
    if not entry.controls:
        return _alone(request, answer, size or _offered_size(request, answer, checkpoint))
    if size:
        check_offered(request, checkpoint)
        controls = fit_to(request, size)
    else:
        controls = fit_pictures(request, checkpoint)
    height, width = controls[0].pixels.shape[:2]
    return SingleFrame(request, controls, resize_and_crop(answer, height, width))


def _alone(request: Request, answer: np.ndarray, size: tuple[int, int]) -> SingleFrame:
    """A picture that is made of nothing but its caption; ``size``: (height, width)."""
    pixels = resize_and_crop(answer, *size)
    return SingleFrame(request, (Fitted(np.zeros_like(pixels), np.zeros(size, np.uint8)),), pixels)


def _offered_size(request: Request, pixels: np.ndarray, checkpoint: Checkpoint) -> tuple[int, int]:
    """(height, width). Raises InvalidRequest for a resolution that the checkpoint does not make."""
    refuse_size(request, checkpoint)
    return video_size(request.size, checkpoint, pixels.shape[0], pixels.shape[1])


def excerpts_of(entry: Entry, data_set: DataSet, checkpoint: Checkpoint) -> Iterator[np.ndarray]:
    """uint8 [F, height, width, 3] each, cropped, in whole sections and one frame before them.

    Raises:
        InvalidRequest: the video, or an excerpt of it, is too short for a section.
        UnusableInput: it cannot be read.
    """
    frames = read_frames(entry.path)
    frames = frames[kept_frames(len(frames), data_set.source_fps)]
    section = FRAMES_PER_LATENT * data_set.fp_latent_window_size
    found = _excerpts(entry, data_set, len(frames), section + 1)
    height, width = frames.shape[1:3]
    size = _bucket(data_set, frames[0]) or video_size(data_set.size, checkpoint, height, width)
    cropped = np.stack([resize_and_crop(frame, *size) for frame in frames])
    for first, end in found:
        yield cropped[first : first + (end - first - 1) // section * section + 1]


def _excerpts(entry: Entry, data_set: DataSet, count: int, needed: int) -> list[tuple[int, int]]:
    """Those of a video of ``count`` frames, each of no fewer than are ``needed`` for a section."""
    found = excerpts(count, data_set)
    if not found:
        raise InvalidRequest(f"{entry.path}: {count} frames are fewer than target_frames wants")
    shortest = min(end - first for first, end in found)
    if shortest < needed:
        raise InvalidRequest(f"{entry.path}: {shortest} frames are too few for a section, which takes {needed}")
    return found


def _bucket(data_set: DataSet, pixels: np.ndarray) -> tuple[int, int] | None:
    """(height, width); None where the set has no buckets."""
    if not (data_set.enable_bucket and data_set.resolution):
        return None
    height, width = pixels.shape[:2]
    made = bucket_of(width, height, data_set.resolution, data_set.bucket_no_upscale)
    return made[1], made[0]


def one_frame_request(entry: Entry, data_set: DataSet) -> Request:
    """What asks for the same when the LoRA is used; for a picture alone, which a video may look like, as nearly as can
    be said."""
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
    pictures = [{"role": "control", "path": str(path)} for path in entry.controls or (entry.path,)]
    size = None if data_set.enable_bucket else data_set.size
    return Request.parse({**common(entry, data_set), "size": size, "kind": kind, "pictures": pictures})


def common(entry: Entry, data_set: DataSet) -> dict[str, Any]:
    """What a request says, whatever is made."""
    return {"prompt": entry.caption, "latent_window": data_set.fp_latent_window_size}
