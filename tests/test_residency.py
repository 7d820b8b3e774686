"""Plans carried out on the CPU as if it were a device of its own: whatever moves, the video is the same."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_helper import residency
from diffusers_helper.engine import Engine
from diffusers_helper.errors import OutOfMemory, UnusableCheckpoint
from diffusers_helper.events import Event, Failed, Finished, Notice, Plan
from diffusers_helper.generate import generate
from diffusers_helper.media.video import read_frames
from diffusers_helper.memory_plan import MemoryPlan
from diffusers_helper.memory_ways import GB, Machine, Residency, Wishes
from diffusers_helper.models.load import Compute, choose_compute, load_parts
from diffusers_helper.models.sizes import FULL_SIZE, part_sizes
from diffusers_helper.models.table import WEIGHTS_PARTS, Checkpoint, find_checkpoint
from diffusers_helper.request import Request
from diffusers_helper.residency import Planner

from .parity.engine import PackEngine

FLOAT32 = Compute(torch.device("cpu"), torch.float32, torch.float32, torch.float32, "exact")
REQUEST = {"prompt": "the camera pans left", "seconds": 1.0, "steps": 2, "teacache": False}


@pytest.fixture(scope="module")
def checkpoint(quick_checkpoint: Path) -> Checkpoint:
    return find_checkpoint(str(quick_checkpoint), quick_checkpoint)


def engine(checkpoint: Checkpoint, change: Callable[[MemoryPlan], MemoryPlan]) -> Engine:
    """The checkpoint, following a changed plan in every video."""
    planner = changed_planner(checkpoint, FLOAT32, change)
    return Engine(checkpoint, FLOAT32, load_parts(checkpoint, FLOAT32), planner)


def changed_planner(checkpoint: Checkpoint, compute: Compute, change: Callable[[MemoryPlan], MemoryPlan]) -> Planner:
    class Changed(Planner):
        def for_job(self, *arguments: Any) -> MemoryPlan:
            return change(super().for_job(*arguments))

    planner = Changed(checkpoint, compute, Wishes(precision="as_is"), Path("hf_download"))
    planner.plan = change(planner.plan)
    return planner


def moving(transformer: Residency, vae: Residency, **fields: Any) -> Callable[[MemoryPlan], MemoryPlan]:
    """A plan by which parts move, as on a GPU."""
    residency: dict[str, Residency] = dict.fromkeys(WEIGHTS_PARTS, "swapped")
    return lambda plan: replace(plan, residency={**residency, "transformer": transformer, "vae": vae}, **fields)


def video(made: Engine, photograph: Path, folder: Path) -> tuple[np.ndarray, list[Event]]:
    size = made.checkpoint.buckets[0]
    request = Request.parse({"picture": str(photograph), "size": f"{size[1]}x{size[0]}", "kind": "f1", **REQUEST})
    events = list(generate(request, made, folder))
    assert isinstance(events[-1], Finished), events[-1]
    return read_frames(Path(events[-1].path or "")), events


@pytest.fixture(scope="module")
def plain(checkpoint: Checkpoint, photograph: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return video(engine(checkpoint, lambda plan: plan), photograph, tmp_path_factory.mktemp("plain"))[0]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(moving("gpu", "gpu"), id="all stay"),
        pytest.param(moving("swapped", "gpu", resident_blocks=0, resident_bytes=0), id="all blocks pass through"),
        pytest.param(
            moving("swapped", "swapped", resident_blocks=3, resident_bytes=2**24, take_turns=True), id="turns"
        ),
    ],
)
def test_the_video_is_the_same_wherever_the_weights_are(
    change: Callable[[MemoryPlan], MemoryPlan],
    checkpoint: Checkpoint,
    photograph: Path,
    plain: np.ndarray,
    tmp_path: Path,
) -> None:
    frames, events = video(engine(checkpoint, change), photograph, tmp_path)
    assert np.array_equal(frames, plain)
    (said,) = [event for event in events if isinstance(event, Plan)]
    assert "GB free RAM" in said.memory


def test_encoders_leave_after_use(checkpoint: Checkpoint) -> None:
    made = engine(checkpoint, moving("swapped", "gpu"))
    house = made._residency
    with house.visit("text_encoder"):
        assert house._loans["text_encoder"].away
    assert not house._loans["text_encoder"].away
    with house.visit("vae"):
        pass
    assert house._loans["vae"].away, "it stays for the next clip"
    house.clear()
    assert not house._loans["vae"].away


def test_sizes_are_those_of_the_loaded_parts(pocket: Path) -> None:
    checkpoint = find_checkpoint("pocket", pocket)
    parts, sizes = load_parts(checkpoint, FLOAT32), part_sizes(checkpoint, dict.fromkeys(WEIGHTS_PARTS, "F32"))
    count = sizes.block_weights + sizes.modulation_weights + sizes.other_weights
    assert count == sum(weights.numel() for weights in parts.transformer.parameters())
    assert sizes.rest["vae"] == sum(weights.numel() for weights in parts.vae.parameters())
    assert (sizes.blocks, sizes.width, sizes.vae_channels) == (8, 192, 16)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_weights_in_the_numbers_of_their_file_are_mapped(pocket: Path) -> None:
    """Which is why the plan counts no RAM for them."""
    checkpoint = find_checkpoint("pocket", pocket)
    compute = replace(FLOAT32, encoder_dtype=torch.bfloat16, transformer_dtype=torch.bfloat16)
    parts, sizes = load_parts(checkpoint, compute), part_sizes(checkpoint, residency.dtype_names(compute))
    assert sizes.mapped == {"transformer", "text_encoder", "text_encoder_2", "image_encoder"}
    for part in WEIGHTS_PARTS:
        weights = [tensor for tensor in getattr(parts, part).parameters() if tensor.nbytes > 2**16]
        assert all(mapped_file(tensor).endswith(".safetensors") for tensor in weights) == (part in sizes.mapped), part


def mapped_file(tensor: torch.Tensor) -> str:
    """The file whose mapping holds the tensor's first byte; empty for ordinary memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        start, end = (int(number, 16) for number in fields[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return fields[5] if len(fields) > 5 else ""
    return ""


@pytest.mark.parametrize("damage", [b"", b"\0" * 8, b"<!DOCTYPE html>" * 99, b"\x02\0\0\0\0\0\0\0[]"])
def test_damaged_headers_are_named(damage: bytes, pocket: Path, tmp_path: Path) -> None:
    pocket_copy = Path(shutil.copytree(pocket, tmp_path / "copy"))
    next((pocket_copy / "vae").glob("*.safetensors")).write_bytes(damage)
    with pytest.raises(UnusableCheckpoint, match=r"the vae in .* is damaged"):
        part_sizes(find_checkpoint(str(pocket_copy), tmp_path), dict.fromkeys(WEIGHTS_PARTS, "F32"))


def test_a_checkpoint_that_cannot_fit_is_refused_before_loading(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 13B checkpoint on a 16 GB machine of which half is in use."""
    monkeypatch.setattr(residency, "look", lambda device, folder: Machine(12 * GB, 11 * GB, 17 * GB, 9 * GB, 99 * GB))
    monkeypatch.setattr(residency, "part_sizes", lambda checkpoint, sizes: FULL_SIZE)
    with pytest.raises(OutOfMemory, match=r"GB of RAM \(9\.0 GB are free\)"):
        Engine.load(checkpoint)


def test_where_the_usual_latent_window_does_not_fit_a_small_one_is_loaded_for(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(residency, "look", lambda compute, folder: Machine(5 * GB, 4 * GB, 34 * GB, 30 * GB, 99 * GB))
    monkeypatch.setattr(residency, "part_sizes", lambda checkpoint, dtypes: FULL_SIZE)
    planner = Planner(replace(checkpoint, buckets=((640, 608),)), FLOAT32, Wishes(), tmp_path)
    assert planner.plan.peak_vram_bytes <= 4 * GB
    monkeypatch.setattr(residency, "_vram_free", lambda device: 4 * GB)
    usual, small = (Request.parse({"picture": "-", "latent_window": window}) for window in (9, 3))
    assert planner.for_job(small, 640, 608).precision == "int8"
    with pytest.raises(OutOfMemory, match="A latent window of 3 would fit"):
        planner.for_job(usual, 640, 608)


class Short(PackEngine):
    """An engine that runs out of memory at one stage, until it has been told often enough to use less."""

    failure: Exception = torch.OutOfMemoryError("full")

    def __init__(self, stage: str, rungs: int, needed: int) -> None:
        super().__init__("run_i2v")
        self.stage, self.rungs, self.needed, self.taken = stage, rungs, needed, 0
        self.ladder = stage

    def use_less_memory(self, ladder: str) -> str | None:
        assert ladder == self.ladder
        self.taken += 1
        return f"rung {self.taken}" if self.taken <= self.rungs else None

    def _work(self, stage: str) -> None:
        if stage == self.stage and self.taken < self.needed:
            raise self.failure

    def encode(self, *arguments: Any) -> Any:
        self._work("encode")
        return super().encode(*arguments)

    def decode(self, *arguments: Any) -> Any:
        self._work("decode")
        return super().decode(*arguments)

    def denoiser(self, *arguments: Any) -> Any:
        made = super().denoiser(*arguments)
        transformer, calls = made.denoise._transformer, iter(range(100))

        def short(**inputs: Any) -> Any:
            """Runs out in the middle of the third step, when the step cache has decided already."""
            velocity = transformer(**inputs)
            if next(calls) >= 2:
                self._work("sample")
            return velocity

        made.denoise._transformer = short
        return made


def pack_request(photograph: Path) -> Request:
    return Request.parse({"picture": str(photograph), "seconds": 1.0, "steps": 6, "prompt": "-"})


@pytest.mark.parametrize("stage", ["encode", "sample", "decode"])
def test_each_rung_is_told_and_the_video_is_the_same(stage: str, photograph: Path, tmp_path: Path) -> None:
    request = pack_request(photograph)
    unbroken = list(generate(request, PackEngine("run_i2v"), tmp_path / "a"))
    events = list(generate(request, Short(stage, rungs=3, needed=2), tmp_path / "b"))
    assert [event.message for event in events if isinstance(event, Notice)][-2:] == ["rung 1", "rung 2"]
    ends = unbroken[-1], events[-1]
    assert all(isinstance(end, Finished) for end in ends)
    first, second = (read_frames(Path(end.path or "")) for end in ends if isinstance(end, Finished))
    assert np.array_equal(first, second)


def test_at_the_end_of_the_ladder_the_video_fails_with_a_remedy(photograph: Path, tmp_path: Path) -> None:
    last = list(generate(pack_request(photograph), Short("decode", rungs=1, needed=3), tmp_path))[-1]
    assert isinstance(last, Failed)
    assert "ran out of memory; close other programs" in last.error


@pytest.mark.parametrize(
    ("failure", "ladder", "words"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "ram", "ran out of RAM; close"),
        (MemoryError("Unable to allocate"), "ram", "ran out of RAM; close"),
        (RuntimeError("CUDA out of memory"), "decode", "ran out of memory; close"),
        (RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors"), "", "the GPU stopped working"),
        (RuntimeError("shapes differ"), "", "RuntimeError: shapes differ"),
    ],
)
def test_other_failures_are_told_apart(
    failure: Exception, ladder: str, words: str, photograph: Path, tmp_path: Path
) -> None:
    """By the ladder that is climbed down, if any, and in words."""
    made = Short("decode", rungs=1, needed=3)
    made.failure, made.ladder = failure, ladder
    last = list(generate(pack_request(photograph), made, tmp_path))[-1]
    assert isinstance(last, Failed)
    assert words in last.error
    assert bool(made.taken) is bool(ladder)
    assert last.gpu_lost is ("stopped working" in words)


def test_a_shortage_of_ram_is_not_laid_to_the_gpu(checkpoint: Checkpoint) -> None:
    """It is freed what can be; nothing is decided about the GPU, and nothing learnt."""
    made = engine(checkpoint, moving("swapped", "gpu", resident_blocks=4, resident_bytes=2**24))
    plan = made._residency.plan
    assert made.use_less_memory("ram") == (
        "The program ran out of RAM: what was not in use has been freed, and it is tried again."
    )
    assert made.use_less_memory("ram") is None
    assert (made._residency.plan, made._planner._learnt.learnt) == (plan, [])


def test_without_a_gpu_there_is_nothing_but_to_free(checkpoint: Checkpoint) -> None:
    made = engine(checkpoint, lambda plan: plan)
    for stage in ("encode", "sample", "decode", "ram"):
        assert "freed" in (made.use_less_memory(stage) or "")  # type: ignore[arg-type]
        assert made.use_less_memory(stage) is None  # type: ignore[arg-type]


def test_what_has_encoded_has_loaded_cudas_libraries(checkpoint: Checkpoint, photograph: Path) -> None:
    made = engine(checkpoint, lambda plan: plan)
    assert not made._planner._learnt.libraries_loaded
    made.encode(pack_request(photograph), [np.zeros((64, 64, 3), np.uint8)])
    assert made._planner._learnt.libraries_loaded


def test_a_closed_engine_holds_nothing(checkpoint: Checkpoint, photograph: Path, tmp_path: Path) -> None:
    """Its transport has ended, and its blocks are ordinary modules."""
    made = engine(checkpoint, moving("swapped", "gpu", resident_blocks=3, resident_bytes=2**24))
    video(made, photograph, tmp_path)
    swap, transport, transformer = made._residency._swap, made._residency._transport, made._parts.transformer
    assert transport is not None
    assert swap is not None
    assert swap._resident
    made.close()
    assert (swap.resident, swap._resident, swap._ring) == (frozenset(), {}, None)
    assert not any(loan.away for loan in made._residency._loans.values())
    assert transformer.block_source is None
    with pytest.raises(RuntimeError, match="after shutdown"):
        transport.synchronize()
    made.close()


@pytest.mark.gpu
def test_on_a_gpu_the_video_is_the_same_wherever_the_weights_are(
    checkpoint: Checkpoint, photograph: Path, tmp_path: Path
) -> None:
    """Plans for less and less memory; and everything leaves the GPU that should."""
    videos = []
    for number, change in enumerate(
        (
            lambda plan: plan,
            moving("swapped", "gpu", resident_blocks=0, resident_bytes=0),
            moving("swapped", "swapped", resident_blocks=3, resident_bytes=2**22, take_turns=True),
        )
    ):
        compute = choose_compute()
        planner = changed_planner(checkpoint, compute, change)
        made = Engine(checkpoint, compute, load_parts(checkpoint, compute), planner)
        videos.append(video(made, photograph, tmp_path / str(number))[0])
        assert not made._residency._loans["text_encoder"].away
        made.close()
    assert np.array_equal(videos[0], videos[1])
    assert np.array_equal(videos[0], videos[2])


def test_a_gpu_that_is_not_used_is_said_in_every_plan(checkpoint: Checkpoint, photograph: Path) -> None:
    made = engine(checkpoint, lambda plan: plan)
    made._compute = replace(FLOAT32, unused_gpu="Update its driver {12020}.")
    why = made.prepare(pack_request(photograph), 64, 64).why
    assert "all on the CPU" in why
    assert why.endswith(" Update its driver {12020}.")


def test_the_peak_is_that_of_one_video(
    checkpoint: Checkpoint, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the largest since the program started."""
    made, peak = engine(checkpoint, lambda plan: plan), [9 * 2**30]
    made._compute = replace(FLOAT32, device=torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.__setitem__(0, 0))
    assert made.peak_memory_mb() == 9 * 2**10
    made.prepare(pack_request(photograph), 64, 64)
    assert made.peak_memory_mb() == 0
