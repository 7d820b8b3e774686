"""A tiny random transformer of each class that has presets, its inputs, and a run of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from diffusers import (
    ChromaTransformer2DModel,
    FluxTransformer2DModel,
    HunyuanVideoTransformer3DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from torch import Tensor, nn

CLASSES: dict[str, type[nn.Module]] = {
    "FluxTransformer2DModel": FluxTransformer2DModel,
    "ChromaTransformer2DModel": ChromaTransformer2DModel,
    "HunyuanVideoTransformer3DModel": HunyuanVideoTransformer3DModel,
    "WanTransformer3DModel": WanTransformer3DModel,
    "WanVACETransformer3DModel": WanVACETransformer3DModel,
}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 12}
IMAGE = {**HEADS, "patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 2, "joint_attention_dim": 8,
         "axes_dims_rope": (2, 4, 6)}  # fmt: skip
WAN = {**HEADS, "patch_size": (1, 2, 2), "in_channels": 4, "out_channels": 4, "text_dim": 8, "freq_dim": 8,
       "ffn_dim": 16, "num_layers": 3, "rope_max_seq_len": 16}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "FluxTransformer2DModel": {**IMAGE, "pooled_projection_dim": 8},
    "ChromaTransformer2DModel": {
        **IMAGE,
        "approximator_num_channels": 8,
        "approximator_hidden_dim": 8,
        "approximator_layers": 1,
    },
    "HunyuanVideoTransformer3DModel": {
        **HEADS,
        "patch_size": 1,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": 8,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (2, 4, 6),
    },
    "WanTransformer3DModel": {**WAN, "image_dim": 8, "added_kv_proj_dim": 24},
    "WanVACETransformer3DModel": {**WAN, "vace_layers": [0, 2], "vace_in_channels": 8},
}
LISTS = ("transformer_blocks", "single_transformer_blocks", "blocks", "vace_blocks")


def tiny(name: str, **smaller: Any) -> Any:
    """A transformer of that class, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLASSES[name](**{**CONFIGS[name], **smaller}).eval().requires_grad_(False)


def latents(name: str, seed: int = 0, height: int = 4) -> Tensor:
    """Noise: tokens of a picture, or a video of two frames."""
    shape = (1, 4 * height, 4) if "2D" in name else (1, 4, 2, height, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conditioning(name: str, seed: int, tokens: Tensor) -> dict[str, Any]:
    """What a prompt becomes, drawn from a seed."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    given: dict[str, Any] = {"encoder_hidden_states": draw(1, 3, 8), "return_dict": False}
    if "2D" in name:
        given |= {"txt_ids": torch.zeros(3, 3), "img_ids": torch.zeros(tokens.shape[1], 3)}
    if name.startswith(("Flux", "Hunyuan")):
        given["pooled_projections"] = draw(1, 8)
    if name.startswith("Hunyuan"):
        given |= {"encoder_attention_mask": torch.ones(1, 3), "guidance": torch.tensor([6000.0])}
    if "VACE" in name:
        given["control_hidden_states"] = draw(1, 8, *tokens.shape[2:])
    elif name.startswith("Wan"):
        given["encoder_hidden_states_image"] = draw(1, 2, 8)
    return given


def time(name: str, step: int, steps: int) -> Tensor:
    """Falls as it does in the pipelines, from 1 or from 1000."""
    return torch.tensor([(1 - step / steps) * (1 if "2D" in name else 1000)])


def run(
    transformer: Any,
    name: str,
    steps: int,
    *,
    guided: bool,
    contexts: bool = True,
    seed: int = 0,
    noise: int = 0,
    stop: int = -1,
) -> list[Tensor]:
    """A run by Euler's method; returns the velocities of all calls. ``stop`` breaks it off before that call."""
    made: list[Tensor] = []
    state = latents(name, noise)
    prompts = [conditioning(name, seed + 10 * branch, state) for branch in range(2 if guided else 1)]
    for step in range(steps):
        for branch, prompt in zip(("cond", "uncond"), prompts, strict=False):
            if len(made) == stop:
                raise InterruptedError
            with transformer.cache_context(branch) if contexts else nullcontext():
                made.append(transformer(hidden_states=state, timestep=time(name, step, steps), **prompt)[0])
        state = state - made[-1] / steps
    return made


def blocks(transformer: Any) -> list[nn.Module]:
    """All blocks that a step can skip."""
    return [block for name in LISTS for block in getattr(transformer, name, ())]


@contextmanager
def counted(transformer: Any) -> Iterator[Callable[[], int]]:
    """How often a block of the transformer has run."""
    runs: list[nn.Module] = []
    handles = [block.register_forward_hook(lambda block, *_: runs.append(block)) for block in blocks(transformer)]
    yield lambda: len(runs)
    for handle in handles:
        handle.remove()
