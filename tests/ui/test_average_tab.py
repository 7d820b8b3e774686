"""The tab of averages: the files of its folder alone, known settings at one click, what each file counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from safetensors.torch import load_file

from diffusers_helper.errors import UnusableInput
from diffusers_helper.ui.app import build_page
from diffusers_helper.ui.average_tab import KNOWN, Averages
from diffusers_helper.words import LANGUAGES, Texts

from ..lora.test_ema import UP, lora, write
from .stage import HOSTILE, Stage
from .test_fragments_queue import Seen

HALF = ("beta", 0.5, None, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Epochs 10, 15, 20 and 26 of a training, the oldest with the latest name; and what is no file of it."""
    made = tmp_path / "lora"
    (made / "deep").mkdir(parents=True)
    write(made, {f"style-{epoch:06}": lora(epoch) for epoch in (10, 15, 20, 26)})
    os.utime(made / "style-000026.safetensors", (1_600_000_000, 1_600_000_000))
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"")
    (made / "linked.safetensors").symlink_to(outside)
    (made / ".1_abc.part.safetensors").write_bytes(b"")
    (made / "note.txt").write_text("x")
    return made


@pytest.fixture
def averages(folder: Path) -> Averages:
    return Averages(folder)


def listed(averages: Averages) -> list[str]:
    return list(averages.listed([], "en")[0]["choices"])


def names(*epochs: int) -> list[str]:
    return [f"style-{epoch:06}.safetensors" for epoch in epochs]


def test_the_files_of_the_folder_are_offered_the_oldest_first(averages: Averages) -> None:
    assert listed(averages) == names(26, 10, 15, 20)
    assert averages.listed(["gone", *names(15)], "en")[0]["value"] == names(15)


@pytest.mark.parametrize("language", LANGUAGES)
def test_without_a_file_it_says_where_they_belong(language: str, tmp_path: Path) -> None:
    update, said = Averages(tmp_path / "lora").listed([], language)
    assert update["choices"] == []
    assert str(tmp_path / "lora") in said


@pytest.mark.parametrize(("number", "epochs"), [(0, (26, 15, 20)), (1, (26, 10, 15, 20)), (2, (15, 20))])
def test_a_known_setting_sets_beta_and_ticks_its_epochs(
    averages: Averages, number: int, epochs: tuple[int, ...]
) -> None:
    files, rule, beta, beta2, sigma_rel = averages.take(KNOWN[number], [])
    assert (files, rule, beta, beta2) == (names(*epochs), "beta", KNOWN[number].beta, None)
    assert sigma_rel == gr.skip()


def test_a_known_width_keeps_what_is_ticked(averages: Averages) -> None:
    files, rule, *_, sigma_rel = averages.take(KNOWN[3], names(10, 15))
    assert (files, rule, sigma_rel) == (names(10, 15), "sigma_rel", 0.2)
    assert [setting.name for setting in KNOWN[:1] + KNOWN[3:4]] == ["15–30: β 0.9", "σ_rel 0.2"]


@pytest.mark.parametrize(
    ("knobs", "counts"),
    [
        (HALF, ["25.0%", "25.0%", "50.0%"]),
        (("beta", None, None, 0.1), ["90.2%", "4.8%", "5.0%"]),
        (("beta", 0.5, 0.25, None), ["12.5%", "12.5%", "75.0%"]),
        (("sigma_rel", 0.5, None, 0.2), ["0.0%", "14.1%", "85.9%"]),
    ],
)
def test_bars_say_what_each_file_counts(averages: Averages, knobs: tuple[Any, ...], counts: list[str]) -> None:
    seen = Seen(averages.shown("en", names(15, 10, 20), *knobs))
    assert [row.get("value") for row in seen.all("progress")]
    for name, share in zip(names(10, 15, 20), counts, strict=True):
        assert f"{name}{share}" in seen.text.replace(" ", "")


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_wrong_is_said_in_the_place_of_the_bars(averages: Averages, language: str) -> None:
    assert Texts(language)("average.none_chosen") in averages.shown(language, [], *HALF)
    for knobs in (("beta", 2.0, None, None), ("sigma_rel", None, None, 0.5), ("sigma_rel", None, None, None)):
        assert 'role="alert"' in averages.shown(language, names(10, 15), *knobs)


def test_names_of_files_are_escaped(folder: Path) -> None:
    hostile = HOSTILE.replace("/", "") + ".safetensors"
    (folder / hostile).write_bytes(b"")
    assert "<img" not in Averages(folder).shown("en", [hostile], *HALF)


def test_the_average_is_made_in_the_folder(averages: Averages, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("diffusers_helper.ui.average_tab.inform", told.append)
    update, name = averages.make("en", " mean ü ", names(15, 10), *HALF)
    assert told == ["mean ü.safetensors is made."]
    assert name == ""
    assert "mean ü.safetensors" in update["choices"]
    mean = load_file(folder / "mean ü.safetensors")[UP]
    assert mean.allclose((lora(10)[UP] + lora(15)[UP]) / 2)


@pytest.mark.parametrize(
    ("chosen", "name", "words"),
    [
        (["../outside.safetensors", *names(10)], "mean", "is not in the folder any more"),
        (["linked.safetensors", *names(10)], "mean", "is not in the folder any more"),
        (["/etc/passwd", *names(10)], "mean", "is not in the folder any more"),
        (names(10), "mean", "two files or more"),
        (names(10, 15), "", "cannot be the name of a file"),
        (names(10, 15), "../mean", "cannot be the name of a file"),
        (names(10, 15), "a\\b", "cannot be the name of a file"),
        (names(10, 15), ".hidden", "cannot be the name of a file"),
        (names(10, 15), "x\0y", "cannot be the name of a file"),
        (names(10, 15), "ü" * 200, "cannot be the name of a file"),
        (names(10, 15), "style-000020", "There is a file style-000020.safetensors already"),
        (names(10, 15), "linked.safetensors", "There is a file linked.safetensors already"),
    ],
)
def test_no_other_file_is_read_or_written(
    averages: Averages, folder: Path, chosen: list[str], name: str, words: str
) -> None:
    before = {file: file.stat().st_mtime_ns for file in folder.parent.rglob("*")}
    with pytest.raises(UnusableInput, match=words):
        averages.make("en", name, chosen, *HALF)
    assert {file: file.stat().st_mtime_ns for file in folder.parent.rglob("*")} == before


def test_the_tab_is_on_the_page(stage: Stage) -> None:
    blocks = build_page(stage.context)
    ids = {getattr(block, "elem_id", None) for block in blocks.blocks.values()}
    assert {"average-files", "average-rule", "average-shares", "average-name", "average-make"} <= ids
