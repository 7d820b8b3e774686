"""What older versions wrote, as the present one would: a pure function from each version to the next.

They take and give data as it stands in JSON, whole or a part, checked by nobody yet; so they break on nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InvalidRequest, Problem
from ..names import quoted

VERSION = "schema_version"
SCHEMA_VERSION = 4


def as_present(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` of any version in the form of the present one.

    Raises:
        InvalidRequest: it has no version, or a newer one.
    """
    version = data.get(VERSION)
    if type(version) is not int or version < 1:
        raise _refused(version, "is not a version, which is a whole number from 1 on")
    if version > SCHEMA_VERSION:
        raise _refused(version, f"was made by a newer version, this one knows {SCHEMA_VERSION}; use that version")
    found = dict(data)
    for known in range(version, SCHEMA_VERSION):
        found = {**MIGRATIONS[known](found), VERSION: known + 1}
    return found


def _refused(version: Any, reason: str) -> InvalidRequest:
    problem = Problem(VERSION, "other", version)
    return InvalidRequest(f"{VERSION}: {quoted(version)} {reason}", [problem])


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 was flat: one picture, one prompt, one step cache that was on or off, one kind of file."""
    moved: dict[str, Any] = {}
    if "picture" in data:
        moved["pictures"] = [{"role": "start", "path": data["picture"]}]
    if "prompt" in data:
        moved["prompts"] = [{"text": data["prompt"]}]
    if "kind" in data:
        moved["kind"] = {"name": data["kind"]}
    if "mp4_crf" in data:
        moved["output"] = {"name": "mp4", "crf": data["mp4_crf"]}
    if "teacache" in data or "teacache_threshold" in data:
        moved["step_cache"] = _step_cache_of_1(data)
    gone = ("picture", "prompt", "kind", "mp4_crf", "teacache", "teacache_threshold")
    return {**{name: value for name, value in data.items() if name not in gone}, **moved}


def _step_cache_of_1(data: Mapping[str, Any]) -> Any:
    """Its threshold meant nothing while it was off."""
    on = data.get("teacache", True)
    if on is False:
        return None
    threshold = {"threshold": data["teacache_threshold"]} if "teacache_threshold" in data else {}
    return {"name": "teacache", **threshold} if on is True else {"name": on}


def _from_2(data: dict[str, Any]) -> dict[str, Any]:
    """Version 2 decoded as the original does. A request with its inputs may be of a video that was broken off, whose
    frames must not change half way; what holds a recipe alone makes a new video."""
    return {"decoding": "reference", **data} if "pictures" in data else data


def _from_3(data: dict[str, Any]) -> dict[str, Any]:
    """In version 3 each control picture had its time index, so that a recipe alone had none."""
    given, kind = data.get("pictures"), data.get("kind")
    if not isinstance(given, (list, tuple)) or not all(isinstance(picture, Mapping) for picture in given):
        return data
    pictures = [{name: value for name, value in picture.items() if name != "index"} for picture in given]
    indices = [picture.get("index") or 0 for picture in given if picture.get("role") == "control"]
    if isinstance(kind, Mapping) and kind.get("name") == "one_frame" and indices:
        kind = {**kind, "control_index": ";".join(map(str, indices))}
    return {**data, "pictures": pictures, **({"kind": kind} if "kind" in data else {})}


MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2, 3: _from_3}
"""From a version to the next one."""
