"""What is known of a LoRA: what its file says, and what is measured of its adapters. Nothing is loaded for it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .adapters import Adapter
from .dialects import DIALECTS, is_of_text_encoder
from .origin import base_model, foreign_model
from .peft_config import METADATA_KEY
from .reading import LoRA

TRIGGER_KEYS = ("modelspec.trigger_phrase", "trigger_phrase", "trigger_words", "trigger_word", "ss_trigger_words")
TITLE_KEYS = ("modelspec.title", "ss_output_name", "name")
NOTE_KEYS = ("modelspec.description", "ss_training_comment", "description")
TAGS_KEY = "ss_tag_frequency"
SETTINGS_PREFIX = "ss_"
ONE_FRAME_KEYS = ("fp_1f_target_index", "fp_1f_clean_indices", "fp_1f_no_post", "fp_latent_window_size")
"""As musubi writes them for each of its data sets."""
MOST_TAGS = 10
LONGEST_SETTING = 300


@dataclass(frozen=True)
class Effect:
    """How much a module is changed at strength 1.

    Attributes:
        norm: the Frobenius norm of the delta; None where it depends on the module's weight (DoRA).
        per_weight: the root of the mean square over the delta's entries, which can be compared between modules.
    """

    module: str
    norm: float | None
    per_weight: float | None


@dataclass(frozen=True)
class Passport:
    """A LoRA for people and for the shelf.

    Attributes:
        file: its name.
        file_bytes: its size.
        fits: the checkpoint that it was held against.
        dialects: how it names its tensors.
        base: the model that it was made for; by the names of its layers where nothing else tells.
        base_said: that something else tells: its metadata, or names that only another model has.
        foreign: that this is a model whose LoRAs have no meaningful effect here.
        kinds: kind of adapter -> number of modules.
        ranks, alphas, scales: every one that occurs, with its number of modules. alpha None: not given, so the rank.
        numbers: every type of number that occurs.
        keys, unmatched: how many tensors it has; those that name nothing here, and have no effect.
        of_text_encoders: how many of those change a text encoder.
        effects: of every module.
        one_frame: indices and switches that one-frame inference must be given as in training.
        settings: of the training, as its program has written them.
    """

    file: str
    file_bytes: int
    fits: str
    dialects: tuple[str, ...]
    base: str
    base_said: bool
    foreign: bool
    kinds: Mapping[str, int]
    ranks: Mapping[int, int]
    alphas: Mapping[float | None, int]
    scales: Mapping[float, int]
    numbers: tuple[str, ...]
    keys: int
    unmatched: tuple[str, ...]
    of_text_encoders: int
    effects: tuple[Effect, ...]
    title: str
    notes: str
    trigger_words: tuple[str, ...]
    one_frame: Mapping[str, Any]
    settings: Mapping[str, str]

    @property
    def modules(self) -> int:
        """How many linears it changes."""
        return len(self.effects)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, whose keys are texts: what is counted becomes a list of pairs."""
        content = dataclasses.asdict(self)
        for name in ("ranks", "alphas", "scales"):
            content[name] = [list(pair) for pair in content[name].items()]
        return content


def passport_of(lora: LoRA, fits: str = "") -> Passport:
    """Read every adapter once, one after the other. Raises UnusableLora for NaN and infinite weights."""
    keys, outline, metadata = tuple(lora.adapters), lora.outline.values(), lora.metadata
    named = (*lora.unmatched, *keys)
    base = base_model(named, metadata)
    return Passport(
        file=lora.path.name,
        file_bytes=lora.file_bytes,
        fits=fits,
        dialects=lora.dialects,
        base=base or _naming(lora),
        base_said=bool(base),
        foreign=bool(foreign_model(named, metadata)),
        kinds=dict(Counter(each.kind for each in outline)),
        ranks=_sorted(Counter(each.rank for each in outline if each.rank is not None)),
        alphas=dict(Counter(each.alpha for each in outline)),
        scales=_sorted(Counter(each.scale for each in outline)),
        numbers=tuple(sorted({_dtype(tensor) for each in outline for tensor in each.factors().values()})),
        keys=lora.keys,
        unmatched=lora.unmatched,
        of_text_encoders=sum(map(is_of_text_encoder, lora.unmatched)),
        effects=tuple(_effect(module, adapter) for module, adapter in lora.adapters.items()),
        title=_first(metadata, TITLE_KEYS),
        notes=_first(metadata, NOTE_KEYS),
        trigger_words=_trigger_words(metadata),
        one_frame=_one_frame(metadata),
        settings=_settings(metadata),
    )


def _naming(lora: LoRA) -> str:
    return next(dialect.naming for dialect in DIALECTS if dialect.name in lora.dialects)


def _effect(module: str, adapter: Adapter) -> Effect:
    norm = adapter.norm()
    return Effect(module, norm, None if norm is None else norm / math.sqrt(math.prod(adapter.shape)))


def _sorted(counted: Counter[Any]) -> Mapping[Any, int]:
    return dict(sorted(counted.items()))


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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


def _one_frame(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Of the first data set that names them, wherever in the metadata it stands."""
    found: dict[str, Any] = {}
    for key, value in _entries(_json(metadata.get("ss_datasets", ""))):
        if key in ONE_FRAME_KEYS and value is not None:
            found.setdefault(key, value)
    return found


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key of every object within."""
    pending = [content]
    while pending:
        each = pending.pop(0)
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
    """What a text holds; None where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
