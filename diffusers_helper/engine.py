"""The loaded checkpoint: made once, used by every job.

The road (generate.py) asks little of it: encode a request, build a denoiser for a section, decode latents, preview
them, and say how much memory all that took. Anything that does this can drive the road. Out of memory is no matter of
the road: what can be tried again with less is tried again here, and becomes a notice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from .caches.step_cache import NOTHING_MEASURED
from .encoders import Encoders, Keep
from .lent_vae import LentVae
from .lora.shelf import Shelf, shelf_folder
from .loras import Chosen, Loras
from .memory import vram
from .memory.costs import Beside, Workload
from .memory.degradation import Degradation, without_frames
from .memory.lessons import Lessons
from .memory.moves import load_model_chunked
from .memory.placement import Site
from .memory.plan import MemoryPlan
from .memory.planner import Planner
from .memory.recompute import Recompute
from .memory.residency import Residency
from .memory.units import GB
from .models.attention import Attention, allow_fused_kernels
from .models.kept_weights import Made
from .models.load import Compute, Parts, choose_compute, load_parts
from .models.speed import apply_kernels
from .models.table import Checkpoint
from .models.transformer import FramePackTransformer
from .models.weights import TransformerWeights, constraints_of, finished, weights_of, why_no_products
from .planning import plan_video_memory, planner_for
from .previews import linear_map, previews_for
from .request import Request
from .section_denoiser import Attempt, Conditioning, EncodedPicture, SectionDenoiser, section_denoiser
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


class Engine:
    """A checkpoint, ready to run. Whoever makes one closes it, or enters it.

    Attributes:
        compute: where and in which numbers its parts compute.
        fingerprint: of the files that it was loaded from, whatever has become of them.
        models_dir: where what is made of its files is kept for the next time; None for nowhere.
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
        shelf: Shelf | None = None,
        weights: TransformerWeights | None = None,
    ) -> None:
        """``attention`` and ``notices`` are told with every video; ``compiled`` decoders serve where they are ready;
        without ``previews`` there are those of the checkpoint's linear map; without ``shelf`` there is no LoRA; without
        ``weights`` nothing that is merged is kept."""
        self.checkpoint, self._attention, self._notices = checkpoint, attention, notices
        self.compute, self.parts, self.planner = compute, parts, planner
        self.fingerprint = planner.fingerprint
        weights = weights or TransformerWeights(checkpoint, compute, planner.plan)
        self.models_dir = weights.models_dir
        self._loras = Loras(parts.transformer, checkpoint, weights, shelf or Shelf())
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
        shelf: Shelf | None = None,
        workload: Workload | None = None,
    ) -> Engine:
        """Load all parts for the best device there is, as the settings ask; by default those of this installation.

        Args:
            lessons: of the engines of this process before it; it adds its own.
            shelf: where LoRAs are found; in the folder of this installation when left out.
            workload: for which memory is planned; the checkpoint's largest videos when left out.

        Raises:
            OutOfMemory: they would not fit; found out before anything is loaded.
            UnusableCheckpoint: a file is damaged.
            UnusableInput: a setting asks for a package that is not installed.
        """
        settings = chosen or resolve()
        compute = choose_compute()
        constraints, models_dir = constraints_of(settings.weights, settings.memory), settings.paths.models_dir
        allow_fused_kernels(settings.kernels.flash_sdp, settings.kernels.mem_efficient_sdp)
        planner = planner_for(checkpoint, compute, constraints, models_dir, lessons, workload)
        no_products = why_no_products(planner.plan, compute, settings.weights, settings.kernels)
        log.info("%s: %s", checkpoint.name, planner.plan.why)

        weights = weights_of(checkpoint, compute, planner.plan, settings, no_products)

        def load(checkpoint: Checkpoint, compute: Compute) -> FramePackTransformer:
            transformer = weights.load()
            if planner.plan.residency["transformer"] == "gpu":
                load_model_chunked(transformer, compute.device)
            return transformer

        parts = load_parts(checkpoint, compute, load)
        attention = apply_kernels(parts.transformer, compute.device, compute.transformer_dtype, settings.kernels)
        compiled, refused = compiled_decoders(settings.decoders, models_dir, compute.device)
        previews, unusable = previews_for(checkpoint, settings.decoders, models_dir, compute)
        found = (*attention.notices, *([no_products] if no_products else []), *refused, *unusable)
        notices = (*settings.every_notice(), *found)
        shelf = shelf or Shelf(shelf_folder(models_dir))
        return cls(checkpoint, compute, parts, planner, attention, notices, compiled, previews, shelf, weights)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close it. A GPU that is lost gives nothing back, and hides nothing of what has happened."""
        try:
            self.close()
        except RuntimeError:
            log.warning("the memory of %s could not be given back", self.compute.device, exc_info=True)

    def close(self) -> None:
        """Give back what is locked of RAM, and of the device's memory what was lent or passes through it; what is there
        for good goes with the engine. No video can be made after that, and no decoder is compiled any more."""
        if self._vae.compiled:
            self._vae.compiled.close()
        self.residency.close()

    def check(self, request: Request) -> None:
        """Raises UnusableLora where one of the request's LoRAs cannot be used here; changes nothing."""
        self._loras.open(request)

    def merge(self, request: Request) -> Made[None]:
        """Let the weights be those with the LoRAs that a request wants merged, and no others; yields while they are
        made. Broken off, it begins again with the next request.

        Raises:
            UnusableLora: see ``check``; and for NaN and infinite weights.
            OutOfMemory: neither RAM nor the disk has room for them.
        """
        yield from self._merge(self._loras.open(request), request)

    def _merge(self, loras: Chosen, request: Request) -> Made[None]:
        if self._loras.is_merged(loras):
            return
        self._loras.check_numbers(loras)
        self.residency.release_transformer()
        preserved = max(self.planner.constraints.preserved_bytes, int(request.preserved_memory_gb * GB))
        yield from self._loras.merge(loras, preserved)

    def prepare(self, request: Request, height: int, width: int) -> MemoryPlan:
        """Plan the memory of a video, for frames of this size, and let its LoRAs act, and no others; it merges those to
        be merged if ``merge`` was not asked to.

        Raises:
            OutOfMemory: it cannot be made.
            UnusableLora: see ``check``; and for NaN and infinite weights.
        """
        vram.forget_peak(self.compute.device)
        self._measured = self.checkpoint.measured()
        loras = self._loras.open(request)
        finished(self._merge(loras, request))
        self._loras.keep(loras)
        plan = plan_video_memory(self.planner, request, height, width, self._measured, self._loras.bytes_of(loras))
        self._decoders = decoders(request.decoding, self.planner.constraints.chunk_size)
        self.residency.follow(plan)
        self.degradation.begin()
        self._vae.forget()
        self.degradation.attempt("sample", lambda: self._loras.attach(loras))
        kernel = Message("attention.by", kernel=self._attention.kernel.title) if self._attention else None
        remarks = filter(None, (self.residency.transformer.copies, kernel, self.compute.unused_gpu))
        return replace(
            self.residency.plan,
            remarks=tuple(remarks),
            notices=(*self._notices, *plan.notices, *self._loras.notices(loras)),
        )

    def prepare_training(self, workload: Workload) -> MemoryPlan:
        """Plan the memory of a step of training, and let the transformer's blocks run so, with no LoRA of a video.

        Raises OutOfMemory.
        """
        self._loras.keep(Chosen())
        self._loras.attach(Chosen())
        self.residency.follow(self.planner.for_workload(workload))
        plan, swap = self.residency.plan, self.residency.transformer.swap
        self.residency.before_sampling()
        transformer = self.parts.transformer
        transformer.disable_gradient_checkpointing()
        if plan.stored != "kept":
            recompute = Recompute(swap, inputs_in_ram=plan.stored == "in_ram")
            transformer.enable_gradient_checkpointing(recompute)
            transformer.block_source = recompute.blocks if swap else None
        return plan

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

    def keep_encodings(self, keep: Keep) -> None:
        """From now on what the encoders make is kept so, beyond what is kept of the last few."""
        self._encoders.keep = keep

    def encode_video(self, frames: np.ndarray) -> LatentPosterior:
        """The latents of a video that is there, uint8 [F, height, width, 3]: what training learns from."""
        return self.degradation.attempt("encode", lambda: self._encoders.video(frames))

    def denoiser(
        self, request: Request, conditioning: Conditioning, section: SectionPlan, context: Context, sigmas: Tensor
    ) -> SectionDenoiser:
        """See ``section_denoiser``. LoRAs get the weights of this section."""
        attempt: Attempt = partial(self.degradation.attempt, "sample")
        asked = (request, conditioning, section, context, sigmas, self._measured)
        attempt(lambda: self._loras.turn_to(section))
        made = attempt(lambda: section_denoiser(self.parts.transformer, self.compute, *asked))
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
        return vram.peak_memory_mb(self.compute.device)
