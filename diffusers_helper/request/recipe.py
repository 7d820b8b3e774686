"""The recipe: all that a request says but for its inputs. Presets, drafts, metadata and estimates hold one."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from typing_extensions import Self  # typing has it only from Python 3.11 on

from ..caches.auto import AutoOption
from ..caches.step_cache import StepCacheOption
from ..caches.table import STEP_CACHES
from ..errors import InvalidRequest
from ..json_object import object_in
from ..limits import LEAST_PRESERVED_GB, MOST_PRESERVED_GB, DecodingName, LoraMode
from ..options import STRICT, OneOf
from ..sections.kinds import KINDS, FramePack, Kind
from ..sections.plan import VideoPlan
from .explain import refusal
from .fields import PICTURE, PICTURES, data_of, flat, idle_of
from .migrate import SCHEMA_VERSION, VERSION, as_present
from .output import OUTPUTS, Mp4, Output, output_of
from .parts import LONGEST_SECONDS, SHORTEST_SECONDS, Lora, Text, TimedPrompt, wrong

SEED_MAX = 2**63 - 1
DRAW_A_SEED = -1
MOST_PROMPTS, MOST_LORAS = 100, 100


class Recipe(BaseModel):
    """How a video is made, or a picture.

    Build it with ``parse`` from flat values, as people name them (see fields.py), or with ``from_data`` from what this
    program has written, of whatever version: both give messages that name the field, the value and the remedy.
    """

    model_config = STRICT

    schema_version: Literal[4] = 4
    prompts: tuple[TimedPrompt, ...] = Field(
        (TimedPrompt(),), max_length=MOST_PROMPTS, strict=False, description="what happens, and from when on"
    )
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
    rope_scaling_factor: float = Field(
        1.0,
        ge=0.1,
        le=10,
        description="rows and columns are divided by it, for sizes above the trained ones; 1 is off, up to 2 is usual; "
        "for f1 and one_frame, experimental for framepack",
    )
    rope_scaling_timestep_threshold: float = Field(
        400.0, ge=0, le=1000, description="RoPE scaling acts on timesteps from 1000 down to this one"
    )
    kind: Annotated[Kind, OneOf(KINDS)] = Field(
        FramePack(), description="framepack plans from the end, f1 goes forward"
    )
    step_cache: Annotated[StepCacheOption | None, OneOf(STEP_CACHES, optional=True)] = Field(
        AutoOption(), description="reuse transformer results on steps that change little"
    )
    decoding: DecodingName = Field(
        "lean",
        description="how latents become pixels: lean; quality, with more of what came before; or as the original",
    )
    output: Annotated[Output, OneOf(OUTPUTS)] = Field(Mp4(), description="the file that is made")
    loras: tuple[Lora, ...] = Field((), max_length=MOST_LORAS, strict=False, description="adapters of the weights")
    lora_mode: LoraMode = Field(
        "auto",
        description="how LoRAs act: beside the weights, merged into them, or auto, which is beside unless that cannot "
        "be or is much work",
    )
    size: str | None = Field(
        None, pattern=r"^[1-9]\d{1,4}x[1-9]\d{1,4}$", description="WIDTHxHEIGHT; by default fits the picture"
    )
    fps: Literal[30] = 30
    preserved_memory_gb: float = Field(
        float(LEAST_PRESERVED_GB),
        ge=LEAST_PRESERVED_GB,
        le=MOST_PRESERVED_GB,
        description="GPU memory that the weights leave free",
    )

    @model_validator(mode="before")
    @classmethod
    def _output_by_kind(cls, data: Any) -> Any:
        """Where no output is named, it is one that the kind can make."""
        if not isinstance(data, Mapping) or "output" in data:
            return data
        try:
            kind = OneOf(KINDS).read(data.get("kind", FramePack()))
        except ValueError:
            return data
        return {**data, "output": output_of(kind.result)} if isinstance(kind, Kind) else data

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        errors = []
        if self.output.result != self.kind.result:
            errors.append(wrong("output", f"a {self.kind.result}, as {self.kind.name} makes", self.output.name))
        starts = [prompt.from_second for prompt in self.prompts]
        if starts[:1] != [0] or sorted(set(starts)) != starts:
            errors.append(wrong("prompts", "times that follow each other, the first 0", starts))
        if errors:
            raise ValidationError.from_exception_data("Recipe", errors)
        return self

    @classmethod
    def parse(cls, named: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Self:
        """From flat values, or where they name a version from what it wrote; ``picture`` may stand beside both.

        ``defaults``: flat values for what is not said.

        Raises:
            InvalidRequest: naming each wrong field, its value and what is allowed.
        """
        rest = {name: value for name, value in named.items() if name != PICTURE}
        if VERSION in rest:
            data = as_present(rest)
        else:
            data = {VERSION: SCHEMA_VERSION, **data_of(rest, Recipe)}
            cls._check_idle(rest, data)
        data = {**data_of(defaults or {}, Recipe), **data}
        if PICTURE in named:
            others = data.get(PICTURES, [])
            start = {"role": "start", "path": named[PICTURE]}
            data[PICTURES] = [start, *others] if isinstance(others, (list, tuple)) else others
        return cls._checked(data)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """From what ``model_dump`` gave, in this version or an older one. Raises InvalidRequest."""
        return cls._checked(as_present(data))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of ``to_json``, for any version; raises InvalidRequest."""
        return cls.from_data(_object(text))

    @classmethod
    def parse_json(cls, text: str) -> Self:
        """``parse`` for a JSON object that somebody wrote; raises InvalidRequest."""
        return cls.parse(_object(text))

    @classmethod
    def _check_idle(cls, named: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """What is given to an option that is not chosen has to be allowed all the same."""
        for choice, table, option in idle_of(named, data, Recipe):
            try:
                table.read(option)
            except ValidationError as error:
                lines = [{**line, "loc": (choice, *line["loc"])} for line in error.errors()]
                raise refusal(lines, cls, Recipe) from None

    @classmethod
    def _checked(cls, data: Mapping[str, Any]) -> Self:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise refusal(error.errors(), cls, Recipe) from None

    def to_json(self) -> str:
        """One line, with its version."""
        return json.dumps(self.model_dump())

    def flat(self) -> dict[str, Any]:
        """Its values by the names that people know; the inverse of ``parse`` but for what has no such name."""
        return flat(self.model_dump(include=set(Recipe.model_fields)), Recipe)

    @property
    def prompt(self) -> str:
        """The text at the beginning of the video; of most recipes the only one."""
        return self.prompts[0].text

    def plan(self) -> VideoPlan:
        """The sections of what it makes, of the inputs that its kind usually has."""
        return self.kind.plan(self, ())

    def with_seed(self) -> Self:
        """The same with a drawn seed in the place of -1."""
        if self.seed != DRAW_A_SEED:
            return self
        return self.model_copy(update={"seed": secrets.randbelow(SEED_MAX + 1)})


def _object(text: str) -> dict[str, Any]:
    try:
        return object_in(text)
    except ValueError as error:
        raise InvalidRequest(f"the request {error}") from None
