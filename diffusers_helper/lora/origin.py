"""For which model a LoRA was made: what its metadata says, else what its names look like."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ..words import Message, joined
from .header import shown_key

BASE_KEYS = ("ss_base_model_version", "modelspec.architecture", "base_model", "ss_sd_model_name")


@dataclass(frozen=True)
class Model:
    """A model: words of its metadata, and names that only its LoRAs have."""

    name: str
    words: re.Pattern[str]
    keys: re.Pattern[str] | None = None


def _model(name: str, words: str, keys: str = "") -> Model:
    return Model(name, re.compile(words, re.IGNORECASE), re.compile(keys) if keys else None)


OWN = (_model("FramePack", "frame.?pack"), _model("HunyuanVideo", "hunyuan.?video"))
"""Those whose LoRAs have an effect here; FramePack was trained from HunyuanVideo."""
FOREIGN = (
    _model("FLUX", "flux", r"img_mlp[._]0\b|img_mod[._]lin\b|img_attn\.qkv|modulation[._]lin\b"),
    _model("Wan", r"\bwan|wan[_-]?2", r"(^|(?<!refiner)[._])blocks[._]\d+[._](self_attn|cross_attn|ffn)"),
    _model("Qwen-Image", "qwen", r"transformer_blocks[._]\d+[._](img|txt)_(mod|mlp)"),
    _model("LTX-Video", "ltx", r"^\w*\.?transformer_blocks\.\d+\.attn[12]\."),
    _model("Stable Diffusion", "stable.?diffusion|sdxl|^sd", r"(input|output|down|up|mid|middle)_blocks?[._]"),
)


def base_model(keys: Iterable[str], metadata: Mapping[str, str]) -> str:
    """The model's name, or what the file calls it; empty where nothing tells."""
    said = [metadata[key] for key in BASE_KEYS if metadata.get(key)]
    for text in said:
        named = next((model.name for model in (*OWN, *FOREIGN) if model.words.search(text)), "")
        if named:
            return named
    return _looks_like(keys) or (said[0] if said else "")


def foreign_model(keys: Iterable[str], metadata: Mapping[str, str]) -> str:
    """The other model that it was made for; empty where it may be one of ours."""
    named = base_model(keys, metadata)
    return named if named in {model.name for model in FOREIGN} else ""


def nothing_matches(keys: Collection[str], metadata: Mapping[str, str]) -> Message:
    """What is said of a file none of whose keys names anything in a checkpoint."""
    told = Message("lora.nothing_matches", count=len(keys), key=shown_key(next(iter(keys), "-")))
    foreign = foreign_model(keys, metadata)
    return joined(told, Message("lora.made_for", model=foreign)) if foreign else told


def _looks_like(keys: Iterable[str]) -> str:
    listed = list(keys)
    return next((model.name for model in FOREIGN if model.keys and any(map(model.keys.search, listed))), "")
