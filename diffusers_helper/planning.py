"""A checkpoint, this machine and a request, as the numbers that memory plans are made of (memory/)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from .caches.step_cache import NOTHING_MEASURED, Measured
from .media.files import free_bytes
from .memory import vram
from .memory.candidates import Situation
from .memory.costs import Cached, Constraints, Machine, Workload
from .memory.host import read_ram
from .memory.lessons import Lessons
from .memory.plan import MemoryPlan, plan_memory
from .memory.planner import Planner
from .memory.units import GB
from .models.attention import VAE_HEAD_WIDTH, attention_is_fused
from .models.kept_weights import kept_bytes, quantised_folder
from .models.load import Compute
from .models.sizes import BYTES, FULL_SIZE, part_sizes
from .models.table import FRAMEPACK_BUCKETS, WEIGHTS_PARTS, Checkpoint
from .request import Request
from .vae.decoders import decoders


def planner_for(
    checkpoint: Checkpoint,
    compute: Compute,
    constraints: Constraints,
    models_dir: Path,
    lessons: Lessons | None = None,
    workload: Workload | None = None,
) -> Planner:
    """The memory plans of a checkpoint on this machine, loaded for ``workload``; by default for its largest videos.

    Raises OutOfMemory when it cannot run here, UnusableCheckpoint when its files are damaged.
    """
    sizes, fingerprint = part_sizes(checkpoint, dtype_names(compute)), checkpoint.fingerprint()
    machine = probe_machine(compute, models_dir)
    kept = kept_bytes(quantised_folder(models_dir), fingerprint)
    return Planner(
        sizes,
        replace(machine, disk_free=machine.disk_free + kept),
        workload or Workload.of(*max(checkpoint.buckets, key=math.prod)),
        constraints,
        tuple(decoders("lean", constraints.chunk_size).values()),
        lambda: vram.reclaimable_bytes(compute.device),
        fingerprint,
        lessons,
    )


def plan_video_memory(
    planner: Planner,
    request: Request,
    height: int,
    width: int,
    measured: Measured = NOTHING_MEASURED,
    lora_bytes: int = 0,
) -> MemoryPlan:
    """For frames of this size; raises OutOfMemory when it cannot be made.

    Args:
        measured: of the checkpoint, for its step caches.
        lora_bytes: what the request's LoRAs take beside the weights.
    """
    workload = replace(workload_of(request, height, width, measured), lora_bytes=lora_bytes)
    preserved = int(request.preserved_memory_gb * GB)
    usable = decoders(request.decoding, planner.constraints.chunk_size)
    return planner.for_workload(workload, preserved, tuple(usable.values()))


def workload_of(request: Request, height: int, width: int, measured: Measured) -> Workload:
    """What a section of a request's video asks for."""
    branches = 2 if request.real_cfg > 1 else 1
    option = request.step_cache.meant(measured) if request.step_cache else None
    cached = Cached(branches * option.stream_tensors, branches * option.target_tensors) if option else Cached()
    return Workload.of(height, width, request.latent_window, request.steps, cached)


def forecast_full_size(compute: Compute, constraints: Constraints, models_dir: Path) -> MemoryPlan:
    """The plan that a 13B checkpoint would get on this machine; raises OutOfMemory when it cannot run."""
    sizes = replace(FULL_SIZE, bytes_per_weight={part: BYTES[name] for part, name in dtype_names(compute).items()})
    machine, largest = probe_machine(compute, models_dir), Workload.of(*max(FRAMEPACK_BUCKETS, key=math.prod))
    usable = decoders("lean", constraints.chunk_size)
    return plan_memory(Situation(machine, sizes, largest, constraints, tuple(usable.values())))


def dtype_names(compute: Compute) -> dict[str, str]:
    """Part -> what it computes in, as safetensors names it."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    dtypes = {"transformer": compute.transformer_dtype, "vae": compute.vae_dtype}
    return {part: names[dtypes.get(part, compute.encoder_dtype)] for part in WEIGHTS_PARTS}


def probe_machine(compute: Compute, models_dir: Path) -> Machine:
    """What this machine has; in a container, what that may use."""
    device, ram = compute.device, read_ram()
    return Machine(
        vram_total=vram.total_bytes(device),
        vram_free=vram.reclaimable_bytes(device),
        ram_total=ram.total,
        ram_free=ram.free,
        disk_free=free_bytes(models_dir),
        fused_attention=attention_is_fused(device, compute.transformer_dtype),
        segments_grow=vram.segments_grow(),
        fused_vae_attention=attention_is_fused(device, compute.vae_dtype, VAE_HEAD_WIDTH, masked=True),
    )
