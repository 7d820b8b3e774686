"""The real transformer at full size, on the meta device: every parameter's name and shape."""

import json
import re
from pathlib import Path

import pytest
import torch

from diffusers_helper.models.transformer import FramePackTransformer

DATA = Path(__file__).parent / "data"
CONFIG = json.loads((DATA / "framepack_transformer_config.json").read_text())
SHAPES: dict[str, list[int]] = json.loads((DATA / "framepack_transformer_shapes.json").read_text())


@pytest.fixture(scope="module")
def full_size() -> FramePackTransformer:
    with torch.device("meta"):
        return FramePackTransformer.from_config(CONFIG)


def expected() -> dict[str, tuple[int, ...]]:
    """The table with its {first..last} ranges written out."""
    shapes: dict[str, tuple[int, ...]] = {}
    for pattern, shape in SHAPES.items():
        match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
        numbers = range(int(match[1]), int(match[2]) + 1) if match else [0]
        for number in numbers:
            shapes[re.sub(r"\{.*?\}", str(number), pattern)] = tuple(shape)
    return shapes


def test_every_key_and_shape(full_size: FramePackTransformer) -> None:
    found = {name: tuple(value.shape) for name, value in full_size.state_dict().items()}
    assert found == expected()


def test_size(full_size: FramePackTransformer) -> None:
    assert sum(value.numel() for value in full_size.parameters()) / 1e9 == pytest.approx(12.874, abs=5e-4)


def test_a_forward_pass_at_the_size_of_a_real_section(full_size: FramePackTransformer) -> None:
    with torch.device("meta"):
        velocity = full_size(
            hidden_states=torch.empty(2, 16, 9, 80, 76),
            timestep=torch.empty(2),
            encoder_hidden_states=torch.empty(2, 60, 4096),
            encoder_attention_mask=torch.empty(2, 60, dtype=torch.bool),
            pooled_projections=torch.empty(2, 768),
            image_embeds=torch.empty(2, 729, 1152),
            guidance=torch.empty(2),
            indices_latents=torch.empty(9),
            latents_clean=torch.empty(2, 16, 2, 80, 76),
            indices_latents_clean=torch.empty(2),
            latents_history_2x=torch.empty(2, 16, 2, 80, 76),
            indices_latents_history_2x=torch.empty(2),
            latents_history_4x=torch.empty(2, 16, 16, 80, 76),
            indices_latents_history_4x=torch.empty(16),
        )
    assert velocity.shape == (2, 16, 9, 80, 76)
    assert velocity.dtype == torch.float32
