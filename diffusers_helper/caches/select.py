"""Which step caches there are, by name, and how one is made from a request. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..request import Request
from .step_cache import StepCache
from .teacache import TeaCache


@dataclass(frozen=True)
class Method:
    """A kind of step cache.

    Attributes:
        make: called with the number of steps of a section, and with the method's parameters by name.
        token_tensors: tensors of the size of the packed image stream that one cache keeps from step to step.
    """

    make: Callable[..., StepCache]
    token_tensors: int


METHODS: Mapping[str, Method] = {
    "teacache": Method(TeaCache, token_tensors=2),
}


def make_step_cache(request: Request) -> StepCache | None:
    """For one section and one CFG branch; None where every step is computed."""
    name, parameters = _asked(request)
    return METHODS[name].make(request.steps, **parameters) if name else None


def token_tensors(request: Request) -> int:
    """What one cache keeps, see ``Method``; 0 where there is none."""
    name, _ = _asked(request)
    return METHODS[name].token_tensors if name else 0


def _asked(request: Request) -> tuple[str | None, dict[str, Any]]:
    """The method that a request asks for, and its parameters."""
    return ("teacache", {"threshold": request.teacache_threshold}) if request.teacache else (None, {})
