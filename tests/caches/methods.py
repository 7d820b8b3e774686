"""Every method with parameters by which it reuses some steps of a short run, and runs of the recorded transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from diffusers_helper.caches.step_cache import BlockPass, Measured, ResidualCache, Rule, StepCacheOption
from diffusers_helper.caches.table import MEASURABLE
from diffusers_helper.conditioning.prompt import PromptEmbedding
from diffusers_helper.denoise.sample import StepState, sample
from diffusers_helper.denoise.schedule import flow_sigmas
from diffusers_helper.engine import Conditioning, EncodedPicture, SectionDenoiser, section_denoiser
from diffusers_helper.models.load import Compute
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.request import Request
from diffusers_helper.sections.history import gather_context
from diffusers_helper.vae.codec import LatentPosterior

from ..parity import pack
from ..plans import plan_video
from .test_magcache import F1

VALUES = pack.tensors("run_f1")
STEPS = 12
MEASURED = Measured(ratios=(F1,))
METHODS: Mapping[str, Mapping[str, Any]] = {
    "teacache": {"teacache_threshold": 0.2},
    "magcache": {"magcache_threshold": 0.24, "magcache_k": 4},
    "easycache": {"easycache_threshold": 0.3},
    "seacache": {"seacache_threshold": 1.0},
    "first_block": {"first_block_threshold": 0.58},
}
"""Flat values of a request; each reuses between two and nine of the twelve steps."""


def denoiser(
    transformer: FramePackTransformer, method: str, steps: int = STEPS, rows: int = 0, **fields: Any
) -> SectionDenoiser:
    """A section of a recorded run with this step cache; with real CFG both branches have the same text.

    ``rows``: so many latent rows fewer than recorded.
    """
    start = VALUES["in.start_latent"]
    start = start[..., : start.shape[-2] - rows, :]
    prompt = PromptEmbedding(VALUES["in.llama"], VALUES["in.clip"], 0)
    picture = EncodedPicture(VALUES["in.img_embeds"], LatentPosterior(start, torch.zeros_like(start)))
    conditioning = Conditioning((prompt,), prompt if "real_cfg" in fields else None, (picture,))
    compute = Compute(torch.device("cpu"), transformer.dtype, torch.float32, torch.float32, "a test")
    chosen = METHODS.get(method, {"step_cache": method})
    request = Request.parse({"picture": "-", "steps": steps, **chosen, **fields})
    section = plan_video("f1", 1).sections[0]
    context, sigmas = gather_context(section.context, start, [start]), flow_sigmas(steps, 0.7)[:-1]
    return section_denoiser(transformer, compute, request, conditioning, section, context, sigmas, MEASURED)


def run(made: SectionDenoiser, rows: int = 0, steps: int | None = None) -> Tensor:
    """The result of all steps, or the clean prediction after some."""
    return list(islice(steps_of_run(made, rows), steps))[-1].denoised


def steps_of_run(made: SectionDenoiser, rows: int = 0) -> Iterator[StepState]:
    """The steps of a section, from the recorded noise."""
    noise = VALUES["section0.noise"]
    noise = noise[..., : noise.shape[-2] - rows, :]
    return sample(made, noise, flow_sigmas(len(made.sigmas), 0.7))


def mask(made: SectionDenoiser, branch: int = 0) -> str:
    """The steps of a CFG branch so far: C for computed, a dot for reused."""
    cache = made.caches[branch]
    assert cache is not None
    return "".join("C" if computed else "." for computed in cache.computed)


def pattern_of(method: str, **how: Any) -> str:
    """Of a run of its own, from which nothing can have leaked."""
    made = denoiser(pack.transformer(), method, **how)
    run(made, how.get("rows", 0))
    return mask(made)


class Replay(ResidualCache):
    """Computes the steps of a mask."""

    def __init__(self, rule: Rule, steps: str) -> None:
        super().__init__(replace(rule, threshold=0.5))
        self._steps = steps

    def estimate(self, blocks: BlockPass) -> float:
        return float(self._steps[len(self.computed)] == "C")


def option(method: str, **parameters: Any) -> StepCacheOption:
    """The option itself, for caches that run without a request."""
    flat = {name.removeprefix(f"{method}_"): value for name, value in METHODS[method].items()}
    return MEASURABLE[method](**{**flat, **parameters})
