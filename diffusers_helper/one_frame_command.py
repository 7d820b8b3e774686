"""The command ``one-frame``: a picture of some moments later, by one picture or by several in their order.

Where each picture stands in time is said by a mode, and by the words of ``--one-frame`` over it, which are musubi's.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import lora_flag
from .errors import InvalidRequest
from .names import quoted
from .recipe_flags import add_field, given_fields
from .request import Recipe, Request
from .request.fields import PICTURE, fields
from .settings import Settings, given_path


@dataclass(frozen=True)
class Layout:
    """What of time a picture is made with.

    Attributes:
        target_index: where the picture stands that is made, in latent frames.
        control_index: where the given ones stand, in their order.
        post, history_2x, history_4x: see the kind ``one_frame``.
        fewest: pictures that it needs.
    """

    target_index: int = 9
    control_index: tuple[int, ...] = (0,)
    post: bool = True
    history_2x: bool = True
    history_4x: bool = True
    latent_window: int | None = None
    fewest: int = 1


MODES: Mapping[str, Layout] = {
    "one_frame": Layout(),
    "oichi": Layout(target_index=4, control_index=(0, 13)),
    "kisekaeichi": Layout(1, (0, 10), post=False, history_2x=False, history_4x=False, fewest=2),
    "1f-mc": Layout(9, (0, 1), history_2x=False, history_4x=False, fewest=2),
}
"""Layouts that people know by name."""
SWITCHES: Mapping[str, str] = {"no_post": "post", "no_2x": "history_2x", "no_4x": "history_4x"}
NUMBERS = ("target_index", "control_index", "history_index", "latent_window_size")
NOTHING = "default"
NO_FLAGS = ("kind", "seconds", "output", "decoding", "quality_mode", lora_flag.FIELD)
"""Of a recipe, what one picture has no use for, or what other flags say."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes. Underscores do in the place of hyphens."""
    wishes = parser.add_argument_group("the picture")
    words = "path of a picture, repeatable, or several with commas between; the first is what is changed"
    wishes.add_argument("--image", "--image-path", dest="images", action="append", metavar="FILE[,FILE...]", help=words)
    words = f"where the pictures stand in time: {', '.join(MODES)} (default one_frame)"
    wishes.add_argument("--mode", choices=MODES, default="one_frame", help=words)
    words = (
        "words with commas between that change the mode: target_index=N, control_index=N;N..., no_post, no_2x, no_4x"
    )
    wishes.add_argument("--one-frame", metavar="WORDS", default="", help=words)
    for field in fields(Recipe).values():
        if field.name not in NO_FLAGS and field.decided_by not in NO_FLAGS:
            add_field(wishes, field)
    lora_flag.add_flag(wishes)
    parser.add_argument("--out", help="where the picture goes, a .png file; by default into the output folder")
    parser.add_argument("--save-latents", metavar="FILE.safetensors", help="keep the latents of the picture")
    parser.add_argument("--json", action="store_true", help="print every event as a line of JSON")
    parser.set_defaults(asked=asked, resume=None, request=None, **{PICTURE: None})


def asked(options: argparse.Namespace, chosen: Settings) -> Request:
    """The request. Raises InvalidRequest."""
    from .preparation import defaults

    paths = [part for text in options.images or () for part in _paths(text)]
    layout, strict = laid_out(options.one_frame, MODES[options.mode])
    indices = _indices(layout, len(paths), options.mode, strict)
    pictures = [{"role": "control", "path": path, "index": index} for path, index in zip(paths, indices, strict=True)]
    given = given_fields(options)
    if layout.latent_window is not None:
        given["latent_window"] = layout.latent_window
    kind = {f"one_frame_{name}": getattr(layout, name) for name in ("target_index", *SWITCHES.values())}
    data = {**given, "kind": "one_frame", **kind, "pictures": pictures}
    return Request.parse(data, defaults(None, chosen.sampling))


def _paths(text: str) -> list[str]:
    """One path, or several with commas between where nothing has the whole for its name."""
    whole = given_path(text, "--image")
    if whole.exists() or "," not in text:
        return [str(whole)]
    return [str(given_path(part.strip(), "--image")) for part in text.split(",")]


def laid_out(text: str, mode: Layout) -> tuple[Layout, bool]:
    """A mode with the words of ``--one-frame`` over it; and whether these say where each picture stands.

    Raises InvalidRequest for a word that is none.
    """
    layout, indices = mode, False
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = word.partition("=")
        if word in SWITCHES:
            off: dict[str, Any] = {SWITCHES[word]: False}
            layout = replace(layout, **off)
        elif name in NUMBERS:
            layout, indices = _with_number(layout, name, value), indices or name == "control_index"
        elif word != NOTHING:
            known = ", ".join((NOTHING, *SWITCHES, *(f"{each}=..." for each in NUMBERS)))
            raise InvalidRequest(f"--one-frame: {quoted(word)} is not known; known are {known}")
    return layout, indices


def _with_number(layout: Layout, name: str, value: str) -> Layout:
    numbers = tuple(_whole(name, part) for part in value.split(";"))
    if name == "control_index":
        return replace(layout, control_index=numbers)
    if len(numbers) != 1:
        raise InvalidRequest(f"--one-frame: {name} is one number, not {quoted(value)}")
    match name:
        case "target_index":
            return replace(layout, target_index=numbers[0])
        case "history_index":
            return replace(layout, control_index=(layout.control_index[0], numbers[0], *layout.control_index[2:]))
        case _:
            return replace(layout, latent_window=numbers[0])


def _whole(name: str, text: str) -> int:
    if not text.strip().isdecimal():
        raise InvalidRequest(f"--one-frame: {name} takes whole numbers, 0 or more, not {quoted(text)}")
    return int(text)


def _indices(layout: Layout, pictures: int, mode: str, strict: bool) -> tuple[int, ...]:
    """Where each picture stands. Raises InvalidRequest where there are too few of the one or of the other."""
    if not pictures:
        raise InvalidRequest("--image: is missing; give the path of at least one picture")
    if pictures < layout.fewest:
        raise InvalidRequest(f"--image: {mode} takes {layout.fewest} pictures or more, and {pictures} is given")
    indices = layout.control_index
    if pictures > len(indices) or (strict and pictures < len(indices)):
        told = f"{pictures} pictures and {len(indices)} places for them: {';'.join(map(str, indices))}"
        raise InvalidRequest(f"--one-frame: control_index has to say where each picture stands; there are {told}")
    return indices[:pictures]
