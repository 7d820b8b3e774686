"""The encoders of a checkpoint: prompts and pictures in, tensors on the CPU out; what was encoded lately is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from .conditioning.cache import ContentCache, content_key
from .conditioning.picture import encode_picture_tokens
from .conditioning.prompt import PromptEmbedding, llama_features, pooled_by_clip
from .models.load import Parts
from .vae.codec import LatentPosterior, encode_frames, encode_picture

T = TypeVar("T")
ENCODERS = ("text_encoder", "text_encoder_2", "image_encoder", "vae")


class Keep(Protocol):
    """Gives what a part makes of a content, kept from an earlier time or made now."""

    def __call__(self, part: str, key: str, make: Callable[[], T]) -> T: ...


def keep_nothing(part: str, key: str, make: Callable[[], T]) -> T:
    """It is made."""
    return make()


class Encoders:
    """Each encoder has a cache of its own, so that many prompts do not drive out the picture.

    Attributes:
        keep: what is beyond these caches.
    """

    keep: Keep = staticmethod(keep_nothing)

    def __init__(self, parts: Parts, visit: Callable[[str], AbstractContextManager[None]] | None = None) -> None:
        """``visit``: a part, by name, is where it computes while this lasts; by default it stays where it is."""
        self._parts, self._visit = parts, visit or (lambda part: nullcontext())
        self._caches = {part: ContentCache() for part in ENCODERS}

    def prompt(self, text: str) -> PromptEmbedding:
        """As the transformer reads it."""
        parts, key = self._parts, content_key(text)
        tokens, cut = self._cached(
            "text_encoder", key, lambda: llama_features(text, parts.tokenizer, parts.text_encoder)
        )
        pooled = self._cached(
            "text_encoder_2", key, lambda: pooled_by_clip(text, parts.tokenizer_2, parts.text_encoder_2)
        )
        return PromptEmbedding(tokens, pooled, cut)

    def picture_tokens(self, pixels: np.ndarray) -> Tensor:
        """[1, image tokens, D] of a picture, uint8 [height, width, 3]."""
        parts = self._parts
        return self._cached(
            "image_encoder",
            content_key(pixels),
            lambda: encode_picture_tokens(pixels, parts.feature_extractor, parts.image_encoder),
        )

    def latent(self, pixels: np.ndarray) -> LatentPosterior:
        """The latent distribution of a picture, uint8 [height, width, 3]."""
        return self._cached("vae", content_key(pixels), lambda: encode_picture(self._parts.vae, pixels))

    def video(self, frames: np.ndarray) -> LatentPosterior:
        """The latent distribution of a video, uint8 [F, height, width, 3]; no cache has it."""
        return self._kept("vae", content_key(frames), lambda: encode_frames(self._parts.vae, frames))

    def _cached(self, part: str, key: str, make: Callable[[], T]) -> T:
        return self._caches[part].get(key, lambda: self._kept(part, key, make))

    def _kept(self, part: str, key: str, make: Callable[[], T]) -> T:
        """As it is kept, else made while the part is where it computes."""

        def visit() -> T:
            with self._visit(part), torch.inference_mode():
                return make()

        return self.keep(part, key, visit)
