"""Which linears a transformer has, and what HunyuanVideo and its trainers call them.

diffusers' module names are ours. HunyuanVideo's own layers are sometimes several of them: such a *fused* layer is cut
by the rows that its modules have in this transformer, whatever its size.

diffusers' own converter (``_convert_hunyuan_video_lora_to_diffusers``) is not used: it cuts at 3072 rows, knows no
underscores and no alpha, and halves both factors of the last modulation where only the upper one has its rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from ..words import Message

Rows = tuple[tuple[int, int], ...]
"""Ranges of rows, from (included) to (excluded), in the order in which they are taken."""
LinearShapes = Mapping[str, tuple[int, int]]
"""Of a transformer's linears: diffusers' name of the module -> (rows out, columns in)."""
Naming = Literal["FramePack", "HunyuanVideo"]

BLOCK = re.compile(r"(.+_blocks\.)(\d+\.)(.+)")
QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
Names = Mapping[str, tuple[str, ...]]

DOUBLE: Names = {
    "img_mod.linear": ("norm1.linear",),
    "img_attn_qkv": QKV,
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp.fc1": ("ff.net.0.proj",),
    "img_mlp.fc2": ("ff.net.2",),
    "txt_mod.linear": ("norm1_context.linear",),
    "txt_attn_qkv": ADDED_QKV,
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp.fc1": ("ff_context.net.0.proj",),
    "txt_mlp.fc2": ("ff_context.net.2",),
}
SINGLE: Names = {
    "linear1": (*QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.linear": ("norm.linear",),
}
REFINER: Names = {
    "self_attn_qkv": QKV,
    "self_attn_proj": ("attn.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "adaLN_modulation.1": ("norm_out.linear",),
}
OTHERS: Names = {
    "time_in.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
    "guidance_in.mlp.0": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.mlp.2": ("time_text_embed.guidance_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "txt_in.input_embedder": ("context_embedder.proj_in",),
    "txt_in.t_embedder.mlp.0": ("context_embedder.time_text_embed.timestep_embedder.linear_1",),
    "txt_in.t_embedder.mlp.2": ("context_embedder.time_text_embed.timestep_embedder.linear_2",),
    "txt_in.c_embedder.linear_1": ("context_embedder.time_text_embed.text_embedder.linear_1",),
    "txt_in.c_embedder.linear_2": ("context_embedder.time_text_embed.text_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
STACKS: Mapping[str, tuple[str, Names]] = {
    "transformer_blocks.": ("double_blocks.", DOUBLE),
    "single_transformer_blocks.": ("single_blocks.", SINGLE),
    "context_embedder.token_refiner.refiner_blocks.": ("txt_in.individual_token_refiner.blocks.", REFINER),
    "": ("", OTHERS),
}
"""Where diffusers' modules lie -> where HunyuanVideo's layers lie, and each of these as its modules, top to bottom."""
HALVES_SWAPPED = frozenset({"final_layer.adaLN_modulation.1"})
"""HunyuanVideo has shift before scale in it, diffusers scale before shift."""


@dataclass(frozen=True)
class Part:
    """The module that has these rows of a layer."""

    module: str
    rows: Rows


@dataclass(frozen=True)
class Layer:
    """A layer as a file names it.

    Attributes:
        shape: (rows out, columns in) of all its parts together.
    """

    name: str
    naming: Naming
    shape: tuple[int, int]
    parts: tuple[Part, ...]

    def misfit(self, keys: str, found: tuple[int, int]) -> Message:
        """What is said of tensors whose delta has another shape."""
        return Message("lora.shape", keys=keys, found=_size(found), layer=self.name, wanted=_size(self.shape))


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def layers_of(shapes: LinearShapes) -> Iterator[Layer]:
    """Every layer that a file can name, under both namings."""
    for module, (height, width) in shapes.items():
        yield Layer(module, "FramePack", (height, width), (Part(module, ((0, height),)),))
        yield from _hunyuan_video(module, shapes)


def _hunyuan_video(module: str, shapes: LinearShapes) -> Iterator[Layer]:
    """The layer whose first part is this module, where there is one and all its parts are there."""
    block = BLOCK.fullmatch(module)
    stack, number, rest = block.groups() if block else ("", "", module)
    theirs, names = STACKS.get(stack, ("", {}))
    for name, parts in names.items():
        modules = [f"{stack}{number}{part}" for part in parts]
        if parts[0] == rest and all(each in shapes for each in modules):
            yield _fused(f"{theirs}{number}{name}", modules, shapes)


def _fused(name: str, modules: list[str], shapes: LinearShapes) -> Layer:
    ends = list(accumulate((shapes[module][0] for module in modules), initial=0))
    if name in HALVES_SWAPPED:
        half = ends[-1] // 2
        rows: list[Rows] = [((half, ends[-1]), (0, half))]
    else:
        rows = [((start, stop),) for start, stop in pairwise(ends)]
    parts = tuple(Part(module, each) for module, each in zip(modules, rows, strict=True))
    return Layer(name, "HunyuanVideo", (ends[-1], shapes[modules[0]][1]), parts)
