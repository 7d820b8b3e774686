"""Alpha as peft and diffusers keep it: not a tensor, but a config in the file's metadata."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..json_object import object_in

METADATA_KEY = "lora_adapter_metadata"
PREFIX = "transformer."
PLAIN = re.compile(r"\^?[\w.]+")


@dataclass(frozen=True)
class PeftConfig:
    """What counts of peft's LoraConfig, besides what the tensors say themselves.

    Attributes:
        alpha: of all modules but those of the pattern; None where the file has no config.
        pattern: end of a module's name, or ``^`` and the whole of it -> its alpha; the first that fits counts.
        over_root: alpha is held against the root of the rank (rsLoRA, https://arxiv.org/abs/2312.03732).
    """

    alpha: float | None = None
    pattern: Mapping[str, float] = field(default_factory=dict)
    over_root: bool = False

    def alpha_of(self, module: str, rank: int) -> float | None:
        """As if it were held against the rank. By peft's rule, ``(.*\\.)?(PATTERN)$``."""
        named = (alpha for pattern, alpha in self.pattern.items() if _fits(pattern, module))
        alpha = next(named, self.alpha)
        return alpha * math.sqrt(rank) if alpha is not None and self.over_root else alpha


def read_config(metadata: Mapping[str, str]) -> PeftConfig:
    """The config in a file's metadata. Raises ValueError, in words for the middle of a sentence."""
    if METADATA_KEY not in metadata:
        return PeftConfig()
    content = object_in(metadata[METADATA_KEY])
    if any(key.startswith(PREFIX) for key in content):
        content = {key.removeprefix(PREFIX): value for key, value in content.items() if key.startswith(PREFIX)}
    pattern = content.get("alpha_pattern") or {}
    if not isinstance(pattern, dict):
        raise ValueError("alpha_pattern must be a JSON object")
    regular = next((key for key in pattern if not PLAIN.fullmatch(key)), None)
    if regular is not None:
        raise ValueError(f"alpha_pattern has the regular expression {regular!r}; only names are followed")
    alpha = content.get("lora_alpha")
    return PeftConfig(
        None if alpha is None else _number("lora_alpha", alpha),
        {key: _number(f"alpha_pattern {key}", value) for key, value in pattern.items()},
        bool(content.get("use_rslora")),
    )


def written_config(ranks: Mapping[str, int], alphas: Mapping[str, float], dora: bool) -> str:
    """The config of these modules, so that diffusers gives each its rank and alpha."""
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    content = {
        "r": rank,
        "lora_alpha": _whole(alpha),
        "rank_pattern": {f"^{module}": each for module, each in ranks.items() if each != rank},
        "alpha_pattern": {f"^{module}": _whole(each) for module, each in alphas.items() if each != alpha},
        "target_modules": sorted(ranks),
        "use_dora": dora,
    }
    return json.dumps({f"{PREFIX}{key}": value for key, value in content.items()}, indent=2, sort_keys=True)


def _fits(pattern: str, module: str) -> bool:
    whole = pattern.removeprefix("^")
    return module == whole or (whole == pattern and module.endswith(f".{whole}"))


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}; it must be a number, 0 or more")
    return float(value)


def _whole(value: float) -> float | int:
    """peft declares alpha to be an int, and takes both."""
    return int(value) if value.is_integer() else value
