"""A tiny VAE, and a back end that compiles nothing and yet does what a compiled decoder does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from diffusers_helper.media.compiled_files import CompiledFiles
from diffusers_helper.vae.back_ends import Compiled
from diffusers_helper.vae.chunks import chunk_sizes
from diffusers_helper.vae.compile_one import Task
from diffusers_helper.vae.compiled import CompiledDecoders, CompilingError
from diffusers_helper.vae.streaming import Following, StreamingDecoder
from diffusers_helper.vae.upper import Given, PureUpperPart, without_weights
from diffusers_helper.words import Message

HEIGHT, WIDTH, CHUNK = 4, 6, 2
SHAPE = (1, CHUNK, HEIGHT, WIDTH)
PLENTY = 10**9


def tiny_vae(attention: bool = True, seed: int = 0) -> AutoencoderKLHunyuanVideo:
    """Random weights, float32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(8, 8, 8, 8), norm_num_groups=4, layers_per_block=0,
            mid_block_add_attention=attention,
        )  # fmt: skip
    return vae.eval().requires_grad_(False)


def latents_of(frames: int, seed: int = 1, height: int = HEIGHT) -> Tensor:
    """[1, 4, frames, height, WIDTH]."""
    return torch.randn(1, 4, frames, height, WIDTH, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def decoded(vae: AutoencoderKLHunyuanVideo, latents: Tensor, following: Following | None = None) -> Tensor:
    """In the chunks that a compiled decoder wants, in float32."""
    decoder = StreamingDecoder(vae, following)
    return torch.cat([decoder(part) for part in latents.split(chunk_sizes(latents.shape[2], CHUNK, 1), dim=2)], dim=2)


@dataclass
class Uncompiled:
    """A back end whose file is the VAE's config, and whose function is the plain one.

    Attributes:
        compiled: tasks so far.
        calls: of its functions.
        failure: what compiling or calling raises.
    """

    name: str = "uncompiled"
    compiled: list[Task] = field(default_factory=list)
    calls: int = 0
    loads: int = 0
    failure: Exception | None = None
    wrong: bool = False

    def version(self) -> str:
        return "1"

    def why_not(self, device: torch.device) -> Message | None:
        return None

    def compile(self, program: Any, given: Given, file: Path) -> None:
        raise NotImplementedError

    def make(self, task: Task, file: Path) -> None:
        """In the place of a process."""
        self.compiled.append(task)
        if isinstance(self.failure, CompilingError):
            raise self.failure
        file.write_text(json.dumps(task.config))

    def load(self, file: Path) -> Compiled:
        self.loads += 1
        function = PureUpperPart(without_weights(json.loads(file.read_text()), torch.float32))

        def call(weights: Sequence[Tensor], x: Tensor, kept: Sequence[Tensor]) -> Sequence[Tensor]:
            self.calls += 1
            if self.failure:
                raise self.failure
            pixels, *after = function(weights, x, kept)
            return (pixels[:, :, 1:] if self.wrong else pixels, *after)

        return call


def decoders_in(folder: Path, back_end: Uncompiled, limit: int = PLENTY) -> CompiledDecoders:
    return CompiledDecoders(back_end, CompiledFiles(folder, limit), back_end.make)


def made(folder: Path, back_end: Uncompiled, vae: AutoencoderKLHunyuanVideo) -> CompiledDecoders:
    """With a decoder for ``SHAPE`` that is ready."""
    found = decoders_in(folder, back_end)
    assert found.following(vae, SHAPE) is None
    found.wait()
    return found
