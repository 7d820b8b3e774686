"""A LoRA as a file for other programs: with diffusers' names, or with musubi's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from ..media.files import written_whole
from ..words import Message
from .adapters import Adapter, Dora, LoHa, LoKr, LowRank
from .file import refused
from .peft_config import METADATA_KEY, written_config
from .reading import LoRA
from .streamed import KohyaHashes, of_the_training

FormName = Literal["diffusers", "musubi"]


@dataclass(frozen=True)
class Form:
    """How a program names the tensors of FramePack's LoRAs, and which kinds it reads.

    Attributes:
        names: kind -> factor -> what stands behind the module's name.
        alpha: the same for alpha; empty where it stands in peft's config.
    """

    prefix: str
    separator: str
    names: Mapping[type[Adapter], Mapping[str, str]]
    alpha: str = ""

    def key(self, module: str, suffix: str) -> str:
        """What a tensor of a module is called."""
        return f"{self.prefix}{module.replace('.', self.separator)}.{suffix}"


_DIFFUSERS = {"down": "lora_A.weight", "up": "lora_B.weight"}
FORMS: Mapping[FormName, Form] = {
    "diffusers": Form(
        "transformer.",
        ".",
        {LowRank: _DIFFUSERS, Dora: {**_DIFFUSERS, "magnitude": "lora_magnitude_vector"}},
    ),
    "musubi": Form(
        "lora_unet_",
        "_",
        {
            LowRank: {"down": "lora_down.weight", "up": "lora_up.weight"},
            LoHa: {name: f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b")},
            LoKr: {name: f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")},
        },
        alpha="alpha",
    ),
}


def write_lora(lora: LoRA, target: Path, form: FormName) -> None:
    """Write it in one of FORMS; its tensors stay as they are bit for bit, and its metadata but for hashes.

    Raises:
        UnusableLora: it has a kind of adapter that the form has no names for. They are not brought to low rank, since
            that would change them.
        OutputFailed: the file could not be written.
    """
    kinds = FORMS[form].names
    other = next((each for each in lora.outline.items() if type(each[1]) not in kinds), None)
    if other is not None:
        raise refused(lora.path, Message("lora.no_form", module=other[0], kind=other[1].kind, form=form))
    tensors = _tensors(lora, FORMS[form])
    content = save(tensors, _with_hashes(tensors, _metadata(lora, FORMS[form])) or None)
    with written_whole(target) as part:
        part.write_bytes(content)


def _tensors(lora: LoRA, form: Form) -> dict[str, Tensor]:
    tensors = {}
    for module, adapter in lora.adapters.items():
        names = form.names[type(adapter)]
        for factor, tensor in adapter.factors().items():
            tensors[form.key(module, names[factor])] = tensor.contiguous()
        if form.alpha and adapter.alpha is not None:
            tensors[form.key(module, form.alpha)] = _alpha(adapter.alpha, next(iter(adapter.factors().values())).dtype)
    return tensors


def _alpha(value: float, dtype: torch.dtype) -> Tensor:
    """In the numbers of the factors, as trainers write it, or in the next larger ones that hold it exactly."""
    written = (torch.tensor(value, dtype=each) for each in (dtype, torch.float32) if each.itemsize > 1)
    return next((each for each in written if float(each) == value), torch.tensor(value, dtype=torch.float64))


def _metadata(lora: LoRA, form: Form) -> dict[str, str]:
    kept = {key: value for key, value in lora.metadata.items() if key != METADATA_KEY}
    if form.alpha:
        return kept
    outline = {module: each for module, each in lora.outline.items() if each.rank is not None}
    ranks = {module: each.rank or 0 for module, each in outline.items()}
    alphas = {module: float(ranks[module] if each.alpha is None else each.alpha) for module, each in outline.items()}
    dora = any(isinstance(each, Dora) for each in lora.outline.values())
    return {**kept, METADATA_KEY: written_config(ranks, alphas, dora)}


def _with_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata, kohya's hashes made anew where it has some: they are of the tensors as they lie in the file."""
    if not any(key.startswith("sshs_") for key in metadata):
        return dict(metadata)
    plain = save(dict(tensors), of_the_training(metadata))
    begin = 8 + int.from_bytes(plain[:8], "little")
    hashes = KohyaHashes(plain[:begin])
    hashes.update(plain[begin:])
    return {key: hashes.metadata().get(key, value) for key, value in metadata.items()}
