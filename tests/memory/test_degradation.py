"""What happens when memory runs out, from wherever the weights are: the video is the same, and each step is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusers_helper import engine as engines
from diffusers_helper.engine import Engine, SectionDenoiser
from diffusers_helper.events import Event, Failed, Finished, Notice
from diffusers_helper.generate import generate
from diffusers_helper.media.video import read_frames
from diffusers_helper.memory.costs import Constraints, Machine
from diffusers_helper.memory.units import GIB
from diffusers_helper.models.load import load_parts
from diffusers_helper.models.table import Checkpoint
from diffusers_helper.planning import planner_for
from diffusers_helper.request import Request

from ..parity.engine import PackEngine
from .conftest import Load
from .support import (
    FLOAT32,
    PACKED,
    STAYS,
    SWAPPED,
    Change,
    as_if_on,
    failing,
    made_request,
    moving,
    unchanged,
    video,
)


def told(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice) and "ran out of memory" in event.message]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(STAYS, ["freed", "only 4 of", "only 1 of"], id="from the device for good"),
        pytest.param(SWAPPED, ["freed", "only 2 of", "only 1 of", "only 0 of"], id="from the swap"),
        pytest.param(PACKED, ["freed"], id="packed, taking turns"),
    ],
)
def test_sampling_goes_down_its_ladder(
    change: Change,
    words: list[str],
    engine: Load,
    photograph: Path,
    plain: np.ndarray,
    tmp_path: Path,
) -> None:
    made = engine(change)
    transformer = made.parts.transformer
    short = failing(transformer.forward, len(words), at=1)

    def forward(**inputs: Any) -> Any:
        assert change is not PACKED or made.residency.transformer.idle_bytes > 0, "what a step sent away comes back"
        return short(**inputs)

    transformer.forward = forward  # type: ignore[method-assign]
    frames, events = video(made, photograph, tmp_path)
    assert np.array_equal(frames, plain)
    said = told(events)
    assert [each in message for each, message in zip(words, said, strict=True)] == [True] * len(words), said


def test_encoding_goes_down_its_ladder_to_weights_on_demand(
    engine: Load, photograph: Path, plain: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, seen = engine(SWAPPED), []
    features = failing(engines.llama_features, 2)

    def watched(text: str, tokenizer: Any, encoder: Any) -> Any:
        seen.append(type(encoder.embed_tokens).__name__)
        return features(text, tokenizer, encoder)

    monkeypatch.setattr(engines, "llama_features", watched)
    frames, events = video(made, photograph, tmp_path)
    assert np.array_equal(frames, plain)
    assert seen == ["Embedding", "Embedding", "DynamicSwap_Embedding"]
    assert ["freed" in told(events)[0], "come to it as they are used" in told(events)[1]] == [True, True]
    assert not made.residency.loans["text_encoder"].away
    made.prepare(made_request(photograph), 64, 64)
    assert made._encode_on_demand, "another video does not try again what failed"
    assert "freed" in (made.use_less_memory("encode") or "")
    assert made.use_less_memory("encode") is None


@pytest.mark.parametrize("change", [STAYS, SWAPPED, PACKED])
def test_decoding_goes_down_its_ladder_to_a_copy_on_the_cpu(
    change: Change,
    engine: Load,
    photograph: Path,
    plain: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copy is made of the weights in RAM when none are on the device, and once for a video."""
    made, copied = engine(change), list[bool]()

    def deepcopy(model: Any) -> Any:
        copied.append(made.residency.loans["vae"].away)
        return original(model)

    original = engines.deepcopy
    monkeypatch.setattr(engines, "deepcopy", deepcopy)
    tiles, decode = list[int](), failing(engines.decode_clip, 4)

    def noted(vae: Any, latents: Any, tiled: bool, tile: int) -> Any:
        tiles.append(tiled * tile)
        return decode(vae, latents, tiled, tile)

    monkeypatch.setattr(engines, "decode_clip", noted)
    frames, events = video(made, photograph, tmp_path)
    assert np.array_equal(frames, plain)
    words = ("freed", "in tiles", "in small tiles", "on the CPU")
    assert [each in message for each, message in zip(words, told(events), strict=True)] == [True] * 4
    assert tiles == [0, 0, 256, 128, 256], "whole, whole again, in tiles of less and less; and on the CPU"
    made.decode(torch.zeros(1, 16, 1, 4, 4))
    assert copied == [False]
    assert made.residency.plan.take_turns, "for the sections to come"


@pytest.fixture
def planned(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The checkpoint with plans as they are made for a card of 24 GB."""
    here = Machine(24 * GIB, 23 * GIB, 64 * GIB, 60 * GIB, 99 * GIB)
    as_if_on(here, monkeypatch)
    planner = planner_for(checkpoint, FLOAT32, Constraints(precision="as_is"), Path("hf_download"))
    return Engine(checkpoint, FLOAT32, load_parts(checkpoint, FLOAT32), planner)


def test_a_vae_that_stayed_does_not_come_back_where_sampling_ran_out(planned: Engine, photograph: Path) -> None:
    """Neither in this video nor in the next: there might be no other rung."""
    vae, latents = planned.residency.loans["vae"], torch.zeros(1, 16, 1, 4, 4)
    planned.decode(latents)
    assert vae.away
    planned.use_less_memory("sample")
    for _ in range(2):
        assert not vae.away
        planned.decode(latents)
        assert not vae.away
        assert planned.prepare(made_request(photograph), 64, 64).residency["vae"] == "swapped"


def test_later_videos_begin_on_the_rung_where_one_ended(planned: Engine, photograph: Path) -> None:
    """Of each ladder by itself; what is free has stayed the same."""
    made, request = planned, made_request(photograph)
    first = made.prepare(request, 640, 640)
    assert (first.resident_blocks, first.take_turns, made._decode_how) == (8, False, "gpu")
    for _ in range(2):
        made.use_less_memory("sample")
    half = made.residency.plan.resident_bytes
    assert 0 < made.prepare(request, 640, 640).resident_bytes <= half < first.resident_bytes
    made.use_less_memory("decode")
    assert made.prepare(request, 640, 640).take_turns
    assert made._decode_how == "gpu", "it was only freed"
    for rung in ("tiled", "small_tiles", "cpu"):
        made.use_less_memory("decode")
        made.use_less_memory("decode")
        made.prepare(request, 640, 640)
        assert made._decode_how == rung


class Hesitant(PackEngine):
    """Runs out of memory once while a section's denoiser is made, and once when it begins."""

    def __init__(self) -> None:
        super().__init__("run_i2v")
        self.make, self.ready = failing(super().denoiser, 1), failing(lambda: None, 1)

    def use_less_memory(self, ladder: str) -> str | None:
        return f"less for {ladder}"

    def denoiser(self, *arguments: Any) -> SectionDenoiser:
        return replace(self.make(*arguments), ready=self.ready)


def test_what_comes_before_the_first_step_may_run_out_too(photograph: Path, tmp_path: Path) -> None:
    events = list(generate(pack_request(photograph), Hesitant(), tmp_path))
    assert isinstance(events[-1], Finished), events[-1]
    assert [event.message for event in events if isinstance(event, Notice)][-2:] == ["less for sample"] * 2


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


def test_a_shortage_of_ram_is_not_laid_to_the_gpu(engine: Load) -> None:
    """It is freed what can be; nothing is decided about the GPU, and nothing learnt."""
    made = engine(moving("swapped", "gpu", resident_blocks=4, resident_bytes=2**24))
    plan = made.residency.plan
    assert made.use_less_memory("ram") == (
        "The program ran out of RAM: what was not in use has been freed, and it is tried again."
    )
    assert made.use_less_memory("ram") is None
    assert (made.residency.plan, made._planner._learnt.learnt) == (plan, [])


def test_without_a_gpu_there_is_nothing_but_to_free(engine: Load) -> None:
    made = engine(unchanged)
    for stage in ("encode", "sample", "decode", "ram"):
        assert "freed" in (made.use_less_memory(stage) or "")  # type: ignore[arg-type]
        assert made.use_less_memory(stage) is None  # type: ignore[arg-type]


def test_what_has_encoded_has_loaded_cudas_libraries(engine: Load, photograph: Path) -> None:
    made = engine(unchanged)
    assert not made._planner._learnt.libraries_loaded
    made.encode(pack_request(photograph), np.zeros((64, 64, 3), np.uint8))
    assert made._planner._learnt.libraries_loaded


def test_a_gpu_that_is_not_used_is_said_in_every_plan(engine: Load, photograph: Path) -> None:
    made = engine(unchanged)
    made._compute = replace(FLOAT32, unused_gpu="Update its driver {12020}.")
    why = made.prepare(pack_request(photograph), 64, 64).why
    assert "all on the CPU" in why
    assert why.endswith(" Update its driver {12020}.")


def test_the_peak_is_that_of_one_video(engine: Load, photograph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the largest since the program started."""
    made, peak = engine(unchanged), [9 * 2**30]
    made._compute = replace(FLOAT32, device=torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.__setitem__(0, 0))
    assert made.peak_memory_mb() == 9 * 2**10
    made.prepare(pack_request(photograph), 64, 64)
    assert made.peak_memory_mb() == 0
