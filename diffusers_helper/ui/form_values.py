"""The values of a form's fields: as the components show them, as a request has them, and what can be chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidRequest
from ..models.table import Checkpoint
from ..preparation import makes_size
from ..request import Recipe
from ..request.fields import fields as flat_fields
from ..request.output import OUTPUTS
from ..sections.kinds import CONTROL, MEAN, START, OneFrame
from . import loras
from .app_context import kinds_of, sizes_of
from .loras import LORAS
from .options import KIND

EMBEDDING = f"{OneFrame.name}_embedding"
OFFERED = (KIND, "size")
"""Fields whose choices the checkpoint decides."""
OF_NAMES = tuple(name for name, field in flat_fields(Recipe).items() if field.names and name not in OFFERED)
CHOICES = (*OFFERED, *OF_NAMES, EMBEDDING)
"""All fields of which one of several is chosen."""
FITS_PICTURE = "fit"
VIDEOS = tuple(name for name, made in OUTPUTS.items() if made.result == "video")
"""The outputs that can be chosen; one picture has the one that there is for it."""
LONGEST_NUMBER = 100
"""Characters; Python itself refuses to read numbers of thousands."""


def choices_of(name: str, checkpoint: Checkpoint | None) -> tuple[str, ...] | None:
    """What a field can be with this checkpoint; None where it does not depend on it."""
    match name:
        case "kind":
            return kinds_of(checkpoint)
        case "size":
            return (FITS_PICTURE, *sizes_of(checkpoint))
        case "output":
            return VIDEOS
        case "one_frame_embedding":
            return embeddings(0)
    return flat_fields(Recipe)[name].names if name in CHOICES else None


def offered_of(checkpoint: Checkpoint | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``fields`` that a checkpoint makes; RoPE scaling among them allows larger sizes."""
    factor = fields.get("rope_scaling_factor", 1.0)

    def is_offered(name: str, value: Any) -> bool:
        choices = choices_of(name, checkpoint)
        larger = name == "size" and checkpoint is not None and makes_size(value, factor, checkpoint)
        return choices is None or larger or name == EMBEDDING or shown_of(name, value) in choices

    return {name: value for name, value in fields.items() if is_offered(name, value)}


def is_allowed(name: str, value: Any) -> bool:
    """Whether a request takes it, whatever else it says."""
    try:
        Recipe.parse({name: value})
    except InvalidRequest:
        return False
    return True


def shown_of(name: str, value: Any) -> Any:
    """A request's value as the component shows it."""
    match name:
        case "seed":
            return str(value)
        case "size":
            return value or FITS_PICTURE
        case "loras":
            return loras.as_text(value or ())
    return value


def meant_by(name: str, value: Any) -> Any:
    """A component's value as a request has it; what makes no sense is left for the request to refuse."""
    if name == LORAS:
        return loras.from_text(value)
    if name == "size":
        return None if value == FITS_PICTURE else value
    if name == "seed":
        text = str(value).strip()
        return int(text) if text.removeprefix("-").isdecimal() and len(text) <= LONGEST_NUMBER else text
    if isinstance(value, float) and value.is_integer() and flat_fields(Recipe)[name].info.annotation is int:
        return int(value)
    return value


def embeddings(places: int) -> tuple[str, ...]:
    """What the image encoder can see of so many control pictures; the start is the first of them."""
    return (START, *(f"{CONTROL}{number}" for number in range(2, places + 1)), MEAN)
