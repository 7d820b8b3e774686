"""A job that cannot be read, on the page and for programs: its reason, and how it is deleted and brought back."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import InvalidCommand
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.store import FILE
from diffusers_helper.ui import fragments
from diffusers_helper.ui.api import endpoints
from diffusers_helper.ui.commands import Commands
from diffusers_helper.words import LANGUAGES, Texts

from ..jobs_support import make_picture, make_request
from .stage import HOSTILE, Stage, make_stage
from .test_fragments_queue import Seen
from .test_queue_tab import press

BROKEN = 2


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A page over a queue of three jobs, of which the second cannot be read."""
    queue = JobQueue(tmp_path / "outputs")
    for prompt in "abc":
        queue.add(make_request(make_picture(tmp_path), prompt=prompt))
    queue.close()
    change_row(tmp_path, "request = json_set(request, '$.kind', ?)", HOSTILE)
    return make_stage(tmp_path)


def change_row(folder: Path, change: str, *values: str) -> None:
    with closing(sqlite3.connect(folder / "outputs" / ".framepack" / FILE)) as file:
        file.execute(f"UPDATE job SET {change} WHERE id = ?", (*values, BROKEN))  # noqa: S608
        file.commit()


def shown(stage: Stage, language: str = "en") -> Mapping[str, str]:
    return fragments.render(stage.context, language)


def acts(content: str) -> list[str]:
    """What can be done with the job that cannot be read."""
    buttons = Seen(content).all("button")
    return [str(button["data-act"]) for button in buttons if button.get("data-job") == str(BROKEN)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_queue_shows_it_with_its_reason_and_the_others_beside(stage: Stage, language: str) -> None:
    content = shown(stage, language)["queue"]
    seen = Seen(content)
    assert Texts(language)("queue.unreadable", job=BROKEN) in seen.text
    assert "kind: " in seen.text
    assert HOSTILE[:20] in seen.text
    assert acts(content) == ["trash"]
    assert [image["src"][:8] for image in seen.all("img") if image["src"]] == ["media/1/", "media/3/"]


NO_TIME = {"en": "-1.0 is no time", "ja": "-1.0 は時刻ではありません", "zh": "-1.0 不是时间"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_reason_of_ours_is_in_the_language_of_the_page(stage: Stage, language: str) -> None:
    """Programs are told it in English."""
    stage.queue.close()
    change_row(stage.folder, "created_at = -1.0")
    opened = make_stage(stage.folder)
    assert NO_TIME[language] in Seen(shown(opened, language)["queue"]).text
    assert opened.queue.snapshot(BROKEN)["error"] == "created_at: -1.0 is no time"


def test_no_other_part_of_the_page_shows_it(stage: Stage) -> None:
    others = {name: content for name, content in shown(stage).items() if name != "queue"}
    assert [name for name, content in others.items() if acts(content) or f"media/{BROKEN}/" in content] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_deleted_and_brought_back(stage: Stage, language: str) -> None:
    commands, before = Commands(stage.page, stage.form), shown(stage, language)["queue"]
    press(commands, "trash", BROKEN)
    content = shown(stage, language)
    assert (acts(content["queue"]), acts(content["undo"])) == ([], ["undo"])
    assert Texts(language)("queue.unreadable", job=BROKEN) in Seen(content["undo"]).text
    press(commands, "undo", BROKEN)
    assert (shown(stage, language)["queue"], shown(stage, language)["undo"]) == (before, "")


@pytest.mark.parametrize("act", ["up", "next", "cancel", "edit", "duplicate", "retry", "go_on", "use", "again", "show"])
def test_a_click_that_asks_for_more_is_refused(stage: Stage, act: str) -> None:
    with pytest.raises(InvalidCommand, match="job 2 cannot be read and can only be deleted: kind: "):
        press(Commands(stage.page, stage.form), act, BROKEN)
    assert [each.id for each in stage.queue.unreadable] == [BROKEN]


def test_programs_are_told_of_it(stage: Stage, tmp_path: Path) -> None:
    called: Mapping[str, Any] = endpoints(stage.context, tmp_path)
    told = called["status"](BROKEN)
    assert (told["id"], told["state"]) == (BROKEN, "unreadable")
    assert told["error"].startswith("kind: ")
    assert [(one["id"], one["state"]) for one in called["list"]()] == [
        (1, "queued"),
        (3, "queued"),
        (BROKEN, "unreadable"),
    ]
    for name in ("cancel", "result"):
        with pytest.raises(InvalidCommand, match="cannot be read"):
            called[name](BROKEN)
