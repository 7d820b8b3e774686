"""A dropped file is compared with the form, and only what was chosen gets in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusers_helper.errors import UnusableInput
from diffusers_helper.media.metadata import as_comment, write_png
from diffusers_helper.media.video import join_segments, write_segment
from diffusers_helper.request import Request
from diffusers_helper.ui import restore_tab
from diffusers_helper.ui.form import NAMES
from diffusers_helper.ui.restore_tab import Found, Restore, build
from diffusers_helper.words import LANGUAGES, Message, Texts

from ..test_recall import STUDIO
from .stage import HOSTILE, Stage, click, tab_of
from .test_fragments_queue import Seen

FIELDS = {"prompt": f"the wave {HOSTILE}", "seed": 2**63 - 1, "seconds": 7.5, "steps": 30}
EVERYTHING = " ".join(NAMES)
PIXELS = np.zeros((16, 16, 3), np.uint8)


@pytest.fixture
def restore(stage: Stage) -> Restore:
    return Restore(stage.page, stage.form)


def recipe(**fields: Any) -> dict[str, Any]:
    request = Request.parse({"picture": "/home/me/in.png", **FIELDS, **fields})
    return {"version": "0.1.0", "checkpoint": f"pocket {HOSTILE}", "request": request.recipe.model_dump()}


def our_video(folder: Path, **fields: Any) -> str:
    write_segment(folder / "segment.mp4", PIXELS[None], 30, 30)
    join_segments([folder / "segment.mp4"], folder / "found.mp4", as_comment(recipe(**fields)), 30)
    return str(folder / "found.mp4")


def our_picture(folder: Path) -> str:
    write_png(folder / "found.png", PIXELS, recipe())
    return str(folder / "found.png")


def studio_file(folder: Path, **changes: Any) -> str:
    path = folder / "found.json"
    path.write_text(json.dumps({**STUDIO, **changes}), encoding="utf-8")
    return str(path)


def read(restore: Restore, stage: Stage, path: str, language: str = "en") -> tuple[Found, Seen]:
    found, shown = restore.read(path, language, None, *stage.values(prompt="older", seed=1))
    assert found is not None, shown
    return found, Seen(shown)


def rows(seen: Seen) -> list[str]:
    return [str(box["data-field"]) for box in seen.all("input")]


def test_a_video_is_compared_field_by_field(stage: Stage, restore: Restore) -> None:
    _, seen = read(restore, stage, our_video(stage.folder))
    assert rows(seen) == ["prompt", "seed", "seconds", "steps", "kind"]
    assert all("checked" in box and box["aria-label"] for box in seen.all("input"))
    for told in ("older", "the wave", str(2**63 - 1), "In the form", "In the file", "made with pocket", "found.mp4"):
        assert told in seen.text
    assert "start picture is not in the file" in seen.text
    assert [button["data-act"] for button in seen.all("button")] == ["some", "prompt", "seed"]


@pytest.mark.parametrize(
    ("act", "ticked", "taken"),
    [
        ("some", EVERYTHING, {"prompt", "seed", "seconds", "steps", "kind"}),
        ("prompt", "seed steps", {"prompt"}),
        ("seed", "", {"seed"}),
        ("some", "steps seconds", {"steps", "seconds"}),
        ("some", "steps lora __class__", {"steps"}),
    ],
)
def test_only_what_was_chosen_gets_into_the_form(
    stage: Stage, restore: Restore, act: str, ticked: str, taken: set[str]
) -> None:
    found, _ = read(restore, stage, our_video(stage.folder))
    answer = restore.take(found, "en", None, click(act, value=ticked))
    before = dict(zip(NAMES, stage.values(prompt="older", seed=1), strict=True))
    changed = {name for name, value in stage.filled(answer).items() if value != before[name]}
    assert changed == taken
    assert tab_of(answer) == "generate"


def test_the_taken_form_is_the_request_that_made_the_video(stage: Stage, restore: Restore) -> None:
    found, _ = read(restore, stage, our_video(stage.folder))
    values = {
        **dict(zip(NAMES, stage.values(), strict=True)),
        **stage.filled(restore.take(found, "en", None, click("some", value=EVERYTHING))),
    }
    request = stage.form.request_of([*{**values, "picture": "p.png"}.values()])
    assert request.recipe.model_dump() == recipe()["request"]


@pytest.mark.parametrize("ticked", ["", "lora"])
def test_nothing_ticked_is_told(stage: Stage, restore: Restore, ticked: str) -> None:
    found, _ = read(restore, stage, our_video(stage.folder))
    with pytest.raises(UnusableInput, match="nothing is ticked"):
        restore.take(found, "en", None, click("some", value=ticked))
    with pytest.raises(UnusableInput):
        restore.take(None, "en", None, click("some", value=EVERYTHING))


@pytest.mark.parametrize("language", LANGUAGES)
def test_why_a_file_cannot_be_used_is_in_the_language_of_the_page(
    stage: Stage, restore: Restore, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = Message("preset_error.other_program")

    def refuse(path: Path) -> None:
        raise UnusableInput(why)

    monkeypatch.setattr(restore_tab, "recall", refuse)
    found, shown = restore.read(our_picture(stage.folder), language, None, *stage.values())
    assert found is None
    assert Texts(language).said(why) in shown


def test_our_picture_is_itself_the_start_picture(stage: Stage, restore: Restore) -> None:
    path = our_picture(stage.folder)
    found, seen = read(restore, stage, path)
    assert rows(seen)[0] == "picture"
    assert "none yet" in seen.text
    assert [image["src"] for image in seen.all("img")] == [f"gradio_api/file={path}"]
    assert stage.filled(restore.take(found, "en", None, click("some", value=EVERYTHING)))["picture"] == path
    assert "picture" not in stage.filled(restore.take(found, "en", None, click("some", value="seed")))


def test_a_video_made_here_brings_the_picture_of_its_job(stage: Stage, restore: Restore) -> None:
    job = stage.ended("done")
    copy = stage.folder / "uploads" / stage.queue.result(job.id).name
    copy.parent.mkdir()
    write_segment(stage.folder / "segment.mp4", PIXELS[None], 30, 30)
    join_segments([stage.folder / "segment.mp4"], copy, as_comment(recipe()), 30)
    found, _ = read(restore, stage, str(copy))
    assert not found.picture
    stage.queue.result(job.id).write_bytes(copy.read_bytes())
    found, seen = read(restore, stage, str(copy))
    assert rows(seen)[0] == "picture"
    assert seen.all("img")[-1]["src"] == f"media/{job.id}/thumb.png"
    taken = stage.filled(restore.take(found, "en", None, click("some", value=EVERYTHING)))
    assert taken["picture"] == str(stage.queue.picture(job.id))


def test_a_peers_picture_path_is_no_picture(stage: Stage, restore: Restore) -> None:
    found, seen = read(restore, stage, studio_file(stage.folder, input_image_path="/etc/passwd", picture="/etc/passwd"))
    assert "picture" not in rows(seen)
    assert "picture" not in stage.filled(restore.take(found, "en", None, click("some", value=EVERYTHING)))
    assert "input_image_path" in seen.text
    assert "/etc/passwd" not in seen.text


def test_what_does_not_fit_is_told_and_not_offered(stage: Stage, restore: Restore) -> None:
    found, seen = read(restore, stage, studio_file(stage.folder, total_second_length=300, loras={"a": 1}))
    assert "seconds" not in rows(seen)
    assert "300" in seen.text
    assert "from 1 to 120" in seen.text
    assert "made with LoRAs" in seen.text
    assert "blend_sections" in seen.text
    assert "seconds" not in stage.filled(restore.take(found, "en", None, click("some", value=EVERYTHING)))


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", "Length in seconds: 300 (Give a number from 1 to 120.)"),
        ("ja", "長さ（秒）: 300 (1 から 120 までの数を入力してください。)"),
        ("zh", "时长（秒）: 300 (请输入 1 到 120 之间的数字。)"),
    ],
)
def test_why_a_value_is_not_taken_is_in_the_language_of_the_page(
    stage: Stage, restore: Restore, language: str, told: str
) -> None:
    path = stage.folder / "found.json"
    path.write_text(json.dumps({**recipe()["request"], "seconds": 300, "kind": {"name": "later"}}), encoding="utf-8")
    _, seen = read(restore, stage, str(path), language)
    assert told in seen.text
    assert "(kind: 'later' is not allowed; give 'framepack' or " in seen.text, "no word of this checkpoint"


def test_a_size_of_another_checkpoint_is_told_and_not_taken(stage: Stage, restore: Restore) -> None:
    found, seen = read(restore, stage, our_video(stage.folder, size="640x640"))
    assert "size" not in rows(seen)
    assert "640x640 is not made by this checkpoint" in seen.text
    assert "size" not in stage.filled(restore.take(found, "en", None, click("some", value=EVERYTHING)))


def test_the_same_settings_need_no_choice(stage: Stage, restore: Restore) -> None:
    path = our_video(stage.folder)
    _, shown = restore.read(path, "en", None, *stage.values(**FIELDS, kind="framepack"))
    assert "has all these settings already" in shown
    assert Seen(shown).all("button") == []


def test_the_comparison_follows_the_form(stage: Stage, restore: Restore) -> None:
    found, _ = read(restore, stage, our_video(stage.folder))
    later = Seen(restore.compare(found, "en", None, *stage.values(**{**FIELDS, "steps": 12})))
    assert rows(later) == ["steps", "kind"]
    assert restore.compare(None, "en", None, *stage.values()) == ""


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_hostile_file_is_shown_as_text(stage: Stage, restore: Restore, language: str) -> None:
    keys = {f"<b>{HOSTILE}": 1, **{f"key{number}": HOSTILE for number in range(500)}}
    hostile = {"prompt": HOSTILE, "gs": HOSTILE, "model_type": HOSTILE, **keys}
    for path in (our_video(stage.folder), studio_file(stage.folder, **hostile)):
        _, seen = read(restore, stage, path, language)
        assert HOSTILE in seen.text
        assert "img" not in {tag for tag, _ in seen.tags}
        assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
        assert len(seen.text) < 10_000


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"[" * 100_000, b'{"framepack_preset": 2}', b"x" * 2_000_000],
)
def test_a_file_that_cannot_be_used_says_why_and_replaces_the_last_one(
    stage: Stage, restore: Restore, content: bytes
) -> None:
    path = stage.folder / "<b>strange.png"
    path.write_bytes(content)
    found, shown = restore.read(str(path), "en", None, *stage.values())
    assert found is None
    assert "<b>strange.png" in Seen(shown).text
    assert "alert" in str(Seen(shown).tags[0])


def test_a_cleared_file_clears_the_comparison(stage: Stage, restore: Restore) -> None:
    assert restore.read(None, "en", None, *stage.values()) == (None, "")


def test_the_tab_wires_private_events_only(stage: Stage) -> None:
    with stage.page.blocks:
        build(stage.page, stage.form)
    events = stage.page.blocks.fns.values()
    assert events
    assert all(event.api_visibility == "private" for event in events)
