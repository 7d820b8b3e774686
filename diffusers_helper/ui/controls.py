"""What one picture is made of: the form's slots, as the browser keeps them, and what a request makes of them.

A slot holds the names of two uploads, a picture and its mask, and may be empty. There is one for each place that the
form has in time; what stands in slots beyond these is kept for as long as the form has fewer places, and not sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import InvalidRequest, Problem
from ..preparation import refuse_mask_shape
from ..request.fields import PICTURE, PICTURES
from ..request.request import MOST_PICTURES
from ..sections.kinds import OneFrame
from ..words import Message
from .framing import shape_of
from .upload_names import name_among, upload_named

ONE_FRAME = OneFrame.name
CONTROL_INDEX = f"{ONE_FRAME}_control_index"
LONGEST_TEXT = 100_000
Control: TypeAlias = Mapping[str, Any]
"""A picture as a request has it; the path of an empty slot is empty."""


def as_text(pictures: Iterable[Control], uploads: Path) -> str:
    """What the form's hidden component holds; files that are no uploads become such. Raises OutputFailed."""
    controls = [each for each in pictures if each.get("role") == "control"]
    return json.dumps(
        [
            {"picture": name_among(each.get("path"), uploads), "mask": name_among(each.get("mask"), uploads)}
            for each in controls
        ]
    )


def from_text(text: Any, uploads: Path) -> tuple[Control, ...]:
    """The inverse, for a text from a browser's memory: what is no upload leaves its slot empty."""
    try:
        found = json.loads(text) if isinstance(text, str) and len(text) <= LONGEST_TEXT else []
    except (ValueError, RecursionError):
        found = []
    slots = found[:MOST_PICTURES] if isinstance(found, list) else []
    return tuple(_control(slot if isinstance(slot, dict) else {}, uploads) for slot in slots)


def _control(slot: Mapping[str, Any], uploads: Path) -> Control:
    path = upload_named(slot.get("picture"), uploads)
    mask = upload_named(slot.get("mask"), uploads) if path else None
    return {"role": "control", "path": path or "", **({"mask": mask} if mask else {})}


def is_one_frame(fields: Mapping[str, Any]) -> bool:
    """Whether these fields make one picture."""
    return bool(fields.get("kind") == ONE_FRAME)


def at_places(fields: Mapping[str, Any]) -> tuple[Control, ...]:
    """A control picture for each place in time that the fields name; where there is none yet, an empty one."""
    places = min(str(fields[CONTROL_INDEX]).count(";") + 1, MOST_PICTURES)
    empty: Control = {"role": "control", "path": ""}
    given = tuple(fields[PICTURES])[:places]
    return (*given, *[empty] * (places - len(given)))


def paths_of(fields: Mapping[str, Any]) -> list[str]:
    """The pictures that are chosen: the start picture of a video, the control pictures of a picture."""
    if is_one_frame(fields):
        return [each["path"] for each in fields.get(PICTURES, ()) if each["path"]]
    return [fields[PICTURE]] if fields.get(PICTURE) else []


def has_its_pictures(fields: Mapping[str, Any]) -> bool:
    """Whether every picture is chosen."""
    return len(paths_of(fields)) == (len(fields[PICTURES]) if is_one_frame(fields) else 1)


def refuse_empty(fields: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a slot without a picture."""
    for number, each in enumerate(fields[PICTURES] if is_one_frame(fields) else ()):
        if not each["path"]:
            reason = Message("one_frame.empty_slot", number=number + 1)
            raise InvalidRequest(f"{PICTURES}: {reason}", [Problem(PICTURES, "said", None, {"reason": reason})])


def refuse_unusable(fields: Mapping[str, Any]) -> None:
    """Raises UnusablePicture for a file of a slot that is none, InvalidRequest for a mask of another shape."""
    for each in fields[PICTURES] if is_one_frame(fields) else ():
        shape = shape_of(each["path"]) if each["path"] else None
        if shape and each.get("mask"):
            refuse_mask_shape(Path(each["mask"]), shape_of(each["mask"]), shape)


def at_slots(problems: Sequence[Problem], fields: Mapping[str, Any]) -> tuple[Problem, ...]:
    """The same problems; where one picture is made, those of a picture are told at the slots."""
    if not is_one_frame(fields):
        return tuple(problems)
    return tuple(replace(each, field=PICTURES) if each.field == PICTURE else each for each in problems)
