"""Merged LoRAs on the road: the frames of LoRAs beside the weights, told while they are made, gone without a trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusers_helper import settings
from diffusers_helper.engine import Engine
from diffusers_helper.errors import CancelRequested, UnusableLora
from diffusers_helper.events import Cancelled, Event, Failed, Finished, Merging, Notice, Plan, SectionDone, Started
from diffusers_helper.generate import generate, resume
from diffusers_helper.jobs.job_progress import JobProgress, fold
from diffusers_helper.media.video import read_frames
from diffusers_helper.models.compile import compile_blocks
from diffusers_helper.models.modulation import ModulationTable
from diffusers_helper.models.table import Checkpoint, find_checkpoint
from diffusers_helper.request import Request

from .memory.support import SWAPPED
from .test_lora_generate import ask, engine, put, tensors

STYLE = ("style.safetensors", 1.0)
OTHER = ("other.safetensors", 0.5)


@pytest.fixture(scope="module")
def checkpoint(quick_checkpoint: Path) -> Checkpoint:
    return find_checkpoint(str(quick_checkpoint), quick_checkpoint)


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    """The shelf of this test's installation, with two LoRAs."""
    made = tmp_path / "models" / "lora"
    put(made / STYLE[0], tensors(checkpoint))
    put(made / OTHER[0], tensors(checkpoint, only="norm", seed=1))
    return made


@pytest.fixture
def made(checkpoint: Checkpoint, folder: Path) -> Iterator[Engine]:
    with engine(checkpoint, folder) as loaded:
        yield loaded


def installed(checkpoint: Checkpoint, folder: Path, **given: str) -> Engine:
    """As a user has it: made weights are kept in the models folder."""
    return Engine.load(checkpoint, settings.resolve({"models_dir": str(folder.parent), **given}, {}, folder / "none"))


def said(events: list[Event]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Notice))


def merging(events: list[Event]) -> list[float]:
    return [event.share for event in events if isinstance(event, Merging)]


def weights(loaded: Engine) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in loaded.parts.transformer.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def run(request: Request, loaded: Engine, place: Path) -> tuple[Tensor, list[Event]]:
    """The latents of a video, and what it told."""
    file = place / "made.safetensors"
    events = list(generate(request, loaded, place, latents_result=file))
    assert isinstance(events[-1], Finished), events[-1]
    return load_file(file)["latents"], events


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_merged_they_make_the_frames_of_those_beside_and_go_without_a_trace(
    made: Engine, folder: Path, picture: Path, tmp_path: Path
) -> None:
    before = weights(made)
    plain, _ = run(ask(picture, folder), made, tmp_path)
    beside, _ = run(ask(picture, folder, STYLE, OTHER), made, tmp_path)
    merged, events = run(ask(picture, folder, STYLE, OTHER, lora_mode="merged"), made, tmp_path)
    assert difference(merged, beside) < 1e-5
    assert difference(merged, plain) > 0.1
    assert not same(weights(made), before)
    shares = merging(events)
    assert shares == sorted(set(shares))
    assert shares[-1] == 1
    assert [type(event) for event in events].index(Plan) > len(shares)
    assert "2 LoRAs merged into the weights, on the CPU, since there is no CUDA device: as the" in said(events)
    again, events = run(ask(picture, folder, STYLE, OTHER, lora_mode="merged"), made, tmp_path)
    assert torch.equal(again, merged)
    assert not merging(events), "they are in the weights already"
    half, events = run(ask(picture, folder, ("style.safetensors", 0.5), lora_mode="merged"), made, tmp_path)
    assert not torch.equal(half, merged)
    assert merging(events)
    assert torch.equal(run(ask(picture, folder, STYLE, OTHER), made, tmp_path)[0], beside)
    assert same(weights(made), before)
    assert torch.equal(run(ask(picture, folder), made, tmp_path)[0], plain)


def test_weight_0_merges_nothing(made: Engine, folder: Path, picture: Path, tmp_path: Path) -> None:
    before = weights(made)
    _, events = run(ask(picture, folder, ("style.safetensors", 0.0), lora_mode="merged"), made, tmp_path)
    assert not merging(events)
    assert "merged" not in said(events)
    assert same(weights(made), before)


@pytest.mark.parametrize("quantise", ["off", "int8", "fp8"])
def test_what_was_made_is_on_the_disk_for_the_next_start(
    quantise: str, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    request = ask(picture, folder, STYLE, OTHER, lora_mode="merged")
    with installed(checkpoint, folder, quantise=quantise) as first:
        assert isinstance(first.parts.transformer.modulation, ModulationTable)
        plain, _ = run(ask(picture, folder), first, tmp_path)
        expected, events = run(request, first, tmp_path)
        assert merging(events)
        assert len(list((folder.parent / "merged").iterdir())) == 1
    with installed(checkpoint, folder, quantise=quantise) as second:
        found, events = run(request, second, tmp_path)
        assert torch.equal(found, expected)
        assert not merging(events)
        assert torch.equal(run(ask(picture, folder), second, tmp_path)[0], plain)
        beside, _ = run(ask(picture, folder, STYLE, OTHER), second, tmp_path)
        assert difference(found, beside) < (1e-5 if quantise == "off" else 0.1)
        assert difference(found, plain) > 0.1


def test_swapped_blocks_are_swapped_again(
    made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    request = ask(picture, folder, STYLE, lora_mode="merged")
    expected, _ = run(request, made, tmp_path)
    plain, _ = run(ask(picture, folder), made, tmp_path)
    with engine(checkpoint, folder, SWAPPED) as swapped:
        for _ in range(2):
            assert torch.equal(run(request, swapped, tmp_path)[0], expected)
            assert 0 < swapped.residency.transformer.resident.blocks < len(swapped.parts.transformer.blocks)
            assert torch.equal(run(ask(picture, folder), swapped, tmp_path)[0], plain)
        assert same(weights(swapped), weights(made))


def test_compiled_blocks_take_them_merged_without_being_compiled_again(
    made: Engine, folder: Path, picture: Path, tmp_path: Path, nothing_compiled: None, tracer: None
) -> None:
    from torch._dynamo.utils import counters

    expected, _ = run(ask(picture, folder, STYLE, lora_mode="merged"), made, tmp_path)
    compile_blocks(made.parts.transformer)
    plain, _ = run(ask(picture, folder), made, tmp_path)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs
    found, events = run(ask(picture, folder, STYLE), made, tmp_path)
    assert difference(found, expected) < 1e-5
    assert difference(found, plain) > 0.1
    assert "compiled blocks" in said(events)
    assert counters["stats"]["unique_graphs"] == graphs
    with pytest.raises(UnusableLora, match="--lora-mode"):
        made.check(ask(picture, folder, STYLE, lora_mode="beside"))
    with pytest.raises(UnusableLora, match="Give it one weight, start without --compile"):
        made.check(changing(ask(picture, folder, STYLE)))
    assert torch.equal(run(ask(picture, folder), made, tmp_path)[0], plain)


def changing(request: Request, weight_at_end: float = 0.0) -> Request:
    """The same with a LoRA that goes from its weight to another one."""
    given = request.model_dump(mode="json")
    return Request.from_data({**given, "loras": [{**given["loras"][0], "weight_at_end": weight_at_end}]})


def test_weights_that_change_are_never_merged(
    made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    put(
        folder / STYLE[0],
        {
            name: each.repeat(1, 40) if "_B" in name else each.repeat(40, 1)
            for name, each in tensors(checkpoint).items()
        },
    )
    with pytest.raises(UnusableLora, match="changes from section to section"):
        made.check(changing(ask(picture, folder, STYLE, lora_mode="merged")))
    made.check(changing(ask(picture, folder, STYLE, lora_mode="merged"), STYLE[1]))
    assert merging(run(ask(picture, folder, STYLE), made, tmp_path)[1]), "much work"
    assert not merging(run(changing(ask(picture, folder, STYLE)), made, tmp_path)[1])


def test_much_work_beside_is_merged_unless_asked_otherwise(
    made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    names = [f"{number}.safetensors" for number in range(5)]
    for number, name in enumerate(names):
        put(folder / name, tensors(checkpoint, 0.1, seed=number))
    few, many = ([(name, 1.0) for name in names[:count]] for count in (4, 5))
    assert not merging(run(ask(picture, folder, *few), made, tmp_path)[1])
    merged, events = run(ask(picture, folder, *many), made, tmp_path)
    assert merging(events)
    assert "every step slower" in said(events)
    beside, events = run(ask(picture, folder, *many, lora_mode="beside"), made, tmp_path)
    assert not merging(events)
    assert difference(merged, beside) < 1e-5


def test_what_takes_much_of_a_small_gpu_is_merged(
    made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(each.nbytes for each in tensors(checkpoint).values())
    with engine(checkpoint, folder, SWAPPED) as swapped:
        for most, merged in ((size, False), (size - 1, True)):
            monkeypatch.setattr("diffusers_helper.loras.MOST_BYTES_BESIDE", most)
            _, events = run(ask(picture, folder, STYLE), swapped, tmp_path)
            assert bool(merging(events)) == ("no room for all blocks" in said(events)) == merged
    assert not merging(run(ask(picture, folder, STYLE), made, tmp_path)[1]), "no GPU, nothing is swapped"


def test_broken_numbers_fail_the_job_alone(
    made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    before = weights(made)
    plain, _ = run(ask(picture, folder), made, tmp_path)
    content = tensors(checkpoint)
    content[list(content)[-1]][0, 0] = float("nan")
    put(folder / "broken.safetensors", content)
    asked = ask(picture, folder, STYLE, ("broken.safetensors", 1.0), lora_mode="merged")
    last = list(generate(asked, made, tmp_path))[-1]
    assert isinstance(last, Failed)
    assert (last.exit_code, "NaN or infinity" in last.error) == (2, True)
    assert same(weights(made), before)
    assert torch.equal(run(ask(picture, folder), made, tmp_path)[0], plain)


@pytest.mark.parametrize("end", ["cancel", "close", "fail"])
def test_broken_off_while_merging_the_next_job_is_as_ever(
    end: str, made: Engine, folder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = run(ask(picture, folder), made, tmp_path)
    request = ask(picture, folder, STYLE, lora_mode="merged")
    events = generate(request, made, tmp_path)
    next(event for event in events if isinstance(event, Merging) and event.share > 0.3)
    if end == "cancel":
        assert isinstance(events.throw(CancelRequested()), Cancelled)
    elif end == "close":
        events.close()
    else:
        with monkeypatch.context() as patch:
            patch.setattr("diffusers_helper.models.kept_weights.shaped", lambda *_: 1 / 0)
            assert isinstance(list(events)[-1], Failed)
    assert any(each.is_meta for each in made.parts.transformer.parameters())
    assert torch.equal(run(ask(picture, folder), made, tmp_path)[0], plain)


def test_a_run_that_was_broken_off_ends_in_the_same_frames(
    made: Engine, folder: Path, picture: Path, tmp_path: Path
) -> None:
    request = ask(picture, folder, STYLE, lora_mode="merged", seconds=2.4)
    *_, last = generate(request, made, tmp_path / "unbroken")
    unbroken = read_frames(Path(getattr(last, "path", "") or ""))
    events = generate(request, made, tmp_path / "broken")
    started = next(events)
    assert isinstance(started, Started)
    next(event for event in events if isinstance(event, SectionDone))
    events.close()
    run(ask(picture, folder), made, tmp_path)
    told = list(resume(Path(started.folder), made))
    assert isinstance(told[-1], Finished)
    assert (read_frames(Path(told[-1].path or "")) == unbroken).all()


def test_the_strategy_that_is_asked_for_is_the_one_that_fills(
    checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers_helper.models import weights as models_weights

    asked = []
    for name, kind in models_weights.FILLINGS.items():

        class Told(kind):  # type: ignore[misc, valid-type]
            called = name

            def __init__(self, device: torch.device, preserved_bytes: int) -> None:
                super().__init__(device, preserved_bytes)
                asked.append((self.called, preserved_bytes))

        monkeypatch.setitem(models_weights.FILLINGS, name, Told)  # type: ignore[arg-type]
    for strategy, least in (("Rotate", "6"), ("keepuntilfull", "12")):
        given = {"lora_vram_strategy": strategy, "merged_limit": "1kb", "least_preserved_gb": least}
        with installed(checkpoint, folder, **given) as loaded:
            run(ask(picture, folder, STYLE, lora_mode="merged", preserved_memory_gb=9.0), loaded, tmp_path)
    assert asked == [("Rotate", 9 * 10**9), ("KeepUntilFull", 12 * 10**9)], "the larger of both"
    assert not list((folder.parent / "merged").glob("*.safetensors"))


def test_a_job_says_that_it_merges_and_how_far_it_is() -> None:
    started = Started(folder="f", seed=1, sections_done=0)
    progress = fold(fold(JobProgress(), started), Merging(share=0.25))
    assert progress.phase == "merging"
    assert JobProgress.from_dict(progress.as_dict()) == progress
    plan = {"kind": "f1", "sections": 1, "steps": 1, "frames": 1, "fps": 30, "seconds": 1.0, "width": 8, "height": 8}
    assert fold(progress, Plan(checkpoint="c", **plan)).phase == "encoding"
    assert fold(copy.deepcopy(progress), Cancelled(folder="f")).phase == "encoding"
