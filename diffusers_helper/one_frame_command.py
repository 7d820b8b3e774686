"""The command ``one-frame``: a picture of some moments later, by one picture or by several in their order.

Where each picture stands in time is said by a mode, and by the words of ``--one-frame`` over it, which are musubi's.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from . import lora_flag
from .errors import InvalidRequest
from .names import quoted
from .recipe_flags import add_field, given_fields
from .request import Recipe, Request
from .request.fields import PICTURE, fields
from .request.sweep import WINDOW, Axis, read_axis, requests_of, rope_batch
from .sections.kinds import OneFrame
from .sections.modes import MODES, Mode
from .settings import Settings, given_path

SWITCHES = {"no_post": "post", "no_2x": "history_2x", "no_4x": "history_4x"}
NUMBERS = ("target_index", "control_index", "history_index", "latent_index", "latent_window_size")
NOTHING = "default"
NO_FLAGS = ("kind", "seconds", "output", "decoding", "quality_mode", lora_flag.FIELD)
"""Of a recipe, what one picture has no use for, or what other flags say."""
EMBEDDING = "one_frame_embedding"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes. Underscores do in the place of hyphens."""
    wishes = parser.add_argument_group("the picture")
    _add_pictures(wishes)
    words = f"where the pictures stand in time: {', '.join(MODES)} (default one_frame)"
    wishes.add_argument("--mode", choices=MODES, default="one_frame", help=words)
    words = (
        "words with commas between that change the mode: target_index=N, control_index=N;N..., no_post, no_2x, no_4x"
    )
    wishes.add_argument("--one-frame", "--one-frame-inference", metavar="WORDS", default="", help=words)
    add_field(wishes, fields(Recipe)[EMBEDDING])
    for field in fields(Recipe).values():
        if field.name not in NO_FLAGS and field.decided_by not in NO_FLAGS:
            add_field(wishes, field)
    lora_flag.add_flag(wishes)
    _add_sweep(parser.add_argument_group("several pictures"))
    parser.add_argument("--out", help="where the picture goes, a .png file; by default into the output folder")
    parser.add_argument("--save-latents", metavar="FILE.safetensors", help="keep the latents of the picture")
    parser.add_argument("--json", action="store_true", help="print every event as a line of JSON")
    parser.set_defaults(asked=asked, resume=None, request=None, axes=(), cells=(), **{PICTURE: None})


def _add_pictures(wishes: argparse._ArgumentGroup) -> None:
    words = "path of a picture, repeatable, or several with commas between; the first is what is changed"
    wishes.add_argument("--image", "--image-path", dest="images", action="append", metavar="FILE[,FILE...]", help=words)
    words = "the pictures that stand in time, where --image is one that only the image encoder sees"
    names = ("--control-image", "--control-image-path")
    wishes.add_argument(*names, dest="controls", action="append", metavar="FILE[,FILE...]", help=words)
    words = "masks of the pictures in their order, white for what is used; none leaves a picture without one"
    names = ("--control-mask", "--control-image-mask-path")
    wishes.add_argument(*names, dest="masks", action="append", metavar="FILE[,FILE...]", help=words)


def _add_sweep(wishes: argparse._ArgumentGroup) -> None:
    words = (
        "a picture for each value: target_index=1..16, seed=1,2,3, lora_weight=0..1..0.25; twice for rows and columns"
    )
    wishes.add_argument("--sweep", action="append", default=[], metavar="NAME=VALUES", help=words)
    words = "so many pictures, each with a latent window one larger than the one before"
    wishes.add_argument("--rope-batch", type=int, metavar="N", help=words)


def asked(options: argparse.Namespace, chosen: Settings) -> Request:
    """The request; of a sweep the first one, and in ``axes`` and ``cells`` what it goes through, and every request.

    Raises InvalidRequest.
    """
    options.axes, options.cells = swept(options, chosen)
    if options.axes and options.save_latents:
        raise InvalidRequest("--save-latents keeps the latents of one picture; leave it out, or --sweep")
    first: Request = options.cells[0]
    return first


def swept(options: argparse.Namespace, chosen: Settings) -> tuple[list[Axis], list[Request]]:
    """What is gone through, and every request; without a sweep the one. Raises InvalidRequest."""
    from .preparation import defaults

    flat = _flat(options)
    axes, by_default = [read_axis(text) for text in options.sweep], defaults(None, chosen.sampling)
    request = Request.parse(flat, by_default)
    if options.rope_batch is not None:
        if options.rope_batch < 1:
            raise InvalidRequest(f"--rope-batch: {options.rope_batch} is not allowed; give a whole number from 1 on")
        axes.append(rope_batch(options.rope_batch, request.latent_window))
    return axes, requests_of(request, flat, axes, by_default)


def _flat(options: argparse.Namespace) -> dict[str, Any]:
    """The flat values that the flags say."""
    pictures = [part for text in options.images or () for part in _paths(text, "--image")]
    controls = [part for text in options.controls or () for part in _paths(text, "--control-image")] or pictures
    starts = pictures if options.controls else []
    mode, strict = laid_out(options.one_frame, MODES[options.mode])
    mode = _for_pictures(mode, len(controls), options.mode, strict)
    given = given_fields(options)
    window = (
        {}
        if WINDOW in given and mode.latent_window == MODES[options.mode].latent_window
        else {WINDOW: mode.latent_window}
    )
    inputs = [{"role": "start", "path": path} for path in starts] + _controls(controls, _masks(options))
    return {**mode.flat(), **given, **window, "kind": OneFrame.name, "pictures": inputs}


def _controls(paths: list[str], masks: list[str | None]) -> list[dict[str, Any]]:
    if len(masks) > len(paths):
        raise InvalidRequest(f"--control-mask: {len(masks)} masks are given for {len(paths)} pictures")
    pairs = zip_longest(paths, masks)
    return [{"role": "control", "path": path, **({"mask": mask} if mask else {})} for path, mask in pairs]


def _masks(options: argparse.Namespace) -> list[str | None]:
    flag = "--control-mask"
    parts = [part for text in options.masks or () for part in _paths(text, flag)]
    return [None if Path(part).name == "none" else part for part in parts]


def _paths(text: str, flag: str) -> list[str]:
    """One path, or several with commas between where nothing has the whole for its name."""
    whole = given_path(text, flag)
    if whole.exists() or "," not in text:
        return [str(whole)]
    return [str(given_path(part.strip(), flag)) for part in text.split(",")]


def laid_out(text: str, mode: Mode) -> tuple[Mode, bool]:
    """A mode with the words of ``--one-frame`` over it; and whether these say where each picture stands.

    Raises InvalidRequest for a word that is none.
    """
    indices = False
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = word.partition("=")
        if word in SWITCHES:
            mode = _changed(mode, SWITCHES[word], False)
        elif name in NUMBERS:
            mode, indices = _with_number(mode, name, value), indices or name == "control_index"
        elif word != NOTHING:
            known = ", ".join((NOTHING, *SWITCHES, *(f"{each}=..." for each in NUMBERS)))
            raise InvalidRequest(f"--one-frame: {quoted(word)} is not known; known are {known}")
    return mode, indices


def _changed(mode: Mode, field: str, value: Any) -> Mode:
    """Not held against its bounds: the request is, and says what is wrong by flat names."""
    return replace(mode, kind=mode.kind.model_copy(update={field: value}))


def _with_number(mode: Mode, name: str, value: str) -> Mode:
    numbers = tuple(_whole(name, part) for part in value.split(";"))
    if name == "control_index":
        return _changed(mode, name, _joined(numbers))
    if len(numbers) != 1:
        raise InvalidRequest(f"--one-frame: {name} is one number, not {quoted(value)}")
    number, places = numbers[0], mode.kind.control_indices
    match name:
        case "target_index":
            return _changed(mode, name, number)
        case "history_index":
            return _changed(mode, "control_index", _joined((places[0], number, *places[2:])))
        case "latent_index" if number:
            told = "a single picture has one latent, number 0; where it stands in time is target_index"
            raise InvalidRequest(f"--one-frame: latent_index={number}: {told}")
        case "latent_index":
            return mode
    return replace(mode, latent_window=number)


def _joined(numbers: tuple[int, ...]) -> str:
    return ";".join(map(str, numbers))


def _whole(name: str, text: str) -> int:
    if not (text.strip().isascii() and text.strip().isdecimal()):
        raise InvalidRequest(f"--one-frame: {name} takes whole numbers, 0 or more, not {quoted(text)}")
    return int(text)


def _for_pictures(mode: Mode, pictures: int, name: str, strict: bool) -> Mode:
    """With the first places of the mode, where there are fewer pictures and no word says where each stands.

    Raises InvalidRequest where there are too few of the one or of the other.
    """
    if not pictures:
        raise InvalidRequest("--image: is missing; give the path of at least one picture")
    if pictures < mode.fewest:
        raise InvalidRequest(f"--image: {name} takes {mode.fewest} pictures or more, and {pictures} is given")
    places = mode.kind.control_indices
    if pictures > len(places) or (strict and pictures < len(places)):
        told = f"{pictures} pictures and {len(places)} places for them: {mode.kind.control_index}"
        raise InvalidRequest(f"--one-frame: control_index has to say where each picture stands; there are {told}")
    return _changed(mode, "control_index", _joined(places[:pictures]))
