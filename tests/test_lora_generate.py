"""LoRAs on the road: frames with one and after it, resumed, swapped, from the command line; and what cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffusers_helper import lora_flag
from diffusers_helper.engine import Engine
from diffusers_helper.errors import UnusableLora
from diffusers_helper.events import Event, Failed, Finished, Notice, SectionDone, Started
from diffusers_helper.generate import generate, resume
from diffusers_helper.lora.bases import shapes_in
from diffusers_helper.lora.shelf import Shelf
from diffusers_helper.media.metadata import read_metadata
from diffusers_helper.media.video import read_frames
from diffusers_helper.models.load import load_as_it_is, load_parts
from diffusers_helper.models.modulation import tabulate
from diffusers_helper.models.table import Checkpoint, find_checkpoint
from diffusers_helper.request import Request

from . import program
from .memory.support import FLOAT32, SWAPPED, changed_planner, moving, unchanged

TURNS = moving("swapped", "swapped", resident_blocks=3, resident_bytes=2**24, take_turns=True, decode="chunks_4")


@pytest.fixture(scope="module")
def checkpoint(quick_checkpoint: Path) -> Checkpoint:
    return find_checkpoint(str(quick_checkpoint), quick_checkpoint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models" / "lora"
    made.mkdir(parents=True)
    return made


def tensors(checkpoint: Checkpoint, size: float = 0.3, only: str = "", seed: int = 0) -> dict[str, torch.Tensor]:
    """A LoRA of every linear whose name holds ``only``, as peft names it."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, (height, width) in shapes_in(checkpoint.folders["transformer"]).items():
        if only in name:
            found[f"transformer.{name}.lora_A.weight"] = torch.randn(2, width, generator=generator) / width**0.5
            found[f"transformer.{name}.lora_B.weight"] = size * torch.randn(height, 2, generator=generator)
    return found


def put(path: Path, content: dict[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(content, path)
    return path


def engine(checkpoint: Checkpoint, folder: Path, change: Any = unchanged, table: bool = False) -> Engine:
    parts = load_parts(checkpoint, FLOAT32, load_as_it_is)
    if table:
        tabulate(parts.transformer)
    planner = changed_planner(checkpoint, FLOAT32, change)
    return Engine(checkpoint, FLOAT32, parts, planner, shelf=Shelf(folder))


@pytest.fixture
def made(checkpoint: Checkpoint, folder: Path) -> Iterator[Engine]:
    with engine(checkpoint, folder) as loaded:
        yield loaded


def ask(picture: Path, folder: Path, *loras: tuple[str, float], **fields: Any) -> Request:
    """A short video with LoRAs of the shelf, each a name and a weight."""
    shelf = Shelf(folder)
    asked = [{"name": n, "sha256": shelf.sha256(folder / n), "weight": w} for n, w in loras]
    common = {"kind": "f1", "seconds": 1.2, "steps": 2, "step_cache": "off", "prompt": "-"}
    return Request.parse({"picture": str(picture), **common, "loras": asked, **fields})


def run(request: Request, loaded: Engine, place: Path) -> tuple[np.ndarray, list[Event]]:
    events = list(generate(request, loaded, place))
    assert isinstance(events[-1], Finished), events[-1]
    return read_frames(Path(events[-1].path or "")), events


def test_a_lora_acts_by_its_weight_and_is_gone_after_its_job(
    made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    put(folder / "style.safetensors", tensors(checkpoint))
    before = {name: weight.clone() for name, weight in made.parts.transformer.state_dict().items()}
    plain, _ = run(ask(picture, folder), made, tmp_path)
    found = {weight: run(ask(picture, folder, ("style.safetensors", weight)), made, tmp_path)[0] for weight in (1, 0.5)}
    assert not np.array_equal(found[1], plain)
    assert not np.array_equal(found[0.5], plain)
    assert not np.array_equal(found[0.5], found[1])
    nothing, _ = run(ask(picture, folder, ("style.safetensors", 0.0)), made, tmp_path)
    assert np.array_equal(nothing, plain)
    run(ask(picture, folder, ("style.safetensors", 1.0)), made, tmp_path)
    again, _ = run(ask(picture, folder), made, tmp_path)
    assert np.array_equal(again, plain)
    assert all(torch.equal(weight, before[name]) for name, weight in made.parts.transformer.state_dict().items())


def test_the_result_says_with_which_it_was_made(
    made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    put(folder / "sub" / "🦊.safetensors", tensors(checkpoint))
    request = ask(picture, folder, ("sub/🦊.safetensors", 0.8))
    frames, events = run(request, made, tmp_path)
    video = Path(getattr(events[-1], "path", "") or "")
    for file in (video, video.with_suffix(".png")):
        stored = read_metadata(file)["request"]
        again = Request.parse({**stored, "picture": str(picture)})
        assert again.loras == request.loras
    assert np.array_equal(run(again, made, tmp_path)[0], frames)


@pytest.mark.parametrize("change", [SWAPPED, TURNS], ids=["swapped", "turns"])
def test_swapped_blocks_make_the_same_frames(
    change: Any, made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    put(folder / "style.safetensors", tensors(checkpoint))
    request = ask(picture, folder, ("style.safetensors", 1.0))
    with engine(checkpoint, folder, unchanged) as whole, engine(checkpoint, folder, change) as swapped:
        expected, plain = run(request, whole, tmp_path)[0], run(ask(picture, folder), swapped, tmp_path)[0]
        assert np.array_equal(run(request, swapped, tmp_path)[0], expected)
        assert np.array_equal(run(ask(picture, folder), swapped, tmp_path)[0], plain)


@pytest.mark.parametrize("step_cache", ["off", "teacache", "first_block"])
def test_a_table_of_the_modulation_makes_the_same_frames(
    step_cache: str, made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    put(folder / "style.safetensors", tensors(checkpoint, only="norm"))
    asked = {"step_cache": step_cache, "steps": 4}
    request = ask(picture, folder, ("style.safetensors", 1.0), **asked)
    expected, plain = run(request, made, tmp_path)[0], run(ask(picture, folder, **asked), made, tmp_path)[0]
    assert not np.array_equal(expected, plain)
    with engine(checkpoint, folder, table=True) as tabulated:
        assert np.array_equal(run(request, tabulated, tmp_path)[0], expected)
        assert np.array_equal(run(ask(picture, folder, **asked), tabulated, tmp_path)[0], plain)


def test_a_run_that_was_broken_off_ends_in_the_same_frames(
    made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    file = put(folder / "style.safetensors", tensors(checkpoint))
    request = ask(picture, folder, ("style.safetensors", 1.0), seconds=2.4)
    unbroken, _ = run(request, made, tmp_path / "unbroken")
    events = generate(request, made, tmp_path / "broken")
    started = next(events)
    assert isinstance(started, Started)
    next(event for event in events if isinstance(event, SectionDone))
    events.close()  # type: ignore[attr-defined]
    run(ask(picture, folder), made, tmp_path)
    moved = file.rename(folder / "renamed.safetensors")
    content = moved.read_bytes()
    moved.unlink()
    with pytest.raises(UnusableLora, match=r"content of style\.safetensors"):
        resume(Path(started.folder), made)
    moved.write_bytes(content)
    told = list(resume(Path(started.folder), made))
    assert isinstance(told[-1], Finished)
    assert np.array_equal(read_frames(Path(told[-1].path or "")), unbroken)
    assert any("found as renamed.safetensors" in event.message for event in told if isinstance(event, Notice))


def test_the_plan_counts_what_they_take(made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path) -> None:
    content = tensors(checkpoint)
    put(folder / "a.safetensors", content)
    put(folder / "b.safetensors", {name: 2 * each for name, each in content.items()})
    size = sum(each.nbytes for each in content.values())
    names = ("a.safetensors", "b.safetensors", "b.safetensors")
    peaks = [
        made.prepare(ask(picture, folder, *((name, 1.0) for name in names[:count])), 64, 64).peak_ram_bytes
        for count in range(4)
    ]
    assert [peak - peaks[0] for peak in peaks] == [0, size, 2 * size, 2 * size]
    weightless = made.prepare(ask(picture, folder, ("a.safetensors", 0.0)), 64, 64)
    assert weightless.peak_ram_bytes == peaks[0]


def test_keys_without_effect_are_told_once_for_a_file(
    made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    put(folder / "style.safetensors", {**tensors(checkpoint), **{f"lora_te{n}.x": torch.ones(1) for n in range(5)}})
    _, events = run(ask(picture, folder, ("style.safetensors", 1.0)), made, tmp_path)
    told = [event.message for event in events if isinstance(event, Notice) and "no effect" in event.message]
    assert len(told) == 1
    assert "5 name nothing" in told[0]
    assert "lora_te0.x" in told[0]


BAD: dict[str, tuple[Any, str]] = {
    "another model": (lambda good: {"unet.down.lora_A.weight": torch.ones(2, 2)}, "none names a layer"),
    "wrong shape": (
        lambda good: {name: torch.ones(3, 5).T[:, :3] @ torch.eye(3) for name in list(good)[:2]},
        "does not fit",
    ),
    "half a pair": (lambda good: dict(list(good.items())[:1]), "a factor is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_lora_that_cannot_be_used_is_refused_before_anything_is_written(
    case: str, made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    change, words = BAD[case]
    plain, _ = run(ask(picture, folder), made, tmp_path)
    put(folder / "bad.safetensors", {name: each.contiguous() for name, each in change(tensors(checkpoint)).items()})
    with pytest.raises(UnusableLora, match=words) as refused:
        generate(ask(picture, folder, ("bad.safetensors", 1.0)), made, tmp_path / "out")
    assert "bad.safetensors" in str(refused.value)
    assert not (tmp_path / "out").exists()
    assert np.array_equal(run(ask(picture, folder), made, tmp_path)[0], plain)


def test_a_file_that_vanished_or_changed_after_queueing(
    made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    file = put(folder / "style.safetensors", tensors(checkpoint))
    request = ask(picture, folder, ("style.safetensors", 1.0))
    put(file, tensors(checkpoint, seed=1))
    with pytest.raises(UnusableLora, match="is another one now"):
        generate(request, made, tmp_path / "out")
    file.unlink()
    with pytest.raises(UnusableLora, match="No LoRA with the content"):
        generate(request, made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_numbers_fail_the_job_alone(
    value: float, made: Engine, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    plain, _ = run(ask(picture, folder), made, tmp_path)
    content = tensors(checkpoint)
    content[list(content)[-1]][0, 0] = value
    put(folder / "good.safetensors", tensors(checkpoint))
    put(folder / "broken.safetensors", content)
    request = ask(picture, folder, ("good.safetensors", 1.0), ("broken.safetensors", 1.0))
    last = list(generate(request, made, tmp_path))[-1]
    assert isinstance(last, Failed)
    assert last.exit_code == 2
    assert "broken.safetensors" in last.error
    assert "NaN or infinity" in last.error
    assert np.array_equal(run(ask(picture, folder), made, tmp_path)[0], plain)


@pytest.mark.parametrize(
    ("text", "file", "weights"),
    [
        ("a.safetensors", "a.safetensors", ()),
        ("a.safetensors:0.8", "a.safetensors", (0.8,)),
        ("a.safetensors:0.8:-1", "a.safetensors", (0.8, -1)),
        ("a:1:2:3", "a:1", (2, 3)),
        ("a:b.safetensors:-2", "a:b.safetensors", (-2,)),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", ()),
        (r"C:\loras\a.safetensors:1.5", r"C:\loras\a.safetensors", (1.5,)),
        ("a:b", "a:b", ()),
        ("🦊.safetensors:1e-1", "🦊.safetensors", (0.1,)),
        ("7", "7", ()),
        ("7:8", "7", (8,)),
    ],
)
def test_the_last_colons_count_where_numbers_follow(text: str, file: str, weights: tuple[float, ...]) -> None:
    expected = dict(zip(("weight", "weight_at_end"), weights, strict=False))
    assert lora_flag.split_weights(text) == (file, expected)


def command(tmp_path: Path, picture: Path, checkpoint: Path, *more: str) -> Any:
    models = ("--models-dir", str(tmp_path / "models"))
    common = ("generate", "--image", str(picture), "--checkpoint", str(checkpoint), *models, "--kind", "f1")
    return program.run(tmp_path, *common, "--seconds", "1", "--steps", "2", "--seed", "5", *more)


def test_from_the_command_line(
    checkpoint: Checkpoint, quick_checkpoint: Path, folder: Path, picture: Path, tmp_path: Path
) -> None:
    """Two LoRAs, one by its name on the shelf and one by a path elsewhere."""
    put(folder / "sub" / "on shelf.safetensors", tensors(checkpoint, only="attn"))
    outside = put(tmp_path / "elsewhere" / "near:by.safetensors", tensors(checkpoint, only="ff", seed=2))
    flags = {
        "plain": (),
        "one": ("--lora", "sub/on shelf.safetensors:0.5"),
        "two": ("--lora", "sub/on shelf.safetensors:0.5", "--lora", str(outside)),
        "off": ("--lora", "sub/on shelf.safetensors:0"),
    }
    frames = {}
    for name, given in flags.items():
        out = tmp_path / f"{name}.mp4"
        done = command(tmp_path, picture, quick_checkpoint, *given, "--out", str(out))
        assert done.returncode == 0, done.stderr
        frames[name] = read_frames(out)
        assert ("does not lie in" in done.stderr) == (name == "two")
    assert np.array_equal(frames["off"], frames["plain"])
    assert not np.array_equal(frames["one"], frames["plain"])
    assert not np.array_equal(frames["two"], frames["one"])
    told = read_metadata(tmp_path / "two.mp4")["request"]["loras"]
    assert [(each["name"], each["weight"]) for each in told] == [
        ("sub/on shelf.safetensors", 0.5),
        ("near:by.safetensors", 1.0),
    ]
    stored = read_metadata(tmp_path / "one.mp4")["request"]
    asked = tmp_path / "again.json"
    asked.write_text(json.dumps({**stored, "picture": str(picture)}), encoding="utf-8")
    models = ("--models-dir", str(tmp_path / "models"), "--checkpoint", str(quick_checkpoint))
    out = tmp_path / "again.mp4"
    done = program.run(tmp_path, "generate", "--request", str(asked), *models, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert np.array_equal(read_frames(out), frames["one"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("none.safetensors", "there is no such file"),
        ("old.pt", "it is a pickle"),
        ("page.safetensors", "it is a web page"),
        ("other.safetensors", "none names a layer of this model"),
        ("style.safetensors:11", "loras.0.weight: 11.0 is not allowed"),
        ("style.safetensors:nan", "loras.0.weight: nan is not allowed"),
        ("../secret.safetensors", "there is no such file"),
        (f"{'x' * 300}.safetensors", "the name is too long"),
        ("", "give the path of a file"),
    ],
)
def test_what_the_command_line_refuses(
    given: str, words: str, checkpoint: Checkpoint, folder: Path, picture: Path, tmp_path: Path
) -> None:
    put(folder / "style.safetensors", tensors(checkpoint, only="ff"))
    put(folder / "other.safetensors", {"unet.down.lora_A.weight": torch.ones(2, 2)})
    (folder / "page.safetensors").write_text("<!doctype html>")
    put(folder.parent / "secret.safetensors", tensors(checkpoint, only="ff"))
    (tmp_path / "old.pt").write_bytes(b"PK\x03\x04")
    done = command(tmp_path, picture, checkpoint.folders["transformer"].parent, f"--lora={given}")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "outputs").rglob("*.*"))


def test_a_whole_request_says_its_loras_itself(
    tmp_path: Path, picture: Path, folder: Path, checkpoint: Checkpoint
) -> None:
    put(folder / "style.safetensors", tensors(checkpoint, only="ff"))
    for other in (("--resume", str(tmp_path)), ("--request", str(picture))):
        done = program.run(tmp_path, "generate", *other, "--lora", "style.safetensors")
        assert done.returncode == 2
        assert "leave out loras" in done.stderr
