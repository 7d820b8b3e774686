"""The knobs of this installation, each declared once, in a group per concern. A room is given its group."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ..caches.table import STEP_CACHES
from ..limits import ALLOCATOR_VARIABLES, LEAST_PRESERVED_GB, MOST_DECODED_AT_ONCE, MOST_PRESERVED_GB, DecodingName
from ..names import path_of
from ..options import NONE
from .knob import knob
from .parsing import (
    alloc_conf,
    chunk_size,
    devices,
    endpoint,
    file_or,
    gb,
    host,
    login,
    one_of,
    or_nothing,
    port,
    root_path,
    size_bytes,
    truth,
)
from .parsing import checkpoint as checkpoint_name

ROOT = Path(__file__).resolve().parent.parent.parent

THIS_MACHINE = "127.0.0.1"
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104  # only ever used when somebody asks for it

EXPANDABLE = "expandable_segments:True"

LEVELS = ("debug", "info", "warning", "error")
ATTENTIONS = ("auto", "sdpa", "flash", "sage", "xformers")
DECODINGS: tuple[str, ...] = get_args(DecodingName)
QUANTISATIONS = ("auto", "off", "int8", "fp8", "bnb8", "bnb4")


@dataclass(frozen=True)
class Paths:
    """What is used, and where things are."""

    checkpoint: str = knob("FRAMEPACK_CHECKPOINT", "pocket", checkpoint_name, "name or folder of the checkpoint")
    output_dir: Path = knob(
        "FRAMEPACK_OUTPUT_DIR", str(ROOT / "outputs"), path_of, "where videos go, in a folder per day"
    )
    models_dir: Path = knob("HF_HOME", str(ROOT / "hf_download"), path_of, "where downloaded checkpoints are kept")


@dataclass(frozen=True)
class Network:
    """What is asked over the network, and whether anything is."""

    endpoint: str = knob("HF_ENDPOINT", "https://huggingface.co", endpoint, "the hub that `download` asks, or a mirror")
    offline: bool = knob("HF_HUB_OFFLINE", "0", truth, "never touch the network")


@dataclass(frozen=True)
class Log:
    """What the program writes about itself."""

    log_level: str = knob("FRAMEPACK_LOG_LEVEL", "warning", one_of(*LEVELS), "debug, info, warning or error")


@dataclass(frozen=True)
class Sampling:
    """What a request that says nothing about it gets.

    Attributes:
        default_step_cache: empty for the request's own default; older names are translated (older.py).
        default_decoding: empty for the request's own default.
    """

    default_step_cache: str = knob(
        "FRAMEPACK_STEP_CACHE", "", or_nothing(one_of(NONE, *STEP_CACHES)), "step cache where flags and page name "
        f"none: {', '.join((NONE, *STEP_CACHES))}; by default auto",
    )  # fmt: skip
    default_decoding: str = knob(
        "FRAMEPACK_DECODING", "", or_nothing(one_of(*DECODINGS)), "decoding where flags and page name none: "
        f"{', '.join(DECODINGS)}; by default lean",
    )  # fmt: skip


@dataclass(frozen=True)
class Kernels:
    """How the transformer's blocks are computed.

    Attributes:
        attention: sdpa, flash, sage, xformers or cutlass, once it is translated (older.py).
    """

    attention: str = knob(
        "FRAMEPACK_ATTENTION", "auto", one_of(*ATTENTIONS), "kernel of the transformer's attention: "
        f"{', '.join(ATTENTIONS)}; auto is sdpa, PyTorch's own, unless --xformers-mode says otherwise",
    )  # fmt: skip
    flash_sdp: bool = knob("PYTORCH_ENABLE_FLASH_SDP", "1", truth, "0 keeps PyTorch's attention from its flash kernel")
    mem_efficient_sdp: bool = knob(
        "PYTORCH_ENABLE_MEM_EFFICIENT_SDP", "1", truth, "0 keeps PyTorch's attention from its memory-efficient kernel"
    )
    compile: bool = knob("FRAMEPACK_COMPILE", "0", truth, "compile the transformer's blocks before the first step")


@dataclass(frozen=True)
class Weights:
    """The numbers of the transformer's weights, and LoRAs in them.

    Attributes:
        merged_limit: bytes on disk.
    """

    quantise: str = knob(
        "FRAMEPACK_QUANTISE", "auto", one_of(*QUANTISATIONS), "numbers of the transformer's weights: "
        f"{', '.join(QUANTISATIONS)}; auto is off where they fit, else int8",
    )  # fmt: skip
    quantised_matmul: bool = knob(
        "FRAMEPACK_QUANTISED_MATMUL", "0", truth,
        "multiply int8 or fp8 weights as they are, where the GPU can: faster, less exact",
    )  # fmt: skip
    bnb_cpu_offload: bool = knob("FRAMEPACK_BNB_CPU_OFFLOAD", "0", truth, "4-bit weights leave the GPU for decoding")
    merged_limit: int = knob(
        "FRAMEPACK_MERGED_LIMIT", "40gb", size_bytes, "what weights with merged LoRAs may take on disk; those "
        "that were used last of all go first, and where it is too little, they are held in RAM",
    )  # fmt: skip
    lora_vram_strategy: str = knob(
        "FRAMEPACK_LORA_VRAM_STRATEGY", "KeepUntilFull", one_of("KeepUntilFull", "Rotate"), "what of the weights stays "
        "on the GPU while LoRAs are merged into them: the first ones until it is full, or always the latest",
    )  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """What of GPU memory and RAM the weights take."""

    small_host_copy: bool = knob(
        "FRAMEPACK_SMALL_HOST_COPY", "0", truth, "blocks that stay on the GPU are not in RAM too"
    )
    least_preserved_gb: float = knob(
        "FRAMEPACK_PRESERVED_MEMORY_GB", str(LEAST_PRESERVED_GB), gb, "GPU memory in GB that the weights leave free "
        f"in every video, {LEAST_PRESERVED_GB} to {MOST_PRESERVED_GB}; a video may ask for more",
    )  # fmt: skip
    vae_chunk_size: int | None = knob(
        "FRAMEPACK_VAE_CHUNK_SIZE", "", chunk_size, "latent frames that are decoded at once at most, "
        f"1 to {MOST_DECODED_AT_ONCE}; by default what the memory allows, up to 4, and 8 in quality mode, which takes "
        "no fewer than 4; the original's way of decoding has windows of its own",
    )  # fmt: skip
    decode_beside: str = knob(
        "FRAMEPACK_DECODE_BESIDE", "auto", one_of("auto", "on", "off"), "make a section's frames while the next one is "
        "sampled: auto where there is a GPU, decoding too if its memory has room for both; on also without a GPU",
    )  # fmt: skip
    cuda_alloc_conf: str = knob(
        ALLOCATOR_VARIABLES[1], EXPANDABLE if sys.platform == "linux" else "", alloc_conf,
        "how PyTorch manages GPU memory: name:value, with commas between", newer_variable=ALLOCATOR_VARIABLES[0],
    )  # fmt: skip


@dataclass(frozen=True)
class Decoders:
    """Compiled decoders of the VAE, and what stands for it in previews.

    Attributes:
        enable_tensorrt: goes before ``compiled_vae`` where it can be had.
        compiled_limit: bytes on disk.
        preview_decoder: auto, off or the path of a file.
    """

    compiled_vae: bool = knob(
        "FRAMEPACK_COMPILED_VAE", "0", truth, "compile the VAE's decoder in the background, by PyTorch's AOTInductor, "
        "and keep it for later starts",
    )  # fmt: skip
    enable_tensorrt: bool = knob(
        "FRAMEPACK_ENABLE_TENSORRT", "0", truth, "the same by the package torch-tensorrt; goes before --compiled-vae"
    )
    compiled_limit: int = knob(
        "FRAMEPACK_COMPILED_LIMIT", "5gb", size_bytes, "what compiled decoders may take on disk; the one that was used "
        "last of all goes first",
    )  # fmt: skip
    preview_decoder: str = knob(
        "FRAMEPACK_PREVIEW_DECODER", "auto", file_or("auto", "off"), "safetensors file of TAEHV, a tiny decoder for "
        "previews; auto is taehv.safetensors in the models folder where it is there, off none",
    )  # fmt: skip


@dataclass(frozen=True)
class PageOptions:
    """How the page is reached, and what it takes."""

    server: str = knob("GRADIO_SERVER_NAME", THIS_MACHINE, host, "address the page listens on; 0.0.0.0 is every one")
    port: int | None = knob(
        "GRADIO_SERVER_PORT", "", port, "port of the page; by default the first free one from 7860 on"
    )
    share: bool = knob("GRADIO_SHARE", "0", truth, "also a public address, through Gradio's servers")
    auth: tuple[str, str] | None = knob(
        "FRAMEPACK_AUTH", "", login, "user:password that the page asks for; other users of the machine can "
        "read flags, so better through the environment", secret=True,
    )  # fmt: skip
    executors: tuple[str, ...] = knob(
        "FRAMEPACK_EXECUTORS", "", devices, "devices, a process for each: 0,1 are two GPUs; or cpu"
    )
    inbrowser: bool = knob("FRAMEPACK_INBROWSER", "0", truth, "open the page in a browser")
    preset: str = knob("FRAMEPACK_PRESET", "", str, "name of the preset that the page starts with")
    max_upload_size: int = knob(
        "FRAMEPACK_MAX_UPLOAD_SIZE", "100mb", size_bytes, "the largest file that the page takes"
    )
    root_path: str = knob(
        "GRADIO_ROOT_PATH", "", root_path, "where a proxy in front shows the page: /path, or the whole "
        "address when the proxy passes its own name on",
    )  # fmt: skip
    mcp: bool = knob("FRAMEPACK_MCP", "0", truth, "also serve the public endpoints as tools over MCP")

    @property
    def reachable_from_elsewhere(self) -> bool:
        """Whether other machines can open the page."""
        return self.share or not (self.server in ("localhost", "::1") or self.server.startswith("127."))
