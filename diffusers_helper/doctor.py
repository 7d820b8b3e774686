"""What this machine has, and what to mend: `bash start.sh doctor`. Changes nothing and touches no network.

A report is a list of facts; a fact that shows a gap carries a fix in plain words. It must come to an end on a machine
where something is broken, so torch is imported inside functions, and failing to import it is a fact too. GB are 1e9
bytes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .errors import FramePackError, UnusableCheckpoint, told_by
from .media.files import free_bytes, nearest_existing
from .memory.host import read_ram
from .memory.plan import MemoryPlan
from .models.about import About, describe_large
from .models.table import CHECKPOINTS, KnownCheckpoint, find_checkpoint, missing_parts
from .settings import Kernels, Memory, Paths, Settings, Weights
from .words import Message, joined, plain

LIBRARIES = ("diffusers", "transformers", "accelerate", "safetensors", "av", "Pillow")
OPTIONAL_PACKAGES = ("xformers", "sageattention", "flash-attn", "bitsandbytes", "torch-tensorrt")
SPARE_DISK_GB = 1.0
FORECAST = "memory plan 13B"
KERNELS = ("flash_attention", "efficient_attention", "cudnn_attention", "math")


@dataclass(frozen=True)
class Fact:
    """One thing about this machine: ``value`` for programs (JSON-able), ``text`` for people, ``fix`` where it lacks."""

    name: str
    value: Any
    text: str
    fix: str | None = None


@dataclass(frozen=True)
class Report:
    """All facts, in the order in which they are shown."""

    facts: tuple[Fact, ...]

    def as_dict(self) -> dict[str, Any]:
        """Name -> value, and under ``fixes`` what to do, each with the name of the fact it is about."""
        fixes = [{"about": fact.name, "fix": fact.fix} for fact in self.facts if fact.fix]
        return {**{fact.name: fact.value for fact in self.facts}, "fixes": fixes}


def main(settings: Settings, as_json: bool) -> int:
    """Print the report; the exit code is 0 whatever it says."""
    report = examine(settings)
    print(json.dumps(report.as_dict(), indent=2) if as_json else render(report))
    return 0


def examine(settings: Settings) -> Report:
    """Look at this machine as ``settings`` would use it. Takes a few seconds, most of them to import torch."""
    return Report((*_software(), *_hardware(settings), *_folders(settings.paths), *_checkpoints(settings.paths)))


def render(report: Report) -> str:
    """The report for people: a line per fact, its fix below it."""
    width = max(len(fact.name) for fact in report.facts)
    lines = []
    for fact in report.facts:
        lines.append(f"{fact.name.replace('_', ' '):{width}}  {fact.text}")
        if fact.fix:
            lines.append(f"{'':{width}}  fix: {fact.fix}")
    return "\n".join(lines)


def _software() -> Iterator[Fact]:
    python = platform.python_version()
    yield Fact("python", {"version": python, "executable": sys.executable}, f"{python}, {sys.executable}")
    yield Fact("platform", platform.platform(), platform.platform())
    libraries = {name: _version(name) for name in LIBRARIES}
    missing = [name for name, number in libraries.items() if number is None]
    text = ", ".join(f"{name} {number or 'missing'}" for name, number in libraries.items())
    yield Fact("libraries", libraries, text, f"{_INSTALL} It brings {', '.join(missing)}." if missing else None)
    optional = {name: _version(name) for name in OPTIONAL_PACKAGES}
    found = ", ".join(f"{name} {number}" for name, number in optional.items() if number)
    yield Fact("optional_packages", optional, found or "none; none is needed")


_INSTALL = "Start the program with `bash start.sh`, which installs what requirements.txt names."


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hardware(settings: Settings) -> Iterator[Fact]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Fact("torch", None, f"cannot be imported: {error}", _INSTALL)
    else:
        yield _build()
        yield _unless_broken("device", _gpus if torch.cuda.is_available() else _processor)
        yield _unless_broken("attention", lambda: _attention(settings.kernels, settings.notices["attention"]))
        yield _forecast(settings)
    yield _memory()


def why_not(settings: Settings) -> Message | None:
    """Why a 13B checkpoint would not run on this machine; None where nothing is known against it. Imports torch."""
    try:
        _full_size_plan(settings.weights, settings.memory, settings.paths.models_dir)
    except (FramePackError, ImportError, OSError) as error:
        return told_by(error)
    except RuntimeError:  # A GPU that is broken; the report says so.
        return None
    return None


def _forecast(settings: Settings) -> Fact:
    weights, memory, models_dir = settings.weights, settings.memory, settings.paths.models_dir
    return _unless_broken(FORECAST, lambda: forecast(weights, memory, models_dir, settings.notices["quantise"]))


def _unless_broken(name: str, look: Callable[[], Fact]) -> Fact:
    """A GPU that answers with an error is a fact as well."""
    try:
        return look()
    except RuntimeError as error:
        return Fact(name, None, f"broken: {error}", "Restart the machine, or update the GPU's driver.")


def _build() -> Fact:
    """Which PyTorch, and whether it can see the GPU that is there."""
    import torch

    from .models.load import why_no_gpu

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    value = {"version": torch.__version__, "build": build}
    return Fact("torch", value, f"{torch.__version__}, built for {build}", _told(why_no_gpu()))


def _gpus() -> Fact:
    import torch

    from .memory.vram import driver_bytes
    from .models.load import gpu_is_too_old

    gpus = []
    for index in range(torch.cuda.device_count()):
        free, total = driver_bytes(index)
        capability = "{}.{}".format(*torch.cuda.get_device_capability(index))
        gpus.append(
            {
                "name": torch.cuda.get_device_name(index),
                "vram_total_gb": round(total / 1e9, 1),
                "vram_free_gb": round(free / 1e9, 1),
                "compute_capability": capability,
            }
        )
    text = "; ".join(f"{g['name']}, {g['vram_free_gb']} of {g['vram_total_gb']} GB VRAM free" for g in gpus)
    return Fact("device", {"kind": "cuda", "gpus": gpus}, text, _TOO_OLD if gpu_is_too_old() else None)


_TOO_OLD = (
    "This PyTorch has no code for a GPU so old, and the CPU is used instead. PyTorch's builds for CUDA 12.6 have: "
    "install one of the version in requirements.txt into .venv from https://download.pytorch.org/whl/cu126."
)


def _processor() -> Fact:
    import torch

    can = torch.cpu.get_capabilities()
    name = can.get("cpu_name") or platform.processor() or platform.machine()
    sets = [key for key in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if can.get(key)]
    cores = _usable_cores()
    value = {"kind": "cpu", "name": name, "cores": cores, "threads": torch.get_num_threads(), "instruction_sets": sets}
    text = f"no CUDA device; CPU {name}, {cores} cores, {value['threads']} threads, {', '.join(sets) or 'no AVX2'}"
    return Fact("device", value, text)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _attention(kernels: Kernels, notices: Sequence[Message]) -> Fact:
    """The kernel that the transformer's attention would use, and which of PyTorch's own work; each is tried.

    ``notices``: what is said about the settings of the kernel.
    """
    import torch

    from .models.attention import attention_is_fused
    from .models.load import gpu_is_too_old
    from .models.speed import attention_of

    cuda = torch.cuda.is_available() and not gpu_is_too_old()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    chosen = attention_of(kernels, torch.device(device), dtype)
    tokens = torch.zeros(1, 2, 64, 128, device=device, dtype=dtype)
    used, fused = _kernel_of_pytorch(tokens), attention_is_fused(torch.device(device), dtype)
    works = {kernel: _kernel_works(kernel, tokens) for kernel in KERNELS}
    in_use = chosen.kernel.backend.value
    value = {"in_use": in_use, "why": str(chosen.why), "kernel": used, "fused": fused, "device": device, "works": works}
    if in_use != "native":
        return Fact("attention", value, f"{chosen.kernel.title}, on the {device.upper()}: {chosen.why}")
    text = f"{chosen.kernel.title} on the {device.upper()}, kernel {used}"
    gaps = (*notices, *chosen.notices, *(() if fused else (plain(_UNFUSED),)))
    return Fact("attention", value, text, _told(*gaps))


def forecast(weights: Weights, memory: Memory, models_dir: Path, notices: Sequence[Message]) -> Fact:
    """What would go where with a 13B checkpoint, as the settings ask; downloaded or not. Imports torch.

    ``notices``: what is said about the settings of the weights.
    """
    try:
        plan = _full_size_plan(weights, memory, models_dir)
    except FramePackError as error:
        return Fact(FORECAST, {"fits": False, "why": str(error)}, f"does not fit: {error}")
    peaks = {"vram_gb": round(plan.peak_vram_bytes / 1e9, 1), "ram_gb": round(plan.peak_ram_bytes / 1e9, 1)}
    how = {"precision": plan.precision, "resident_blocks": plan.resident_blocks, "residency": dict(plan.residency)}
    why = str(plan.why)
    return Fact(FORECAST, {"fits": True, "why": why, **how, **peaks}, why, _told(*notices, *plan.notices))


def _full_size_plan(weights: Weights, memory: Memory, models_dir: Path) -> MemoryPlan:
    """Raises FramePackError where a 13B checkpoint does not fit."""
    from .models.load import choose_compute
    from .models.weights import constraints_of
    from .planning import forecast_full_size

    return forecast_full_size(choose_compute(), constraints_of(weights, memory), models_dir)


def _told(*messages: Message | None) -> str | None:
    """What to do about a fact, in English; None where there is nothing."""
    said = tuple(filter(None, messages))
    return str(joined(*said)) if said else None


def _kernel_of_pytorch(tokens: Any) -> str:
    """The one it takes without a mask, the transformer's case."""
    import torch
    from torch.nn.attention import SDPBackend

    return SDPBackend(torch._fused_sdp_choice(tokens, tokens, tokens)).name.lower()


_UNFUSED = (
    "Attention holds a score for every pair of tokens here, more GPU memory than the weights of a 13B checkpoint "
    "take. The kernels that do without want a GPU of the Ampere generation or newer (RTX 30xx, compute capability "
    "8.0); RTX 20xx and GTX 16xx are older. On such a GPU use the pocket, or try a small latent window. If yours "
    "is newer: --flash-sdp and --mem-efficient-sdp must not both forbid it."
)


def _kernel_works(kernel: str, tokens: Any) -> bool:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.__members__[kernel.upper()]):
        warnings.simplefilter("ignore")
        try:
            scaled_dot_product_attention(tokens, tokens, tokens)
        except RuntimeError:
            return False
    return True


def _memory() -> Fact:
    ram = read_ram()
    value = {"total_gb": round(ram.total / 1e9, 1), "free_gb": round(ram.free / 1e9, 1)}
    return Fact("ram", value, f"{value['free_gb']} of {value['total_gb']} GB free")


def _folders(paths: Paths) -> Iterator[Fact]:
    yield _folder("output_dir", paths.output_dir, "--output-dir or FRAMEPACK_OUTPUT_DIR")
    yield _folder("models_dir", paths.models_dir, "--models-dir or HF_HOME")


def _folder(name: str, folder: Path, knob: str) -> Fact:
    """Space and permission where the folder is or would be made."""
    place = nearest_existing(folder)
    free = shutil.disk_usage(place).free / 1e9
    writable = place.is_dir() and os.access(place, os.W_OK)
    fix = None
    if not writable:
        fix = f"{place} cannot be written to. Change its permissions, or choose another folder with {knob}."
    elif free < SPARE_DISK_GB:
        fix = f"Less than {SPARE_DISK_GB:.0f} GB is free. Make room, or choose another folder with {knob}."
    value = {"folder": str(folder), "free_gb": round(free, 1), "writable": writable}
    return Fact(name, value, f"{folder}, {free:.1f} GB free", fix)


def _checkpoints(paths: Paths) -> Iterator[Fact]:
    for name, known in CHECKPOINTS.items():
        yield _downloadable(name, known, paths.models_dir) if known.sources else _local(name, paths.models_dir)
    if paths.checkpoint not in CHECKPOINTS:
        yield _local(paths.checkpoint, paths.models_dir)


def _local(name: str, models_dir: Path) -> Fact:
    try:
        checkpoint = find_checkpoint(name, models_dir)
    except UnusableCheckpoint as error:
        return _checkpoint(name, About(), 0.0, False, "not usable", str(error))
    size = sum(file.stat().st_size for file in checkpoint.files()) / 1e9
    return _checkpoint(name, checkpoint.about, size, True, f"present, {size:.2f} GB")


def _downloadable(name: str, known: KnownCheckpoint, models_dir: Path) -> Fact:
    about = describe_large(name).about
    missing = sum(known.sources[part].size_gb for part in missing_parts(known, models_dir))
    if not missing:
        return _checkpoint(name, about, known.size_gb, True, f"present, {known.size_gb:.1f} GB")
    free = free_bytes(models_dir) / 1e9
    fix = f"If you want it: `bash start.sh download {name}` ({missing:.1f} GB)."
    fix += f" Where memory is short, the first start adds {known.quantised_gb:.1f} GB of 8-bit weights."
    if missing > free:
        fix += f" Only {free:.1f} GB are free in {models_dir}; choose another folder with --models-dir or HF_HOME."
    return _checkpoint(name, about, known.size_gb, False, f"{missing:.1f} of {known.size_gb:.1f} GB missing", fix)


def _checkpoint(name: str, about: About, size_gb: float, present: bool, text: str, fix: str | None = None) -> Fact:
    """``about``: what it says of itself is part of what is told."""
    words = about.sentences()
    value = {"present": present, "size_gb": round(size_gb, 3), "about": words}
    return Fact(f"checkpoint {name}", value, f"{text}. {words}" if words else text, fix)
