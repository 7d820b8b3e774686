"""Samples of a training: musubi's files in all three forms, and that they are what the program makes with the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusers_helper.errors import CancelRequested, InvalidRequest
from diffusers_helper.events import Event, Finished, Learning, Learnt, Sampled, Sampling
from diffusers_helper.generate import generate
from diffusers_helper.media.video import read_frames
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request
from diffusers_helper.settings import resolve
from diffusers_helper.training.samples import read_samples
from diffusers_helper.training.train import load_engine, train
from diffusers_helper.training.training import Training

from ..blue import blue_set, training

LINE = (
    "a girl -- smiling --w 128 --h 160 --f 37 --d 5 --s 2 --g 9.5 --l 1.5 --fs 3 --n blurred, dark --i 'a b.png' "
    "--of no_post"
)
ONE = "a girl --d 3 --ci a.png --ci b.png --of target_index=1,control_index=0;10,no_post,no_2x,no_4x"
FLAGS = ("--steps", "2", "--guidance-scale", "10", "--learning-rate", "1e-2", "--network-dim", "2")


def read(folder: Path, name: str, text: str) -> tuple[Request, ...]:
    (folder / name).write_text(text, encoding="utf-8")
    return read_samples(folder / name, "f1").requests


def test_a_line_says_what_musubi_s_says(tmp_path: Path) -> None:
    text = "# comment\n\n" + LINE.removesuffix(" --of no_post") + "\n" + ONE + "\n"
    video, picture = read(tmp_path, "samples.txt", text)
    assert (video.prompt, video.size, video.seed, video.steps) == ("a girl -- smiling", "128x160", 5, 2)
    assert (video.distilled_guidance, video.real_cfg, video.negative_prompt) == (9.5, 1.5, "blurred, dark")
    assert video.seconds == pytest.approx(37 / 30)
    assert (video.kind.name, video.picture_paths) == ("f1", (str(tmp_path / "a b.png"),))
    assert picture.kind.name == "one_frame"
    assert picture.picture_paths == (str(tmp_path / "a.png"), str(tmp_path / "b.png"))
    kind: Any = picture.kind
    assert (kind.target_index, kind.control_index, kind.post, kind.history_2x, kind.history_4x) == (
        1, "0;10", False, False, False,
    )  # fmt: skip
    assert read_samples(tmp_path / "samples.txt", "framepack").requests[0].kind.name == "framepack"
    assert read_samples(tmp_path / "samples.txt", "f1").ignored == ("discrete_flow_shift",)


def test_json_and_toml_say_the_same(tmp_path: Path) -> None:
    given = {"prompt": "x", "width": 128, "height": 96, "frame_count": 37, "seed": 7, "image_path": "a.png"}
    (of_json,) = read(tmp_path, "samples.json", json.dumps([given]))
    lines = [f"{name} = {json.dumps(value)}" for name, value in given.items() if name != "prompt"]
    text = "\n".join(["[prompt]", *lines, "[[prompt.subset]]", 'prompt = "x"'])
    (of_toml,) = read(tmp_path, "samples.toml", text)
    assert of_json == of_toml
    assert (of_json.size, of_json.seed) == ("128x96", 7)
    (own,) = read(tmp_path, "own.json", json.dumps({"prompt": "x", "image_path": "a.png", "rope_scaling_factor": 1.5}))
    assert own.rope_scaling_factor == 1.5


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "x --w 0 --h 5 --i a.png", "sample 1: size: '0x5' is not allowed"),
        ("a.txt", "x --colour 3", "--colour is not known; known are --w"),
        ("a.txt", "x --i a.png --d many", "sample 1: invalid literal"),
        ("a.txt", "x --ci a.png --of target=1", "one_frame: 'target=1' is not known; known are target_index"),
        ("a.txt", "\n# nothing\n", "has no sample"),
        ("a.txt", "x", "sample 1: picture: is missing"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "[3]", "cannot be read"),
        ("a.toml", "[prompt", "cannot be read"),
        ("a.json", '[{"prompt": "x", "image_path": "a.png", "shininess": 3}]', "shininess: is not a field"),
        ("a.json", '[{"prompt": "x", "width": "wide", "image_path": "a.png"}]', "size"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(tmp_path, name, text)
    assert said in str(refused.value)
    assert str(refused.value).startswith("sample_prompts: ")


def test_times_without_a_file_are_refused(tmp_path: Path) -> None:
    sets = blue_set(tmp_path)
    for flags in (("--sample-every-n-steps", "2"), ("--sample-every-n-epochs", "2"), ("--sample-at-first",)):
        with pytest.raises(InvalidRequest, match="sample_prompts: is missing"):
            training(sets, *flags)
    with pytest.raises(InvalidRequest, match="gone"):
        training(sets, "--sample-prompts", str(tmp_path / "gone.txt"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "samples.txt").write_text(
        "x --i ctl/coffee.png --w 128 --h 128 --s 1 --f 9 --g 10\n"
        "x --ci ctl/coffee.png --w 128 --h 128 --s 1 --g 10 --of control_index=0,target_index=1\n",
        encoding="utf-8",
    )
    return blue_set(folder)


def run(made: Training, pocket: Path, stop_at: type[Event] | None = None) -> list[Event]:
    chosen, seen = resolve({}, {}), list[Event]()
    with load_engine(made, find_checkpoint(str(pocket), pocket), chosen) as engine:
        events = train(made, engine)
        for event in events:
            seen.append(event)
            if stop_at and isinstance(event, stop_at):
                seen.append(events.throw(CancelRequested()))
    return seen


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) if path.suffix == ".png" else read_frames(path)


def test_a_sample_is_what_the_program_makes_with_that_file(sets: Path, pocket: Path, tmp_path: Path) -> None:
    """To the bit; and training goes on as if none had been made."""
    prompts = str(sets.parent / "samples.txt")
    flags = ("--sample-prompts", prompts, "--sample-at-first", "--sample-every-n-steps", "1")
    made = training(sets, *FLAGS, *flags, "--out", str(tmp_path / "x.safetensors"))
    events = run(made, pocket)
    samples = [event for event in events if isinstance(event, Sampled)]
    assert [(event.step, event.number, event.samples) for event in samples] == [
        (step, number, 2) for step in (0, 1, 2) for number in (1, 2)
    ]
    assert [Path(event.path).name for event in samples[-2:]] == ["x-000002-1.mp4", "x-000002-2.png"]
    assert any(isinstance(event, Sampling) and event.done == 1 for event in events)
    first, *_, last = (pixels(Path(event.path)) for event in samples if event.number == 2)
    assert not np.array_equal(first, last), "the LoRA has learnt something"

    from diffusers_helper.media.files import sha256_of

    request = made.sampling.samples.requests[0].model_copy(update={"lora_mode": "beside"})
    lora = {"name": "x.safetensors", "sha256": sha256_of(made.target)}
    again = Request.from_data({**json.loads(request.to_json()), "loras": [lora]})
    with load_engine(made, find_checkpoint(str(pocket), pocket), resolve({}, {})) as engine:
        *_, end = generate(again, engine, tmp_path / "again")
    assert isinstance(end, Finished)
    assert np.array_equal(pixels(Path(end.path or "")), pixels(Path(samples[-2].path)))

    plain = training(sets, *FLAGS, "--out", str(tmp_path / "plain.safetensors"))
    without = run(plain, pocket)
    losses = [[each.loss for each in told if isinstance(each, Learning)] for told in (events, without)]
    assert losses[0] == losses[1]
    one, other = load_file(made.target), load_file(plain.target)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_stop_while_a_sample_is_made_keeps_what_was_learnt(sets: Path, pocket: Path, tmp_path: Path) -> None:
    flags = ("--sample-prompts", str(sets.parent / "samples.txt"), "--sample-every-n-epochs", "1", "--steps", "9")
    made = training(sets, *FLAGS, *flags, "--out", str(tmp_path / "x.safetensors"))
    *_, last = run(made, pocket, Sampling)
    assert isinstance(last, Learnt)
    assert (last.step, last.steps) == (2, 9), "an epoch is two examples"
    assert made.target.exists()
    assert made.state.exists()
    assert not list((tmp_path / "x_samples").iterdir())


def test_a_sample_that_cannot_be_made_is_refused_at_once(sets: Path, pocket: Path, tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("x --i gone.png", encoding="utf-8")
    made = training(sets, *FLAGS, "--sample-prompts", str(tmp_path / "gone.txt"), "--sample-at-first")
    from diffusers_helper.errors import UnusablePicture

    with pytest.raises(UnusablePicture, match=r"gone\.png"):
        run(made, pocket)
