"""Compiled latent decoders, as the settings ask for them, and as a class for other programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from .media.compiled_files import CompiledFiles, compiled_folder
from .models import compile as compiling
from .settings import Decoders, resolve
from .vae.back_ends import AOTInductor, BackEnd, TensorRT
from .vae.chunks import check_latents, decode_in_chunks
from .vae.compiled import CompiledDecoders
from .words import Message


def compiled_decoders(
    chosen: Decoders, models_dir: Path, device: torch.device
) -> tuple[CompiledDecoders | None, tuple[Message, ...]]:
    """What the settings ask for, None where that is nothing or cannot be had, and what is said about it."""
    notices, asked = [], _asked(chosen)
    for back_end in asked:
        if reason := why_not(back_end, device):
            notices.append(Message("compiled.refused", reason=reason))
            continue
        if next(asked, None):
            flags = {"first": "--enable-tensorrt", "second": "--compiled-vae"}
            notices.append(Message("settings.goes_before", **flags))
        files = CompiledFiles(compiled_folder(models_dir), chosen.compiled_limit)
        return CompiledDecoders(back_end, files), tuple(notices)
    return None, tuple(notices)


def _asked(chosen: Decoders) -> Iterator[BackEnd]:
    """Those that are asked for; the first that can work serves."""
    if chosen.enable_tensorrt:
        yield TensorRT()
    if chosen.compiled_vae:
        yield AOTInductor()


def why_not(back_end: BackEnd, device: torch.device) -> Message | None:
    """What is missing here for ``back_end``; None when nothing."""
    return back_end.why_not(device) or compiling.why_not(device)


class TensorRTLatentDecoder:
    """Decodes latents by TensorRT where that can be had, else as ``vae_decode_chunked``; nothing need be installed.

    The first chunk of a clip is always decoded plain, and every clip until the compiled decoder is ready.
    """

    def __init__(
        self,
        vae: AutoencoderKLHunyuanVideo,
        folder: Path | None = None,
        chunk_size: int = 4,
        back_end: BackEnd | None = None,
    ) -> None:
        """Compiles nothing yet.

        Args:
            vae: where it computes, and stays.
            folder: where compiled decoders are kept; by default beside the models, within the limit of the settings.
            chunk_size: latent frames that are decoded at once.
            back_end: another compiler; by default TensorRT.
        """
        settings = resolve()
        back_end, folder = back_end or TensorRT(), folder or compiled_folder(settings.paths.models_dir)
        reason = why_not(back_end, vae.device)
        self._vae, self._chunk = vae, chunk_size
        self._notices = [Message("compiled.refused", reason=reason)] if reason else []
        files = CompiledFiles(folder, settings.decoders.compiled_limit)
        self._compiled = None if reason else CompiledDecoders(back_end, files)

    @torch.inference_mode()
    def __call__(self, latents: Tensor) -> Tensor:
        """[B, C, T, H, W] scaled latents to [B, 3, 4 T - 3, 8 H, 8 W] pixels, about -1 to 1, float16 on the CPU.

        Raises:
            UnusableArgument: latents without a frame, or with numbers that are not finite.
        """
        check_latents(latents)
        return decode_in_chunks(self._vae, latents, self._chunk, compiled=self._compiled)

    def notices(self) -> list[Message]:
        """What there is to say since the last time: what is missing, what has gone wrong."""
        said, self._notices = self._notices, []
        return [*said, *(self._compiled.notices() if self._compiled else ())]

    def wait(self) -> None:
        """Until nothing is being compiled."""
        if self._compiled:
            self._compiled.wait()

    def close(self) -> None:
        """Stop what is being compiled."""
        if self._compiled:
            self._compiled.close()
