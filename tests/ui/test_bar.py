"""The bar over the whole job, and what the script counts on with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffusers_helper.jobs.job import ENDED, Job, State
from diffusers_helper.ui import bar, fragments
from diffusers_helper.words import LANGUAGES, Texts

from .test_fragments import Parts, make_job


def job_told(seconds_left: float | None = 60.0, state: State = "running") -> Job:
    """Begun at 1000, told at 1020."""
    job = make_job(state, told={"seconds_left": seconds_left, "told_at": 1020.0})
    return replace(job, started_at=1000.0)


def test_a_running_job_has_a_bar_that_stays_in_place() -> None:
    """The script moves it; a new one at every step would jump."""
    ((_, first), *_) = Parts(bar.bar(job_told(), Texts("en"))).tags
    assert (first["role"], first["aria-valuemin"], first["aria-valuemax"]) == ("progressbar", "0", "100")
    assert first["aria-label"] == "How much of job 1 is done"
    assert bar.bar(job_told(50.0), Texts("en")) == bar.bar(job_told(), Texts("en"))


@pytest.mark.parametrize("state", ENDED)
def test_a_job_that_does_not_run_has_none_and_tells_no_time(state: State) -> None:
    assert bar.bar(job_told(state=state), Texts("en")) == ""
    told = bar.clock(job_told(state=state), Texts("en"))
    assert (told["ready_at"], told["fraction"], told["state_word"]) == (None, None, state)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_script_is_told_when_the_video_is_ready(language: str) -> None:
    told = bar.clock(job_told(), Texts(language))
    assert (told["told_at"], told["ready_at"], told["fraction"]) == (1020.0, 1080.0, 0.25)
    assert told["state_word"] == Texts(language)("job.state_running")


def test_as_long_as_nothing_is_known_it_says_so() -> None:
    shown = fragments.headline(job_told(None), Texts("en"))
    assert "measuring how long it takes" in shown
    assert "data-clock" not in shown
    assert bar.clock(job_told(None), Texts("en"))["ready_at"] is None
    assert 'data-clock="left">about 1 min 0 s left' in fragments.headline(job_told(), Texts("en"))
