"""The denoiser of one section, made of a request that is encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .caches.step_cache import Measured, StepCache
from .conditioning.prompt import PromptEmbedding
from .denoise.denoiser import Denoiser, Guidance, RopeScaling, TextInput
from .models.load import Compute
from .models.modulation import ModulationTable
from .models.transformer import FramePackTransformer
from .request import Request
from .sections.history import Context
from .sections.plan import SectionPlan
from .vae.codec import LatentPosterior

T = TypeVar("T")


@dataclass(frozen=True)
class EncodedPicture:
    """A picture, encoded. Tensors on the CPU.

    Attributes:
        tokens: [1, image tokens, D].
        latent: distribution of its latent, [1, C, 1, H, W].
    """

    tokens: Tensor
    latent: LatentPosterior


@dataclass(frozen=True)
class Conditioning:
    """A request, encoded. Tensors on the CPU.

    Attributes:
        prompts: of the positive branch, in the request's order.
        negative: of the negative branch, None when real CFG is 1.
        pictures: in the request's order.
    """

    prompts: tuple[PromptEmbedding, ...]
    negative: PromptEmbedding | None
    pictures: tuple[EncodedPicture, ...]

    @property
    def tokens_cut(self) -> int:
        """Tokens of the prompts that were too many for the model."""
        return sum(prompt.tokens_cut for prompt in self.prompts)


class Attempt(Protocol):
    """Does work, again where that makes sense."""

    def __call__(self, work: Callable[[], T]) -> T: ...


def once(work: Callable[[], T]) -> T:
    """Do it and no more."""
    return work()


@dataclass(frozen=True)
class SectionDenoiser:
    """The denoiser of one section, and how often its step cache computed.

    Attributes:
        caches: the step caches of the CFG branches, the positive one first.
        sigmas: the noise levels of its steps, [steps].
        table: of the transformer's modulation.
        ready: lets the transformer come to the device if it is not there.
        attempt: how a step is done; one that is tried again begins anew, with the step caches as they were.
    """

    denoise: Denoiser
    caches: tuple[StepCache | None, StepCache | None]
    sigmas: Tensor
    table: ModulationTable | None = None
    ready: Callable[[], None] = field(default=lambda: None)
    attempt: Attempt = once

    def begin(self) -> None:
        """Before the first step: make the modulation table's rows for the noise levels."""

        def make_rows() -> None:
            self.ready()
            if self.table is not None:
                self.table.prepare(self.denoise.time_inputs(self.sigmas))

        self.attempt(make_rows)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """One evaluation of the model; see ``Denoiser``."""
        restores = [cache.state() for cache in self.caches if cache]

        def step() -> Tensor:
            for restore in restores:
                restore()
            self.ready()
            return self.denoise(x, sigma)

        return self.attempt(step)

    @property
    def last_step_computed(self) -> bool:
        """Whether the positive branch ran all blocks; what the negative one did is not told."""
        positive = self.caches[0]
        return positive is None or positive.computed[-1]

    @property
    def ratios(self) -> tuple[float, ...]:
        """What a calibration has measured of the positive branch, a number per step; empty where there is none."""
        return self.caches[0].ratios if self.caches[0] else ()


def section_denoiser(
    transformer: FramePackTransformer,
    compute: Compute,
    request: Request,
    conditioning: Conditioning,
    section: SectionPlan,
    context: Context,
    sigmas: Tensor,
    measured: Measured,
) -> SectionDenoiser:
    """A denoiser for one section, with its own step-cache state for each CFG branch.

    Args:
        context: the latents of the section's context plan.
        sigmas: the noise levels of its steps, [steps].
        measured: what is known of the checkpoint for step caches.
    """
    caches = _step_cache(request, sigmas, measured), _step_cache(request, sigmas, measured)
    denoise = Denoiser(
        transformer,
        section_inputs(conditioning.pictures, section, context),
        text_input(conditioning.prompts[section.prompt]),
        text_input(conditioning.negative) if conditioning.negative else None,
        Guidance(request.distilled_guidance, request.real_cfg, request.cfg_rescale),
        compute.transformer_dtype,
        compute.device,
        branch_inputs=({"step_cache": caches[0]}, {"step_cache": caches[1]}),
        rope=RopeScaling(request.rope_scaling_factor, request.rope_scaling_timestep_threshold),
    )
    table = transformer.modulation if isinstance(transformer.modulation, ModulationTable) else None
    return SectionDenoiser(denoise, caches, sigmas, table)


def section_inputs(
    pictures: Sequence[EncodedPicture], section: SectionPlan, context: Context
) -> dict[str, Tensor | None]:
    """What diffusers' transformer is given of a section besides its text: the image tokens, [1, image tokens, D], the
    mean of those that it sees; and its context."""
    tokens = torch.stack([pictures[number].tokens for number in section.seen]).mean(0)
    return {"image_embeds": tokens, **_context_inputs(context)}


def _step_cache(request: Request, sigmas: Tensor, measured: Measured) -> StepCache | None:
    return request.step_cache.make(sigmas.tolist(), measured) if request.step_cache else None


def text_input(embedding: PromptEmbedding) -> TextInput:
    """An encoded prompt as the transformer takes it: all of its tokens are valid."""
    mask = torch.ones(embedding.tokens.shape[:2], dtype=torch.bool)
    return TextInput(embedding.tokens, mask, embedding.pooled)


def _context_inputs(context: Context) -> dict[str, Tensor | None]:
    """A section's context under the names of diffusers' transformer."""
    names = {
        "target_index": "indices_latents",
        "latents": "latents_clean",
        "index": "indices_latents_clean",
        "latents_2x": "latents_history_2x",
        "index_2x": "indices_latents_history_2x",
        "latents_4x": "latents_history_4x",
        "index_4x": "indices_latents_history_4x",
    }
    return {name: getattr(context, field) for field, name in names.items()}
