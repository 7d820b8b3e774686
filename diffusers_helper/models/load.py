"""Loading the parts of a checkpoint, each in its dtype, into RAM. Local files only."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, ModelMixin
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    LlamaModel,
    PreTrainedTokenizerBase,
    SiglipImageProcessorPil,
    SiglipVisionModel,
)
from transformers.utils import logging as transformers_logging

from ..errors import UnusableCheckpoint
from ..words import Message, joined, plain
from .fill import empty_transformer, fill
from .shards import Shards, damaged
from .table import WEIGHTS_PARTS, Checkpoint
from .transformer import FramePackTransformer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compute:
    """Where and in which numbers the models run, and why; and why an NVIDIA GPU that is there is not used."""

    device: torch.device
    transformer_dtype: torch.dtype
    vae_dtype: torch.dtype
    encoder_dtype: torch.dtype
    reason: str
    unused_gpu: Message | None = None


def choose_compute() -> Compute:
    """The original's numbers on a GPU; on a CPU float32, but the VAE in bfloat16 where the CPU multiplies it natively.

    The VAE's 3D convolutions take most of the time on a CPU; bench/results holds the measured ratio.
    """
    lacking = "no CUDA device"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if not gpu_is_too_old():
            return Compute(torch.device("cuda"), torch.bfloat16, torch.float16, torch.float16, f"CUDA device {name}")
        lacking = f"this PyTorch has no code for a GPU as old as {name}"
    abilities = torch.cpu.get_capabilities()
    native = next((name for name in ("amx_bf16", "avx512_bf16") if abilities.get(name)), None)
    vae_dtype = torch.bfloat16 if native else torch.float32
    reason = f"{lacking}: the CPU in float32, the VAE in {'bfloat16 by ' + native if native else 'float32 too'}"
    return Compute(torch.device("cpu"), torch.float32, vae_dtype, torch.float32, reason, why_no_gpu())


def why_no_gpu() -> Message | None:
    """What keeps PyTorch from an NVIDIA GPU that the driver shows; None when nothing does or there is none."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available() or not _driver_shows_gpu():
            return None
    if not torch.version.cuda:
        return Message("gpu.cpu_build")
    return joined(
        Message("gpu.old_driver", cuda=torch.version.cuda), *(plain(str(warning.message)) for warning in said)
    )


def _driver_shows_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        answer = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.startswith("GPU ")


def gpu_is_too_old() -> bool:
    """Whether this build of PyTorch has no code for the GPU; newer GPUs than it knows run what it has."""
    served = [int(name) for name in re.findall(r"sm_(\d+)", " ".join(torch.cuda.get_arch_list()))]
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor < min(served, default=0)


@dataclass(frozen=True)
class Parts:
    """The loaded parts of a checkpoint."""

    transformer: FramePackTransformer
    vae: AutoencoderKLHunyuanVideo
    text_encoder: LlamaModel
    tokenizer: PreTrainedTokenizerBase
    text_encoder_2: CLIPTextModel
    tokenizer_2: PreTrainedTokenizerBase
    image_encoder: SiglipVisionModel
    feature_extractor: SiglipImageProcessorPil

    def beside_transformer(self) -> dict[str, nn.Module]:
        """The other models, by name."""
        return {part: getattr(self, part) for part in WEIGHTS_PARTS if part != "transformer"}


def load_as_it_is(checkpoint: Checkpoint, compute: Compute) -> FramePackTransformer:
    """The transformer into RAM, in its dtype; raises UnusableCheckpoint."""
    folder = checkpoint.folders["transformer"]
    log.info("loading transformer from %s", folder)
    return fill(empty_transformer(folder, compute.transformer_dtype), Shards(folder), folder)


def load_parts(
    checkpoint: Checkpoint,
    compute: Compute,
    load_transformer: Callable[[Checkpoint, Compute], FramePackTransformer] = load_as_it_is,
) -> Parts:
    """Load every part into RAM.

    Args:
        load_transformer: comes before the other parts, so that the transformer may leave the RAM.

    Raises:
        UnusableCheckpoint: a file is damaged or is not what its part needs.
    """
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    transformer, load = load_transformer(checkpoint, compute), partial(_load, checkpoint)
    return Parts(
        transformer=transformer,
        vae=load("vae", AutoencoderKLHunyuanVideo, compute.vae_dtype),
        text_encoder=load("text_encoder", LlamaModel, compute.encoder_dtype),
        tokenizer=_read(checkpoint, "tokenizer", AutoTokenizer.from_pretrained),
        text_encoder_2=load("text_encoder_2", CLIPTextModel, compute.encoder_dtype),
        tokenizer_2=_read(checkpoint, "tokenizer_2", AutoTokenizer.from_pretrained),
        image_encoder=load("image_encoder", SiglipVisionModel, compute.encoder_dtype),
        feature_extractor=_read(checkpoint, "feature_extractor", SiglipImageProcessorPil.from_pretrained),
    )


def _load(checkpoint: Checkpoint, part: str, kind: Any, dtype: torch.dtype) -> Any:
    """One model, in evaluation mode, every weight found and finite in shape."""
    read = partial(kind.from_pretrained, use_safetensors=True, output_loading_info=True, **_dtype_argument(kind, dtype))
    model, info = _read(checkpoint, part, read)
    _check_complete(checkpoint.folders[part], info)
    return model.eval().requires_grad_(False)


def _dtype_argument(kind: type[nn.Module], dtype: torch.dtype) -> dict[str, torch.dtype]:
    """diffusers and transformers name the dtype differently."""
    return {"torch_dtype" if issubclass(kind, ModelMixin) else "dtype": dtype}


def _read(checkpoint: Checkpoint, part: str, read: Callable[..., Any]) -> Any:
    folder = checkpoint.folders[part]
    log.info("loading %s from %s", part, folder)
    try:
        return read(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise damaged(part, folder, error) from error


def _check_complete(folder: Path, info: dict[str, Any]) -> None:
    missing = sorted(info.get("missing_keys", ()))
    if missing or info.get("mismatched_keys"):
        wrong = missing or sorted(str(key) for key in info["mismatched_keys"])
        raise UnusableCheckpoint(
            Message("checkpoint.misshapen", folder=str(folder), count=len(wrong), name=str(wrong[0]))
        )
