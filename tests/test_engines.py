"""Compiled decoders where users meet them: notices of a video, the command `engines`, the page, the settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from diffusers_helper import cli
from diffusers_helper.engine import Engine
from diffusers_helper.engines import files_of
from diffusers_helper.events import Notice
from diffusers_helper.media.compiled_files import CompiledFiles, Key, compiled_folder
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.preparation import defaults
from diffusers_helper.request import Recipe
from diffusers_helper.settings import Settings, resolve, resolve_page
from diffusers_helper.ui import compiled, system_tab
from diffusers_helper.words import LANGUAGES, Texts

from .conftest import ROOT
from .memory.support import video
from .vae.compiled_support import PLENTY, Uncompiled, decoders_in

KEY = Key("aot_inductor", 1, 4, 60, 80, "float16", "a card", "a vae", "torch 2")


def kept_in(models_dir: Path) -> CompiledFiles:
    """With one file of 3 MB."""
    made = models_dir / "made.pt2"
    made.write_bytes(b"0" * 3_000_000)
    files = CompiledFiles(compiled_folder(models_dir), PLENTY)
    files.keep(KEY, made)
    return files


def settings_with(folder: Path, **flags: str) -> Settings:
    return resolve({"models_dir": str(folder), **flags}, {}, folder / "none.json")


def test_the_command_lists_and_clears(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept_in(tmp_path)
    assert cli.main(["engines", "list", "--models-dir", str(tmp_path)]) == 0
    line, total = capsys.readouterr().out.splitlines()
    assert line.startswith("1 x 16 frames of 640x480, float16  3.0 MB  made 2")
    assert "aot_inductor, a card" in line
    assert total == "1 compiled decoder, 3.0 MB"
    assert cli.main(["engines", "clear", "--models-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "removed: 1 compiled decoder, 3.0 MB"
    assert cli.main(["engines", "list", "--models-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "0 compiled decoders, 0.0 MB\n"


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    kept_in(tmp_path)
    program = "import sys; sys.modules['torch'] = None; from diffusers_helper.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "engines", "list", "--models-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "1 compiled decoder, 3.0 MB" in done.stdout, done.stderr


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_lists_them_and_its_button_clears(
    tmp_path: Path, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, texts = kept_in(tmp_path), Texts(language)
    shown = compiled.render(files, texts)
    assert "16 frames of 640x480, float16 (aot_inductor)" in shown
    assert "3.0 MB" in shown
    assert f'data-act="compiled_clear" data-confirm="{texts("system.compiled_sure")}"' in shown
    informed: list[str] = []
    monkeypatch.setattr(system_tab, "inform", informed.append)
    context: Any = type("Context", (), {"settings": settings_with(tmp_path)})
    system_tab._clear_command(context)(language, gr.EventData(None, {"act": "other"}))
    assert files.listed()
    system_tab._clear_command(context)(language, gr.EventData(None, {"act": "compiled_clear"}))
    assert (files.listed(), informed) == ([], [texts("system.compiled_cleared", count=1)])
    assert texts("system.compiled_none") in compiled.render(files, texts)


def test_the_limit_is_the_settings(tmp_path: Path) -> None:
    files = files_of(settings_with(tmp_path, compiled_limit="4mb"))
    made = tmp_path / "made.pt2"
    made.write_bytes(b"0" * 3_000_000)
    for latents in (1, 2):
        files.keep(Key(**{**vars(KEY), "latents": latents}), made)
    assert [kept.key.latents for kept in files.listed()] == [2]


def test_a_video_uses_what_is_ready_and_says_what_begins(
    quick_checkpoint: Path, photograph: Path, tmp_path: Path
) -> None:
    checkpoint = find_checkpoint(str(quick_checkpoint), tmp_path)
    back_end = Uncompiled()
    with Engine.load(checkpoint, settings_with(tmp_path)) as engine:
        engine._vae.compiled = decoders_in(tmp_path / "compiled", back_end)
        plain, events = video(engine, photograph, tmp_path)
        said = [event.message for event in events if isinstance(event, Notice)]
        assert sum("is compiled in the background" in words for words in said) == 1
        engine._vae.compiled.wait()
        before = back_end.calls
        frames, events = video(engine, photograph, tmp_path)
        assert back_end.calls > before
        assert not any("compiled" in event.message for event in events if isinstance(event, Notice))
    assert frames.shape == plain.shape
    assert np.abs(frames.astype(int) - plain.astype(int)).mean() < 20, "the chunks have statistics of their own"
    assert len(back_end.compiled) == 1, "one serves every length"


def test_without_the_package_a_video_says_one_sentence_and_is_made(
    quick_checkpoint: Path, photograph: Path, tmp_path: Path
) -> None:
    checkpoint = find_checkpoint(str(quick_checkpoint), tmp_path)
    with Engine.load(checkpoint, settings_with(tmp_path, enable_tensorrt="1")) as engine:
        _, events = video(engine, photograph, tmp_path)
    said = [event.message for event in events if isinstance(event, Notice)]
    assert len([words for words in said if "without a compiled decoder" in words]) == 1


@pytest.mark.parametrize("back_end", ["compiled_vae", "enable_tensorrt"])
def test_closing_an_engine_closes_its_decoders(
    quick_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back_end: str
) -> None:
    monkeypatch.setattr("diffusers_helper.vae.back_ends.TensorRT.why_not", lambda *_: None)
    checkpoint = find_checkpoint(str(quick_checkpoint), tmp_path)
    with Engine.load(checkpoint, settings_with(tmp_path, **{back_end: "1"})) as engine:
        decoders = engine._vae.compiled
        assert decoders is not None
    assert decoders._beside.closed


@pytest.mark.parametrize(
    ("named", "given", "decoding"),
    [("", {}, "lean"), ("quality", {}, "quality"), ("reference", {}, "reference"),
     ("quality", {"decoding": "lean"}, "lean"), ("reference", {"quality_mode": True}, "quality")],
)  # fmt: skip
def test_the_settings_name_the_decoding_of_what_names_none(
    tmp_path: Path, named: str, given: dict[str, Any], decoding: str
) -> None:
    for chosen in (settings_with(tmp_path, default_decoding=named), resolve_page({"default_decoding": named}, {})):
        assert Recipe.parse(given, defaults(None, chosen.sampling)).decoding == decoding
