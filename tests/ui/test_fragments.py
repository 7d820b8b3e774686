"""The live parts: what stands in them for each state of a job, and that what users wrote is only ever text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper import doctor
from diffusers_helper.events import Finished
from diffusers_helper.jobs.job import ENDED, Job, State
from diffusers_helper.request import Request
from diffusers_helper.ui import fragments, machine, recent, screen, strips, system_tab
from diffusers_helper.ui.fragments_queue import Wish
from diffusers_helper.words import LANGUAGES, Texts
from tests.plans import plan_video

from ..jobs_support import make_picture, make_request, progress_with
from .serving import make_context, settings_for, without_checkpoint
from .stage import Stage

EN = Texts("en")
HOSTILE = "<img src=x onerror=alert(1)>\"'&<script>x</script>{seed}"


@pytest.fixture(autouse=True)
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The video of ``make_job``, where the tests stand."""
    (tmp_path / "video.mp4").touch()
    monkeypatch.chdir(tmp_path)


def make_job(
    state: State = "running", kind: str = "framepack", told: dict[str, Any] | None = None, **fields: Any
) -> Job:
    """The third of five sections is running, 14 of 25 steps are done, every second one reused."""
    request = Request.parse({"picture": "a.png", "prompt": "a wave", "seconds": 6, "kind": kind, **fields})
    said = {
        "started": True, "checkpoint": "pocket", "kind": kind, "sections": 5, "steps": 25, "frames_planned": 181,
        "fps": 30, "seconds": 6.03, "width": 160, "height": 96, "section": 3, "step": 14, "sections_done": 2,
        "computed": (True, False) * 7, "seconds_left": 84.0, "preview": "/x/preview.png", "previews": 30,
        "video": "video.mp4", "frames": 73, "seed": 5,
    }  # fmt: skip
    return Job(1, state, request, 0.0, progress=progress_with(state, **{**said, **(told or {})}))


class Parts(HTMLParser):
    """Tags, attributes and text of a fragment."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def with_class(self, name: str) -> int:
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.tags)


@pytest.mark.parametrize("language", LANGUAGES)
def test_without_a_job_it_says_how_to_begin(stage: Stage, language: str) -> None:
    shown = fragments.render(stage.context, language)
    assert Texts(language)("job.none") in shown["job"]
    assert shown["video"] == shown["stop"] == ""
    assert fragments.state(stage.context, language)["words"]["page.lost"] == Texts(language)("page.lost")


def test_every_state_has_the_same_fragments(stage: Stage) -> None:
    empty = set(fragments.render(stage.context, "en"))
    stage.ended("failed")
    assert set(fragments.render(stage.context, "en")) == empty


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("state", ["queued", "running", *ENDED])
def test_a_hostile_prompt_is_text(state: State, language: str) -> None:
    told = {"notices": (HOSTILE,), "error": HOSTILE, "checkpoint": HOSTILE}
    for content in fragments.of_job(make_job(state, prompt=HOSTILE, told=told), Texts(language)).values():
        tags = Parts(content).tags
        assert not [tag for tag, _ in tags if tag == "script"]
        assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
        assert all((attributes["src"] or "").startswith("media/1/") for _, attributes in tags if "src" in attributes)


def test_a_hostile_prompt_is_shown_as_it_is() -> None:
    assert HOSTILE in Parts(fragments.headline(make_job(prompt=HOSTILE), EN)).text


def test_the_running_job_says_where_it_is_and_how_long_yet() -> None:
    text = Parts(fragments.headline(make_job(), EN)).text
    assert "section 3 of 5, step 14 of 25" in text
    assert "about 1 min 24 s left" in text


def test_where_the_weights_are_stands_behind_the_headline() -> None:
    shown = fragments.headline(make_job(told={"memory": 'int8 "weights"'}), EN)
    assert 'title="int8 &quot;weights&quot;"' in shown
    assert "title=" not in fragments.headline(make_job(), EN)


def test_what_is_heard_does_not_change_with_every_step() -> None:
    before, after = make_job(), make_job(told={"step": 15, "seconds_left": 80.0})
    assert fragments.announcement(before, EN) == fragments.announcement(after, EN)
    assert "2 of 5" in fragments.announcement(before, EN)


def test_another_start_picture_has_another_address(stage: Stage) -> None:
    """A queued job's picture may be changed, and a browser keeps what it has seen at an address."""
    job = stage.add()
    before = fragments.render(stage.context, "en")
    stage.queue.edit(job.id, make_request(make_picture(stage.folder, "red")))
    after = fragments.render(stage.context, "en")
    for place in ("video", "queue"):
        assert before[place] != after[place]
    done = make_job("done")
    small = {recent.recent([make_job(picture=name), done], done, EN) for name in ("a.png", "b.png")}
    assert len(small) == 2


def test_the_video_changes_its_address_with_its_frames_only() -> None:
    assert screen.video(make_job(), EN) == screen.video(make_job(told={"step": 20, "previews": 31}), EN)
    assert "video.mp4?v=73" in screen.video(make_job(), EN)
    assert "video.mp4" not in screen.video(make_job(told={"video": None}), EN)


def test_the_preview_runs_through_the_section_s_latent_frames_in_real_time() -> None:
    shown = screen.preview(make_job(), EN)
    assert "preview.png?v=30" in shown
    assert "--frames: 9; animation: film 1.20s steps(9) infinite" in shown
    assert "steps(5)" in screen.preview(make_job(latent_window=5), EN)
    assert screen.preview(make_job("done"), EN) == ""


def views(job: Job) -> list[str]:
    return [str(a["data-view"]) for _, a in Parts(screen.views(job, EN)).tags if "data-view" in a]


def test_the_screen_offers_what_there_is_to_see_the_best_first() -> None:
    assert views(make_job()) == ["preview", "video", "start"]
    assert views(make_job("done")) == ["video", "start", "both"]
    assert 'data-default="start"' in screen.views(make_job("queued", told={"video": None}), EN)
    assert views(make_job("failed", told={"video": None})) == []


def test_the_picture_s_real_size_is_told_and_bounds_how_far_it_is_stretched() -> None:
    assert "160 × 96" in Parts(screen.views(make_job(), EN)).text
    assert "--wide: 160; --high: 96" in screen.video(make_job(), EN)


def test_a_video_can_be_watched_frame_by_frame_and_in_a_loop() -> None:
    parts = Parts(screen.views(make_job("done"), EN))
    names = [a["data-player"] for _, a in parts.tags if "data-player" in a]
    assert names == ["play", "back", "forward", "loop", "full"]
    assert all(a.get("aria-label") for tag, a in parts.tags if tag in ("button", "input") and "data-view" not in a)
    assert "data-player" not in screen.views(make_job(told={"video": None}), EN)


def test_the_last_results_stand_below_the_stage_and_the_running_one_with_them(stage: Stage) -> None:
    first, second = stage.ended(prompt=HOSTILE), stage.ended("cancelled")
    stage.ended("failed", sections_done=0)
    running = stage.add()
    stage.queue.claim()
    shown = fragments.render(stage.context, "en", Wish(show=first.id))
    cards = [a for _, a in Parts(shown["recent"]).tags if "data-wish" in a]
    assert [card["data-wish"] for card in cards] == ["show=", f"show={second.id}", f"show={first.id}"]
    assert [card["data-wish"] for card in cards if "aria-current" in card] == [f"show={first.id}"]
    assert HOSTILE in str(cards[-1]["title"])
    assert EN("job.title", job=first.id) in shown["job"]
    for wish in (None, Wish(show=99)):
        assert EN("job.title", job=running.id) in fragments.render(stage.context, "en", wish)["job"]


def test_a_video_that_is_gone_is_not_offered(stage: Stage) -> None:
    """The stage says what history says, and offers nothing that would fail."""
    gone, other = stage.ended("done"), stage.ended("done")
    stage.queue.result(gone.id).unlink()
    shown = fragments.render(stage.context, "en", Wish(show=gone.id))
    assert EN("queue.gone") in shown["notices"]
    assert "video.mp4" not in shown["video"] + shown["views"] + shown["stop"]
    assert "player" not in shown["views"]
    assert "data-view" not in shown["views"]
    assert list(acts(shown["stop"])) == ["use"]
    assert re.findall(r"show=(\d+)", shown["recent"]) == [str(other.id)]
    assert EN("queue.gone") not in fragments.render(stage.context, "en", Wish(show=other.id))["notices"]


def test_a_single_result_has_no_strip(stage: Stage) -> None:
    stage.ended()
    assert fragments.render(stage.context, "en")["recent"] == ""


def acts(content: str) -> dict[str, dict[str, str | None]]:
    return {f"{a['data-act']} {a.get('data-value', '')}".strip(): a for _, a in Parts(content).tags if "data-act" in a}


def test_the_three_stops_say_what_they_keep() -> None:
    content = fragments.buttons(make_job(), EN)
    assert list(acts(content)) == ["stop now", "stop section", "stop nothing"]
    assert all(button["data-job"] == "1" for button in acts(content).values())
    assert "keeps 2 finished sections as a video" in content
    assert "finishes this one and keeps 3 sections as a video" in content
    assert [act for act, button in acts(content).items() if "data-confirm" in button] == ["stop nothing"]


def test_a_stop_before_the_first_section_says_that_nothing_is_finished() -> None:
    assert "no section is finished yet" in fragments.buttons(make_job(told={"sections_done": 0}), EN)


def test_a_stop_that_was_asked_for_is_shown() -> None:
    content = fragments.buttons(replace(make_job(), stop="section"), EN)
    assert acts(content)["stop section"]["aria-pressed"] == "true"
    assert EN("job.stopping_section") in content


def test_an_unfinished_job_offers_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{}")
    unfinished = make_job("interrupted", told={"folder": str(tmp_path)})
    assert list(acts(fragments.buttons(unfinished, EN))) == ["go_on", "retry", "last_frame", "open_folder", "use"]
    assert "after section 2 of 5" in fragments.buttons(unfinished, EN)
    assert "trash" in acts(fragments.buttons(unfinished, EN))["retry"]["data-confirm"]
    nothing_made = make_job("interrupted", told={"folder": str(tmp_path), "sections_done": 0, "video": None})
    assert list(acts(fragments.buttons(nothing_made, EN))) == ["go_on", "use"]
    assert "after section" not in fragments.buttons(nothing_made, EN)
    assert "data-confirm" not in acts(fragments.buttons(make_job("failed"), EN))["retry"]


def test_a_finished_video_offers_what_comes_next() -> None:
    shown = fragments.buttons(make_job("done"), EN)
    assert list(acts(shown)) == ["again", "last_frame", "open_folder", "use"]
    assert list(acts(fragments.of_job(make_job("done"), EN)["views"])) == ["compare"]
    assert list(acts(fragments.of_job(make_job("failed"), EN)["views"])) == []
    assert 'class="q-button q-primary" href="media/1/video.mp4?v=73" download="video.mp4"' in shown
    assert fragments.buttons(make_job("queued", told={"video": None}), EN) == ""


def test_a_failed_job_says_why() -> None:
    assert "too little memory" in fragments.notices(make_job("failed", told={"error": "too little memory"}), EN)


@pytest.mark.parametrize("kind", ["framepack", "f1"])
@pytest.mark.parametrize("seconds", [1, 6, 20])
def test_sections_stand_in_time_without_gaps(kind: str, seconds: float) -> None:
    job = make_job(kind=kind, seconds=seconds)
    places = strips.sections_in_time(job, job.request.plan())
    plan = plan_video(job.request.kind.name, seconds)
    assert places[0][1] == 0
    assert places[-1][2] == pytest.approx(plan.frames / 30)
    assert all(before[2] == after[1] for before, after in pairwise(places))
    numbers = [number for number, _, _ in places]
    assert numbers == sorted(numbers, reverse=kind == "framepack")


def test_framepack_makes_the_end_first_and_f1_the_start() -> None:
    jobs = {kind: make_job(kind=kind) for kind in ("framepack", "f1")}
    places = {kind: strips.sections_in_time(job, job.request.plan()) for kind, job in jobs.items()}
    first = {kind: {n: (a, b) for n, a, b in each}[1] for kind, each in places.items()}
    assert first["framepack"][1] == pytest.approx(181 / 30)
    assert first["f1"][0] == 0
    assert '1✓</b><span aria-hidden="true"><small>4.9–6.0 s' in strips.sections(make_job(), EN)
    assert '1✓</b><span aria-hidden="true"><small>0.0–1.2 s' in strips.sections(make_job(kind="f1"), EN)


def test_sections_say_their_state_in_words_too() -> None:
    parts = Parts(strips.sections(make_job(), EN))
    assert (parts.with_class("done"), parts.with_class("running"), parts.with_class("to_come")) == (2, 1, 2)
    assert "Section 3, 2.5 to 3.7 s: running" in parts.text


def test_nothing_runs_in_a_job_that_ended() -> None:
    assert Parts(strips.sections(make_job("failed"), EN)).with_class("running") == 0


def test_a_long_video_keeps_its_labels_in_the_tooltips() -> None:
    content = strips.sections(make_job(seconds=60), EN)
    assert "<small>0.0" not in content
    assert re.search('title="Section 50, 0.0 to 1.3 s', content)


@pytest.mark.parametrize(("seconds", "ticks"), [(12, 6), (60, 6), (120, 8)])
def test_a_long_video_has_thin_segments_over_a_scale(seconds: int, ticks: int) -> None:
    parts = Parts(strips.sections(make_job(seconds=seconds), EN))
    assert parts.with_class("thin") == 1
    places = [a["style"] for tag, a in parts.tags if tag == "span" and "left:" in (a.get("style") or "")]
    assert len(places) == ticks
    assert float(str(places[-1]).strip("left: %")) <= 95
    assert Parts(strips.sections(make_job(), EN)).with_class("scale") == 0


TOTALS = {"steps_computed": 12, "steps_reused": 13, "seconds_sampling": 13.3}
MEASURED = {"seconds_reused": 1.3, "seconds_first_step": 1.0}


@pytest.mark.parametrize(
    ("totals", "told"),
    [
        ({**TOTALS, **MEASURED}, "13 of 25 steps reused, about 1.9 times faster"),
        (TOTALS, "13 of 25 steps reused"),
        ({**TOTALS, "steps_reused": 0}, ""),
    ],
)
def test_an_ended_job_says_what_its_step_cache_was_worth(totals: dict[str, Any], told: str) -> None:
    job = make_job("done")
    ended = replace(job, progress=replace(job.progress, ended=Finished(**totals)))
    assert Parts(strips.steps(ended, EN)).text == told


def test_steps_tell_computed_from_reused_by_shape_and_number() -> None:
    parts = Parts(strips.steps(make_job(), EN))
    assert (parts.with_class("computed"), parts.with_class("reused"), parts.with_class("to-come")) == (8, 8, 12)
    assert "7 computed, 7 reused, 11 to come" in [a.get("aria-label") for _, a in parts.tags]


def test_warnings_say_who_can_reach_the_page_and_what_cannot_be_used(stage: Stage) -> None:
    context = replace(
        stage.context, warnings=("page.warning_open",), checkpoints=without_checkpoint(HOSTILE),
        worker_heartbeat=lambda: 300.0,
    )  # fmt: skip
    parts = Parts(fragments.warnings(context, EN))
    assert parts.with_class("warning") == 3
    assert HOSTILE in parts.text
    assert "5 min" in parts.text


def test_the_machine_s_numbers_need_no_torch(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "torch_is_loaded", lambda: False)
    monkeypatch.setattr(machine, "vram", lambda: None)
    content = fragments.machine_now(stage.context, EN)
    assert EN("job.vram_later") in content
    assert content.count("<meter") == 2
    monkeypatch.setattr(machine, "vram", lambda: machine.Space(6 * 10**9, 8 * 10**9))
    assert "6.0 of 8.0 GB free" in fragments.machine_now(stage.context, EN)


def test_settings_say_where_they_come_from_and_keep_secrets(stage: Stage, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, auth="me:hunter2")
    table = system_tab.settings_table(make_context(stage.queue, settings).settings, EN)
    assert "hunter2" not in table
    assert f"<td>{tmp_path}</td><td>flag</td>" in table


def test_doctor_s_report_is_text_with_what_to_do() -> None:
    facts = (doctor.Fact("torch", None, HOSTILE, HOSTILE), doctor.Fact("ram", 1, "8 GB free"))
    content = system_tab.report_html(doctor.Report(facts), EN)
    assert "<img" not in content
    assert EN("system.fix") in content
    assert EN("system.all_well") in system_tab.report_html(doctor.Report(facts[1:]), EN)


def test_the_scripts_are_told_what_waits_and_what_came_to_an_end(stage: Stage) -> None:
    done = stage.ended("done")
    waiting = stage.add()
    told = fragments.state(stage.context, "en")
    assert (told["running"], told["queued"], told["run"]) == (False, [waiting.id], stage.context.run)
    assert told["ended"] == {"at": stage.queue.job(done.id).ended_at, "words": f"Job {done.id}: done"}


def test_an_end_that_somebody_asked_for_is_not_told(stage: Stage) -> None:
    stage.ended("cancelled")
    assert fragments.state(stage.context, "ja")["ended"] == {"at": 0, "words": ""}
