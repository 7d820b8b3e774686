"""Queue and history as people see them: what is listed, which buttons there are, and users' words are never HTML."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from diffusers_helper.events import Cancelled, Started
from diffusers_helper.jobs.job import Job
from diffusers_helper.ui import fragments_queue
from diffusers_helper.ui.fragments_queue import MOST, STEP, Wish
from diffusers_helper.words import LANGUAGES, Texts, plain

from .stage import HOSTILE, Stage

VOID = {"img", "input", "path"}


class Seen(HTMLParser):
    """What a browser makes of a fragment: its text, its buttons, every attribute; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", list[str]()
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    def acts(self, job: Job | None = None, usable: bool = True) -> list[str]:
        return [
            str(attributes["data-act"])
            for tag, attributes in self.tags
            if tag == "button"
            and "data-act" in attributes
            and attributes["data-job"] == str(job.id if job else 0)
            and ("disabled" not in attributes) == usable
        ]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def queue(stage: Stage, language: str = "en") -> Seen:
    return Seen(fragments_queue.render(stage.context, Texts(language))["queue"])


def history(stage: Stage, wish: Wish | None = None, language: str = "en") -> Seen:
    return Seen(fragments_queue.render(stage.context, Texts(language), wish)["history"])


def test_an_empty_page_says_what_to_do(stage: Stage) -> None:
    assert "Generate tab" in queue(stage).text
    assert "will be kept here" in history(stage).text
    assert queue(stage).acts() == ["pause"]


def test_waiting_jobs_can_be_moved_where_there_is_room(stage: Stage) -> None:
    first, middle, last = (stage.add(prompt) for prompt in "abc")
    seen = queue(stage)
    assert seen.acts(first) == ["down", "edit", "duplicate", "remove"]
    assert seen.acts(first, usable=False) == ["up", "next"]
    assert seen.acts(middle) == ["up", "down", "next", "edit", "duplicate", "remove"]
    assert seen.acts(last, usable=False) == ["down"]
    assert "3 waiting" in seen.text
    assert all(button["type"] == "button" for button in seen.all("button"))


def test_every_drawn_button_has_a_name(stage: Stage) -> None:
    job = stage.add("a")
    drawn = [button for button in queue(stage).all("button") if "q-icon" in str(button["class"])]
    assert len(drawn) == 6
    assert all(f"job {job.id}" in str(button["aria-label"]).lower() for button in drawn)


def test_the_running_job_offers_three_stops_until_one_is_asked_for(stage: Stage) -> None:
    job = stage.add("a")
    stage.queue.claim()
    stops = [button["data-value"] for button in queue(stage).all("button") if button["data-act"] == "stop"]
    assert stops == ["now", "section", "nothing"]
    stage.queue.cancel(job.id, "section")
    assert queue(stage).acts(job) == []
    assert "after this section" in queue(stage).text


def test_what_goes_on_can_be_taken_back_without_loss(stage: Stage) -> None:
    stopped = stage.ended("cancelled")
    stage.queue.go_on(stopped.id)
    assert "goes on after section 1" in queue(stage).text
    assert "cancel" in queue(stage).acts(stopped)
    assert not {"remove", "edit"} & set(queue(stage).acts(stopped))


def test_the_head_offers_what_would_help(stage: Stage) -> None:
    stage.ended("failed")
    stage.ended("interrupted")
    stage.queue.pause()
    seen = queue(stage)
    assert seen.acts() == ["unpause", "go_on_all", "retry_failed"]
    assert "is paused" in seen.text


def test_notices_of_the_queue_are_shown(stage: Stage) -> None:
    seen = Seen(fragments_queue.queue([], False, [plain(f"damaged {HOSTILE}")], Texts(), Wish()))
    assert f"damaged {HOSTILE}" in seen.text


def test_a_finished_video_can_be_watched_and_used(stage: Stage) -> None:
    job = stage.ended("done")
    seen = history(stage)
    (film,) = [button for button in seen.all("button") if "data-film" in button]
    assert film["data-film"] == f"media/{job.id}/video.mp4?v=5"
    assert film["data-wish"] == f"show={job.id}", "a click shows it on the stage"
    assert [picture["src"] for picture in seen.all("img")] == [f"media/{job.id}/poster.jpg?v=5"]
    assert [link["href"] for link in seen.all("a") if "download" in link] == [f"media/{job.id}/video.mp4?v=5"]
    assert seen.acts(job) == ["show", "again", "compare", "last_frame", "use", "trash", "open_folder", "remove"]
    assert "1 min 5 s" in seen.text
    assert stage.queue.result(job.id).parent.name in seen.text


def test_an_unfinished_job_shows_what_it_has_and_what_can_be_done(stage: Stage) -> None:
    failed = stage.ended("failed", sections_done=0)
    kept = stage.ended("cancelled")
    seen = history(stage)
    assert seen.acts(failed) == ["go_on", "use", "trash", "remove"]
    assert seen.acts(kept) == ["show", "go_on", "retry", "last_frame", "use", "trash", "open_folder", "remove"]
    assert "No section was finished" in seen.text
    assert f"it broke {HOSTILE}" in seen.text


def test_what_was_deleted_can_be_brought_back(stage: Stage) -> None:
    job = stage.ended("done", prompt=HOSTILE)
    stage.queue.trash(job.id)
    seen = Seen(fragments_queue.render(stage.context, Texts())["undo"])
    assert seen.acts(job) == ["undo"]
    assert HOSTILE in seen.text
    stage.queue.restore(job.id)
    assert fragments_queue.render(stage.context, Texts())["undo"] == ""


def test_a_discarded_job_says_so(stage: Stage) -> None:
    job = stage.add()
    stage.queue.claim()
    work = stage.folder / "outputs" / "day" / "work"
    work.mkdir(parents=True)
    (work / "job.json").write_text("{}")
    stage.queue.record(job.id, Started(folder=str(work), seed=1, sections_done=0))
    stage.queue.cancel(job.id, "nothing")
    stage.queue.end(job.id, Cancelled(folder=str(work)), "cancelled")
    never = stage.add()
    stage.queue.cancel(never.id)
    assert "Discarded." in history(stage).text
    assert "It had not begun." in history(stage).text
    assert "No section was finished" not in history(stage).text


def test_a_waiting_job_says_what_its_length_becomes(stage: Stage) -> None:
    job = stage.add(seconds=2.0)
    assert "2.4 s" in Seen(fragments_queue.queue([job], False, [], Texts(), Wish())).text


def test_a_video_that_is_gone_is_told(stage: Stage) -> None:
    job = stage.ended("done")
    stage.queue.result(job.id).unlink()
    seen = history(stage)
    assert not [button for button in seen.all("button") if "data-film" in button]
    assert "not in its folder any more" in seen.text
    assert "last_frame" not in seen.acts(job)


def test_what_cannot_be_undone_asks_first(stage: Stage) -> None:
    stage.ended("cancelled")
    stage.add("b")
    stage.queue.claim()
    stage.add("c")
    asked = {
        (button["data-act"], button.get("data-value"))
        for button in (*queue(stage).all("button"), *history(stage).all("button"))
        if button.get("data-confirm")
    }
    assert asked == {("stop", "nothing"), ("remove", None), ("retry", None)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_that_users_wrote_becomes_html(stage: Stage, language: str) -> None:
    stage.ended("failed", prompt=HOSTILE)
    stage.ended("done", prompt=HOSTILE)
    stage.add(HOSTILE)
    stage.queue.claim()
    stage.add(HOSTILE)
    for seen in (queue(stage, language), history(stage, None, language)):
        assert HOSTILE in seen.text
        assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
        sources = [str(attributes["src"]) for _, attributes in seen.tags if "src" in attributes]
        assert all(re.fullmatch(r"media/\d+/(thumb\.png|poster\.jpg)\?v=\w+", source) for source in sources)


def test_the_filter(stage: Stage) -> None:
    stage.ended("done", prompt="The SEA at night", seed=31337)
    stage.ended("failed", prompt="a cat")

    def found(**wish: str) -> list[str]:
        shown = fragments_queue.history(stage.queue.jobs(), Texts(), Wish.of(wish))
        return [prompt for prompt in ("The SEA at night", "a cat") if prompt in shown]

    assert found() == ["The SEA at night", "a cat"]
    assert found(find="night sea") == ["The SEA at night"]
    assert found(find="31337") == ["The SEA at night"]
    assert found(find="#2") == ["a cat"]
    assert found(state="failed") == ["a cat"]
    assert found(state="failed", find="sea") == []
    assert found(state="running") == ["The SEA at night", "a cat"]
    assert "matches the filter" in history(stage, Wish(find="dog")).text


@pytest.mark.parametrize("count", ["", "0", "-5", "x", "²", "9" * 400, "1e9", "None"])
def test_a_strange_wish_is_bounded(count: str) -> None:
    wish = Wish.of({"count": count, "find": "x" * 9_999, "state": "'; drop"})
    assert STEP <= wish.count <= MOST
    assert (len(wish.find), wish.state) == (200, "")


def many(job: Job, count: int) -> Sequence[Job]:
    return [replace(job, id=number) for number in range(1, count + 1)]


def test_five_hundred_jobs_are_quick_and_shown_in_parts(stage: Stage) -> None:
    ended, waits = stage.ended("failed", prompt="x"), stage.add("waits")
    jobs = [*many(waits, 250), *many(ended, 250)]
    begun = time.thread_time()
    waiting = fragments_queue.queue(jobs, False, [], Texts(), Wish())
    first = fragments_queue.history(jobs, Texts(), Wish())
    assert time.thread_time() - begun < 0.1
    for shown, wish in ((waiting, "waiting"), (first, "count")):
        assert len(Seen(shown).all("li")) == STEP
        assert f'data-wish="{wish}=48"' in shown
        assert "24 of 250" in Seen(shown).text
    assert len(Seen(fragments_queue.queue(jobs, False, [], Texts(), Wish(waiting=264))).all("li")) == 250
    assert 'data-wish="count' not in fragments_queue.history(jobs, Texts(), Wish(count=264))
