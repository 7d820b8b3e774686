"""The data of a training on the page: what is listed of it, which captions are written, and what never is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffusers_helper.errors import InvalidRequest
from diffusers_helper.ui import train_data
from diffusers_helper.ui.train_tab import Trainings
from diffusers_helper.words import Texts

from .serving import make_video
from .stage import HOSTILE, Stage, click
from .training import HERE, pairs, videos

EN = Texts("en")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return videos(tmp_path / "videos")


def wish(path: Path | str, text: str) -> str:
    return json.dumps({"name": str(path), "text": text})


def test_a_folder_is_listed_with_its_captions(data: Path) -> None:
    found = train_data.found_in(f" {data} ")
    assert [(one.path.name, one.caption, one.is_editable) for one in found] == [
        ("a.mp4", f"a wave {HOSTILE}", True),
        ("b.mp4", None, True),
    ]
    html = train_data.data_html(found, train_data.STEP, EN)
    assert HOSTILE not in html
    assert html.count("<textarea") == html.count("data:image/jpeg") == 2
    assert train_data.counts_html(found, EN).startswith("0 pictures, 2 videos. <span")
    assert "1 caption is missing" in train_data.counts_html(found, EN)


def test_data_sets_of_a_file_are_listed(tmp_path: Path) -> None:
    (one,) = train_data.found_in(str(pairs(tmp_path)))
    assert (one.path, one.caption, one.is_editable) == (tmp_path / "img" / "one.png", "red", True)
    assert not train_data.has_videos(str(tmp_path / "sets.toml"))


def test_a_file_that_cannot_be_decoded_has_no_picture(data: Path) -> None:
    (data / "a.mp4").write_bytes(b"nothing")
    html = train_data.data_html(train_data.found_in(str(data)), train_data.STEP, EN)
    assert (html.count("<img"), html.count("<textarea")) == (1, 2)


def test_more_of_a_long_list_is_shown_on_wish(stage: Stage, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(train_data.STEP + 2):
        (folder / f"{number:03}.mp4").touch()
    tab = Trainings(stage.context)
    listed, told = tab.look(HERE, "en", str(folder))
    assert (listed.count("<li>"), "26 videos" in told) == (train_data.STEP, True)
    more, _ = tab.act(HERE, "en", str(folder), click("more", value="48"))
    assert (more.count("<li>"), "data-act" in more) == (26, False)
    for hostile in ("-1", "1e9", "", "9" * 30):
        assert tab.act(HERE, "en", str(folder), click("more", value=hostile))[0].count("<li>") == train_data.STEP


def test_a_caption_is_written_beside_its_file(stage: Stage, data: Path) -> None:
    listed, told = Trainings(stage.context).act(
        HERE, "en", str(data), click("caption", value=wish(data / "b.mp4", " ü "))
    )
    assert (data / "b.txt").read_text(encoding="utf-8") == "ü\n"
    assert told == "b.txt is saved. 0 pictures, 2 videos."
    assert isinstance(listed, dict), "the list stays, so that what is being typed does"


@pytest.mark.parametrize("name", ["notes.txt", "c.mp4", "../videos/a.mp4", "../outside.mp4", "a.txt", ""])
def test_nothing_else_is_written(name: str, data: Path) -> None:
    make_video(data.parent / "outside.mp4")
    before = {path: path.read_bytes() for path in data.parent.rglob("*") if path.is_file()}
    with pytest.raises(InvalidRequest):
        train_data.save_caption(str(data), wish(f"{data}/{name}", "x"))
    assert {path: path.read_bytes() for path in data.parent.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("told", ["", "[]", "3", '{"name": 1, "text": "x"}', '{"name": "a"}', "[" * 100_000])
def test_what_says_no_caption_is_refused(told: str, data: Path) -> None:
    with pytest.raises(InvalidRequest):
        train_data.save_caption(str(data), told)


def test_a_link_in_the_place_of_a_caption_is_replaced_and_not_followed(data: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("mine", encoding="utf-8")
    (data / "b.txt").symlink_to(elsewhere)
    train_data.save_caption(str(data), wish(data / "b.mp4", "changed"))
    assert elsewhere.read_text(encoding="utf-8") == "mine"
    assert (data / "b.txt").read_text(encoding="utf-8") == "changed\n"


def test_captions_of_another_kind_are_read_and_not_written(tmp_path: Path) -> None:
    sets = pairs(tmp_path, 'caption_extension=".caption"')
    (tmp_path / "img" / "one.caption").write_text("dark red", encoding="utf-8")
    (one,) = train_data.found_in(str(sets))
    assert (one.caption, one.is_editable) == ("dark red", False)
    assert "readonly" in train_data.data_html([one], 24, EN)
    with pytest.raises(InvalidRequest):
        train_data.save_caption(str(sets), wish(one.path, "x"))


def test_captions_of_a_list_are_shown(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4")
    (tmp_path / "list.jsonl").write_text(json.dumps({"video_path": "a.mp4", "caption": "a wave"}), encoding="utf-8")
    (tmp_path / "sets.toml").write_text('[[datasets]]\nvideo_jsonl_file="list.jsonl"', encoding="utf-8")
    (one,) = train_data.found_in(str(tmp_path / "sets.toml"))
    assert (one.caption, one.is_editable) == ("a wave", False)


def test_a_caption_that_cannot_be_shown_is_not_edited(data: Path) -> None:
    """Of another encoding, or too long: what is in the file stays. A missing one can be written."""
    for content, editable in ((b"\x83e\x83X\x83g", False), (b"x" * 20_000, False), (b"short", True), (None, True)):
        first = next(iter(train_data.found_in(str(data))))
        beside = first.path.with_suffix(".txt")
        beside.unlink(missing_ok=True)
        if content is not None:
            beside.write_bytes(content)
        assert next(iter(train_data.found_in(str(data)))).is_editable == editable
