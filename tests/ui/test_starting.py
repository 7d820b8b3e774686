"""Start, the mode in which a queued job is edited, and what both say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from diffusers_helper.errors import InvalidCommand, OutputFailed
from diffusers_helper.ui.page import user_errors
from diffusers_helper.ui.starting import NOTHING_WRONG, Starting, connect, mode_bar, start_row
from diffusers_helper.words import LANGUAGES, Texts

from ..jobs_support import make_picture
from .stage import Stage, answer


@pytest.fixture
def starting(stage: Stage) -> Starting:
    return Starting(stage.context, stage.form)


def picture_of(stage: Stage, job: int) -> str:
    return str(stage.queue.picture(job))


def test_start_adds_a_job_and_says_where_it_stands(stage: Stage, starting: Starting) -> None:
    picture = picture_of(stage, stage.add().id)
    assert starting.add("en", "scripted", *stage.values(picture=picture, prompt="second")) == (
        '<span data-job="2">Job 2 is number 2 in the queue.</span>',
        NOTHING_WRONG,
    )
    assert [job.request.prompt for job in stage.queue.jobs()] == ["a wave", "second"]


def test_the_place_is_the_one_that_the_queue_s_tab_shows(stage: Stage, starting: Starting) -> None:
    """The running job has no place there."""
    picture = picture_of(stage, stage.add().id)
    stage.queue.claim()
    assert "Job 2 is number 1 in the queue." in starting.add("en", "scripted", *stage.values(picture=picture))[0]


def test_the_only_job_starts_now(stage: Stage, starting: Starting) -> None:
    picture = picture_of(stage, stage.ended().id)
    assert "Job 2 starts now." in starting.add("en", "scripted", *stage.values(picture=picture))[0]


def test_start_in_a_paused_queue_says_that_it_waits(stage: Stage, starting: Starting) -> None:
    stage.queue.pause()
    picture = picture_of(stage, stage.add().id)
    assert "paused" in starting.add("en", "scripted", *stage.values(picture=picture))[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_start_without_a_picture_points_at_it_and_adds_nothing(stage: Stage, starting: Starting, language: str) -> None:
    said, refused = starting.add(language, "scripted", *stage.values())
    assert (said, stage.queue.jobs()) == ("", [])
    assert json.loads(refused)["fields"] == {"picture": Texts(language)("refusal.picture_missing")}


def test_a_refusal_is_told_again_when_start_is_pressed_again(stage: Stage, starting: Starting) -> None:
    first, second = (starting.add("en", "scripted", *stage.values())[1] for _ in range(2))
    assert first != second


def test_a_picture_that_cannot_be_read_is_the_picture_s_fault(stage: Stage, starting: Starting) -> None:
    said, refused = starting.add("en", "scripted", *stage.values(picture="/nowhere/gone.png"))
    assert said == ""
    assert "gone.png" in json.loads(refused)["fields"]["picture"]


def test_an_error_is_text_and_no_markup() -> None:
    def fails() -> None:
        raise OutputFailed("no space in <img src=x>")

    with pytest.raises(gr.Error) as caught:
        user_errors(fails)()
    assert "<img" not in caught.value.message


def test_saving_changes_the_job_that_is_edited(stage: Stage, starting: Starting) -> None:
    job = stage.add()
    values = stage.values(picture=picture_of(stage, job.id), prompt="x")
    assert starting.save(job.id, "en", "scripted", *values) == (
        '<span data-job="1">Job 1 is changed.</span>',
        NOTHING_WRONG,
        0,
    )
    assert stage.queue.job(job.id).request.prompt == "x"
    assert len(stage.queue.jobs()) == 1


def test_what_cannot_be_saved_stays_in_the_mode(stage: Stage, starting: Starting) -> None:
    job = stage.add()
    said, refused, editing = starting.save(
        job.id, "en", "scripted", *stage.values(picture=picture_of(stage, job.id), steps=7)[:-1], 0
    )
    assert (said, list(json.loads(refused)["fields"]), editing) == ("", ["preserved_memory_gb"], gr.skip())
    assert stage.queue.job(job.id).request.steps == 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_another_language_says_the_mode_anew_and_what_is_past_no_more(stage: Stage, language: str) -> None:
    with stage.page.blocks:
        row = start_row(stage.page, mode_bar())
        connect(stage.page, stage.form, row, gr.Button())
    shown = {stage.form.editing: 7, stage.page.language: language, row.said: "Job 1 is changed."}
    said, mode = answer(stage, stage.page.spoken, "change", shown)
    assert said == ""
    for key in ("generate.editing_in_time", "generate.editing_too_late"):
        assert Texts(language)(key, job=7) in mode


def test_saving_a_job_that_has_begun_says_so(stage: Stage, starting: Starting) -> None:
    job = stage.add()
    stage.queue.claim()
    with pytest.raises(InvalidCommand, match="has begun already"):
        starting.save(job.id, "en", "scripted", *stage.values(picture=picture_of(stage, job.id)))


@pytest.mark.parametrize(("picture", "ends"), [(True, 0), (False, gr.skip())])
def test_changes_that_came_too_late_become_a_job_and_end_the_mode(
    stage: Stage, starting: Starting, picture: bool, ends: Any, tmp_path: Path
) -> None:
    given = str(make_picture(tmp_path)) if picture else None
    assert starting.add_anew("en", "scripted", *stage.values(picture=given))[2] == ends
    assert len(stage.queue.jobs()) == picture
