"""Two jobs side by side: when they are shown, what is said of each, and why they are not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import InvalidCommand
from diffusers_helper.events import Finished, Plan
from diffusers_helper.jobs.job import Job, State
from diffusers_helper.media.likeness import Likeness
from diffusers_helper.ui import acts, fragments, fragments_queue, recent
from diffusers_helper.ui.commands import Commands
from diffusers_helper.ui.comparison import Pair, comparison, pair_of
from diffusers_helper.ui.fragments_queue import Wish
from diffusers_helper.ui.likenesses import Found, Likenesses
from diffusers_helper.ui.starting import Starting
from diffusers_helper.words import LANGUAGES, Message, Texts

from ..jobs_support import make_picture, make_request, wait_until
from .serving import make_video
from .stage import Stage
from .test_fragments import Parts
from .test_queue_tab import press

EN = Texts("en")


def finished(stage: Stage, job: Job, folder: Path, **totals: Any) -> Job:
    """The queued job, done with a video of five frames."""
    assert stage.queue.claim() == stage.queue.job(job.id)
    folder.mkdir(exist_ok=True)
    video = make_video(folder / f"{job.id}.mp4")
    shape = {"frames": 5, "fps": 30, "width": 64, "height": 64}
    stage.queue.record(job.id, Plan(checkpoint="scripted", kind="f1", sections=1, steps=25, seconds=0.2, **shape))
    return stage.queue.end(job.id, Finished(path=str(video), **{**shape, **totals}), "done")


REUSED = {"steps_computed": 12, "steps_reused": 13, "seconds_sampling": 13.3, "seconds_reused": 1.3}


@pytest.fixture
def pair(stage: Stage) -> tuple[Job, Job]:
    """A job and its twin, both done; the one of the cache first."""
    one, other = stage.queue.add_twins(make_request(make_picture(stage.folder), prompt="<b>a wave</b>"))
    outputs = stage.folder / "outputs"
    finished(stage, one, outputs, seconds_total=20.0, seconds_first_step=1.0, **REUSED)
    finished(stage, other, outputs, seconds_total=65.0, steps_computed=25)
    return stage.queue.job(one.id), stage.queue.job(other.id)


def measured(stage: Stage) -> None:
    wait_until(lambda: stage.context.likenesses.found, "the likeness")


def test_both_are_shown_side_by_side_with_what_each_took(stage: Stage, pair: tuple[Job, Job]) -> None:
    one, other = pair
    fragments.render(stage.context, "en", Wish(show=one.id))
    measured(stage)
    shown = fragments.render(stage.context, "en", Wish(show=one.id))
    videos = [found["src"] for tag, found in Parts(shown["video"]).tags if tag == "video"]
    assert videos == [f"media/{job.id}/video.mp4?v=5" for job in pair]
    captions = Parts(shown["video"]).text
    assert f"Job {one.id}: step cache auto, balanced" in captions
    assert f"Job {other.id}: every step computed" in captions
    assert 'data-default="compare"' in shown["views"]
    told = Parts(shown["comparison"]).text
    for words in ("20 s", "1 min 5 s", "13 of 25 steps reused, about 1.9 times faster", "All pixels are the same."):
        assert words in told


def test_from_the_twin_s_side_the_same_is_said_of_the_same_files(stage: Stage, pair: tuple[Job, Job]) -> None:
    """Asked from both sides, they are compared once."""
    one, other = pair
    for job in (one, other, one):
        fragments.render(stage.context, "en", Wish(show=job.id))
        measured(stage)
    assert stage.context.likenesses.found == 1
    shown = [Parts(fragments.render(stage.context, "en", Wish(show=job.id))["comparison"]).text for job in pair]
    assert f"Job {one.id}Job {other.id}" in shown[0]
    assert f"Job {other.id}Job {one.id}" in shown[1], "the one on the stage stands on the left, as on the screen"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, "alike_measuring"),
        (Likeness(float("inf"), 1.0), "alike_same"),
        (Message("video.other_length", frames=5, other=7), ""),
        (Likeness(34.16, 0.9534), ""),
    ],
)
def test_how_alike_they_are_is_told_once_it_is_known(
    pair: tuple[Job, Job], language: str, found: Found, told: str
) -> None:
    texts = Texts(language)
    words = Parts(comparison(Pair(*pair, found), texts)).text
    if isinstance(found, Message):
        assert texts.said(found) in words
    else:
        assert (texts(f"job.{told}") if told else texts("job.alike", psnr="34.2", ssim="0.953")) in words


HINDRANCES: dict[str, Callable[[Job], Job | None]] = {
    "Job 2 has been deleted": lambda twin: None,
    "Job 2 is queued; both videos": lambda twin: replace(twin, state="queued"),
    "Job 2 is running; both videos": lambda twin: replace(twin, state="running"),
    "Job 2 is failed, so there is no whole video": lambda twin: replace(twin, state="failed"),
    "Job 2 is cancelled, so": lambda twin: replace(twin, state="cancelled"),
    "Job 2 is interrupted, so": lambda twin: replace(twin, state="interrupted"),
    "different sizes or lengths, 64 × 64 with 5 frames and 64 × 64 with 9 frames": lambda twin: replace(
        twin,
        progress=replace(twin.progress, playable=replace(twin.progress.ended, frames=9)),  # type: ignore[type-var]
    ),
}


@pytest.mark.parametrize("why", HINDRANCES)
def test_what_cannot_be_compared_says_why(pair: tuple[Job, Job], why: str) -> None:
    one = replace(pair[0], twin=2)
    twin = HINDRANCES[why](replace(pair[1], id=2))
    shown = Pair(one, twin)
    assert not shown.is_shown
    parts = Parts(comparison(shown, EN))
    assert why in parts.text
    acts_offered = [found.get("data-act") for tag, found in parts.tags if tag == "button"]
    waits = twin is not None and twin.state in ("queued", "running")
    assert acts_offered == ([] if waits else ["compare"])


def test_a_video_that_has_gone_is_said_to_be(stage: Stage, pair: tuple[Job, Job]) -> None:
    one, other = pair
    Path(other.progress.video or "").unlink()
    shown = fragments.render(stage.context, "en", Wish(show=one.id))
    assert f"The video of job {other.id} is not in its folder any more." in Parts(shown["comparison"]).text
    assert "twin" not in shown["video"]


def test_a_job_that_is_compared_with_none_says_nothing(stage: Stage) -> None:
    job = stage.ended()
    assert pair_of(job, stage.queue.jobs(), stage.context.likenesses) is None
    assert fragments.render(stage.context, "en")["comparison"] == ""


def test_twins_say_so_in_queue_history_and_among_the_last_results(stage: Stage, pair: tuple[Job, Job]) -> None:
    one, other = pair
    three, four = stage.queue.add_twins(one.request)
    shown = fragments_queue.render(stage.context, EN)
    assert f"compared with #{four.id}" in shown["queue"]
    assert f"compared with #{three.id}" in shown["queue"]
    assert f"compared with #{other.id}" in shown["history"]
    assert f"compared with #{other.id}" in recent.recent(stage.queue.jobs(), three, EN)


def offered(job: Job) -> list[str]:
    return [offer.act for offer in acts.offers(job, EN)]


def test_a_finished_job_is_compared_by_a_click(stage: Stage) -> None:
    job = stage.ended()
    assert "compare" in offered(job)
    press(Commands(stage.page, stage.form), "compare", job.id)
    twin = stage.queue.job(stage.queue.job(job.id).twin)
    assert (twin.state, twin.request.step_cache, twin.twin) == ("queued", None, job.id)
    assert "compare" not in offered(stage.queue.job(job.id))


@pytest.mark.parametrize("state", ["failed", "cancelled", "interrupted"])
def test_an_unfinished_job_is_not_compared(stage: Stage, state: State) -> None:
    job = stage.ended(state)
    assert "compare" not in offered(job)
    with pytest.raises(InvalidCommand, match="only finished jobs"):
        press(Commands(stage.page, stage.form), "compare", job.id)


@pytest.mark.parametrize(("cache", "other"), [("teacache", None), ("off", "auto")])
def test_the_form_asks_for_two_jobs(stage: Stage, cache: str, other: str | None) -> None:
    shown = stage.values(picture=str(make_picture(stage.folder)), step_cache=cache, seed=-1)
    said, refused = Starting(stage.context, stage.form).compare("en", None, *shown)
    one, two = stage.queue.jobs()
    assert one.request.seed == two.request.seed >= 0
    assert getattr(two.request.step_cache, "name", None) == other
    assert f"Jobs {one.id} and {two.id} are in the queue" in said
    assert '"fields": {}' in refused


def test_what_is_wrong_with_the_form_stands_at_its_field(stage: Stage) -> None:
    said, refused = Starting(stage.context, stage.form).compare("en", None, *stage.values())
    assert said == ""
    assert "picture" in refused
    assert stage.queue.jobs() == []


def test_nobody_waits_for_a_likeness(tmp_path: Path) -> None:
    """It is measured once, and again when a file has changed; an error of whatever kind becomes words."""
    go, asked = threading.Event(), []

    def slow(one: Path, other: Path) -> Likeness:
        asked.append((one.name, other.name))
        assert go.wait(60)
        if one == other:
            raise RuntimeError("a bug")
        return Likeness(30.0, 0.9)

    likenesses = Likenesses(slow)
    one, other = tmp_path / "a", tmp_path / "b"
    for file in (one, other):
        file.write_bytes(b"film")
    assert likenesses.of(one, other) is likenesses.of(one, other) is likenesses.of(one, one) is None
    go.set()
    wait_until(lambda: likenesses.found == 2)
    assert likenesses.of(one, other) == Likeness(30.0, 0.9)
    broken = likenesses.of(one, one)
    assert isinstance(broken, Message)
    assert "a bug" in str(broken)
    other.write_bytes(b"another film")
    assert likenesses.of(one, other) is None
    wait_until(lambda: likenesses.found == 3)
    assert asked == [("a", "b"), ("a", "a"), ("a", "b")]
    with pytest.raises(OSError, match="gone"):
        likenesses.of(one, tmp_path / "gone")
