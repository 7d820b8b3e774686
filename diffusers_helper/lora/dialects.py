"""How programs name the tensors of a LoRA: prefix, layer, and which factor it is.

Names with underscores in the place of dots are ambiguous, since names have underscores of their own. So nothing is
taken apart: every name that the transformer's layers can have is written out, and a key is one of them or none.
Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .layers import Layer, LinearShapes, Naming, layers_of


@dataclass(frozen=True)
class Dialect:
    """One way to write layers' names. With ``underscores`` their dots are written as such; the prefix stays."""

    name: str
    naming: Naming
    prefixes: tuple[str, ...]
    underscores: bool = False

    def written(self, layer: Layer) -> list[str]:
        """What the layer can be called."""
        name = layer.name.replace(".", "_") if self.underscores else layer.name
        return [f"{prefix}{name}" for prefix in self.prefixes]


DIALECTS = (
    Dialect("musubi FramePack", "FramePack", ("lora_unet_", "lycoris_", "lora_transformer_"), underscores=True),
    Dialect(
        "musubi HunyuanVideo", "HunyuanVideo", ("lora_unet_", "lycoris_", "Hunyuan_video_I2V_lora_"), underscores=True
    ),
    Dialect(
        "diffusers",
        "FramePack",
        ("transformer.", "diffusion_model.", "base_model.model.", "transformer.base_model.model.", ""),
    ),
    Dialect(
        "HunyuanVideo",
        "HunyuanVideo",
        ("diffusion_model.", "transformer.", "model.diffusion_model.", "base_model.model.", ""),
    ),
)
"""kohya and LyCORIS write as musubi; peft and finetrainers as diffusers; diffusion-pipe and ComfyUI as HunyuanVideo."""

Factor = tuple[str, str] | None
LOW_RANK, DORA, LOHA, LOKR, DENSE, OF_EACH = "low rank", "DoRA", "LoHa", "LoKr", "dense", ""
"""The kinds of adapters, as they are called; alpha belongs to each."""
FACTORS: Mapping[str, Factor] = {
    "lora_down": (LOW_RANK, "down"),
    "lora_up": (LOW_RANK, "up"),
    "lora_A": (LOW_RANK, "down"),
    "lora_B": (LOW_RANK, "up"),
    "lora.down": (LOW_RANK, "down"),
    "lora.up": (LOW_RANK, "up"),
    "dora_scale": (DORA, "magnitude"),
    "lora_magnitude_vector": (DORA, "magnitude"),
    **{f"hada_{name}": (LOHA, name) for name in ("w1_a", "w1_b", "w2_a", "w2_b")},
    **{f"lokr_{name}": (LOKR, name) for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")},
    "diff": (DENSE, "diff"),
    "alpha": (OF_EACH, "alpha"),
    **dict.fromkeys(("lora_mid", "hada_t1", "hada_t2", "lokr_t2", "scale_weight"), None),
}
"""What stands behind a layer's name -> whose factor it is. None: one without which the others would be wrong, and that
nobody here can use: Tucker cores of convolutions, scales of fp8."""
KEY = re.compile(rf"(.+?)(?:\.lora_\w+)?\.({'|'.join(map(re.escape, FACTORS))})(?:(?:\.\w+)?\.weight)?")
"""Between factor and ``weight`` peft may write the adapter's name; a scale stands behind its factor."""
TEXT_ENCODER = re.compile(r"lora_te|text_encoder|lora_prior_te|te\d?[._]|conditioner\.")


def split_key(key: str) -> tuple[str, str]:
    """The layer and the factor that a key names, as it writes them; the factor is empty where it names none."""
    found = KEY.fullmatch(key)
    return (found[1], found[2]) if found else (key, "")


def written_names(shapes: LinearShapes) -> dict[str, tuple[Layer, Dialect]]:
    """Every name that a layer can have in a file."""
    return {
        name: (layer, dialect)
        for layer in layers_of(shapes)
        for dialect in DIALECTS
        if dialect.naming == layer.naming
        for name in dialect.written(layer)
    }


def is_of_text_encoder(key: str) -> bool:
    """Whether it changes a text encoder, which FramePack's LoRAs leave alone."""
    return TEXT_ENCODER.match(key) is not None
