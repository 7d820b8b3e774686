"""The loaded checkpoint: parts, device, encoding caches. Made once, used by every job.

The road (generate.py) asks little of it: encode a request, build a denoiser for a section, decode latents, preview
them, and say how much memory all that took. Anything that does this can drive the road.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from .caches.step_cache import StepCache
from .conditioning.cache import ContentCache, content_key
from .conditioning.picture import encode_picture_tokens
from .conditioning.prompt import PromptEmbedding, llama_features, pooled_by_clip
from .denoise.denoiser import Denoiser, Guidance, TextInput
from .lessons import Lessons
from .memory import load_model_chunked
from .memory_plan import MemoryPlan
from .memory_ways import TILES, Decode
from .models.attention import Attention, allow_fused_kernels
from .models.load import Compute, Parts, choose_compute, load_parts
from .models.modulation import ModulationTable
from .models.speed import quicken
from .models.table import Checkpoint
from .models.transformer import FramePackTransformer
from .models.weights import load_transformer, why_no_products, wishes_of
from .request import Request
from .residency import Planner, Residency
from .sections.history import Context
from .sections.plan import SectionPlan
from .settings import Settings, resolve
from .vae.codec import LatentPosterior, decode_clip, encode_picture
from .vae.preview import LatentToRGB

log = logging.getLogger(__name__)

Stage = Literal["encode", "sample", "decode"]
Ladder = Literal[Stage, "ram"]
SMALLER: Mapping[Decode, tuple[Decode, str]] = {
    "gpu": ("tiled", "in tiles"),
    "tiled": ("small_tiles", "in small tiles"),
    "small_tiles": ("cpu", "on the CPU, which takes minutes,"),
}
"""The next rung of decoding, and in words."""
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


@dataclass(frozen=True)
class SectionDenoiser:
    """The denoiser of one section, and how often its step cache computed.

    Attributes:
        caches: the step caches of the CFG branches, the positive one first.
        table: of the transformer's modulation.
        ready: lets the transformer come to the device if it is not there.
    """

    denoise: Denoiser
    caches: tuple[StepCache | None, StepCache | None]
    table: ModulationTable | None = None
    ready: Callable[[], None] = field(default=lambda: None)

    def begin(self, sigmas: Tensor) -> None:
        """Before the first step: make the modulation table's rows for these noise levels, [steps]."""
        self.ready()
        if self.table is not None:
            self.table.prepare(self.denoise.time_inputs(sigmas))

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """One evaluation of the model; see ``Denoiser``."""
        self.ready()
        return self.denoise(x, sigma)

    @property
    def last_step_computed(self) -> bool:
        """Whether the positive branch ran all blocks; what the negative one did is not told."""
        positive = self.caches[0]
        return positive is None or positive.computed[-1]

    def state(self) -> Callable[[], None]:
        """What the step caches know now; calling the result brings it back, so that a step can be tried again."""
        restores = [cache.state() for cache in self.caches if cache]

        def restore() -> None:
            for each in restores:
                each()

        return restore


class Engine:
    """A checkpoint, ready to run.

    Attributes:
        fingerprint: of the files that it was loaded from, whatever has become of them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        compute: Compute,
        parts: Parts,
        planner: Planner,
        attention: Attention | None = None,
        notices: Sequence[str] = (),
    ) -> None:
        """``attention`` and ``notices`` are told with every video."""
        self.checkpoint, self._attention, self._notices = checkpoint, attention, notices
        self._compute, self._parts, self._planner = compute, parts, planner
        self.fingerprint = planner.fingerprint
        self._residency = Residency(parts, compute.device, planner.plan, planner.wishes.small_host_copy)
        self._to_rgb = LatentToRGB(*checkpoint.latent_rgb) if checkpoint.latent_rgb else LatentToRGB()
        self._cache = ContentCache()
        self._begin_ladder(planner.plan.decode)

    @classmethod
    def load(cls, checkpoint: Checkpoint, chosen: Settings | None = None, lessons: Lessons | None = None) -> Engine:
        """Load all parts for the best device there is, as the settings ask; by default those of this installation.

        ``lessons``: of the engines of this process before it; it adds its own.

        Raises:
            OutOfMemory: they would not fit; found out before anything is loaded.
            UnusableCheckpoint: a file is damaged.
            UnusableInput: a setting asks for a package that is not installed.
        """
        settings = chosen or resolve()
        compute = choose_compute()
        wishes, models_dir = wishes_of(settings.weights, settings.memory), settings.paths.models_dir
        allow_fused_kernels(settings.kernels.flash_sdp, settings.kernels.mem_efficient_sdp)
        planner = Planner(checkpoint, compute, wishes, models_dir, lessons)
        no_products = why_no_products(planner.plan, compute, settings.weights, settings.kernels)
        log.info("%s: %s", checkpoint.name, planner.plan.why)

        def load(checkpoint: Checkpoint, compute: Compute) -> FramePackTransformer:
            asked = (planner.plan, settings.weights, models_dir, no_products)
            transformer = load_transformer(checkpoint, compute, *asked)
            if planner.plan.residency["transformer"] == "gpu":
                load_model_chunked(transformer, compute.device)
            return transformer

        parts = load_parts(checkpoint, compute, load)
        attention = quicken(parts.transformer, compute.device, compute.transformer_dtype, settings.kernels)
        notices = (*settings.every_notice(), *attention.notices, *([no_products] if no_products else []))
        return cls(checkpoint, compute, parts, planner, attention, notices)

    def close(self) -> None:
        """Give back what is locked of RAM, and of the device's memory what was lent or passes through it; what is there
        for good goes with the engine. No video can be made after that."""
        self._residency.close()

    def prepare(self, request: Request, height: int, width: int) -> MemoryPlan:
        """Plan the memory of a video, for frames of this size; raises OutOfMemory when it cannot be made."""
        if self._compute.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        plan = self._planner.for_job(request, height, width)
        self._residency.follow(plan)
        self._begin_ladder(plan.decode)
        kernel = f" Attention by {self._attention.kernel.title}." if self._attention else ""
        unused = self._compute.unused_gpu and f" {self._compute.unused_gpu}".replace("{", "{{").replace("}", "}}")
        words, notices = plan.words + self._residency.copies + kernel + unused, (*self._notices, *plan.notices)
        return replace(self._residency.plan, words=words, notices=notices)

    def _begin_ladder(self, decode: Decode) -> None:
        self._decode_how, self._encode_on_call = decode, self._planner.encode_on_call
        self._vae_on_cpu: nn.Module | None = None
        self._rungs: dict[Ladder, Iterator[str]] = {
            "encode": self._encode_rungs(),
            "sample": self._sample_rungs(),
            "decode": self._decode_rungs(),
            "ram": self._free_rung("The program ran out of RAM"),
        }

    def use_less_memory(self, ladder: Ladder) -> str | None:
        """After running out of memory: go one rung down the ladder of a stage, or of RAM, whatever the stage. Later
        videos begin there.

        Returns what was done, for people; None when nothing is left to try.
        """
        return next(self._rungs[ladder], None)

    def _free_rung(self, what: str = "") -> Iterator[str]:
        self._residency.clear()
        what = what or f"{self._compute.device} ran out of memory"
        yield f"{what}: what was not in use has been freed, and it is tried again."

    def _encode_rungs(self) -> Iterator[str]:
        yield from self._free_rung()
        if self._moves("text_encoder") and not self._encode_on_call:
            self._encode_on_call = True
            self._planner.learn(encode_on_call=True)
            yield "The GPU ran out of memory: the encoders' weights come to it as they are used now, which is slower."

    def _sample_rungs(self) -> Iterator[str]:
        self._residency.vae_leaves()
        self._planner.learn(vae_leaves=True)
        yield from self._free_rung()
        while self._residency.fewer_resident_blocks():
            blocks = self._residency.plan.resident_blocks
            self._planner.learn(resident_bytes=self._residency.plan.resident_bytes)
            yield f"The GPU ran out of memory: it keeps only {blocks} of the transformer's blocks now, which is slower."

    def _decode_rungs(self) -> Iterator[str]:
        self._residency.take_turns()
        self._planner.learn(take_turns=True)
        yield from self._free_rung()
        while (smaller := SMALLER.get(self._decode_how)) and (smaller[0] != "cpu" or self._planner.can_decode_on_cpu()):
            self._decode_how, words = smaller
            self._planner.learn(decode=self._decode_how)
            yield f"The GPU ran out of memory: clips are decoded {words} now."

    def _moves(self, part: str) -> bool:
        """Whether it computes elsewhere than where its weights live."""
        return self._residency.plan.residency[part] != "cpu"

    @torch.inference_mode()
    def encode(self, request: Request, pictures: Sequence[np.ndarray]) -> Conditioning:
        """Encode the texts and the fitted pictures, uint8 [height, width, 3] each, of a request."""
        conditioning = Conditioning(
            prompts=tuple(self._prompt(prompt.text) for prompt in request.prompts),
            negative=self._prompt(request.negative_prompt) if request.real_cfg > 1 else None,
            pictures=tuple(map(self._picture, pictures)),
        )
        self._planner.libraries_are_loaded()
        return conditioning

    def _picture(self, pixels: np.ndarray) -> EncodedPicture:
        parts, key = self._parts, content_key(pixels)
        tokens = self._cached(
            f"tokens:{key}",
            "image_encoder",
            lambda: encode_picture_tokens(pixels, parts.feature_extractor, parts.image_encoder),
        )
        return EncodedPicture(tokens, self._cached(f"latent:{key}", "vae", lambda: encode_picture(parts.vae, pixels)))

    def _prompt(self, text: str) -> PromptEmbedding:
        parts, key = self._parts, content_key(text)
        tokens, cut = self._cached(
            f"features:{key}", "text_encoder", lambda: llama_features(text, parts.tokenizer, parts.text_encoder)
        )
        pooled = self._cached(
            f"pooled:{key}", "text_encoder_2", lambda: pooled_by_clip(text, parts.tokenizer_2, parts.text_encoder_2)
        )
        return PromptEmbedding(tokens, pooled, cut)

    def _cached(self, key: str, part: str, make: Callable[[], T]) -> T:
        """From the cache, else made while ``part`` is where it computes."""

        def visit() -> T:
            with self._residency.visit(part, self._encode_on_call):
                return make()

        return self._cache.get(key, visit)

    def denoiser(
        self, request: Request, conditioning: Conditioning, section: SectionPlan, context: Context
    ) -> SectionDenoiser:
        """See ``section_denoiser``."""
        made = section_denoiser(self._parts.transformer, self._compute, request, conditioning, section, context)
        return replace(made, ready=self._residency.before_sampling)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """[1, C, T, H, W] to a clip [1, 3, 4 T - 3, 8 H, 8 W], about -1 to 1, on the CPU."""
        if self._decode_how == "cpu" and self._moves("vae"):
            if self._vae_on_cpu is None:
                self._vae_on_cpu = deepcopy(self._residency.at_home("vae")).to(torch.float32)
            return decode_clip(self._vae_on_cpu, latents, True, TILES["cpu"])
        self._residency.before_decoding()
        tile = TILES.get(self._decode_how, 0) if self._moves("vae") else 0
        with self._residency.visit("vae"):
            return decode_clip(self._parts.vae, latents, bool(tile), tile)

    def preview(self, latents: Tensor) -> np.ndarray:
        """[1, C, T, H, W] to the frames side by side, uint8 [H, T * W, 3]."""
        return self._to_rgb.strip(latents)

    def peak_memory_mb(self) -> float:
        """The most memory used: of the GPU where there is one, by the last video; else by the process so far."""
        if self._compute.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return peak_process_memory_mb()


def peak_process_memory_mb() -> float:
    """The most memory this process has held; where the system does not keep that, what it holds now."""
    memory = psutil.Process().memory_info()
    if sys.platform == "win32":
        return float(memory.peak_wset) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def section_denoiser(
    transformer: FramePackTransformer,
    compute: Compute,
    request: Request,
    conditioning: Conditioning,
    section: SectionPlan,
    context: Context,
) -> SectionDenoiser:
    """A denoiser for one section, with its own step-cache state for each CFG branch.

    ``context``: the latents of the section's context plan.
    """
    caches = _step_cache(request), _step_cache(request)
    denoise = Denoiser(
        transformer,
        {"image_embeds": conditioning.pictures[section.picture].tokens, **_context_inputs(context)},
        _text_input(conditioning.prompts[section.prompt]),
        _text_input(conditioning.negative) if conditioning.negative else None,
        Guidance(request.distilled_guidance, request.real_cfg, request.cfg_rescale),
        compute.transformer_dtype,
        compute.device,
        branch_inputs=({"step_cache": caches[0]}, {"step_cache": caches[1]}),
    )
    table = transformer.modulation if isinstance(transformer.modulation, ModulationTable) else None
    return SectionDenoiser(denoise, caches, table)


def _step_cache(request: Request) -> StepCache | None:
    return request.step_cache.make(request.steps) if request.step_cache else None


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
