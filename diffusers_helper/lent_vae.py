"""The VAE as decoders get it: on the device, as the residency says, or as a copy in RAM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo

from .memory.residency import Residency
from .vae.compiled import CompiledDecoders


class LentVae:
    """A ``VaeSource``."""

    def __init__(
        self, vae: AutoencoderKLHunyuanVideo, residency: Residency, compiled: CompiledDecoders | None = None
    ) -> None:
        self._vae, self._residency, self.compiled = vae, residency, compiled
        self._copy: Any = None

    @contextmanager
    def on_device(self) -> Iterator[AutoencoderKLHunyuanVideo]:
        """Where it computes; the transformer leaves before it where they take turns."""
        self._residency.before_decoding()
        with self._residency.visit("vae"):
            yield self._vae

    def in_ram(self) -> AutoencoderKLHunyuanVideo:
        """The copy, made when it is first asked for."""
        if self._copy is None:
            self._copy = deepcopy(self._residency.at_home("vae")).to(torch.float32)
        return self._copy

    def forget(self) -> None:
        """Let go of the copy."""
        self._copy = None
