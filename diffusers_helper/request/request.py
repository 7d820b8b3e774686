"""The request: a recipe with its inputs, the pictures and the video that it begins with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from ..names import AnyText
from ..options import STRICT
from ..sections.kinds import Role
from ..sections.plan import VideoPlan
from .fields import PICTURE, PICTURES
from .parts import LONGEST_SECONDS, told, wrong
from .recipe import Recipe

MOST_PICTURES = 100
SINGLE_ROLES: tuple[Role, ...] = ("start", "end")


class Picture(BaseModel):
    """A picture, and what it is for.

    Attributes:
        at_second: where in the video a key picture stands.
        mask: of a control picture the path of one that says which parts of it count: white does, black does not.
            Without it what is transparent does not.
    """

    model_config = STRICT

    role: Role = "start"
    path: AnyText = Field(description="path of the picture")
    at_second: float | None = Field(None, ge=0, le=LONGEST_SECONDS, description="place of a key picture")
    mask: AnyText | None = Field(None, description="path of the mask")

    @field_validator("path", "mask")
    @classmethod
    def _names_something(cls, path: str | None) -> str | None:
        if path == "":
            raise ValueError
        return path

    @model_validator(mode="after")
    def _is_placed_by_role(self) -> Self:
        if (self.at_second is not None) != (self.role == "key"):
            raise PydanticCustomError("at_second", "at_second for a key picture, and for no other")
        if self.mask is not None and self.role != "control":
            raise PydanticCustomError("mask", "a mask for control pictures only")
        return self


class Request(Recipe):
    """One thing to make.

    Of its flat values ``picture`` is the path of the start picture.
    """

    pictures: tuple[Picture, ...] = Field((), max_length=MOST_PICTURES, strict=False, description="the pictures")
    video: AnyText | None = Field(None, description="path of the video to go on from")

    @model_validator(mode="after")
    def _kind_has_its_inputs(self) -> Self:
        errors = [*self._missing(), *self._too_many(), *self._without_use(), *self._beyond_the_end(), *self._misfits()]
        if errors:
            raise ValidationError.from_exception_data("Request", errors)
        return self

    def _missing(self) -> list[InitErrorDetails]:
        roles = {picture.role for picture in self.pictures}
        return [
            InitErrorDetails(type="missing", loc=(f"{role} picture",), input=None)
            for role in sorted(self.kind.needs - roles)
        ]

    def _too_many(self) -> list[InitErrorDetails]:
        count = Counter(picture.role for picture in self.pictures)
        return [wrong("pictures", f"one {role} picture", count[role]) for role in SINGLE_ROLES if count[role] > 1]

    def _without_use(self) -> list[InitErrorDetails]:
        useless = sorted({picture.role for picture in self.pictures} - self.kind.takes)
        takes = ", ".join(sorted(self.kind.takes))
        errors = [wrong("pictures", f"pictures that {self.kind.name} has a use for: {takes}", role) for role in useless]
        if self.video is not None and not self.kind.takes_video:
            errors.append(wrong("video", f"no video: {self.kind.name} begins anew", self.video))
        return errors

    def _beyond_the_end(self) -> list[InitErrorDetails]:
        places = [picture.at_second for picture in self.pictures if picture.at_second is not None]
        words = f"key pictures before the end of the video, at {self.seconds:g} s"
        return [wrong("pictures", words, place) for place in places if place >= self.seconds]

    def _misfits(self) -> list[InitErrorDetails]:
        data = self.kind.model_dump()
        return [
            told(("kind", self.kind.name, name), reason, data[name])
            for name, reason in self.kind.misfits(self.pictures)
        ]

    @property
    def shown_picture(self) -> str:
        """The path of the picture that stands for the request: the start picture, else the first one; "" for none."""
        starts = [picture.path for picture in self.pictures if picture.role == "start"]
        return next(iter([*starts, *(picture.path for picture in self.pictures)]), "")

    @property
    def recipe(self) -> Recipe:
        """What it says but for its inputs: no path is in it."""
        return Recipe.model_validate({name: getattr(self, name) for name in Recipe.model_fields})

    def flat(self) -> dict[str, Any]:
        """See ``Recipe``; with the path of the start picture, and with the other pictures, where there are such."""
        starts = [picture.path for picture in self.pictures if picture.role == "start"]
        others = [picture.model_dump(exclude_none=True) for picture in self.pictures if picture.role != "start"]
        inputs = {**({PICTURE: starts[0]} if starts else {}), **({PICTURES: others} if others else {})}
        return {**inputs, **super().flat()}

    def plan(self) -> VideoPlan:
        """The sections of what it makes, of its own inputs."""
        return self.kind.plan(self, self.pictures)

    @property
    def picture_paths(self) -> tuple[str, ...]:
        """Where its pictures and their masks lie, each place once."""
        paths = (path for picture in self.pictures for path in (picture.path, picture.mask) if path)
        return tuple(dict.fromkeys(paths))

    def with_picture_paths(self, changed: Callable[[str], str]) -> Self:
        """The same with the paths of pictures and masks changed."""
        pictures = tuple(
            picture.model_copy(update={"path": changed(picture.path), "mask": picture.mask and changed(picture.mask)})
            for picture in self.pictures
        )
        return self.model_copy(update={"pictures": pictures})

    def with_paths(self, changed: Callable[[str], str]) -> Self:
        """The same with every path changed."""
        return self.with_picture_paths(changed).model_copy(update={"video": self.video and changed(self.video)})
