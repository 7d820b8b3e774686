"""The request: what a user asks for. One frozen, validated, versioned object; everything else derives from it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic.fields import FieldInfo
from typing_extensions import Self  # typing has it only from Python 3.11 on

from .errors import InvalidRequest, Problem, ProblemKind
from .names import AnyText, quoted

SEED_MAX = 2**63 - 1
DRAW_A_SEED = -1
SHORTEST_SECONDS, LONGEST_SECONDS = 1, 120

MOST_CHARACTERS = 10_000
Text = Annotated[str, StringConstraints(max_length=MOST_CHARACTERS)]


class Request(BaseModel):
    """One video to make.

    Build it with ``Request.parse`` (or ``from_json``) to get messages that name the field, the value and the remedy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    schema_version: Literal[1] = 1
    picture: AnyText = Field(description="path of the start picture")
    prompt: Text = Field("", description="what happens in the video")
    negative_prompt: Text = Field("", description="what should not happen; acts only when real CFG is above 1")
    seed: int = Field(
        31337, ge=DRAW_A_SEED, le=SEED_MAX, description="the same seed gives the same video; -1 draws one"
    )
    seconds: float = Field(
        5.0, ge=SHORTEST_SECONDS, le=LONGEST_SECONDS, description="length; rounded to whole sections"
    )
    steps: int = Field(25, ge=1, le=100, description="sampling steps per section")
    distilled_guidance: float = Field(10.0, ge=1, le=32, description="guidance value the model was distilled with")
    real_cfg: float = Field(1.0, ge=1, le=32, description="classifier-free guidance; above 1 doubles the time")
    cfg_rescale: float = Field(0.0, ge=0, le=1, description="CFG re-scale; acts only when real CFG is above 1")
    latent_window: int = Field(
        9, ge=1, le=64, description="latent frames per section; other values than 9 are untrained"
    )
    kind: Literal["framepack", "f1"] = Field("framepack", description="framepack plans from the end, f1 goes forward")
    teacache: bool = Field(True, description="reuse transformer results on steps that change little")
    teacache_threshold: float = Field(0.15, ge=0, le=1, description="higher reuses more; 0.1 is the quality setting")
    mp4_crf: int = Field(16, ge=0, le=100, description="video compression; lower is larger and better")
    size: str | None = Field(
        None, pattern=r"^[1-9]\d{1,4}x[1-9]\d{1,4}$", description="WIDTHxHEIGHT; by default fits the picture"
    )
    fps: Literal[30] = 30
    preserved_memory_gb: float = Field(6.0, ge=6, le=128, description="GPU memory that the weights leave free")

    @field_validator("picture")
    @classmethod
    def _names_something(cls, picture: str) -> str:
        if not picture:
            raise ValueError
        return picture

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """Validate ``fields``.

        Raises:
            InvalidRequest: naming each wrong field, its value and what is allowed.
        """
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            told = error.errors()
            message = "\n".join(_explain(cls, problem) for problem in told)
            raise InvalidRequest(message, [_as_data(cls, problem) for problem in told]) from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of ``to_json``; raises InvalidRequest."""
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise InvalidRequest(f"the request is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise InvalidRequest(f"the request must be a JSON object, not {type(fields).__name__}")
        return cls.parse(fields)

    def to_json(self) -> str:
        return json.dumps(self.model_dump())

    def metadata(self) -> dict[str, Any]:
        """What goes into the video's and the picture's metadata: everything but the path of the picture."""
        return self.model_dump(exclude={"picture"})

    def with_seed(self) -> Self:
        """The same request with a drawn seed in the place of -1."""
        if self.seed != DRAW_A_SEED:
            return self
        return self.model_copy(update={"seed": secrets.randbelow(SEED_MAX + 1)})


FIELDS = tuple(name for name in Request.model_fields if name not in ("schema_version", "picture"))
"""What a preset, or a file of another program, may say of a request: all but the picture."""


def _as_data(model: type[BaseModel], problem: Mapping[str, Any]) -> Problem:
    name = ".".join(str(part) for part in problem["loc"])
    field = model.model_fields.get(name)
    kind, limits = _rule(field, problem["type"]) if field else ("other", {})
    return Problem(name, kind, None if kind == "missing" else problem["input"], limits)


def _rule(field: FieldInfo, broken: str) -> tuple[ProblemKind, Mapping[str, Any]]:
    """Which rule of ``field`` was broken, and its limits."""
    if broken == "missing":
        return "missing", {}
    limits = _bounds(field)
    if len(limits) == 2:
        whole = field.annotation is int
        return "whole_number" if whole else "number", {"low": limits["ge"], "high": limits["le"]}
    if broken == "string_too_long":
        return "too_long", {"most": MOST_CHARACTERS}
    return "other", {}


def _bounds(field: FieldInfo) -> dict[str, Any]:
    return {key: getattr(rule, key) for rule in field.metadata for key in ("ge", "le") if hasattr(rule, key)}


def _explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or "request"
    match problem["type"]:
        case "missing":
            return f"{name}: is missing; give {_description(model, name)}"
        case "extra_forbidden":
            return f"{name}: is not a field of a request; the fields are {', '.join(model.model_fields)}"
    return f"{name}: {quoted(problem['input'])} is not allowed; give {_allowed(model.model_fields[name], problem)}"


def _description(model: type[BaseModel], name: str) -> str:
    return (model.model_fields[name].description or name) if name in model.model_fields else name


def _allowed(field: FieldInfo, problem: Mapping[str, Any]) -> str:
    """What a field takes, in words; by its bounds where it has them."""
    limits = _bounds(field)
    if len(limits) == 2:
        number = "a whole number" if field.annotation is int else "a number"
        return f"{number} from {limits['ge']} to {limits['le']}"
    match problem["type"]:
        case "string_too_long":
            return f"at most {problem['ctx']['max_length']} characters"
        case "value_error" | "string_pattern_mismatch":
            return field.description or "another text"
        case "string_type" | "is_instance_of":
            return "a text"
        case "string_unicode":
            return "a text in UTF-8"
        case "bool_type":
            return "true or false"
    return str(problem["msg"]).removeprefix("Input should be ")
