"""Which linears of the transformer are trained: those of its blocks, by regular expressions that match whole names.

Excluded is what ``exclude`` matches and ``include`` does not; so ``include`` alone leaves all as it is. HunyuanVideo's
names for the blocks (``double_blocks``, ``single_blocks``) are understood beside diffusers'.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from torch import nn

from ..errors import InvalidRequest
from ..models.quantise import QuantisedLinear
from ..names import quoted

BLOCKS = ("transformer_blocks", "single_transformer_blocks")
NORMS = r".*(norm).*"
"""Excluded by itself, as musubi does it: the modulation of the blocks."""
HUNYUAN = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}


def trainable(
    model: nn.Module, exclude: Sequence[str] = (), include: Sequence[str] = (), blocks: Iterable[str] = BLOCKS
) -> dict[str, nn.Linear | QuantisedLinear]:
    """The linears that are trained, by name. Raises InvalidRequest for what is no pattern or matches none of them, and
    where none is left."""
    begins = tuple(f"{block}." for block in blocks)
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | QuantisedLinear) and name.startswith(begins)
    }
    excluded, included = _patterns("exclude_patterns", exclude), _patterns("include_patterns", include)
    for option, patterns in (("exclude_patterns", excluded), ("include_patterns", included)):
        _require_matches(option, patterns, linears)
    excluded.append(re.compile(NORMS))
    found = {
        name: linear for name, linear in linears.items() if not _matches(excluded, name) or _matches(included, name)
    }
    if not found:
        given = f"exclude_patterns {list(exclude)}, include_patterns {list(include)}"
        some = ", ".join(list(linears)[:3])
        raise InvalidRequest(f"network_args: no module is left to train by {given}; names are such as {some}")
    return found


def _patterns(name: str, texts: Iterable[str]) -> list[re.Pattern[str]]:
    found = []
    for text in texts:
        try:
            found.append(re.compile(text))
        except re.error as error:
            raise InvalidRequest(f"network_args: {name}: {quoted(text)} is no regular expression: {error}") from None
    return found


def _require_matches(option: str, patterns: Iterable[re.Pattern[str]], names: Collection[str]) -> None:
    for pattern in patterns:
        if not any(_matches([pattern], name) for name in names):
            some = ", ".join(list(names)[:3])
            told = f"{quoted(pattern.pattern)} matches no module; a pattern matches whole names, such as {some}"
            raise InvalidRequest(f"network_args: {option}: {told}")


def _matches(patterns: Iterable[re.Pattern[str]], name: str) -> bool:
    return any(pattern.fullmatch(each) for pattern in patterns for each in (name, _hunyuan(name)))


def _hunyuan(name: str) -> str:
    """The same with HunyuanVideo's name of the blocks."""
    block, _, rest = name.partition(".")
    return next((f"{theirs}.{rest}" for theirs, ours in HUNYUAN.items() if ours == block), name)
