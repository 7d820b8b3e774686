"""Settings out of files: our own videos, pictures and presets, and what three other programs write.

Read are our videos and pictures of every kind, our presets, a request as JSON, FramePack-Studio's JSON sidecar and PNG
texts, FramePack-eichi's PNG texts, and the tags of SD.Next's FramePack videos. A file is judged by its content. Nothing
in it is trusted: each value must be one that a request takes, unknown keys are only listed, and a path in it stays text
that is never opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .errors import InvalidRequest, NoSettings, UnusableInput
from .media.metadata import (
    holds_settings,
    is_mp4,
    is_png,
    read_head,
    read_metadata,
    read_mp4_texts,
    read_png_texts,
    read_text,
    strict_object,
)
from .names import quoted
from .request import Recipe
from .request.fields import fields, flat, without_aliases
from .request.migrate import VERSION, as_present
from .words import Message

Origin: TypeAlias = Literal["framepack", "preset", "studio", "eichi", "sdnext"]

SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class NotTaken:
    """A value that was found for ``field`` and is none that a request takes, with the refusal."""

    field: str
    value: str
    refusal: InvalidRequest


@dataclass(frozen=True)
class Recalled:
    """What a file told.

    Attributes:
        fields: allowed values of a recipe, by their flat names.
        ignored: keys of the file that mean nothing here.
        not_taken: values that are not allowed here; none is bent to fit.
        notes: what would come out different, as keys of the page's texts (``restore.note_<key>``).
        checkpoint: the name of the checkpoint that was used, where the file tells.
    """

    source: Origin
    fields: Mapping[str, Any]
    ignored: tuple[str, ...] = ()
    not_taken: tuple[NotTaken, ...] = ()
    notes: tuple[str, ...] = ()
    checkpoint: str = ""


_NOT_IN_FORM = {"prompts": "several_prompts"}
"""Parts of a recipe that have no place in the form, where they say something -> the note about that."""


@dataclass
class _Found:
    """What a reader makes of a file before the values are checked."""

    source: Origin
    fields: dict[str, Any] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checkpoint: str = ""


def recall(path: Path) -> Recalled:
    """What the file at ``path`` says about how a video was made.

    Raises:
        UnusableInput: it cannot be read, carries no settings, or comes from a newer version.
    """
    try:
        found = _read(path)
    except NoSettings as error:
        raise UnusableInput(Message("recall.unusable", file=repr(path.name), reason=error.said)) from None
    fields, not_taken = _checked(found.fields)
    ignored = sorted({key if len(key) <= SHOWN_CHARACTERS else f"{key[:SHOWN_CHARACTERS]}..." for key in found.ignored})
    return Recalled(found.source, fields, tuple(ignored), not_taken, tuple(found.notes), found.checkpoint)


def differences(current: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(field, old, new) for each field of ``found`` that ``current`` has otherwise, in the recipe's order."""
    return [
        (name, current.get(name), found[name])
        for name in fields(Recipe)
        if name in found and found[name] != current.get(name)
    ]


def _read(path: Path) -> _Found:
    head = read_head(path)
    if is_mp4(head):
        texts = read_mp4_texts(path)
        return _of_sdnext(texts) if texts.get("title") == _SDNEXT_TITLE else _of_ours(read_metadata(path))
    if is_png(head):
        return _of_png(path)
    if holds_settings(head):
        return _of_ours(read_metadata(path))
    return _of_json(strict_object(read_text(path)))


def _of_png(path: Path) -> _Found:
    texts = read_png_texts(path)
    try:
        return _of_ours(read_metadata(path))
    except UnusableInput:
        if not texts.keys() & {"parameters", "prompt", "seed"}:
            raise
    return _of_studio(_values_of(texts)) if "model_type" in texts else _of_eichi(texts)


def _of_json(data: Mapping[str, Any]) -> _Found:
    if "framepack_preset" in data:
        return _of_recipe("preset", {**_object("values", data), VERSION: data["framepack_preset"]})
    if "framepack" in data:
        return _of_ours(_object("framepack", data))
    if VERSION in data:
        return _of_recipe("framepack", data)
    if data.keys() >= {"prompt", "seed"} and data.keys() & _STUDIO_ONLY:
        return _of_studio(data)
    raise NoSettings(Message("recall.other_json"))


def _of_ours(recipe: Mapping[str, Any]) -> _Found:
    """From ``{"version", "checkpoint", "request"}``, which stands in our videos and pictures.

    One that names no LoRAs was made without.
    """
    found = _of_recipe("framepack", _object("request", recipe))
    found.fields.setdefault("loras", ())
    checkpoint = recipe.get("checkpoint")
    found.checkpoint = checkpoint[:SHOWN_CHARACTERS] if isinstance(checkpoint, str) else ""
    found.ignored += [key for key in recipe if key not in ("version", "checkpoint", "request")]
    return found


def _of_recipe(source: Origin, data: Mapping[str, Any]) -> _Found:
    """From a recipe of any version, whole or a part; inputs that stand beside it are ignored."""
    try:
        values = flat(as_present(data), Recipe)
    except InvalidRequest as error:
        raise NoSettings(error.said) from None
    known = fields(Recipe)
    found = _Found(source, {key: value for key, value in values.items() if key in known})
    found.ignored = [key for key in values if key not in known]
    found.notes = [note for key, note in _NOT_IN_FORM.items() if key in values]
    return found


def _object(key: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    value = data.get(key)
    if not isinstance(value, dict):
        raise NoSettings(Message("recall.key_missing", key=repr(key)))
    return value


# FramePack-Studio: a flat JSON object beside each result, and nearly the same as texts in the PNG of the start picture.

_STUDIO = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "cfg": "real_cfg",
    "gs": "distilled_guidance",
    "rs": "cfg_rescale",
    "total_second_length": "seconds",
    "latent_window_size": "latent_window",
    "use_teacache": "teacache",
    "teacache_rel_l1_thresh": "teacache_threshold",
    "mp4_crf": "mp4_crf",
    "gpu_memory_preservation": "preserved_memory_gb",
}
_STUDIO_ONLY = {"model_type", "total_second_length", "gs", "latent_window_size"}
_STUDIO_KINDS = {"Original": "framepack", "F1": "f1", "Original with Endframe": "framepack", "F1 with Endframe": "f1"}
_STUDIO_WHOLE = {"seed", "steps", "latent_window_size", "mp4_crf"}
_TIME = r"\d+(\.\d+)?\s*s"
_TIMED = re.compile(rf"\[\s*{_TIME}\s*(-\s*{_TIME}\s*)?:")
"""Words that Studio keeps for a part of the video: ``[2s: ...]`` or ``[1s-3s: ...]``."""


def _of_studio(data: Mapping[str, Any]) -> _Found:
    fields = {_STUDIO[key]: _whole(key, value) for key, value in data.items() if key in _STUDIO and value is not None}
    found = _Found("studio", fields, [key for key in data if key not in {*_STUDIO, "model_type"}])
    model = data.get("model_type")
    if isinstance(model, str) and model in _STUDIO_KINDS:
        fields["kind"] = _STUDIO_KINDS[model]
    elif model is not None:
        found.notes.append("other_model")
    if fields.get("teacache") is False:
        fields.pop("teacache_threshold", None)  # written as 0 then, and without a meaning
    found.notes += [note for note, applies in _studio_notes(data).items() if applies]
    return found


def _studio_notes(data: Mapping[str, Any]) -> dict[str, bool]:
    prompt = data.get("prompt")
    return {
        "size": bool(data.keys() & {"resolutionW", "resolutionH"}),
        "magcache": data.get("use_magcache") is True,
        "end_frame": data.get("end_frame_used") in (True, "True"),
        "loras": bool(data.get("loras")),
        "no_picture": data.get("has_input_image") is False,
        "timed_prompt": isinstance(prompt, str) and _TIMED.search(prompt) is not None,
    }


def _whole(key: str, value: Any) -> Any:
    """Studio's sliders hand on 25.0 where 25 is meant."""
    whole = key in _STUDIO_WHOLE and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


def _values_of(texts: Mapping[str, str]) -> dict[str, Any]:
    """What was written into a PNG with Python's ``str``."""
    words = ("prompt", "negative_prompt")
    return {key: text if key in words else _scalar(text) for key, text in texts.items()}


def _scalar(text: str) -> Any:
    words: dict[str, Any] = {"None": None, "True": True, "False": False}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# FramePack-eichi: one text of lines in the PNG, in older versions each value also as a text of its own.

_EICHI_LINES = {"Seed:": "seed", "Section Prompt:": "section_prompt", "Section Number:": "section_number"}
_EICHI_KEYS = ("prompt", "seed", "section_prompt", "section_number")


def _of_eichi(texts: Mapping[str, str]) -> _Found:
    values = {**_eichi_lines(texts.get("parameters", "")), **{key: texts[key] for key in _EICHI_KEYS if key in texts}}
    if "seed" not in values:
        raise NoSettings(Message("recall.other_texts"))
    prompt = {"prompt": values["prompt"]} if "prompt" in values else {}
    found = _Found("eichi", {**prompt, "seed": _scalar(values["seed"])})
    found.ignored = [key for key in (*values, *texts) if key not in ("prompt", "seed", "parameters")]
    found.notes = ["section_prompt"] if "section_prompt" in values else []
    return found


def _eichi_lines(text: str) -> dict[str, str]:
    """The lines of "parameters" that begin with a known word; all others together are the prompt."""
    values: dict[str, str] = {}
    prompt = []
    for line in text.splitlines():
        mark = next((mark for mark in _EICHI_LINES if line.strip().startswith(mark)), None)
        if mark is None:
            prompt.append(line.rstrip())
        else:
            values[_EICHI_LINES[mark]] = line.strip().removeprefix(mark).strip()
    written = "\n".join(prompt).strip()
    return {**({"prompt": written} if written else {}), **values}


# SD.Next: in the tags of the video the prompt as comment, and the settings as one line of ``name:value``.

_SDNEXT_TITLE = "sdnext framepack"
_SDNEXT = {
    "seed": "seed",
    "steps": "steps",
    "scale": "real_cfg",
    "distilled": "distilled_guidance",
    "rescale": "cfg_rescale",
}
_SDNEXT_KINDS = {"bi-directional": "framepack", "forward-only": "f1"}


def _of_sdnext(texts: Mapping[str, str]) -> _Found:
    pairs = [pair.partition(":") for pair in texts.get("description", "").split()]
    values = {key: text for key, colon, text in pairs if colon}
    fields = {_SDNEXT[key]: _scalar(text) for key, text in values.items() if key in _SDNEXT}
    found = _Found("sdnext", fields, [key for key in values if key not in {*_SDNEXT, "variant"}])
    if "comment" in texts:
        fields["prompt"] = texts["comment"]
    if values.get("variant") in _SDNEXT_KINDS:
        fields["kind"] = _SDNEXT_KINDS[values["variant"]]
    elif "variant" in values:
        found.notes.append("other_model")
    return found


def _checked(values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[NotTaken, ...]]:
    """The allowed values as a request would hold them, and the others with the reason."""
    taken: dict[str, Any] = {}
    not_taken = []
    try:
        values = without_aliases(values)
    except InvalidRequest as error:
        not_taken.append(NotTaken("step_cache", quoted(error.problems[0].value), error))
    for name in fields(Recipe):
        if name not in values:
            continue
        kind = {"kind": taken["kind"]} if "kind" in taken else {}  # it decides which files there can be
        try:
            taken[name] = Recipe.parse({**kind, name: values[name]}).flat()[name]
        except InvalidRequest as error:
            not_taken.append(NotTaken(name, quoted(values[name]), error))
    return taken, tuple(not_taken)
