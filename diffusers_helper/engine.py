"""The loaded checkpoint: made once, used by every job.

The road (generate.py) asks little of it: encode a request, build a denoiser for a section, decode latents, preview
them, and say how much memory all that took. Anything that does this can drive the road. Out of memory is no matter of
the road: what can be tried again with less is tried again here, and becomes a notice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from .caches.step_cache import NOTHING_MEASURED, Measured, StepCache
from .conditioning.prompt import PromptEmbedding
from .denoise.denoiser import Denoiser, Guidance, RopeScaling, TextInput
from .encoders import Encoders
from .lent_vae import LentVae
from .memory import vram
from .memory.costs import Beside
from .memory.degradation import Degradation, without_frames
from .memory.lessons import Lessons
from .memory.moves import load_model_chunked
from .memory.placement import Site
from .memory.plan import MemoryPlan
from .memory.planner import Planner
from .memory.residency import Residency
from .models.attention import Attention, allow_fused_kernels
from .models.load import Compute, Parts, choose_compute, load_parts
from .models.modulation import ModulationTable
from .models.shards import WeightFilter
from .models.speed import apply_kernels
from .models.table import Checkpoint
from .models.transformer import FramePackTransformer
from .models.weights import constraints_of, load_transformer, why_no_products
from .planning import plan_video_memory, planner_for
from .previews import linear_map, previews_for
from .request import Request
from .sections.history import Context
from .sections.plan import SectionPlan
from .settings import Settings, resolve
from .tensorrt_runtime import compiled_decoders
from .vae.codec import LatentPosterior
from .vae.compiled import CompiledDecoders
from .vae.decoders import decoders
from .vae.preview import Previews
from .words import Message

log = logging.getLogger(__name__)
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


class Engine:
    """A checkpoint, ready to run. Whoever makes one closes it, or enters it.

    Attributes:
        fingerprint: of the files that it was loaded from, whatever has become of them.
        residency: who is on the device.
        degradation: what is done when memory runs out.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        compute: Compute,
        parts: Parts,
        planner: Planner,
        attention: Attention | None = None,
        notices: Sequence[Message] = (),
        compiled: CompiledDecoders | None = None,
        previews: Previews | None = None,
    ) -> None:
        """``attention`` and ``notices`` are told with every video; ``compiled`` decoders serve where they are ready;
        without ``previews`` there are those of the checkpoint's linear map."""
        self.checkpoint, self._attention, self._notices = checkpoint, attention, notices
        self._compute, self.parts, self.planner = compute, parts, planner
        self.fingerprint = planner.fingerprint
        self._previews = previews or Previews(linear_map(checkpoint))
        site = Site(parts.transformer, compute.device, keep_host_copy=not planner.constraints.small_host_copy)
        self.residency = Residency(site, parts.beside_transformer(), planner.plan)
        self.degradation = Degradation(self.residency, planner, compute.device)
        self._measured = NOTHING_MEASURED
        self._vae = LentVae(parts.vae, self.residency, compiled)
        self._decoders = decoders("lean", planner.constraints.chunk_size)
        self._side_stream = vram.SideStream(compute.device)
        self._encoders = Encoders(
            parts, lambda part: self.residency.visit(part, on_demand=self.degradation.encode_on_demand)
        )

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        chosen: Settings | None = None,
        lessons: Lessons | None = None,
        weight_filter: WeightFilter | None = None,
    ) -> Engine:
        """Load all parts for the best device there is, as the settings ask; by default those of this installation.

        Args:
            lessons: of the engines of this process before it; it adds its own.
            weight_filter: stands between the transformer's files and its weights, see ``load_transformer``.

        Raises:
            OutOfMemory: they would not fit; found out before anything is loaded.
            UnusableCheckpoint: a file is damaged.
            UnusableInput: a setting asks for a package that is not installed.
        """
        settings = chosen or resolve()
        compute = choose_compute()
        constraints, models_dir = constraints_of(settings.weights, settings.memory), settings.paths.models_dir
        allow_fused_kernels(settings.kernels.flash_sdp, settings.kernels.mem_efficient_sdp)
        planner = planner_for(checkpoint, compute, constraints, models_dir, lessons)
        no_products = why_no_products(planner.plan, compute, settings.weights, settings.kernels)
        log.info("%s: %s", checkpoint.name, planner.plan.why)

        def load(checkpoint: Checkpoint, compute: Compute) -> FramePackTransformer:
            asked = (planner.plan, settings.weights, models_dir, no_products, weight_filter)
            transformer = load_transformer(checkpoint, compute, *asked)
            if planner.plan.residency["transformer"] == "gpu":
                load_model_chunked(transformer, compute.device)
            return transformer

        parts = load_parts(checkpoint, compute, load)
        attention = apply_kernels(parts.transformer, compute.device, compute.transformer_dtype, settings.kernels)
        compiled, refused = compiled_decoders(settings.decoders, models_dir, compute.device)
        previews, unusable = previews_for(checkpoint, settings.decoders, models_dir, compute)
        found = (*attention.notices, *([no_products] if no_products else []), *refused, *unusable)
        notices = (*settings.every_notice(), *found)
        return cls(checkpoint, compute, parts, planner, attention, notices, compiled, previews)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close it. A GPU that is lost gives nothing back, and hides nothing of what has happened."""
        try:
            self.close()
        except RuntimeError:
            log.warning("the memory of %s could not be given back", self._compute.device, exc_info=True)

    def close(self) -> None:
        """Give back what is locked of RAM, and of the device's memory what was lent or passes through it; what is there
        for good goes with the engine. No video can be made after that, and no decoder is compiled any more."""
        if self._vae.compiled:
            self._vae.compiled.close()
        self.residency.close()

    def prepare(self, request: Request, height: int, width: int) -> MemoryPlan:
        """Plan the memory of a video, for frames of this size; raises OutOfMemory when it cannot be made."""
        vram.forget_peak(self._compute.device)
        self._measured = self.checkpoint.measured()
        plan = plan_video_memory(self.planner, request, height, width, self._measured)
        self._decoders = decoders(request.decoding, self.planner.constraints.chunk_size)
        self.residency.follow(plan)
        self.degradation.begin()
        self._vae.forget()
        kernel = Message("attention.by", kernel=self._attention.kernel.title) if self._attention else None
        remarks = filter(None, (self.residency.transformer.copies, kernel, self._compute.unused_gpu))
        return replace(self.residency.plan, remarks=tuple(remarks), notices=(*self._notices, *plan.notices))

    def notices(self) -> list[Message]:
        """What was done about memory that ran out, and what is said of compiled decoders and of previews, since the
        last time."""
        compiled = self._vae.compiled.notices() if self._vae.compiled else ()
        return [*self.degradation.notices(), *compiled, *self._previews.notices()]

    def encode(self, request: Request, pictures: Sequence[np.ndarray]) -> Conditioning:
        """Encode the texts and the fitted pictures, uint8 [height, width, 3] each, of a request."""
        encoders = self._encoders

        def encode() -> Conditioning:
            return Conditioning(
                prompts=tuple(encoders.prompt(prompt.text) for prompt in request.prompts),
                negative=encoders.prompt(request.negative_prompt) if request.real_cfg > 1 else None,
                pictures=tuple(
                    EncodedPicture(encoders.picture_tokens(pixels), encoders.latent(pixels)) for pixels in pictures
                ),
            )

        conditioning = self.degradation.attempt("encode", encode)
        self.planner.libraries_are_loaded()
        return conditioning

    def denoiser(
        self, request: Request, conditioning: Conditioning, section: SectionPlan, context: Context, sigmas: Tensor
    ) -> SectionDenoiser:
        """See ``section_denoiser``."""
        attempt: Attempt = partial(self.degradation.attempt, "sample")
        asked = (request, conditioning, section, context, sigmas, self._measured)
        made = attempt(lambda: section_denoiser(self.parts.transformer, self._compute, *asked))
        return replace(made, ready=self.residency.before_sampling, attempt=attempt)

    def decode(self, latents: Tensor) -> Tensor:
        """[1, C, T, H, W] to a clip [1, 3, 4 T - 3, 8 H, 8 W], about -1 to 1, on the CPU."""
        return self.degradation.attempt("decode", lambda: self._decode(latents))

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> Tensor:
        return self._decoders[self.residency.plan.decode](self._vae, latents)

    @property
    def beside(self) -> Beside:
        """What of a clip is made while the next section is sampled."""
        return self.residency.plan.beside

    def decode_beside(self, latents: Tensor) -> Callable[[], Tensor]:
        """``decode``, to be called in another thread while the transformer samples. Nothing is tried again there: where
        memory runs out, that is raised; then ``decode_alone`` and ``decode``."""
        if not self._stays_for_decoding():
            self.decode_alone()
            clip = self.decode(latents)
            return lambda: clip

        def decode() -> Tensor:
            try:
                with self.degradation.undisturbed(), self._side_stream():
                    return self._decode(latents)
            except (RuntimeError, MemoryError) as error:
                raise without_frames(error) from None

        return decode

    def _stays_for_decoding(self) -> bool:
        """Whether decoding moves nothing: the VAE is where it decodes, and comes there first where the plan says so."""
        if not self._decoders[self.residency.plan.decode].uses_device:
            return True
        return self.degradation.attempt("decode", lambda: self.residency.bring("vae")) and self.beside == "decoding"

    def decode_alone(self) -> None:
        """From now on clips are decoded while nothing is sampled."""
        self.degradation.decode_alone()

    def preview(self, latents: Tensor) -> np.ndarray:
        """[1, C, T, H, W] to its frames side by side, a cell for each: uint8 [rows, T * columns, 3]."""
        return self._previews.strip(latents)

    def peak_memory_mb(self) -> float:
        """The most memory used: of the GPU where there is one, by the last video; else by the process so far."""
        return vram.peak_memory_mb(self._compute.device)


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
        {"image_embeds": conditioning.pictures[section.picture].tokens, **_context_inputs(context)},
        _text_input(conditioning.prompts[section.prompt]),
        _text_input(conditioning.negative) if conditioning.negative else None,
        Guidance(request.distilled_guidance, request.real_cfg, request.cfg_rescale),
        compute.transformer_dtype,
        compute.device,
        branch_inputs=({"step_cache": caches[0]}, {"step_cache": caches[1]}),
        rope=RopeScaling(request.rope_scaling_factor, request.rope_scaling_timestep_threshold),
    )
    table = transformer.modulation if isinstance(transformer.modulation, ModulationTable) else None
    return SectionDenoiser(denoise, caches, sigmas, table)


def _step_cache(request: Request, sigmas: Tensor, measured: Measured) -> StepCache | None:
    return request.step_cache.make(sigmas.tolist(), measured) if request.step_cache else None


def _text_input(embedding: PromptEmbedding) -> TextInput:
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
