"""The LoRAs of the form: as the browser keeps them, what is wrong with them, and what a request makes of them.

What was chosen from the list has a name and a weight, and means the file that has this name when the job is queued.
What came from a recipe names its content too, and means that, whatever it is called now.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import InvalidRequest, Problem
from ..lora.label import Label
from ..lora.watch import Meant, Watch
from ..models.table import Checkpoint
from ..request.parts import LARGEST_WEIGHT
from ..words import Message, joined

LORAS = "loras"
PATIENCE_SECONDS = 10.0
"""How long Start waits for files that are being read; one of a few GB takes seconds."""
LONGEST_TEXT = 1_000_000
Chosen: TypeAlias = Mapping[str, Any]
"""Name, weight and content of a LoRA as a request has them; the content is empty where the name alone counts. The
weight at the end is there only where there is one."""


def as_text(loras: Iterable[Chosen]) -> str:
    """What the form's hidden component holds."""
    return json.dumps([{key: value for key, value in each.items() if key != "sha256" or value} for each in loras])


def from_text(text: Any) -> tuple[Chosen, ...]:
    """The inverse, for a text from a browser's memory: what is no LoRA is left out."""
    try:
        found = json.loads(text) if isinstance(text, str) and len(text) <= LONGEST_TEXT else []
    except (ValueError, RecursionError):
        found = []
    listed = found if isinstance(found, list) else []
    return tuple(_chosen(each) for each in listed if isinstance(each, dict) and isinstance(each.get("name"), str))


def _chosen(each: Mapping[str, Any]) -> Chosen:
    sha256, at_end = each.get("sha256", ""), each.get("weight_at_end")
    return {
        "name": each["name"],
        "sha256": sha256 if isinstance(sha256, str) else "",
        "weight": each.get("weight", 1.0),
        **({} if at_end is None else {"weight_at_end": at_end}),
    }


def pinned(loras: Iterable[Chosen], watch: Watch) -> tuple[Chosen, ...]:
    """The same with the contents that are known already, under the names that their files have now."""
    return tuple(_pinned(each, watch.meant(each["name"], each["sha256"])) for each in loras)


def _pinned(lora: Chosen, meant: Meant | Message | None) -> Chosen:
    return {**lora, "name": meant.name, "sha256": meant.sha256} if isinstance(meant, Meant) else lora


def settled(loras: Sequence[Chosen], watch: Watch, checkpoint: Checkpoint | None) -> tuple[Chosen, ...]:
    """The same for a request, every file found. Waits for what is being read. Raises InvalidRequest."""
    watch.wait(lambda: all(watch.meant(each["name"], each["sha256"]) for each in loras), PATIENCE_SECONDS)
    found = pinned(loras, watch)
    problems = problems_of(found, watch, checkpoint)
    if reading := [each["name"] for each in found if not each["sha256"]]:
        problems = problems or _problem([Message("lora.still_read", name=reading[0])])
    if problems:
        raise InvalidRequest(problems[0].limits["reason"], problems)
    return found


def problems_of(loras: Iterable[Chosen], watch: Watch, checkpoint: Checkpoint | None) -> tuple[Problem, ...]:
    """What is wrong, as one problem of the field; what is still being found out is not."""
    return _problem([told for each in loras if (told := _wrong(each, watch, checkpoint))])


def _problem(told: Sequence[Message]) -> tuple[Problem, ...]:
    return (Problem(LORAS, "said", limits={"reason": joined(*told)}),) if told else ()


def _wrong(lora: Chosen, watch: Watch, checkpoint: Checkpoint | None) -> Message | None:
    name = lora["name"]
    if not all(map(_is_weight, _weights(lora))):
        return Message("lora.weight", name=name, low=-LARGEST_WEIGHT, high=LARGEST_WEIGHT)
    meant = watch.meant(name, lora["sha256"])
    if not isinstance(meant, Meant):
        return meant
    label = label_of(lora, watch)
    fit = label.fits.get(checkpoint.name) if label and checkpoint else None
    return Message("lora.of_file", name=name, reason=fit.problem) if fit and fit.problem else None


def _is_weight(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and abs(value) <= LARGEST_WEIGHT


def label_of(lora: Chosen, watch: Watch) -> Label | None:
    """What is known of the file that is meant."""
    meant = watch.meant(lora["name"], lora["sha256"])
    file = watch.named(meant.name) if isinstance(meant, Meant) else watch.named(lora["name"])
    return file.label if file else None


def in_words(loras: Iterable[Chosen]) -> str:
    """Names with their weights."""
    return ", ".join(f"{each['name']} × {' → '.join(map(_number, _weights(each)))}" for each in loras)


def _weights(lora: Chosen) -> list[Any]:
    """One, or that of the first and that of the last section."""
    at_end = lora.get("weight_at_end")
    return [lora["weight"]] if at_end is None else [lora["weight"], at_end]


def _number(weight: Any) -> str:
    return f"{weight:g}" if _is_weight(weight) else str(weight)
