"""The first step of the road: a request held against a checkpoint, before any model runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InvalidRequest, Problem
from .media.fit import Fitted, choose_bucket, resize_and_crop
from .media.pictures import Opened, open_mask, open_with_alpha
from .models.table import Checkpoint
from .request import Picture, Recipe, Request
from .request.output import Gif, Mp4, Output, Video
from .sections.plan import VideoPlan
from .settings import Sampling
from .words import Message

TRAINED_WINDOW = 9
USUAL_ROPE_FACTOR = 2
BYTES_PER_LATENT_VALUE = 4
LATENT_VALUES_PER_PIXEL = 16 / 64
BYTES_PER_VIDEO_PIXEL = 0.5
BYTES_PER_LOSSLESS_PIXEL = 3
SPARE_BYTES = 32 * 2**20
SAME_SHAPE = 0.02
"""By how much of it the shape of a mask may differ from its picture's: sides are whole pixels."""


def defaults(checkpoint: Checkpoint | None, sampling: Sampling | None = None) -> dict[str, Any]:
    """The fields that have another default than the request's own.

    The checkpoint, where there is one, decides its best kind, and its length where it names one.

    Args:
        sampling: what the settings name.
    """
    named = {"step_cache": sampling.default_step_cache, "decoding": sampling.default_decoding} if sampling else {}
    of_settings = {name: value for name, value in named.items() if value}
    if checkpoint is None:
        return of_settings
    seconds = checkpoint.about.default_seconds
    return {"kind": checkpoint.kinds[0], **({} if seconds is None else {"seconds": seconds}), **of_settings}


def beyond_seconds(plan: VideoPlan, fps: int, checkpoint: Checkpoint) -> float | None:
    """The length above which the checkpoint's videos are known to be worse, where the plan is longer; else None."""
    limit = checkpoint.about.good_up_to_seconds
    return limit if limit is not None and round(plan.frames / fps, 1) > limit else None


def fit_pictures(request: Request, checkpoint: Checkpoint) -> tuple[Fitted, ...]:
    """The pictures in their order, all cropped to one size of the checkpoint, and their masks as they are.

    Raises:
        InvalidRequest: the checkpoint does not make this kind or size, or nothing does what is asked for; or a mask has
            not its picture's shape.
        UnusablePicture: see ``open_picture``.
    """
    check_offered(request, checkpoint)
    opened = _opened(request)
    height, width = opened[request.shown_picture].pixels.shape[:2]
    size = video_size(request.size, checkpoint, height, width)
    return tuple(_fitted(picture, opened[picture.path], size) for picture in request.pictures)


def fit_to(request: Request, size: tuple[int, int]) -> tuple[Fitted, ...]:
    """The same at (height, width), whether or not a checkpoint makes that. Raises UnusablePicture."""
    opened = _opened(request)
    return tuple(_fitted(picture, opened[picture.path], size) for picture in request.pictures)


def _opened(request: Request) -> dict[str, Opened]:
    """Each file once, by its path."""
    return {path: open_with_alpha(Path(path)) for path in dict.fromkeys(each.path for each in request.pictures)}


def _fitted(picture: Picture, opened: Opened, size: tuple[int, int]) -> Fitted:
    mask = _mask(picture, opened)
    pixels, shape = resize_and_crop(opened.pixels, *size), opened.pixels.shape[:2]
    return Fitted(pixels, None if mask is None else resize_and_crop(mask, *size), (shape[0], shape[1]))


def _mask(picture: Picture, opened: Opened) -> np.ndarray | None:
    """What counts of a control picture: its mask says it, else where it is not transparent."""
    if picture.role != "control":
        return None
    if picture.mask is None:
        return opened.alpha
    mask, (height, width) = open_mask(Path(picture.mask)), opened.pixels.shape[:2]
    refuse_mask_shape(Path(picture.mask), (mask.shape[0], mask.shape[1]), (height, width))
    return mask


def refuse_mask_shape(mask: Path, shape: tuple[int, int], of: tuple[int, int]) -> None:
    """Raises InvalidRequest where a mask's (height, width) has not the shape of its picture's, ``of``."""
    if abs(shape[0] * of[1] / (shape[1] * of[0]) - 1) > SAME_SHAPE:
        sizes = {"mask": f"{shape[1]}x{shape[0]}", "picture": f"{of[1]}x{of[0]}"}
        reason = Message("one_frame.mask_shape", name=mask.name, **sizes)
        raise InvalidRequest(f"pictures: {reason}", [Problem("pictures", "said", str(mask), {"reason": reason})])


def picture_notices(request: Request, pictures: Sequence[Fitted]) -> Iterator[Message]:
    """What may surprise about the pictures, before they are encoded."""
    height, width = pictures[0].pixels.shape[:2]
    if len({picture.shape for picture in pictures}) > 1:
        yield Message("one_frame.brought_to_size", width=width, height=height)
    controls = [n for n, picture in enumerate(request.pictures) if picture.role == "control"]
    for number, n in enumerate(controls):
        mask = pictures[n].mask
        if mask is not None and not mask.any():
            yield Message("one_frame.mask_black", number=number + 1)
        elif mask is not None and request.pictures[n].mask is None:
            yield Message("one_frame.mask_of_alpha", number=number + 1)


def video_size(size: str | None, checkpoint: Checkpoint, height: int, width: int) -> tuple[int, int]:
    """(height, width) of the video that ``checkpoint`` makes of a picture: the size asked for, else the nearest shape.

    Raises ValueError for a text that is no size.
    """
    return size_of(size) if size else choose_bucket(height, width, checkpoint.buckets)


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of "WIDTHxHEIGHT". Raises ValueError."""
    width, height = map(int, text.split("x"))
    return height, width


def makes_size(size: str | None, rope_factor: float, checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint makes a request's size under its RoPE scaling."""
    return size is None or checkpoint.makes(*size_of(size), rope_factor)


def check_offered(request: Request, checkpoint: Checkpoint) -> None:
    """Raises InvalidRequest when the checkpoint does not make the request's kind or size, or what it asks for is not
    built."""
    _refuse_unbuilt(request)
    kind = request.kind.name
    if kind not in checkpoint.kinds:
        makes = " or ".join(checkpoint.kinds)
        problem = Problem("kind", "choice", kind, {"choices": tuple(checkpoint.kinds)})
        why = f": {request.kind.asks}" if request.kind.asks else ""
        message = f"kind: {kind!r} is not made by checkpoint {checkpoint.name}; give {makes}{why}"
        raise InvalidRequest(message, [problem])
    _refuse_without_ratios(request, checkpoint)
    refuse_size(request, checkpoint)


def refuse_size(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Raises InvalidRequest when the checkpoint does not make the size that is asked for."""
    if makes_size(recipe.size, recipe.rope_scaling_factor, checkpoint):
        return
    sizes = tuple(f"{width}x{height}" for height, width in checkpoint.buckets)
    problem = Problem("size", "choice", recipe.size, {"choices": sizes})
    message = (
        f"size: {recipe.size!r} is not made by {checkpoint.name}; give one of {', '.join(sizes)}, "
        "or with rope_scaling_factor above 1 also sides up to that many times as long, in steps of 16"
    )
    raise InvalidRequest(message, [problem])


def _refuse_without_ratios(request: Request, checkpoint: Checkpoint) -> None:
    """A step cache that needs to know more of the checkpoint than is known."""
    option = request.step_cache
    if option and (lack := option.lacks(checkpoint.measured())):
        raise InvalidRequest(f"step_cache: {lack}", [Problem("step_cache", "said", option.name, {"reason": lack})])


def _refuse_unbuilt(request: Request) -> None:
    """What a request has a place for, and no part of this version carries out, is refused rather than left out."""
    unbuilt = {
        "video": "this version goes on from no video; leave it out" if request.video else "",
        "pictures": "" if request.pictures else "this version makes nothing without a picture; give one",
    }
    for field, reason in unbuilt.items():
        if reason:
            raise InvalidRequest(f"{field}: {reason}", [Problem(field, "other")])


def bytes_needed(plan: VideoPlan, height: int, width: int, output: Output) -> int:
    """A generous estimate of what a run writes: latents, segments and the joined video; and where the file is written
    of masters, these and the file, each with no pixel compressed."""
    latents = plan.sections[-1].latents_after * height * width * LATENT_VALUES_PER_PIXEL * BYTES_PER_LATENT_VALUE
    pixels = plan.frames * height * width
    videos = 3 * pixels * BYTES_PER_VIDEO_PIXEL
    masters = 2 * pixels * BYTES_PER_LOSSLESS_PIXEL if isinstance(output, Video) and not output.is_joined else 0
    return int(latents + videos + masters) + SPARE_BYTES


def notices(request: Request, plan: VideoPlan, checkpoint: Checkpoint, prompt_tokens_cut: int) -> Iterator[Message]:
    """What in the request has no effect, or one that may surprise."""
    limit = beyond_seconds(plan, request.fps, checkpoint)
    if limit is not None:
        yield Message("notice.beyond_seconds", checkpoint=checkpoint.name, seconds=f"{limit:g}")
    if request.real_cfg == 1 and (request.negative_prompt or request.cfg_rescale):
        yield Message("notice.without_real_cfg")
    if prompt_tokens_cut:
        yield Message("notice.prompt_cut", tokens=prompt_tokens_cut)
    if request.rope_scaling_factor > USUAL_ROPE_FACTOR:
        yield Message("notice.rope_scaling", usual=USUAL_ROPE_FACTOR, chosen=request.rope_scaling_factor)
    if len(plan.sections) == 1 and (changing := next((lora.name for lora in request.loras if lora.changes), None)):
        yield Message("lora.one_section", name=changing)
    if request.latent_window != TRAINED_WINDOW:
        yield Message("notice.latent_window", trained=TRAINED_WINDOW, chosen=request.latent_window)
    if request.step_cache:
        yield from request.step_cache.remarks(checkpoint.measured(), request.steps)
    yield from _about_file(request.output)


def _about_file(output: Output) -> Iterator[Message]:
    """What may surprise who plays the file."""
    if isinstance(output, Mp4) and output.pixels != "8bit":
        yield Message("notice.mp4_pixels", pixels=output.pixels)
    elif output == Mp4(crf=0):
        yield Message("notice.lossless")
    if isinstance(output, Gif):
        yield Message("notice.gif")
