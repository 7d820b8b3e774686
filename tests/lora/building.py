"""LoRA files as other programs write them, built by the rules of their formats and not by the program's own tables.

The transformer is a small one: width 8, MLP 16, two double and three single blocks. Every builder gives tensors by
key, and what they mean: the delta of each module in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH, MLP, RANK = 8, 16, 4
Deltas = dict[str, Tensor]


def shapes() -> dict[str, tuple[int, int]]:
    """Written out by hand, as diffusers names them."""
    found: dict[str, tuple[int, int]] = {"proj_out": (6, WIDTH), "norm_out.linear": (2 * WIDTH, WIDTH)}
    found["context_embedder.proj_in"] = (WIDTH, 5)
    refiner = "context_embedder.token_refiner.refiner_blocks.0"
    found |= {f"{refiner}.attn.{name}": (WIDTH, WIDTH) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    for number in range(2):
        block = f"transformer_blocks.{number}"
        names = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out")
        found |= {f"{block}.attn.{name}": (WIDTH, WIDTH) for name in names}
        found |= {f"{block}.{name}.linear": (6 * WIDTH, WIDTH) for name in ("norm1", "norm1_context")}
        found |= {f"{block}.{name}.net.0.proj": (MLP, WIDTH) for name in ("ff", "ff_context")}
        found |= {f"{block}.{name}.net.2": (WIDTH, MLP) for name in ("ff", "ff_context")}
    for number in range(3):
        block = f"single_transformer_blocks.{number}"
        found |= {f"{block}.attn.{name}": (WIDTH, WIDTH) for name in ("to_q", "to_k", "to_v")}
        found |= {f"{block}.proj_mlp": (MLP, WIDTH), f"{block}.proj_out": (WIDTH, WIDTH + MLP)}
        found[f"{block}.norm.linear"] = (3 * WIDTH, WIDTH)
    return found


SHAPES = shapes()
FUSED: Mapping[str, tuple[tuple[int, int], Callable[[Tensor], Deltas]]] = {
    "double_blocks.1.img_attn_qkv": (
        (24, 8),
        lambda d: {f"transformer_blocks.1.attn.to_{name}": d[8 * i : 8 * i + 8] for i, name in enumerate("qkv")},
    ),
    "double_blocks.0.txt_attn_qkv": (
        (24, 8),
        lambda d: {f"transformer_blocks.0.attn.add_{name}_proj": d[8 * i : 8 * i + 8] for i, name in enumerate("qkv")},
    ),
    "double_blocks.0.img_attn_proj": ((8, 8), lambda d: {"transformer_blocks.0.attn.to_out.0": d}),
    "double_blocks.0.txt_attn_proj": ((8, 8), lambda d: {"transformer_blocks.0.attn.to_add_out": d}),
    "double_blocks.0.img_mod.linear": ((48, 8), lambda d: {"transformer_blocks.0.norm1.linear": d}),
    "double_blocks.1.txt_mod.linear": ((48, 8), lambda d: {"transformer_blocks.1.norm1_context.linear": d}),
    "double_blocks.0.img_mlp.fc1": ((16, 8), lambda d: {"transformer_blocks.0.ff.net.0.proj": d}),
    "double_blocks.0.img_mlp.fc2": ((8, 16), lambda d: {"transformer_blocks.0.ff.net.2": d}),
    "double_blocks.0.txt_mlp.fc1": ((16, 8), lambda d: {"transformer_blocks.0.ff_context.net.0.proj": d}),
    "double_blocks.0.txt_mlp.fc2": ((8, 16), lambda d: {"transformer_blocks.0.ff_context.net.2": d}),
    "single_blocks.2.linear1": (
        (40, 8),
        lambda d: {
            "single_transformer_blocks.2.attn.to_q": d[:8],
            "single_transformer_blocks.2.attn.to_k": d[8:16],
            "single_transformer_blocks.2.attn.to_v": d[16:24],
            "single_transformer_blocks.2.proj_mlp": d[24:],
        },
    ),
    "single_blocks.2.linear2": ((8, 24), lambda d: {"single_transformer_blocks.2.proj_out": d}),
    "single_blocks.0.modulation.linear": ((24, 8), lambda d: {"single_transformer_blocks.0.norm.linear": d}),
    "txt_in.input_embedder": ((8, 5), lambda d: {"context_embedder.proj_in": d}),
    "txt_in.individual_token_refiner.blocks.0.self_attn_qkv": (
        (24, 8),
        lambda d: {
            f"context_embedder.token_refiner.refiner_blocks.0.attn.to_{name}": d[8 * i : 8 * i + 8]
            for i, name in enumerate("qkv")
        },
    ),
    "final_layer.linear": ((6, 8), lambda d: {"proj_out": d}),
    "final_layer.adaLN_modulation.1": ((16, 8), lambda d: {"norm_out.linear": torch.cat([d[8:], d[:8]])}),
}
"""HunyuanVideo's layers: size of the delta, and which modules it is."""
SINGLE_MODULES = {name: (shape, lambda d, name=name: {name: d}) for name, shape in SHAPES.items()}
"""FramePack's own, in the same form."""


@dataclass
class Built:
    """A file that is not written yet, and what it means."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    deltas: Deltas = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path, name: str = "lora.safetensors") -> Path:
        save_file(self.tensors, folder / name, self.metadata or None)
        return folder / name


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 * seed + sum(shape)))


def low_rank(
    layers: Mapping[str, tuple[tuple[int, int], Callable[[Tensor], Deltas]]],
    name: Callable[[str], str],
    down: str,
    up: str,
    alpha: float | None = None,
    dtype: torch.dtype = torch.float32,
    rank: int = RANK,
) -> Built:
    """A pair of factors for each layer, called as ``name`` says."""
    built = Built()
    for seed, (layer, ((height, width), split)) in enumerate(layers.items()):
        a, b = random(rank, width, seed=seed).to(dtype), random(height, rank, seed=seed + 500).to(dtype)
        built.tensors |= {f"{name(layer)}.{down}": a, f"{name(layer)}.{up}": b}
        if alpha is not None:
            built.tensors[f"{name(layer)}.alpha"] = torch.tensor(alpha)
        scale = 1.0 if alpha is None else alpha / rank
        built.deltas |= split(scale * (b.double() @ a.double()))
    return built


def underscored(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


def musubi_framepack(alpha: float | None = 2.0, dtype: torch.dtype = torch.float32, rank: int = RANK) -> Built:
    return low_rank(SINGLE_MODULES, underscored, "lora_down.weight", "lora_up.weight", alpha, dtype, rank)


def musubi_hunyuan(alpha: float | None = 2.0) -> Built:
    return low_rank(FUSED, underscored, "lora_down.weight", "lora_up.weight", alpha)


def hunyuan(prefix: str, alpha: float | None = None) -> Built:
    return low_rank(FUSED, lambda name: prefix + name, "lora_A.weight", "lora_B.weight", alpha)


def peft(prefix: str = "transformer.", adapter: str = "", alpha: float | None = None) -> Built:
    names = (f"lora_A{adapter}.weight", f"lora_B{adapter}.weight")
    return low_rank(SINGLE_MODULES, lambda name: prefix + name, *names, alpha)


def loha(fused: bool = False) -> Built:
    built = Built()
    layers = FUSED if fused else SINGLE_MODULES
    for seed, (layer, ((height, width), split)) in enumerate(layers.items()):
        sizes = {"hada_w1_a": (height, 3), "hada_w1_b": (3, width), "hada_w2_a": (height, 3), "hada_w2_b": (3, width)}
        made = {name: random(*size, seed=100 * seed + i) for i, (name, size) in enumerate(sizes.items())}
        built.tensors |= {f"{underscored(layer)}.{name}": tensor for name, tensor in made.items()}
        built.tensors[f"{underscored(layer)}.alpha"] = torch.tensor(1.5)
        w1a, w1b, w2a, w2b = (tensor.double() for tensor in made.values())
        built.deltas |= split((w1a @ w1b) * (w2a @ w2b) * 0.5)
    return built


def lokr(low_w1: bool, low_w2: bool, fused: bool = False) -> Built:
    """w1 is 2 by 1, so that it divides every size."""
    built = Built()
    layers = FUSED if fused else SINGLE_MODULES
    for seed, (layer, ((height, width), split)) in enumerate(layers.items()):
        sizes = {"w1": (2, 1), "w2": (height // 2, width)}
        made, whole = {}, {}
        for i, (name, (rows, columns)) in enumerate(sizes.items()):
            if low_w1 if name == "w1" else low_w2:
                a, b = random(rows, 3, seed=9 * seed + i), random(3, columns, seed=9 * seed + i + 4)
                made |= {f"lokr_{name}_a": a, f"lokr_{name}_b": b}
                whole[name] = a.double() @ b.double()
            else:
                made[f"lokr_{name}"] = random(rows, columns, seed=9 * seed + i)
                whole[name] = made[f"lokr_{name}"].double()
        built.tensors |= {f"{underscored(layer)}.{name}": tensor for name, tensor in made.items()}
        built.tensors[f"{underscored(layer)}.alpha"] = torch.tensor(6.0)
        built.deltas |= split(torch.kron(whole["w1"], whole["w2"]) * (2.0 if low_w1 or low_w2 else 1.0))
    return built
