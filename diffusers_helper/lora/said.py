"""What a LoRA's file says of itself in its metadata: none of it is trusted to be what it should be. Needs no torch."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .peft_config import METADATA_KEY

TRIGGER_KEYS = ("modelspec.trigger_phrase", "trigger_phrase", "trigger_words", "trigger_word", "ss_trigger_words")
TITLE_KEYS = ("modelspec.title", "ss_output_name", "name")
NOTE_KEYS = ("modelspec.description", "ss_training_comment", "description")
WISHES: Mapping[str, tuple[str, ...]] = {
    "steps": ("recommended_steps", "num_inference_steps", "inference_steps"),
    "distilled_guidance": ("recommended_guidance", "distilled_guidance", "distilled_guidance_scale"),
}
"""A field of a request -> how files name what goes with them. ``ss_steps`` and ``ss_guidance_scale`` are none of these:
they are the training's, whose guidance is 1 where videos are made with 10.
"""
TAGS_KEY = "ss_tag_frequency"
SETTINGS_PREFIX = "ss_"
ONE_FRAME_KEYS = (
    "fp_1f_target_index", "fp_1f_clean_indices", "fp_1f_no_post", "fp_1f_no_2x", "fp_1f_no_4x",
    "fp_1f_image_embedding_source", "fp_latent_window_size",
)  # fmt: skip
"""As musubi writes them for each of its data sets, and ours beside them."""
MOST_TAGS = 10
LONGEST_SETTING = 300


@dataclass(frozen=True)
class Said:
    """What a file says of itself.

    Attributes:
        wishes: fields of a request -> the number that goes with it.
        one_frame: indices and switches that one-frame inference must be given as in training.
        settings: of the training, as its program has written them.
    """

    title: str
    notes: str
    trigger_words: tuple[str, ...]
    wishes: Mapping[str, float]
    one_frame: Mapping[str, Any]
    settings: Mapping[str, str]


def said_in(metadata: Mapping[str, str]) -> Said:
    """What the metadata of a file says."""
    return Said(
        title=_first(metadata, TITLE_KEYS),
        notes=_first(metadata, NOTE_KEYS),
        trigger_words=_trigger_words(metadata),
        wishes=_wishes(metadata),
        one_frame=_one_frame(metadata),
        settings=_settings(metadata),
    )


def _first(metadata: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((metadata[key] for key in keys if metadata.get(key, "None") != "None"), "")


def _trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Those that the file names, else the tags that stood at most of its training pictures."""
    if said := _first(metadata, TRIGGER_KEYS):
        return (said,)
    counted: Counter[str] = Counter()
    folders = _json(metadata.get(TAGS_KEY, ""))
    for tags in folders.values() if isinstance(folders, dict) else ():
        if isinstance(tags, dict):
            counted.update({str(tag): times for tag, times in tags.items() if isinstance(times, int)})
    return tuple(tag.strip() for tag, _ in counted.most_common(MOST_TAGS))


def _wishes(metadata: Mapping[str, str]) -> Mapping[str, float]:
    found = {field: _number(_first(metadata, keys)) for field, keys in WISHES.items()}
    return {field: number for field, number in found.items() if number is not None}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _one_frame(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Of the first data set that names them, wherever in the metadata it stands."""
    found: dict[str, Any] = {}
    for key, value in _entries(_json(metadata.get("ss_datasets", ""))):
        if key in ONE_FRAME_KEYS and value is not None:
            found.setdefault(key, value)
    return found


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key of every object within."""
    pending = deque([content])
    while pending:
        each = pending.popleft()
        if isinstance(each, dict):
            yield from each.items()
        if isinstance(each, dict | list):
            pending += each.values() if isinstance(each, dict) else each


def _settings(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Of the training, but for what is long: lists of pictures and tags."""
    return {
        key.removeprefix(SETTINGS_PREFIX): value
        for key, value in sorted(metadata.items())
        if key.startswith((SETTINGS_PREFIX, "modelspec."))
        and key != METADATA_KEY
        and value not in ("None", "", "{}")
        and len(value) <= LONGEST_SETTING
    }


def _json(text: str) -> Any:
    """What a text holds; None where it is no JSON, or where half a character is in it, which no page can show."""
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found
