"""What happens when memory runs out, from wherever the weights are: the same video, and each fallback is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diffusers_helper import engine as engines
from diffusers_helper.engine import Engine
from diffusers_helper.events import Event, Failed, Finished, Notice
from diffusers_helper.generate import generate
from diffusers_helper.media.video import read_frames
from diffusers_helper.memory.costs import Constraints, Machine
from diffusers_helper.memory.lessons import Lessons
from diffusers_helper.memory.units import GIB
from diffusers_helper.models.load import load_parts
from diffusers_helper.models.table import Checkpoint
from diffusers_helper.planning import planner_for
from diffusers_helper.vae import decoders
from diffusers_helper.words import plain

from .conftest import Load
from .support import (
    DECODERS,
    FLOAT32,
    FULL,
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


def are_said(words: tuple[str, ...], events: list[Event]) -> bool:
    """Each in a notice of its own, in this order, and no other."""
    messages = told(events)
    assert len(messages) == len(words), messages
    return all(each in message for each, message in zip(words, messages, strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(STAYS, ("freed", "only 4 of", "only 1 of"), id="from the device for good"),
        pytest.param(SWAPPED, ("freed", "only 2 of", "only 1 of", "only 0 of"), id="from the swap"),
        pytest.param(PACKED, ("freed",), id="packed, taking turns"),
    ],
)
def test_sampling_keeps_less_and_less_on_the_device(
    change: Change, words: tuple[str, ...], engine: Load, photograph: Path, plain: np.ndarray, tmp_path: Path
) -> None:
    made = engine(change)
    transformer = made.parts.transformer
    short = failing(transformer.forward, len(words), at=1)

    def forward(**inputs: Any) -> Any:
        assert change is not PACKED or made.residency.transformer.idle_bytes > 0, "what was sent away comes back"
        return short(**inputs)

    transformer.forward = forward  # type: ignore[method-assign]
    frames, events = video(made, photograph, tmp_path)
    assert np.array_equal(frames, plain)
    assert are_said(words, events)


def test_a_step_that_is_tried_again_has_its_step_caches_as_they_were(
    engine: Load, photograph: Path, tmp_path: Path
) -> None:
    """It runs out when the step cache has decided already."""
    asked = made_request(photograph).model_copy(update={"steps": 6, "seed": 3})
    made = engine(SWAPPED)
    unbroken = list(generate(asked, made, tmp_path / "a"))[-1]
    forward, calls = made.parts.transformer.forward, iter(range(100))

    def short(**inputs: Any) -> Any:
        velocity = forward(**inputs)
        if next(calls) in (2, 3):
            raise FULL
        return velocity

    made.parts.transformer.forward = short  # type: ignore[method-assign]
    events = list(generate(asked, made, tmp_path / "b"))
    assert are_said(("freed", "only 2 of"), events)
    ends = unbroken, events[-1]
    first, second = (read_frames(Path(end.path or "")) for end in ends if isinstance(end, Finished))
    assert np.array_equal(first, second)


def test_encoding_comes_to_weights_on_demand(engine: Load, photograph: Path, plain: np.ndarray, tmp_path: Path) -> None:
    made, seen = engine(SWAPPED), list[str]()

    def short(encoder: Any, *_: Any) -> None:
        seen.append(type(encoder.embed_tokens).__name__)
        if len(seen) <= 2:
            raise FULL

    hook = made.parts.text_encoder.register_forward_pre_hook(short)
    frames, events = video(made, photograph, tmp_path)
    hook.remove()
    assert np.array_equal(frames, plain)
    assert seen == ["Embedding", "Embedding", "DynamicSwap_Embedding"]
    assert are_said(("freed", "come to it as they are used"), events)
    assert not made.residency.loans["text_encoder"].away
    made.prepare(made_request(photograph), 64, 64)
    assert made.degradation.encode_on_demand, "another video does not try again what failed"
    assert "freed" in str(made.degradation.use_less("encode"))
    assert made.degradation.use_less("encode") is None


@pytest.mark.parametrize("change", [STAYS, SWAPPED, PACKED])
def test_decoding_comes_to_a_copy_on_the_cpu(
    change: Change,
    engine: Load,
    photograph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copy is made of the weights in RAM when none are on the device, and once for a video."""
    small, _ = video(engine(lambda plan: replace(change(plan), decode="small_tiles")), photograph, tmp_path / "small")
    made, ways, used = engine(change), list[tuple[int, int]](), list[nn.Module]()
    decode = failing(decoders.decode_in_chunks, 4)

    def noted(vae: Any, latents: Any, chunk: int, tile: int, *rest: Any) -> Any:
        ways.append((chunk, tile))
        used.append(vae)
        return decode(vae, latents, chunk, tile, *rest)

    monkeypatch.setattr(decoders, "decode_in_chunks", noted)
    frames, events = video(made, photograph, tmp_path)
    assert np.array_equal(frames, small), "the same tiles, elsewhere"
    assert are_said(("freed", "chunks of 2", "chunks of 1", "on the CPU, which takes minutes."), events)
    assert ways == [(4, 0), (4, 0), (2, 0), (1, 0), (1, 2**17)], "frames this small cannot be cut"
    made.decode(torch.zeros(1, 16, 1, 4, 4))
    assert used[:4] == [made.parts.vae] * 4
    assert used[4] is used[5] is not made.parts.vae
    assert not made.residency.loans["vae"].away
    assert made.residency.plan.take_turns, "for the sections to come"


@pytest.fixture
def planned(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The checkpoint with plans as they are made for a card of 24 GB."""
    as_if_on(Machine(24 * GIB, 23 * GIB, 64 * GIB, 60 * GIB, 99 * GIB), monkeypatch)
    planner = planner_for(checkpoint, FLOAT32, Constraints(precision="as_is"), Path("hf_download"))
    with closing(Engine(checkpoint, FLOAT32, load_parts(checkpoint, FLOAT32), planner)) as made:
        yield made


def test_a_vae_that_stayed_does_not_come_back_where_sampling_ran_out(planned: Engine, photograph: Path) -> None:
    """Neither in this video nor in the next: there might be no other fallback."""
    vae, latents = planned.residency.loans["vae"], torch.zeros(1, 16, 1, 4, 4)
    planned.decode(latents)
    assert vae.away
    for words in ("beside the sampling", "freed"):
        assert words in str(planned.degradation.use_less("sample"))
    for _ in range(2):
        assert not vae.away
        planned.decode(latents)
        assert not vae.away
        assert planned.prepare(made_request(photograph), 64, 64).residency["vae"] == "swapped"


def test_later_videos_begin_where_one_ended(planned: Engine, photograph: Path) -> None:
    """Of each stage by itself; what is free has stayed the same."""
    made, request = planned, made_request(photograph)
    first = made.prepare(request, 640, 640)
    assert (first.resident_blocks, first.take_turns, first.decode) == (8, False, "chunks_4")
    for words in ("beside the sampling", "freed", "only"):
        assert words in str(made.degradation.use_less("sample"))
    half = made.residency.plan.resident_bytes
    assert 0 < made.prepare(request, 640, 640).resident_bytes <= half < first.resident_bytes
    made.degradation.use_less("decode")
    again = made.prepare(request, 640, 640)
    assert again.take_turns
    assert again.decode == "chunks_4", "it was only freed"
    for decoder in list(DECODERS)[1:]:
        made.degradation.use_less("decode")
        made.degradation.use_less("decode")
        assert made.prepare(request, 640, 640).decode == decoder


def test_what_comes_before_the_first_step_may_run_out_too(
    engine: Load, photograph: Path, plain: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a section's denoiser is made, and when it begins."""
    made = engine(SWAPPED)
    monkeypatch.setattr(engines, "section_denoiser", failing(engines.section_denoiser, 1))
    monkeypatch.setattr(made.residency, "before_sampling", failing(made.residency.before_sampling, 1))
    frames, events = video(made, photograph, tmp_path)
    assert np.array_equal(frames, plain)
    assert are_said(("freed", "only 2 of"), events)


def attempts(made: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of what there was a shortage, each time that less was used."""
    asked, use_less = list[str](), made.degradation.use_less

    def noted(shortage: Any) -> str | None:
        asked.append(shortage)
        return use_less(shortage)

    monkeypatch.setattr(made.degradation, "use_less", noted)
    return asked


@pytest.mark.parametrize(
    ("failure", "shortage", "words"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "ram", "ran out of RAM; close"),
        (MemoryError("Unable to allocate"), "ram", "ran out of RAM; close"),
        (RuntimeError("CUDA out of memory"), "decode", "ran out of memory; close other programs"),
        (RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors"), "", "the GPU stopped working"),
        (RuntimeError("shapes differ"), "", "RuntimeError: shapes differ"),
    ],
)
def test_where_nothing_is_left_the_video_fails_in_words(
    failure: Exception,
    shortage: str,
    words: str,
    engine: Load,
    photograph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told apart by the fallbacks that are taken, if any, and in words."""
    made = engine(unchanged)
    asked = attempts(made, monkeypatch)
    monkeypatch.setattr(decoders, "decode_in_chunks", failing(decoders.decode_in_chunks, 20, failure=failure))
    last = list(generate(made_request(photograph), made, tmp_path))[-1]
    assert isinstance(last, Failed)
    assert words in last.error
    assert asked == ([shortage] * 2 if shortage else []), "once to free, and once in vain"
    assert last.gpu_lost is ("stopped working" in words)


def test_a_shortage_of_ram_is_not_laid_to_the_gpu(engine: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is freed what can be; nothing is decided about the GPU, and nothing learnt."""
    made = engine(moving("swapped", "gpu", resident_blocks=4, resident_bytes=2**24))
    plan, learnt = made.residency.plan, list[Any]()
    monkeypatch.setattr(made.planner, "learn", lambda **lesson: learnt.append(lesson))
    assert str(made.degradation.use_less("ram")) == (
        "The program ran out of RAM: what was not in use has been freed, and it is tried again."
    )
    assert made.degradation.use_less("ram") is None
    assert (made.residency.plan, learnt) == (plan, [])


def test_without_a_gpu_there_is_nothing_but_to_free(engine: Load) -> None:
    made = engine(unchanged)
    for shortage in ("encode", "sample", "decode", "ram"):
        assert "freed" in str(made.degradation.use_less(shortage))  # type: ignore[arg-type]
        assert made.degradation.use_less(shortage) is None  # type: ignore[arg-type]


def test_notices_of_a_video_that_was_broken_off_are_not_told_in_the_next(engine: Load, photograph: Path) -> None:
    made = engine(unchanged)
    made.degradation.attempt("encode", failing(lambda: None, 1))
    made.prepare(made_request(photograph), 64, 64)
    assert made.notices() == []


def test_what_has_encoded_has_loaded_cudas_libraries(checkpoint: Checkpoint, photograph: Path) -> None:
    lessons = Lessons()
    planner = planner_for(checkpoint, FLOAT32, Constraints(), Path("hf_download"), lessons)
    with closing(Engine(checkpoint, FLOAT32, load_parts(checkpoint, FLOAT32), planner)) as made:
        assert not lessons.libraries_loaded
        made.encode(made_request(photograph), [np.zeros((64, 64, 3), np.uint8)])
        assert lessons.libraries_loaded


def test_a_gpu_that_is_not_used_is_said_in_every_plan(checkpoint: Checkpoint, photograph: Path) -> None:
    compute = replace(FLOAT32, unused_gpu=plain("Update its driver {12020}."))
    planner = planner_for(checkpoint, compute, Constraints(), Path("hf_download"))
    with closing(Engine(checkpoint, compute, load_parts(checkpoint, compute), planner)) as made:
        why = str(made.prepare(made_request(photograph), 64, 64).why)
    assert "all on the CPU" in why
    assert why.endswith(" Update its driver {12020}.")


def test_the_peak_is_that_of_one_video(engine: Load, photograph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the largest since the program started."""
    made, peak = engine(unchanged), [9 * 2**30]
    made.compute = replace(FLOAT32, device=torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.__setitem__(0, 0))
    assert made.peak_memory_mb() == 9 * 2**10
    made.prepare(made_request(photograph), 64, 64)
    assert made.peak_memory_mb() == 0
