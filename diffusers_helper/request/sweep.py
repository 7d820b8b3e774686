"""A sweep: the same request several times, with one or two of its values going through a list.

An axis is ``name=values``: ``target_index=1,4,9``, ``target_index=1..16``, ``lora_weight=0..1..0.25`` (in steps of a
quarter), ``control_index=0;10,0;13``. Names are flat names, and musubi's of what one picture is made with.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ..errors import InvalidRequest, Problem
from ..names import quoted
from ..words import Message
from .fields import fields
from .recipe import Recipe
from .request import Request

WINDOW = "latent_window"
MOST_CELLS, MOST_AXES = 100, 2
SHORT_NAMES: Mapping[str, str] = {
    "target_index": "one_frame_target_index",
    "control_index": "one_frame_control_index",
    "embedding": "one_frame_embedding",
    "latent_window_size": WINDOW,
}
"""Names that are told without the kind, and musubi's."""
LORA_WEIGHT = re.compile(r"lora_weight(?:_([1-9]\d?))?")
"""The first LoRA's weight, or that of the one with this number."""
_NUMBER = r"-?\d{1,19}(?:\.\d{1,9})?"
_RANGE = re.compile(rf"({_NUMBER})(?:\.\.({_NUMBER})(?:\.\.({_NUMBER}))?)?", re.ASCII)
FIELD = "sweep"
_KINDS: Mapping[Any, type] = {int: int, float: float, bool: bool}
SWITCH: Mapping[str, bool] = {"off": False, "on": True}
NOT_SWEPT = ("loras", "kind", "output")
"""Of a recipe's values, those of which no list makes sense beside each other."""


@dataclass(frozen=True)
class Axis:
    """A value's name, as it was given, and what it becomes from cell to cell."""

    name: str
    values: tuple[Any, ...]

    @property
    def field(self) -> str:
        """Its flat name."""
        return SHORT_NAMES.get(self.name, self.name)

    @property
    def means(self) -> str:
        """Its field; of LoRAs' weights which."""
        weight = LORA_WEIGHT.fullmatch(self.name)
        return f"lora {weight[1] or 1}" if weight else self.field

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands at each place of it."""
        words = {True: "on", False: "off"}
        return tuple(f"{self.name} {words[value] if isinstance(value, bool) else value}" for value in self.values)

    def applied(self, flat: Mapping[str, Any], value: Any) -> dict[str, Any]:
        """The flat values of a request with one of this axis'. Raises InvalidRequest for a LoRA that there is not."""
        weight = LORA_WEIGHT.fullmatch(self.name)
        if weight is None:
            return {**flat, self.field: value}
        loras, number = [dict(lora) for lora in flat.get("loras", ())], int(weight[1] or 1) - 1
        if number >= len(loras):
            raise _refused(Message("sweep.no_lora", name=self.name, loras=len(loras)))
        loras[number]["weight"] = value
        return {**flat, "loras": loras}


def read_axis(text: str) -> Axis:
    """An axis as people write it. Raises InvalidRequest."""
    name, _, listed = (part.strip() for part in text.partition("="))
    known = fields(Recipe)
    field = known.get(SHORT_NAMES.get(name, name))
    if LORA_WEIGHT.fullmatch(name):
        kind: type = float
    elif field is None or field.name in NOT_SWEPT:
        raise _refused(
            Message("sweep.name", name=quoted(name), choices=", ".join((*SHORT_NAMES, "seed", "lora_weight")))
        )
    else:
        kind = _KINDS.get(field.info.annotation, str)
    values = tuple(value for part in filter(None, map(str.strip, listed.split(","))) for value in _values(part, kind))
    if not values:
        raise _refused(Message("sweep.nothing", name=name))
    return Axis(name, values)


def _values(part: str, kind: type) -> list[Any]:
    """One value, or all of a range, both ends included."""
    if kind is str:
        return [part]
    if kind is bool:
        return [_truth(part)]
    span = _RANGE.fullmatch(part)
    if not span or (span[3] is not None and Decimal(span[3]) <= 0):
        raise _refused(Message("sweep.number", given=quoted(part)))
    low, high, step = Decimal(span[1]), Decimal(span[2] or span[1]), Decimal(span[3] or 1)
    count = int((high - low) / step) + 1
    if not 1 <= count <= MOST_CELLS:
        raise _refused(Message("sweep.range", given=quoted(part), most=MOST_CELLS))
    values = [low + place * step for place in range(count)]
    if kind is int and any(value % 1 for value in values):
        raise _refused(Message("sweep.whole", given=quoted(part)))
    return [kind(value) for value in values]


def _truth(part: str) -> bool:
    if part not in SWITCH:
        raise _refused(Message("sweep.switch", given=quoted(part), choices=", ".join(SWITCH)))
    return SWITCH[part]


def rope_batch(count: int, latent_window: int) -> Axis:
    """The latent window one larger from picture to picture."""
    return Axis(WINDOW, tuple(range(latent_window, latent_window + count)))


def cells(flat: Mapping[str, Any], axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """The flat values of every request of a sweep, the last axis going through its values first.

    Raises InvalidRequest: too many, or an axis that changes nothing.
    """
    places = list(itertools.product(*(axis.values for axis in axes)))
    if len(axes) > MOST_AXES or len(places) > MOST_CELLS:
        raise _refused(Message("sweep.many", axes=MOST_AXES, most=MOST_CELLS, given=len(places)))
    if len({axis.means for axis in axes}) < len(axes):
        raise _refused(Message("sweep.twice", name=axes[0].name))
    found = []
    for values in places:
        cell = dict(flat)
        for axis, value in zip(axes, values, strict=True):
            cell = axis.applied(cell, value)
        found.append(cell)
    return found


def requests_of(
    request: Request, flat: Mapping[str, Any], axes: Sequence[Axis], defaults: Mapping[str, Any] | None = None
) -> list[Request]:
    """Every request of a sweep, all with one seed where that is to be drawn.

    Args:
        request: what ``flat`` and ``defaults`` say without a sweep.

    Raises:
        InvalidRequest: see ``cells`` and ``check_window``; and for a value that a request does not take.
    """
    check_window(request, axes)
    drawn = {**flat, "seed": request.with_seed().seed}
    return [Request.parse(cell, defaults) for cell in cells(drawn, axes)]


def check_window(recipe: Recipe, axes: Sequence[Axis]) -> None:
    """Raises InvalidRequest where the latent window goes through a list and nothing that is seen depends on it."""
    if recipe.kind.result == "picture" and any(axis.field == WINDOW for axis in axes):
        wider = recipe.model_copy(update={WINDOW: recipe.latent_window + 1})
        if [s.context for s in wider.plan().sections] == [s.context for s in recipe.plan().sections]:
            raise _refused(Message("sweep.window"))


def _refused(reason: Message) -> InvalidRequest:
    return InvalidRequest(f"{FIELD}: {reason}", [Problem(FIELD, "said", None, {"reason": reason})])
