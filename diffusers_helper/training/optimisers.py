"""Optimisers and how their rate changes, by the names that people know."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.optimization import SchedulerType, get_scheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Adafactor

from ..errors import InvalidRequest
from ..names import quoted

OTHERS = ("AdamW8bit", "Adafactor", "Prodigy")
"""Those that are not PyTorch's own."""


def known_optimisers() -> list[str]:
    """All names."""
    own = [name for name, each in vars(torch.optim).items() if inspect.isclass(each) and issubclass(each, Optimizer)]
    return sorted({*own, *OTHERS} - {"Optimizer", "LBFGS", "SparseAdam"}, key=str.lower)


def make_optimiser(name: str, groups: Sequence[dict[str, Any]], given: Sequence[str] = ()) -> Optimizer:
    """An optimiser by name, in whatever letters.

    Args:
        groups: parameters with their learning rates.
        given: ``key=value`` each, arguments of its own.

    Raises:
        InvalidRequest: there is none of that name, its package is not installed, or it does not take an argument.
    """
    made = _class_of(name)
    try:
        return made(list(groups), **_arguments(given, name))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"optimizer_args: {name} does not take them: {error}") from None


def check_names(optimiser: str, given: Sequence[str], scheduler: str) -> None:
    """Raises InvalidRequest where there is no such optimiser or scheduler, or it does not take its arguments."""
    make_optimiser(optimiser, [{"params": [nn.Parameter(torch.zeros(2, 2))], "lr": 1e-3}], given)
    _check_scheduler(scheduler)


def _class_of(name: str) -> Callable[..., Optimizer]:
    found = next((known for known in known_optimisers() if known.lower() == name.lower()), None)
    match found:
        case None:
            raise InvalidRequest(f"optimizer: {quoted(name)} is not known; known are {', '.join(known_optimisers())}")
        case "Adafactor":
            return _adafactor
        case "AdamW8bit":
            return _imported("bitsandbytes.optim", "AdamW8bit", "bitsandbytes")
        case "Prodigy":
            return _imported("prodigyopt", "Prodigy", "prodigyopt")
    made: Callable[..., Optimizer] = getattr(torch.optim, found)
    return made


def _adafactor(groups: Sequence[dict[str, Any]], **given: Any) -> Optimizer:
    """transformers', at the rate that is asked for unless its arguments wish another way."""
    return Adafactor(list(groups), **{"relative_step": False, "scale_parameter": False, **given})


def _imported(module: str, name: str, package: str) -> Callable[..., Optimizer]:
    try:
        found: Callable[..., Optimizer] = getattr(__import__(module, fromlist=[name]), name)
    except ImportError:
        raise InvalidRequest(f"optimizer: {name} needs the package {package}, which is not installed") from None
    return found


def _arguments(given: Sequence[str], name: str) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequest(f"optimizer_args: {quoted(text)} is not key=value")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise InvalidRequest(f"optimizer_args: {name}: {key}: {quoted(value)} is no number, text or list") from None
    return found


def make_scheduler(name: str, optimiser: Optimizer, warmup_steps: int, steps: int) -> LRScheduler:
    """diffusers', by name. Raises InvalidRequest."""
    _check_scheduler(name)
    made: LRScheduler = get_scheduler(name, optimiser, num_warmup_steps=warmup_steps, num_training_steps=steps)
    return made


def _check_scheduler(name: str) -> None:
    known = [each.value for each in SchedulerType if each is not SchedulerType.PIECEWISE_CONSTANT]
    if name not in known:
        raise InvalidRequest(f"lr_scheduler: {quoted(name)} is not known; known are {', '.join(known)}")
