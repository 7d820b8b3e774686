"""The parts of a recipe of which there can be several."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..options import STRICT
from ..words import Message

SHORTEST_SECONDS, LONGEST_SECONDS = 1, 120
MOST_CHARACTERS = 10_000
LARGEST_WEIGHT = 10
Text = Annotated[str, StringConstraints(max_length=MOST_CHARACTERS)]


class TimedPrompt(BaseModel):
    """What happens in the video from a second of it on, until the next prompt."""

    model_config = STRICT

    text: Text = Field(default="", description="what happens in the video")
    from_second: float = Field(default=0.0, ge=0, le=LONGEST_SECONDS, description="where in the video it begins")


class Lora(BaseModel):
    """An adapter of the transformer's weights; the hash says which file, wherever it lies."""

    model_config = STRICT

    name: Text = Field(min_length=1, description="what people call it")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="the SHA-256 of its file, in hexadecimal digits")
    weight: float = Field(default=1.0, ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT, description="how strongly it acts")
    weight_at_end: float | None = Field(
        default=None,
        ge=-LARGEST_WEIGHT,
        le=LARGEST_WEIGHT,
        description="how strongly it acts in the last section; sections before go evenly from the weight to this one",
    )

    @model_serializer(mode="wrap")
    def _said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The weight at the end is there only where there is one."""
        return {name: value for name, value in dump(self).items() if value is not None}

    @property
    def acts(self) -> bool:
        """Whether it ever does."""
        return bool(self.weight or self.weight_at_end)

    @property
    def changes(self) -> bool:
        """Whether it acts otherwise in one section than in another."""
        return self.weight_at_end is not None and self.weight_at_end != self.weight

    def weight_at(self, place: float) -> float:
        """That of a section, by its ``SectionPlan.place``."""
        return self.weight if self.weight_at_end is None else self.weight + (self.weight_at_end - self.weight) * place


def wrong(field: str, allowed: str, given: Any) -> InitErrorDetails:
    """An error of ``field`` for validators that look at several fields; ``allowed`` says in words what it takes."""
    return InitErrorDetails(
        type=PydanticCustomError("fit", "{allowed}", {"allowed": allowed}), loc=(field,), input=given
    )


def told(place: tuple[str, ...], reason: Message, given: Any) -> InitErrorDetails:
    """The same with what the page says too."""
    return InitErrorDetails(
        type=PydanticCustomError("said", "{words}", {"words": str(reason), "reason": reason}), loc=place, input=given
    )
