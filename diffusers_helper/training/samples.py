"""What is made to look at while a LoRA is trained: requests from a file, by musubi's names or by the program's own.

A sample goes down the program's own road with the file that was just written: the same request with the same file
makes the same frames to the bit afterwards.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidRequest
from ..names import quoted
from ..request import Request
from ..request.parts import SHORTEST_SECONDS
from ..sections.kinds import OneFrame
from .excerpts import FPS
from .toml import parsed_toml

FLAGS = {
    "w": "width", "h": "height", "f": "frame_count", "d": "seed", "s": "sample_steps", "g": "guidance_scale",
    "l": "cfg_scale", "fs": "discrete_flow_shift", "n": "negative_prompt", "i": "image_path",
    "ci": "control_image_path", "ei": "end_image_path", "of": "one_frame",
}  # fmt: skip
"""musubi's flags in a line, and what the same is called in an object."""
SAME = {
    "seed": ("seed", int), "sample_steps": ("steps", int), "guidance_scale": ("distilled_guidance", float),
    "cfg_scale": ("real_cfg", float), "negative_prompt": ("negative_prompt", str),
}  # fmt: skip
"""Of these what the program calls them."""
HERE = frozenset((*FLAGS.values(), "prompt", "enum"))
IDLE = ("discrete_flow_shift", "end_image_path")
"""What FramePack's samples have no use for."""
ONE_FRAME = {"target_index": int, "control_index": str}
SWITCHES = {"no_post": "post", "no_2x": "history_2x", "no_4x": "history_4x"}


@dataclass(frozen=True)
class Samples:
    """What is to be made, and what of its file has no effect."""

    requests: tuple[Request, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampleOptions:
    """What samples are made of a training, and when; 0 is never."""

    samples: Samples = field(default_factory=Samples)
    every_steps: int = 0
    every_epochs: int = 0
    at_first: bool = False


def read_samples(file: Path, kind: str) -> Samples:
    """From lines of text, JSON or TOML, by the file's suffix.

    Args:
        kind: of the videos that say none.

    Raises:
        InvalidRequest: naming the file and which of its samples it is.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        given = list(_READERS.get(file.suffix.lower(), _of_lines)(text))
    except (OSError, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise InvalidRequest(f"sample_prompts: {file} cannot be read: {error}") from None
    if not given:
        raise InvalidRequest(f"sample_prompts: {file} has no sample")
    requests = tuple(
        _request(each, f"{file}, sample {number}", file.parent, kind) for number, each in enumerate(given, 1)
    )
    return Samples(requests, tuple(name for name in IDLE if any(name in each for each in given)))


def _of_lines(text: str) -> Iterator[dict[str, Any]]:
    """``prompt --w 640 --h 640 --f 25 ...`` in each; empty lines and those that begin with # are left out."""
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield _of_line(line.strip())


def _of_line(line: str) -> dict[str, Any]:
    prompt, *flags = re.split(r" --(?=\w)", f" {line}")
    found: dict[str, Any] = {"prompt": prompt.strip()}
    for flag in flags:
        name, _, value = flag.strip().partition(" ")
        if name not in FLAGS:
            raise ValueError(f"--{name} is not known; known are {', '.join(f'--{each}' for each in FLAGS)}")
        key, value = FLAGS[name], " ".join(shlex.split(value)) if name in ("i", "ci", "ei") else value.strip()
        found[key] = [*found.get(key, []), value] if key == "control_image_path" else value
    return found


def _of_json(text: str) -> Iterator[dict[str, Any]]:
    content = json.loads(text)
    for each in content if isinstance(content, list) else [content]:
        yield dict(each)


def _of_toml(text: str) -> Iterator[dict[str, Any]]:
    """musubi's ``[prompt]`` with what all have, and ``[[prompt.subset]]``."""
    common = dict(parsed_toml(text).get("prompt", {}))
    subsets = common.pop("subset", [{}])
    for each in subsets:
        yield {**common, **each}


_READERS = {".json": _of_json, ".toml": _of_toml}


def _request(given: Mapping[str, Any], place: str, folder: Path, kind: str) -> Request:
    """What is no name of musubi's is one of the program's own."""
    try:
        values = {name: value for name, value in given.items() if name not in HERE}
        values |= {ours: read(given[name]) for name, (ours, read) in SAME.items() if name in given}
        values |= {"prompt": str(given.get("prompt", "")), **_size(given), **_pictures(given, folder, kind)}
        return Request.parse(values)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"sample_prompts: {place}: {error}") from None
    except InvalidRequest as error:
        raise InvalidRequest(f"sample_prompts: {place}: {error}", error.problems) from None


def _size(given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "width" in given or "height" in given:
        found["size"] = f"{given.get('width', given.get('height'))}x{given.get('height', given.get('width'))}"
    if "frame_count" in given:
        found["seconds"] = max(int(given["frame_count"]) / FPS, SHORTEST_SECONDS)
    return found


def _pictures(given: Mapping[str, Any], folder: Path, kind: str) -> dict[str, Any]:
    """The start picture of a video; of one picture its control pictures, in their order."""
    start = given.get("image_path")
    if "one_frame" not in given:
        return {"kind": given.get("kind", kind), **({"picture": str(folder / start)} if start else {})}
    controls = given.get("control_image_path") or ([start] if start else [])
    paths = [folder / path for path in ([controls] if isinstance(controls, str) else controls)]
    return {
        "kind": {"name": OneFrame.name, **_one_frame(str(given["one_frame"]))},
        "pictures": [{"role": "control", "path": str(path)} for path in paths],
    }


def _one_frame(text: str) -> dict[str, Any]:
    """``target_index=1,control_index=0;10,no_post``, as musubi writes it."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if name in SWITCHES and not equals:
            found[SWITCHES[name]] = False
        elif name in ONE_FRAME and equals:
            found[name] = ONE_FRAME[name](value)
        else:
            known = ", ".join((*ONE_FRAME, *SWITCHES))
            raise ValueError(f"one_frame: {quoted(part)} is not known; known are {known}")
    return found
