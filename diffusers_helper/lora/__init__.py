"""LoRAs: files of every form that people have, to one inner form and back; and what is known of a file.

    lora = read_lora(path, shapes)          # shapes: of the transformer's linears
    for module, adapter in lora.adapters.items():
        weight += strength * adapter.delta(weight)

Beside a linear it acts by ``adapter.outputs(x)``, see beside.py. Knows the checkpoints' transformers, and neither
engine nor requests.
"""

from .adapters import Adapter, Dense, Dora, LoHa, LoKr, LowRank
from .layers import LinearShapes
from .passport import Effect, Passport, passport_of
from .reading import LoRA, read_fitting, read_lora
from .writing import FORMS, FormName, write_lora

__all__ = [
    "FORMS",
    "Adapter",
    "Dense",
    "Dora",
    "Effect",
    "FormName",
    "LinearShapes",
    "LoHa",
    "LoKr",
    "LoRA",
    "LowRank",
    "Passport",
    "passport_of",
    "read_fitting",
    "read_lora",
    "write_lora",
]
