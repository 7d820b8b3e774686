"""Which looks at latents the settings come to, and the file of a tiny decoder."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from .errors import UnusableInput
from .models.load import Compute
from .models.table import Checkpoint
from .names import path_of, shown
from .settings import Decoders
from .vae.preview import LatentToRGB, Previews
from .vae.tiny import PREFIX, TinyDecoder
from .words import Message, plain

DEFAULT_FILE, SUFFIX = "taehv.safetensors", ".safetensors"
"""The file in the models folder that is used without being named."""


def linear_map(checkpoint: Checkpoint) -> LatentToRGB:
    """Its own, else HunyuanVideo's."""
    return LatentToRGB(*checkpoint.latent_rgb) if checkpoint.latent_rgb else LatentToRGB()


def previews_for(
    checkpoint: Checkpoint, chosen: Decoders, models_dir: Path, compute: Compute
) -> tuple[Previews, tuple[Message, ...]]:
    """Looks at the latents of ``checkpoint``, and what is said where a tiny decoder cannot be had.

    A checkpoint that brings a linear map of its own has latents of its own, which TAEHV does not know.
    """
    linear = linear_map(checkpoint)
    file = _file(chosen.preview_decoder, models_dir, checkpoint)
    if file is None:
        return Previews(linear), ()
    try:
        if checkpoint.latent_rgb:
            raise UnusableInput(Message("preview.other_latents", checkpoint=checkpoint.name))
        return Previews(linear, read_tiny_decoder(file, compute)), ()
    except UnusableInput as error:
        return Previews(linear), (Message("preview.refused", file=shown(file), reason=error.said),)


def _file(named: str, models_dir: Path, checkpoint: Checkpoint) -> Path | None:
    """The file that the setting means. Unnamed it is the one in the models folder, if it is there and would serve."""
    if named not in ("auto", "off"):
        return path_of(named)
    default = models_dir / DEFAULT_FILE
    return default if named == "auto" and default.is_file() and not checkpoint.latent_rgb else None


def read_tiny_decoder(file: Path, compute: Compute) -> TinyDecoder:
    """The one in ``file``, where and in the numbers that the VAE computes in.

    Raises:
        UnusableInput: it is none, or cannot be read; says why. What is no safetensors file is not opened.
    """
    if file.suffix.lower() != SUFFIX:
        raise UnusableInput(Message("preview.no_safetensors"))
    if not file.is_file():
        raise UnusableInput(Message("preview.no_file"))
    try:
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if name.startswith(PREFIX)]  # noqa: SIM118 - it is no mapping
            weights = {name: opened.get_tensor(name) for name in names}
            return TinyDecoder.of(weights, compute.device, compute.vae_dtype)
    except (OSError, ValueError, SafetensorError) as error:
        raise UnusableInput(plain(str(error))) from error
