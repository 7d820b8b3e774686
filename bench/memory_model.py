"""What bench.memory measures: a transformer of random weights, inputs of a real section, ways to swap its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.swap import choose_resident
from diffusers_helper.transport import best_transport

BOTH = {"has_image_proj": True, "has_clean_x_embedder": True}
TINY = {
    "num_layers": 2,
    "num_single_layers": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_refiner_layers": 1,
    "rope_axes_dim": (8, 12, 12),
    "text_embed_dim": 64,
    "pooled_projection_dim": 48,
    "image_proj_dim": 40,
}
Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Size:
    """Of the model and of a section: latent rows and columns, tokens of text and picture."""

    config: dict[str, Any]
    rows: int
    columns: int
    text_tokens: int
    image_tokens: int


FULL = Size({}, 80, 76, 60, 729)
DRY = Size(TINY, 8, 8, 5, 9)


def random_transformer(size: Size, device: torch.device, dtype: torch.dtype) -> FramePackTransformer:
    """Weights from N(0, 0.02), made on ``device``; in evaluation mode."""
    torch.manual_seed(0)
    with torch.device("meta"):
        transformer = FramePackTransformer(**BOTH, **size.config)
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(dtype)
    transformer.to_empty(device=device).eval().requires_grad_(False)
    for parameter in transformer.parameters():
        parameter.normal_(std=0.02)
    return transformer


def section_inputs(transformer: FramePackTransformer, size: Size, device: torch.device) -> dict[str, Tensor]:
    """Random inputs of one call for an F1 section: 9 target frames, 1 + 1 clean, 2 2x and 16 4x context frames."""
    torch.manual_seed(1)
    config, dtype = transformer.config, transformer.dtype

    def random(*shape: int) -> Tensor:
        return torch.randn(shape).to(device, dtype)

    def latents(frames: int) -> Tensor:
        return random(1, config.in_channels, frames, size.rows, size.columns)

    return {
        "hidden_states": latents(9),
        "timestep": torch.tensor([500.0]).to(device, dtype),
        "guidance": torch.tensor([10_000.0]).to(device, dtype),
        "encoder_hidden_states": random(1, size.text_tokens, config.text_embed_dim),
        "encoder_attention_mask": torch.ones(1, size.text_tokens, dtype=torch.bool, device=device),
        "pooled_projections": random(1, config.pooled_projection_dim),
        "image_embeds": random(1, size.image_tokens, config.image_proj_dim),
        "indices_latents": torch.arange(20, 29, device=device),
        "latents_clean": latents(2),
        "indices_latents_clean": torch.tensor([0, 19], device=device),
        "latents_history_2x": latents(2),
        "indices_latents_history_2x": torch.tensor([17, 18], device=device),
        "latents_history_4x": latents(16),
        "indices_latents_history_4x": torch.arange(1, 17, device=device),
    }


def block_sizes(transformer: FramePackTransformer) -> list[int]:
    """Bytes of each block."""
    return [sum(t.nbytes for t in (*block.parameters(), *block.buffers())) for block in transformer.blocks]


@contextmanager
def ours(transformer: FramePackTransformer, device: torch.device, resident_bytes: int) -> Iterator[Callable[[], int]]:
    """The prefetching swap; gives a counter of the bytes moved."""
    transport = best_transport(device)
    try:
        with transformer.swap_blocks(transport, resident_bytes) as swap:
            yield lambda: swap.bytes_moved
    finally:
        transformer.block_source = None
        transport.close()


class BlockingSwap:
    """As the original program swaps: every tensor of a block on its own, from ordinary memory, waited for."""

    def __init__(
        self, blocks: Sequence[nn.Module], sizes: Sequence[int], device: torch.device, resident_bytes: int
    ) -> None:
        self._blocks, self._device = blocks, device
        self.resident = choose_resident(sizes, resident_bytes)
        self.bytes_moved = 0

    def move(self, device: torch.device | str) -> None:
        """The resident blocks."""
        for index in self.resident:
            self._blocks[index].to(device)

    def __call__(self) -> Iterator[nn.Module]:
        for index, block in enumerate(self._blocks):
            if index in self.resident:
                yield block
            else:
                yield from self._lend(block)

    def _lend(self, block: nn.Module) -> Iterator[nn.Module]:
        tensors = [*block.parameters(), *block.buffers()]
        at_home = [tensor.data for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.data = tensor.data.to(self._device, copy=True)
                self.bytes_moved += tensor.nbytes
            yield block
        finally:
            for tensor, data in zip(tensors, at_home, strict=True):
                tensor.data = data


@contextmanager
def blocking(
    transformer: FramePackTransformer, device: torch.device, resident_bytes: int
) -> Iterator[Callable[[], int]]:
    """The original program's swap."""
    swap = BlockingSwap(transformer.blocks, block_sizes(transformer), device, resident_bytes)
    rest = [child for name, child in transformer.named_children() if not name.endswith("transformer_blocks")]
    for module in rest:
        module.to(device)
    transformer.block_source = swap
    try:
        swap.move(device)
        yield lambda: swap.bytes_moved
    finally:
        transformer.block_source = None
        transformer.to("cpu")


@contextmanager
def group_offload(
    transformer: FramePackTransformer, device: torch.device, resident_bytes: int
) -> Iterator[Callable[[], int]]:
    """diffusers' own, by blocks with a stream where there is one. It knows no resident blocks; bytes are computed."""
    transformer.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
    )
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = transformer.blocks[-1].register_forward_hook(count)
    yield lambda: calls * transformer.weights_bytes()
    handle.remove()


WAYS = {"ours": ours, "blocking": blocking, "group offload": group_offload}
