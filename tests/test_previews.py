"""Previews as the settings ask for them: which file serves, what is said of one that cannot, and videos."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_helper.engine import Engine
from diffusers_helper.errors import InvalidSetting
from diffusers_helper.events import Notice, Preview
from diffusers_helper.generate import generate
from diffusers_helper.media.video import read_frames
from diffusers_helper.models.load import Compute
from diffusers_helper.models.table import Checkpoint, find_checkpoint
from diffusers_helper.previews import DEFAULT_FILE, previews_for
from diffusers_helper.request import Request
from diffusers_helper.settings import Settings, resolve
from diffusers_helper.vae.preview import LatentToRGB
from diffusers_helper.vae.tiny import TinyDecoder

from .vae.tiny_support import write_decoder

FLOAT32 = Compute(torch.device("cpu"), torch.float32, torch.float32, torch.float32, "exact")
LATENTS = torch.randn(1, 16, 9, 8, 8, generator=torch.Generator().manual_seed(0))
LINEAR = LatentToRGB().strip(LATENTS)
HUNYUAN = Checkpoint("hunyuan", "hunyuan", ("f1",), {}, ((64, 64),))
OWN = replace(HUNYUAN, name="own", latent_rgb=([[0.0, 0.0, 0.0]] * 16, [0.5, 0.5, 0.5]))

Chosen = Callable[..., tuple[np.ndarray, tuple[str, ...]]]


def settings_with(folder: Path, **flags: str) -> Settings:
    return resolve({"models_dir": str(folder), **flags}, {}, folder / "none.json")


@pytest.fixture
def chosen(tmp_path: Path) -> Chosen:
    """A strip of LATENTS, and what is said, as these flags have it."""

    def choose(checkpoint: Checkpoint = HUNYUAN, **flags: str) -> tuple[np.ndarray, tuple[str, ...]]:
        previews, said = previews_for(checkpoint, settings_with(tmp_path, **flags).decoders, tmp_path, FLOAT32)
        return previews.strip(LATENTS), tuple(map(str, said))

    return choose


def test_without_a_file_all_is_as_it_was(chosen: Chosen) -> None:
    strip, said = chosen()
    assert np.array_equal(strip, LINEAR)
    assert said == ()


def test_a_named_file_decodes_what_is_looked_at(chosen: Chosen, tmp_path: Path) -> None:
    file = write_decoder(tmp_path / "mine.safetensors")
    strip, said = chosen(preview_decoder=str(file))
    assert strip.shape == (64, 9 * 64, 3), "as many cells"
    assert said == ()


def test_the_file_in_the_models_folder_serves_by_itself_and_off_turns_it_off(chosen: Chosen, tmp_path: Path) -> None:
    write_decoder(tmp_path / DEFAULT_FILE)
    assert chosen()[0].shape == (64, 9 * 64, 3)
    strip, said = chosen(preview_decoder="OFF")
    assert np.array_equal(strip, LINEAR)
    assert said == ()


def test_latents_of_a_checkpoints_own_keep_their_linear_map(chosen: Chosen, tmp_path: Path) -> None:
    file = write_decoder(tmp_path / DEFAULT_FILE)
    for flags in ({}, {"preview_decoder": str(file)}):
        strip, said = chosen(OWN, **flags)
        assert strip.shape == (8, 9 * 8, 3)
        assert (strip == 127).all(), "its own grey"
        assert len(said) == len(flags)
    assert said[0].endswith("taehv.safetensors: it decodes HunyuanVideo's latents, and own has its own.")


def test_a_file_that_cannot_serve_is_one_notice_that_says_why(chosen: Chosen, tmp_path: Path) -> None:
    whole = write_decoder(tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "folder.safetensors").mkdir()
    write_decoder(tmp_path / "hv15.safetensors", channels=32, colours=12)
    expected = {
        "missing.safetensors": "there is no such file",
        "folder.safetensors": "there is no such file",
        "cut.safetensors": "",
        "empty.safetensors": "",
        "hv15.safetensors": "decoder.1.weight is [12, 32, 3, 3], where TAEHV for HunyuanVideo has [12, 16, 3, 3]",
    }
    for name, words in expected.items():
        strip, said = chosen(preview_decoder=str(tmp_path / name))
        assert np.array_equal(strip, LINEAR)
        (notice,) = said
        assert notice.startswith(f"Previews are drawn without a decoder. {tmp_path / name}: {words}")


def test_the_file_in_the_models_folder_is_refused_aloud_too(chosen: Chosen, tmp_path: Path) -> None:
    (tmp_path / DEFAULT_FILE).write_bytes(b"no safetensors")
    assert len(chosen()[1]) == 1


@pytest.mark.parametrize("name", ["taehv.pth", "taehv.pt", "taehv"])
def test_a_pickle_is_not_opened(chosen: Chosen, tmp_path: Path, name: str) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    (tmp_path / name).write_bytes(pickle.dumps(Runs()))
    strip, (notice,) = chosen(preview_decoder=str(tmp_path / name))
    assert np.array_equal(strip, LINEAR)
    assert f"{name}: only safetensors files are read, since opening others (.pth, .pt) can run code" in notice
    assert not (tmp_path / "ran").exists()


def test_a_value_that_names_no_file_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="give the path of a file"):
        settings_with(tmp_path, preview_decoder="  ")


@pytest.fixture(scope="module")
def hunyuan(quick_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The quick checkpoint, as one whose latents are HunyuanVideo's own."""
    folder = tmp_path_factory.mktemp("hunyuan") / "quick"
    folder.mkdir()
    for part in quick_checkpoint.iterdir():
        (folder / part.name).symlink_to(part)
    described = json.loads((quick_checkpoint / "framepack.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in described.items() if not name.startswith("latent_rgb")}
    (folder / "framepack.json").unlink()
    (folder / "framepack.json").write_text(json.dumps(kept), encoding="utf-8")
    return find_checkpoint(str(folder), folder)


@dataclass(frozen=True)
class Made:
    """A video: its frames, each of its previews, and what was said of those."""

    frames: np.ndarray
    previews: list[np.ndarray]
    said: list[str]


@pytest.fixture
def made(hunyuan: Checkpoint, picture: Path, tmp_path: Path) -> Callable[[str], Made]:
    """Makes the same video with a preview decoder."""
    request = Request.parse({"picture": str(picture), "seconds": 1.0, "steps": 2, "kind": "f1", "seed": 1})

    def make(decoder: str) -> Made:
        previews, said, result = [], [], tmp_path / "video.mp4"
        with Engine.load(hunyuan, settings_with(tmp_path, preview_decoder=decoder)) as engine:
            for event in generate(request, engine, tmp_path, result=result):
                if isinstance(event, Preview):
                    previews.append(np.asarray(Image.open(event.path)))
                if isinstance(event, Notice) and event.said.code.startswith("preview."):
                    said.append(event.message)
        return Made(read_frames(result), previews, said)

    return make


def test_the_setting_changes_previews_and_no_frame_of_the_video(made: Callable[[str], Made], tmp_path: Path) -> None:
    plain, decoded = made("off"), made(str(write_decoder(tmp_path / "tiny.safetensors")))
    assert {preview.shape for preview in plain.previews} == {(8, 9 * 8, 3)}
    assert {preview.shape for preview in decoded.previews} == {(64, 9 * 64, 3)}
    assert len(decoded.previews) == len(plain.previews) > 0
    assert plain.said == decoded.said == []
    assert np.array_equal(decoded.frames, plain.frames)


def test_a_video_goes_on_where_its_previews_fail(
    made: Callable[[str], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(decoder: TinyDecoder, latents: torch.Tensor) -> None:
        raise RuntimeError("CUDA out of memory")

    plain, missing = made("off"), made(str(tmp_path / "missing.safetensors"))
    monkeypatch.setattr(TinyDecoder, "newest", broken)
    failed = made(str(write_decoder(tmp_path / "tiny.safetensors")))
    for other, words in ((missing, "there is no such file"), (failed, "CUDA out of memory")):
        assert np.array_equal(other.frames, plain.frames)
        assert all(map(np.array_equal, other.previews, plain.previews))
        (notice,) = other.said
        assert words in notice
