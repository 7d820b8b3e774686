"""Files that cannot be used: named before the first step, or left out and told; and files that change meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusers_helper.engine import Engine
from diffusers_helper.errors import UnusableInput
from diffusers_helper.events import Event, Learning, Learnt, Notice
from diffusers_helper.media.video import write_segment
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.training.gathering import gather
from diffusers_helper.training.train import train

from .blue import blue_set, training

FAST = ("--guidance-scale", "10", "--learning-rate", "1e-3", "--network-dim", "1", "--steps", "2")


def trained(
    data_sets: Path, pocket: Path, *flags: str, when: Callable[[Event], None] = lambda event: None
) -> list[Event]:
    """All events, each handed to ``when``."""
    told = []
    with Engine.load(find_checkpoint(str(pocket), data_sets.parent)) as engine:
        made = training(data_sets, *FAST, "--out", str(data_sets.parent / "a.safetensors"), *flags)
        for event in train(made, engine):
            when(event)
            told.append(event)
    return told


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])


def shaded(file: Path, frames: int) -> Path:
    """A film of so many frames, with a caption."""
    shades = np.repeat(np.arange(frames, dtype=np.uint8)[:, None, None, None] * 9, 3, axis=3)
    write_segment(file, np.broadcast_to(shades, (frames, 128, 128, 3)), 30, 0)
    file.with_suffix(".txt").write_text("it brightens", encoding="utf-8")
    return file


SPOILED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "an empty picture": ("img/rocket.png", lambda file: file.write_bytes(b"")),
    "a cut picture": ("img/rocket.png", cut),
    "no picture": ("img/rocket.png", lambda file: file.write_bytes(b"something else")),
    "a cut control picture": ("ctl/rocket.png", cut),
    "an empty control picture": ("ctl/rocket.png", lambda file: file.write_bytes(b"")),
}


@pytest.fixture(scope="module")
def engine(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine.load(find_checkpoint(str(pocket), tmp_path_factory.mktemp("models"))) as loaded:
        yield loaded


def encoded(data_sets: Path, engine: Engine, *flags: str) -> tuple[int, list[str]]:
    """How many examples are learnt, and what is said of files that are left out."""
    events, said = gather(training(data_sets, *flags), engine), []
    while True:
        try:
            event = next(events)
        except StopIteration as done:
            return len(done.value.learnt), said
        if isinstance(event, Notice) and event.message.startswith("left out: "):
            said.append(event.message)


@pytest.mark.parametrize("case", SPOILED)
def test_a_picture_that_cannot_be_used_is_named_or_left_out(case: str, tmp_path: Path, engine: Engine) -> None:
    data_sets = blue_set(tmp_path)
    assert encoded(data_sets, engine) == (2, [])
    name, spoil = SPOILED[case]
    spoil(tmp_path / name)
    with pytest.raises(UnusableInput, match=r"rocket\.png"):
        encoded(data_sets, engine)
    count, (left_out,) = encoded(data_sets, engine, "--skip-broken-files")
    assert (count, "rocket.png" in left_out) == (1, True)


@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_a_video_that_cannot_be_used_is_named_or_left_out(
    content: bytes | None, tmp_path: Path, engine: Engine
) -> None:
    """Empty, none, or too short for a section."""
    videos, config = tmp_path / "vid", tmp_path / "sets.toml"
    videos.mkdir()
    good, bad = shaded(videos / "good.mp4", 9), shaded(videos / "bad.mp4", 5)
    if content is not None:
        bad.write_bytes(content)
    lines = ('video_directory="vid"', "fp_latent_window_size=2", "resolution=[128, 128]")
    config.write_text("\n".join(["[[datasets]]", *lines]), encoding="utf-8")
    with pytest.raises(UnusableInput, match=r"bad\.mp4"):
        encoded(config, engine)
    count, (left_out,) = encoded(config, engine, "--skip-broken-files")
    assert (count, "bad.mp4" in left_out) == (1, True)
    good.unlink()
    with pytest.raises(UnusableInput, match="no file is left to learn from; all were left out"):
        encoded(config, engine, "--skip-broken-files")


def test_a_refusal_comes_before_the_first_step_and_writes_nothing(tmp_path: Path, pocket: Path) -> None:
    data_sets = blue_set(tmp_path)
    cut(tmp_path / "img" / "rocket.png")
    with pytest.raises(UnusableInput, match=r"rocket\.png"):
        trained(data_sets, pocket)
    assert not list(tmp_path.glob("*.safetensors"))


def test_files_that_go_or_change_after_they_were_encoded_do_not_matter(tmp_path: Path, pocket: Path) -> None:
    """All that is learnt is encoded before the first step."""
    quiet, disturbed = blue_set(tmp_path / "quiet"), blue_set(tmp_path / "disturbed")

    def disturb(event: Event) -> None:
        if isinstance(event, Learning) and event.step == 1:
            (tmp_path / "disturbed" / "img" / "rocket.png").unlink()
            (tmp_path / "disturbed" / "img" / "rocket.txt").unlink()
            Image.new("RGB", (9, 9), "red").save(tmp_path / "disturbed" / "ctl" / "coffee.png")
            (tmp_path / "disturbed" / "sets.toml").write_text("", encoding="utf-8")

    trained(quiet, pocket, "--steps", "3")
    told = trained(disturbed, pocket, "--steps", "3", when=disturb)
    assert isinstance(told[-1], Learnt)
    one, other = (load_file(tmp_path / name / "a.safetensors") for name in ("quiet", "disturbed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
