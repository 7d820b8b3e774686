"""Section plans by a few numbers, also for lengths that a recipe does not take."""

from dataclasses import dataclass

from diffusers_helper.limits import DecodingName
from diffusers_helper.request import TimedPrompt
from diffusers_helper.sections.kinds import KINDS
from diffusers_helper.sections.plan import VideoPlan


@dataclass(frozen=True)
class Asked:
    """See ``sections.kinds.Asked``."""

    seconds: float
    latent_window: int = 9
    fps: int = 30
    prompts: tuple[TimedPrompt, ...] = (TimedPrompt(),)
    decoding: DecodingName = "reference"


def plan_video(kind: str, seconds: float, window: int = 9, decoding: DecodingName = "reference") -> VideoPlan:
    """The plan of a kind with its usual pictures."""
    return KINDS[kind]().plan(Asked(seconds, window, decoding=decoding), ())
