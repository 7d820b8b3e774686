"""What a checkpoint says of itself: its kinds and sizes, and for people what it is for, where it ends and how to begin.

It stands in ``framepack.json`` in the checkpoint's folder. The large ones of the table bring no such file; what is said
about them lies beside this module in the same form. The texts come from files that anybody may have written: they are
one visible line each, bounded, and escaped by whoever shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import Self  # typing has it only from Python 3.11 on

from ..caches.auto import STRENGTHS
from ..caches.step_cache import Measured, StepCacheOption
from ..caches.table import MEASURABLE
from ..errors import UnusableCheckpoint
from ..options import OneOf
from ..request.parts import LONGEST_SECONDS, SHORTEST_SECONDS
from ..sections.kinds import KINDS
from ..words import Message
from .calibrations import Ratios

ENGLISH = "en"
LARGE = Path(__file__).with_name("large")
SIDE_STEP = 16
"""A side in pixels is a multiple of it: the VAE makes a latent of 8 pixels, the transformer a token of 2 latents."""
LATENT_CHANNELS = 16


def _visible_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be one line of visible text")
    return text


def _by_language(given: Any) -> Any:
    return {ENGLISH: given} if isinstance(given, str) else given


def _with_english(words: dict[str, str]) -> dict[str, str]:
    if ENGLISH not in words:
        raise ValueError(f"must have a text for {ENGLISH!r}")
    return words


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"must be one of {', '.join(KINDS)}")
    return kind


def _without_repeats(kinds: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(kinds)) < len(kinds):
        raise ValueError("must not say the same twice")
    return kinds


Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]
Line = Annotated[str, StringConstraints(max_length=300), AfterValidator(_visible_line)]
Words = Annotated[
    dict[Language, Line], Field(max_length=20), BeforeValidator(_by_language), AfterValidator(_with_english)
]
"""Language -> text; English is always there. A text alone is English."""
Seconds = Annotated[float, Field(ge=SHORTEST_SECONDS, le=LONGEST_SECONDS, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=SIDE_STEP, le=8192, multiple_of=SIDE_STEP)]
Kind = Annotated[str, AfterValidator(_known)]
Kinds = Annotated[tuple[Kind, ...], Field(min_length=1), AfterValidator(_without_repeats)]
Share = Annotated[float, Field(allow_inf_nan=False)]
Colour = tuple[Share, Share, Share]
Factors = Annotated[tuple[Colour, ...], Field(min_length=LATENT_CHANNELS, max_length=LATENT_CHANNELS)]


class About(BaseModel):
    """What people are told of a checkpoint.

    Attributes:
        title: what it is.
        purpose: what it makes.
        limits: what it cannot.
        default_seconds: the length of a request that names none; None leaves it to the request.
        good_up_to_seconds: longer videos are known to be worse; None where that is not known.
        examples: prompts to begin with. The model gets the English text, whatever language shows it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    title: Words | None = None
    purpose: Words | None = None
    limits: Words | None = None
    default_seconds: Seconds | None = None
    good_up_to_seconds: Seconds | None = None
    examples: Annotated[tuple[Words, ...], Field(max_length=12)] = ()

    def sentences(self, language: str = ENGLISH) -> str:
        """Title, purpose and limits, as far as they are there."""
        return " ".join(said(words, language) for words in (self.title, self.purpose, self.limits) if words)


class Description(BaseModel):
    """All that ``framepack.json`` may say; None where it does not.

    Attributes:
        kinds: the samplings it was trained for, the one it does best first.
        buckets: (height, width) in pixels.
        latent_rgb_factors, latent_rgb_bias: the linear preview map, [16, 3] and [3].
        steps_per_frame: what decoding a frame takes, in sampling steps.
        magcache_ratios: a number per step; see caches/magcache.py.
        guidance: the distilled guidance that trainings tell it: the only one that it knows, where it knows but one.
        step_caches: what the step cache ``auto`` stands for, by its strength.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    kinds: Kinds | None = None
    buckets: Annotated[tuple[tuple[Side, Side], ...], Field(min_length=1)] | None = None
    latent_rgb_factors: Factors | None = None
    latent_rgb_bias: Colour | None = None
    steps_per_frame: Annotated[float, Field(gt=0, le=1000)] | None = None
    magcache_ratios: Ratios | None = None
    guidance: Annotated[float, Field(ge=0, le=100)] | None = None
    step_caches: Mapping[str, Annotated[StepCacheOption, OneOf(MEASURABLE)]] = {}
    about: About = About()

    @model_validator(mode="after")
    def _map_is_whole(self) -> Self:
        if (self.latent_rgb_factors is None) != (self.latent_rgb_bias is None):
            raise ValueError("latent_rgb_factors and latent_rgb_bias go together")
        return self

    @field_validator("step_caches")
    @classmethod
    def _are_strengths(cls, given: Mapping[str, StepCacheOption]) -> Mapping[str, StepCacheOption]:
        if unknown := sorted(set(given) - set(STRENGTHS)):
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(STRENGTHS)}")
        if any(option.calibrates for option in given.values()):
            raise ValueError("a calibration is no step cache to choose")
        return given

    @property
    def latent_rgb(self) -> tuple[tuple[Colour, ...], Colour] | None:
        """Factors and bias where both are there."""
        if self.latent_rgb_factors is None or self.latent_rgb_bias is None:
            return None
        return self.latent_rgb_factors, self.latent_rgb_bias

    @property
    def measured(self) -> Measured:
        """For the step caches."""
        return Measured(ratios=(self.magcache_ratios,) if self.magcache_ratios else (), best={**self.step_caches})


def said(words: Mapping[str, str], language: str) -> str:
    """The text in this language, else in English."""
    return words.get(language) or words[ENGLISH]


def read_description(file: Path) -> Description:
    """What ``file`` says; the defaults where there is none. Raises UnusableCheckpoint naming what is wrong in it."""
    if not file.is_file():
        return Description()
    try:
        return Description.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UnusableCheckpoint(Message("files.not_read", file=str(file), reason=error.strerror or "")) from None
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors()]
        raise UnusableCheckpoint(Message("files.damaged", file=str(file), reason="; ".join(wrong[:3]))) from None


@cache
def describe_large(name: str) -> Description:
    """What is said of a large checkpoint of the table."""
    return read_description(LARGE / f"{name}.json")
