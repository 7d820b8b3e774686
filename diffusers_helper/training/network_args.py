"""``--network-args key=value ...``, as musubi takes them: what of the network has no flag of its own."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ..errors import InvalidRequest
from ..names import quoted
from ..options import STRICT


class NetworkArgs(BaseModel):
    """What they say.

    Attributes:
        loraplus_lr_ratio: how many times the rate of the down factors the up factors learn at
            (LoRA+, https://arxiv.org/abs/2402.12354).
        rank_dropout, module_dropout: the share of ranks, and of modules, that a training step leaves out.
        factor: into how many parts LoKr cuts a matrix; -1 takes the most even ones.
        verbose: list the modules that are trained.
    """

    model_config = STRICT

    verbose: bool = False
    loraplus_lr_ratio: float | None = Field(default=None, gt=0)
    rank_dropout: float = Field(default=0.0, ge=0, lt=1)
    module_dropout: float = Field(default=0.0, ge=0, lt=1)
    exclude_patterns: tuple[str, ...] = Field(default=(), strict=False)
    include_patterns: tuple[str, ...] = Field(default=(), strict=False)
    factor: int = -1


def read_network_args(given: Sequence[str]) -> NetworkArgs:
    """From ``key=value`` each; the value may hold more equal signs. Raises InvalidRequest, with what is known."""
    named: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in NetworkArgs.model_fields:
            known = ", ".join(NetworkArgs.model_fields)
            raise InvalidRequest(f"network_args: {quoted(text)} is not known; give name=value of {known}")
        named[name] = _value(name, value)
    try:
        return NetworkArgs.model_validate(named)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"network_args: {name}: {quoted(first['input'])}: {first['msg']}") from None


def _value(name: str, text: str) -> Any:
    read: Mapping[str, Callable[[str], Any]] = {
        "verbose": lambda text: {"true": True, "false": False}[text.lower()],
        "loraplus_lr_ratio": float,
        "rank_dropout": float,
        "module_dropout": float,
        "factor": int,
    }
    try:
        return read.get(name, _texts)(text)
    except (ValueError, KeyError, SyntaxError, RecursionError, MemoryError):
        raise InvalidRequest(f"network_args: {name}: {quoted(text)} is not what it takes") from None


def _texts(text: str) -> list[str]:
    """A list of texts as Python writes it, or one text alone."""
    found = ast.literal_eval(text) if text.lstrip().startswith(("[", "(", "'", '"')) else text
    listed = [found] if isinstance(found, str) else list(found)
    if not all(isinstance(each, str) for each in listed):
        raise ValueError
    return listed
