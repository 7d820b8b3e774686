"""An engine made of a parity pack: its transformer, its stored conditioning, and the stand-in decoder of its README.

It drives the product's own road in a fraction of a second, so other tests use it too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusers_helper.caches.step_cache import Measured
from diffusers_helper.conditioning.prompt import PromptEmbedding
from diffusers_helper.engine import Conditioning, EncodedPicture, SectionDenoiser, section_denoiser
from diffusers_helper.memory.costs import Beside, Place
from diffusers_helper.memory.plan import MemoryPlan
from diffusers_helper.models.load import Compute
from diffusers_helper.models.table import Checkpoint
from diffusers_helper.request import Request
from diffusers_helper.sections.history import Context
from diffusers_helper.sections.plan import SectionPlan
from diffusers_helper.vae.codec import LatentPosterior
from diffusers_helper.vae.preview import LatentToRGB
from diffusers_helper.words import Message

from . import pack


class PackCheckpoint(Checkpoint):
    """A checkpoint without files."""

    def fingerprint(self) -> str:
        return "parity"


class PackEngine:
    """One recorded run, as an engine. Keeps the contexts it was asked with and the clips it decoded."""

    beside: Beside = "nothing"

    def __init__(self, name: str) -> None:
        height, width = (8 * cells for cells in pack.record(name)["latent_hw"])
        self.checkpoint = PackCheckpoint("parity", "parity", ("framepack", "f1"), {}, ((height, width),))
        self.fingerprint = self.checkpoint.fingerprint()
        self.decoded: list[Tensor] = []
        self.contexts: list[Context] = []
        self._values = pack.tensors(name)

    def check(self, request: Request) -> None:
        """It takes any request."""

    def merge(self, request: Request) -> Generator[float, None, None]:
        yield from ()

    def prepare(self, request: Request, height: int, width: int) -> MemoryPlan:
        residency: dict[str, Place] = {"transformer": "cpu", "vae": "cpu"}
        nothing: dict[str, Any] = dict.fromkeys((field.name for field in fields(MemoryPlan) if field.type == "int"), 0)
        return MemoryPlan("as_is", False, residency, take_turns=False, decode="whole", decoder_words=None, **nothing)

    def encode(self, request: Request, pictures: Sequence[np.ndarray]) -> Conditioning:
        start = self._values["in.start_latent"]
        prompt = PromptEmbedding(self._values["in.llama"], self._values["in.clip"], 0)
        posterior = LatentPosterior(start, torch.zeros_like(start))
        return Conditioning((prompt,), None, (EncodedPicture(self._values["in.img_embeds"], posterior),))

    def denoiser(
        self, request: Request, conditioning: Conditioning, section: SectionPlan, context: Context, sigmas: Tensor
    ) -> SectionDenoiser:
        self.contexts.append(context)
        cpu = Compute(torch.device("cpu"), *[torch.float32] * 3, "the pack is float32")
        return section_denoiser(pack.transformer(), cpu, request, conditioning, section, context, sigmas, Measured())

    def decode(self, latents: Tensor) -> Tensor:
        frames = 4 * (latents.shape[2] - 1) + 1
        f = torch.arange(frames)
        clip = 0.8 * torch.tanh(latents[:, :3, (f + 3) // 4])
        self.decoded.append(clip + (0.2 * f / max(frames - 1, 1)).view(1, 1, -1, 1, 1))
        return self.decoded[-1]

    def decode_beside(self, latents: Tensor) -> Callable[[], Tensor]:
        return lambda: self.decode(latents)

    def decode_alone(self) -> None:
        self.beside = "nothing"

    def preview(self, latents: Tensor) -> np.ndarray:
        return LatentToRGB().strip(latents)

    def notices(self) -> list[Message]:
        return []

    def peak_memory_mb(self) -> float:
        return 0.0

    def __enter__(self) -> PackEngine:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to give back."""
