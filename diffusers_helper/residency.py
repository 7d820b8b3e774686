"""Carries out memory plans: brings each part to the device that needs it, and away again.

All parts but the transformer live in RAM. The device gets a copy for as long as it is needed, and nothing is copied
back. The transformer stays on the device, or its blocks pass through it (see swap.py). Where the plan says ``cpu``,
nothing moves.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from .media.files import nearest_existing
from .memory import (
    DynamicSwapInstaller,
    Loan,
    free_unused,
    load_model_chunked,
    offload_model_from_device_for_memory_preservation,
)
from .memory_plan import MemoryPlan, plan_memory
from .memory_ways import STAY_ON_GPU, Machine, Wishes, Workload
from .models.load import Compute, Parts
from .models.quantised_file import kept_bytes, quantised_folder
from .models.sizes import BYTES, FULL_SIZE, part_sizes
from .models.table import FRAMEPACK_BUCKETS, WEIGHTS_PARTS, Checkpoint
from .request import Request
from .swap import BlockSwap
from .transport import Transport, best_transport

log = logging.getLogger(__name__)

CONTAINER = Path("/sys/fs/cgroup")
ROOM_TO_WORK_BYTES = 10**9
"""What an encoder needs on the device besides its weights."""


class Planner:
    """The memory plans for one checkpoint on this machine.

    Attributes:
        wishes: of the settings.
        plan: for the largest size; by it the parts are loaded.
    """

    def __init__(self, checkpoint: Checkpoint, compute: Compute, wishes: Wishes, models_dir: Path) -> None:
        """Raises OutOfMemory when the checkpoint cannot run here, UnusableCheckpoint when its files are damaged."""
        self._device, self.wishes = compute.device, wishes
        self._sizes = part_sizes(checkpoint, dtype_names(compute))
        machine = look(compute.device, models_dir)
        kept = kept_bytes(quantised_folder(models_dir), checkpoint.fingerprint())
        self._machine = replace(machine, disk_free=machine.disk_free + kept)
        self.plan = plan_memory(self._machine, self._sizes, largest_workload(checkpoint.buckets), wishes)

    def for_job(self, request: Request, height: int, width: int) -> MemoryPlan:
        """The plan for one video, with what the device has free now. The numbers of the weights are chosen already.

        Raises OutOfMemory when it cannot be made.
        """
        machine = replace(self._machine, vram_free=_vram_free(self._device))
        preserved = max(self.wishes.preserved_bytes, int(request.preserved_memory_gb * 1e9))
        wishes = replace(self.wishes, precision=self.plan.precision, preserved_bytes=preserved)
        workload = Workload.of(height, width, request.latent_window, request.steps)
        return plan_memory(machine, self._sizes, workload, wishes)


def forecast_full_size(compute: Compute, wishes: Wishes, models_dir: Path) -> MemoryPlan:
    """The plan that a 13B checkpoint would get on this machine; raises OutOfMemory when it cannot run."""
    sizes = replace(FULL_SIZE, bytes_per_weight={part: BYTES[name] for part, name in dtype_names(compute).items()})
    return plan_memory(look(compute.device, models_dir), sizes, largest_workload(FRAMEPACK_BUCKETS), wishes)


def dtype_names(compute: Compute) -> dict[str, str]:
    """Part -> what it computes in, as safetensors names it."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    dtypes = {"transformer": compute.transformer_dtype, "vae": compute.vae_dtype}
    return {part: names[dtypes.get(part, compute.encoder_dtype)] for part in WEIGHTS_PARTS}


def largest_workload(buckets: Sequence[tuple[int, int]]) -> Workload:
    """Of the sizes (height, width) that a checkpoint makes."""
    return Workload.of(*max(buckets, key=lambda size: size[0] * size[1]))


def look(device: torch.device, models_dir: Path) -> Machine:
    """What this machine has; in a container, what that may use."""
    disk = shutil.disk_usage(nearest_existing(models_dir)).free
    total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else 0
    ram = psutil.virtual_memory()
    container = _container()
    if container is None:
        return Machine(total, _vram_free(device), ram.total, ram.available, disk)
    limit, free = container
    return Machine(total, _vram_free(device), min(limit, ram.total), min(free, ram.available), disk)


def _container() -> tuple[int, int] | None:
    """The limit and what is free of it, files in the cache counted as free; None outside and where there is none."""
    try:
        limit, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
        rows = (line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        cached = sum(int(count) for name, count in rows if name in ("active_file", "inactive_file"))
    except (OSError, ValueError):
        return None
    return limit, max(limit - used + cached, 0)


def _vram_free(device: torch.device) -> int:
    """What is free, and what this process holds and can give back."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)


class Residency:
    """Who is on the device when."""

    def __init__(
        self,
        parts: Parts,
        device: torch.device,
        plan: MemoryPlan,
        small_host_copy: bool = False,
        make_transport: Callable[[torch.device], Transport] = best_transport,
    ) -> None:
        self._parts, self._device, self._make_transport = parts, device, make_transport
        self._small_host_copy = small_host_copy
        self._loans = {part: Loan(getattr(parts, part)) for part in WEIGHTS_PARTS if part != "transformer"}
        self._swap: BlockSwap | None = None
        self._packed: Loan | None = None
        self.plan = plan
        self.follow(plan)

    def follow(self, plan: MemoryPlan) -> None:
        """From now on, go by ``plan``."""
        before, self.plan = self.plan, plan
        if plan.residency["transformer"] == "gpu" and self._swap is None:
            load_model_chunked(self._parts.transformer, self._device)
        elif plan.residency["transformer"] == "swapped" and plan.precision in STAY_ON_GPU:
            self._packed = self._packed or self._lent_transformer()
        elif plan.residency["transformer"] == "swapped" and self._swap is None:
            self._swap = self._parts.transformer.swap_blocks(
                self._make_transport(self._device), plan.resident_bytes, keep_host_copy=not self._small_host_copy
            )
        elif self._swap is not None and plan.resident_bytes != before.resident_bytes:
            self._swap.limit(plan.resident_bytes)

    def _lent_transformer(self) -> Loan:
        """Packed by bitsandbytes it cannot be swapped by blocks, but it can take turns as a whole."""
        offload_model_from_device_for_memory_preservation(self._parts.transformer, self._device, aggressive=True)
        return Loan(self._parts.transformer)

    @contextmanager
    def visit(self, part: str) -> Iterator[None]:
        """A part is on the device while this lasts; where it does not fit, its weights come as they are used."""
        loan = self._loans[part]
        if self.plan.residency[part] == "cpu" or loan.away:
            yield
            return
        on_call = not self._make_room(loan.model)
        if on_call:
            log.info("%s does not fit onto %s: its weights come as they are used", part, self._device)
            DynamicSwapInstaller.install_model(loan.model, device=self._device)
        else:
            loan.go(self._device)
        try:
            yield
        finally:
            if on_call:
                DynamicSwapInstaller.uninstall_model(loan.model)
            elif self.plan.residency[part] != "gpu":
                loan.leave()

    def _make_room(self, model: torch.nn.Module) -> bool:
        """Whether ``model`` fits onto the device, after the others have left if they must."""
        needed = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) + ROOM_TO_WORK_BYTES
        if self._device.type != "cuda" or _unused_vram(self._device) >= needed:
            return True
        self.clear()
        return _unused_vram(self._device) >= needed

    def clear(self) -> None:
        """Let everything leave the device that can; it comes back when it is needed."""
        for loan in self._loans.values():
            loan.leave()
        self._transformer_leaves()
        free_unused()

    def before_sampling(self) -> None:
        """It is the transformer's turn; blocks that are swapped come by themselves."""
        if self._packed is not None:
            self._packed.go(self._device)

    def before_decoding(self) -> None:
        """Where parts take turns, it is not the transformer's."""
        if self.plan.take_turns:
            self._transformer_leaves()

    def _transformer_leaves(self) -> None:
        if self._swap is not None:
            self._swap.rest()
        if self._packed is not None:
            self._packed.leave()

    def fewer_resident_blocks(self) -> bool:
        """Halve what stays on the device while sampling; False when nothing stays already."""
        if self._swap is None or not self.plan.resident_bytes:
            return False
        blocks = self.plan.resident_blocks // 2
        held = self.plan.resident_bytes // 2 if blocks else 0
        self.follow(replace(self.plan, resident_blocks=blocks, resident_bytes=held))
        return True


def _unused_vram(device: torch.device) -> int:
    """Free for the driver, or held by PyTorch and unused."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held
