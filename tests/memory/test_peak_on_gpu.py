"""What plans predict, against what PyTorch has allocated at most. Needs a GPU; weights are random, sizes are real."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo

from diffusers_helper.engine import Conditioning, Engine
from diffusers_helper.limits import DecodingName
from diffusers_helper.memory.candidates import LIBRARIES_BYTES, Candidate
from diffusers_helper.memory.costs import Cached, Constraints, Machine, PartSizes, Workload
from diffusers_helper.memory.vram import free_unused
from diffusers_helper.models.load import choose_compute, load_parts
from diffusers_helper.models.modulation import modulation_linears
from diffusers_helper.models.sizes import FULL_SIZE
from diffusers_helper.models.table import Checkpoint
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.planning import planner_for
from diffusers_helper.request import Request
from diffusers_helper.vae.decoders import decoders

from .support import as_if_on, video

pytestmark = pytest.mark.gpu

CONFIG = Path(__file__).parent.parent / "models" / "data" / "framepack_transformer_config.json"
HEIGHT, WIDTH = 640, 608
CUBLAS_BYTES = 2**26
"""What cuBLAS takes of PyTorch for itself; the plan leaves it to what it rounds up."""


class Lent:
    """A VAE that is on the GPU for good."""

    compiled = None

    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        self._vae = vae

    def on_device(self) -> AbstractContextManager[AutoencoderKLHunyuanVideo]:
        return nullcontext(self._vae)

    def in_ram(self) -> AutoencoderKLHunyuanVideo:
        raise NotImplementedError


def peak_of(work: Callable[[], Any]) -> int:
    """Bytes above what was allocated before."""
    free_unused()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated()) - before


def few_blocks() -> FramePackTransformer:
    """The 13B transformer's width, with a block of one kind and two of the other."""
    config = {**json.loads(CONFIG.read_text()), "num_layers": 1, "num_single_layers": 2}
    torch.manual_seed(0)
    with torch.device("cuda"):
        transformer = FramePackTransformer.from_config(config)
    return transformer.to(torch.bfloat16).eval().requires_grad_(False)


def sizes_of(transformer: FramePackTransformer) -> PartSizes:
    modulation = sum(p.numel() for linear in modulation_linears(transformer).values() for p in linear.parameters())
    each = [sum(p.numel() for p in block.parameters()) for block in transformer.blocks]
    others = sum(p.numel() for p in transformer.parameters()) - sum(each)
    counts = {"blocks": len(each), "block_weights": sum(each) - modulation, "largest_block_weights": max(each)}
    return replace(FULL_SIZE, **counts, modulation_weights=modulation, other_weights=others)


def step_inputs(workload_text: int = 256, device: str = "cuda") -> dict[str, Any]:
    """A step of a section of 9 latent frames with all its context."""
    rows, columns = HEIGHT // 8, WIDTH // 8
    shapes: dict[str, tuple[int, ...]] = {
        "hidden_states": (1, 16, 9, rows, columns),
        "encoder_hidden_states": (1, workload_text, 4096),
        "pooled_projections": (1, 768),
        "image_embeds": (1, 729, 1152),
        "latents_clean": (1, 16, 2, rows, columns),
        "latents_history_2x": (1, 16, 2, rows, columns),
        "latents_history_4x": (1, 16, 16, rows, columns),
    }
    inputs: dict[str, Any] = {
        name: torch.randn(shape, device=device, dtype=torch.bfloat16) for name, shape in shapes.items()
    }
    frames = {"indices_latents": 9, "indices_latents_clean": 2}
    frames |= {"indices_latents_history_2x": 2, "indices_latents_history_4x": 16}
    inputs |= {name: torch.arange(count, device=device) for name, count in frames.items()}
    scalar = torch.full((1,), 500.0, device=device, dtype=torch.bfloat16)
    mask = torch.ones(1, workload_text, device=device, dtype=torch.bool)
    return {**inputs, "timestep": scalar, "guidance": 20 * scalar, "encoder_attention_mask": mask}


@torch.inference_mode()
def test_a_step_at_full_width_stays_within_its_prediction() -> None:
    """Of blocks that run one after the other, three need what sixty need."""
    made: list[FramePackTransformer] = []
    constraints, workload = (
        Constraints(modulation_table=False, preserved_bytes=0),
        Workload.of(HEIGHT, WIDTH, cached=Cached()),
    )
    weights = peak_of(lambda: made.append(few_blocks()))
    assert weights > 0
    sizes = sizes_of(made[0])
    way = Candidate(sizes, workload, constraints, True, "as_is", decoders()["chunks_4"], False, sizes.blocks)
    assert abs(made[0].weights_bytes() - way.weights_vram()) < 0.02 * way.weights_vram()
    inputs = step_inputs()
    assert peak_of(lambda: made[0](**inputs)) <= way.activation_bytes() + CUBLAS_BYTES


@pytest.mark.parametrize(
    ("decoding", "how"),
    [(decoding, how) for decoding in ("reference", "lean", "quality") for how in decoders(decoding) if how != "cpu"],
)
@torch.inference_mode()
def test_decoding_at_full_size_stays_within_its_prediction(decoding: DecodingName, how: str) -> None:
    torch.manual_seed(0)
    with torch.device("cuda"):
        vae = AutoencoderKLHunyuanVideo().to(torch.float16).eval().requires_grad_(False)
    latents = torch.randn(1, 16, 18, HEIGHT // 8, WIDTH // 8)
    decoder = decoders(decoding)[how]
    predicted = decoder.device_bytes(FULL_SIZE, Workload.of(HEIGHT, WIDTH))
    assert peak_of(lambda: decoder(Lent(vae), latents)) <= predicted + CUBLAS_BYTES


@pytest.mark.parametrize("vram_bytes", [10**9, 5 * 10**7], ids=["all on the GPU", "decoding on the CPU"])
def test_a_video_stays_within_its_plan(
    vram_bytes: int, checkpoint: Checkpoint, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first step on: encoding takes what is free, and is in no plan."""
    vram_bytes += LIBRARIES_BYTES
    here = Machine(80 * 10**9, vram_bytes, 64 * 10**9, 60 * 10**9, 99 * 10**9)
    as_if_on(here, monkeypatch)
    free_unused()
    before, compute = torch.cuda.memory_allocated(), choose_compute()
    planner = planner_for(checkpoint, compute, Constraints(precision="as_is", preserved_bytes=0), tmp_path)
    made = Engine(checkpoint, compute, load_parts(checkpoint, compute), planner)
    encode = made.encode

    def encode_and_forget(request: Request, pictures: Sequence[np.ndarray]) -> Conditioning:
        conditioning = encode(request, pictures)
        free_unused()
        torch.cuda.reset_peak_memory_stats()
        return conditioning

    monkeypatch.setattr(made, "encode", encode_and_forget)
    video(made, photograph, tmp_path)
    peak = torch.cuda.max_memory_allocated() - before
    made.close()
    assert peak <= made.residency.plan.peak_vram_bytes - LIBRARIES_BYTES + CUBLAS_BYTES
