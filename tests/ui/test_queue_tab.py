"""The buttons of queue and history do what they say, and a click that comes too late says so."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request

from diffusers_helper.errors import InvalidCommand, UnknownJob
from diffusers_helper.media.video import read_frames
from diffusers_helper.ui.commands import Commands
from diffusers_helper.ui.form import NAMES
from diffusers_helper.ui.options import OF_OPTION
from diffusers_helper.ui.page import user_errors
from diffusers_helper.ui.queue_tab import build
from diffusers_helper.words import LANGUAGES, Texts

from .stage import Stage, click, tab_of

SAID = set(NAMES) - {"pictures"} - set(OF_OPTION) | {"auto_strength", "mp4_crf", "mp4_pixels"}
"""What a usual request says: of the step caches' parameters those of its own."""


@pytest.fixture
def commands(stage: Stage) -> Commands:
    return Commands(stage.page, stage.form)


def order(stage: Stage) -> str:
    return "".join(job.request.prompt for job in stage.queue.jobs() if job.state == "queued")


def asked_from(client: str = "127.0.0.1", host: str = "127.0.0.1:7860", **headers: str) -> gr.Request:
    """A request as Gradio hands it on."""
    listed = [(name.lower().encode(), text.encode()) for name, text in {"host": host, **headers}.items()]
    return gr.Request(Request({"type": "http", "client": (client, 50000), "headers": listed}))


def press(commands: Commands, act: str, job: int = 0, value: str = "") -> list[object]:
    answer = commands.carry_out("en", None, click(act, job, value), asked_from())
    assert len(answer) == len(commands.outputs) == len(NAMES) + 3
    return answer


@pytest.mark.parametrize(
    ("act", "number", "expected"),
    [
        ("up", 2, "acbd"),
        ("up", 0, "abcd"),
        ("down", 0, "bacd"),
        ("down", 2, "abdc"),
        ("down", 3, "abcd"),
        ("next", 3, "dabc"),
        ("remove", 1, "acd"),
        ("cancel", 1, "acd"),
        ("duplicate", 1, "abcdb"),
    ],
)
def test_the_order_of_the_queue(stage: Stage, commands: Commands, act: str, number: int, expected: str) -> None:
    jobs = [stage.add(prompt) for prompt in "abcd"]
    answer = press(commands, act, jobs[number].id)
    assert order(stage) == expected
    assert stage.filled(answer[1:]) == {}
    assert tab_of(answer) is None


def test_pause_and_resume(stage: Stage, commands: Commands) -> None:
    press(commands, "pause")
    assert stage.queue.paused
    press(commands, "unpause")
    assert not stage.queue.paused


@pytest.mark.parametrize("keep", ["now", "section", "nothing"])
def test_a_stop_says_what_it_keeps(stage: Stage, commands: Commands, keep: str) -> None:
    job = stage.add()
    stage.queue.claim()
    press(commands, "stop", job.id, keep)
    assert stage.queue.job(job.id).stop == keep
    press(commands, "stop", job.id, "everything")
    assert stage.queue.job(job.id).stop == keep


def test_edit_loads_the_job_into_the_form(stage: Stage, commands: Commands) -> None:
    job = stage.add("a wave", seed=2**62, steps=7)
    answer = press(commands, "edit", job.id)
    filled = stage.filled(answer[1:])
    assert (filled["prompt"], filled["seed"], filled["steps"]) == ("a wave", str(2**62), 7)
    assert filled["picture"] == str(stage.queue.picture(job.id))
    assert answer[0] == job.id
    assert tab_of(answer) == "generate"


def test_a_job_that_has_begun_cannot_be_edited(stage: Stage, commands: Commands) -> None:
    job = stage.add()
    stage.queue.claim()
    with pytest.raises(InvalidCommand, match="has begun already"):
        press(commands, "edit", job.id)


def test_use_these_settings_brings_the_seed_that_was_drawn(stage: Stage, commands: Commands) -> None:
    job = stage.ended("done", prompt="a wave", seed=-1)
    answer = press(commands, "use", job.id)
    assert stage.filled(answer[1:])["seed"] == str(job.progress.seed) != "-1"
    assert set(stage.filled(answer[1:])) == SAID
    assert answer[0] == gr.skip()
    assert tab_of(answer) == "generate"


def test_settings_can_be_used_when_the_picture_is_lost(stage: Stage, commands: Commands) -> None:
    job = stage.ended("done")
    stage.queue.picture(job.id).unlink()
    assert set(stage.filled(press(commands, "use", job.id)[1:])) == SAID - {"picture"}


def test_the_last_frame_becomes_the_start_picture_unharmed(stage: Stage, commands: Commands) -> None:
    job = stage.ended("done")
    answer = press(commands, "last_frame", job.id)
    filled = stage.filled(answer[1:])
    assert set(filled) == {"picture"}
    with Image.open(filled["picture"]) as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), read_frames(stage.queue.result(job.id))[-1])
    assert tab_of(answer) == "generate"


def test_going_on_and_starting_again(stage: Stage, commands: Commands) -> None:
    one, two = stage.ended("cancelled"), stage.ended("failed")
    press(commands, "go_on", one.id)
    press(commands, "retry", two.id)
    assert [job.id for job in stage.queue.jobs()] == [one.id, two.id]
    assert stage.queue.job(one.id).progress.folder
    assert stage.queue.job(two.id).progress.folder is None


def test_all_failed_and_all_interrupted(stage: Stage, commands: Commands) -> None:
    jobs = [stage.ended("failed"), stage.ended("interrupted"), stage.ended("interrupted"), stage.ended("done")]
    press(commands, "go_on_all")
    assert [job.id for job in stage.queue.jobs() if job.state == "queued"] == [jobs[1].id, jobs[2].id]
    press(commands, "retry_failed")
    assert stage.queue.job(jobs[0].id).state == "queued"
    assert stage.queue.job(jobs[3].id).state == "done"


def test_delete_moves_the_video_to_the_trash(stage: Stage, commands: Commands) -> None:
    job = stage.ended("done")
    video = stage.queue.result(job.id)
    press(commands, "trash", job.id)
    assert not video.exists()
    assert [file.suffix for file in (stage.folder / "outputs" / "trash").rglob("*.mp4")] == [".mp4"]
    assert stage.queue.jobs() == []


def test_undo_brings_back_video_picture_and_job(stage: Stage, commands: Commands) -> None:
    job = stage.ended("done")
    video, content = stage.queue.result(job.id), stage.queue.result(job.id).read_bytes()
    press(commands, "trash", job.id)
    press(commands, "undo", job.id)
    assert stage.queue.job(job.id) == job
    assert video.read_bytes() == content
    assert stage.queue.picture(job.id).is_file()
    with pytest.raises(InvalidCommand, match="any more"):
        press(commands, "undo", job.id)


def test_again_queues_the_same_with_a_seed_to_be_drawn(stage: Stage, commands: Commands) -> None:
    job = stage.ended("done", prompt="a wave", seed=7)
    press(commands, "again", job.id)
    (added,) = [one for one in stage.queue.jobs() if one.state == "queued"]
    assert added.request == job.request.model_copy(update={"seed": -1})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were opened, on a machine that can."""
    folders: list[Path] = []

    def note(folder: Path) -> bool:
        folders.append(folder)
        return True

    monkeypatch.setattr("diffusers_helper.ui.commands.open_folder", note)
    return folders


def test_the_folder_of_a_result_opens_for_who_sits_there(stage: Stage, commands: Commands, opened: list[Path]) -> None:
    job = stage.ended("done")
    press(commands, "open_folder", job.id, value="/etc")
    assert opened == [stage.queue.result(job.id).parent]


@pytest.mark.parametrize(
    "asked",
    [
        {"client": "192.168.1.7", "host": "192.168.1.5:7860"},
        {"client": "192.168.1.7"},
        {"host": "abc.gradio.live"},
        {"x-forwarded-for": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"client": "unknown"},
    ],
)
def test_from_elsewhere_no_folder_opens_and_the_path_is_told(
    stage: Stage, commands: Commands, opened: list[Path], asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told_to: list[str] = []
    monkeypatch.setattr(gr, "Info", lambda text, **more: told_to.append(text))
    job = stage.ended("done")
    commands.carry_out("en", None, click("open_folder", job.id), asked_from(**asked))
    assert opened == []
    assert str(stage.queue.result(job.id).parent) in told_to[0]


def test_forgetting_a_finished_job_keeps_its_video(stage: Stage, commands: Commands) -> None:
    job = stage.ended("done")
    stage.queue.record(job.id, _finished_elsewhere(stage))
    press(commands, "remove", job.id)
    assert stage.queue.jobs() == []
    assert _video_elsewhere(stage).is_file()


def test_a_click_on_a_job_that_is_gone(stage: Stage, commands: Commands) -> None:
    with pytest.raises(UnknownJob, match="no job 99"):
        press(commands, "trash", 99)
    with pytest.raises(UnknownJob):
        press(commands, "up")


REFUSED = {
    "en": "job 1 is running; only queued jobs can be changed or moved",
    "ja": "ジョブ 1 は「実行中」です。変更や移動ができるのは待機中のジョブだけです",
    "zh": "任务 1 为“运行中”状态；只能修改或移动等待中的任务",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_click_that_is_refused_is_told_so_in_the_language_of_the_page(
    stage: Stage, commands: Commands, language: str
) -> None:
    stage.add()
    stage.queue.claim()
    with pytest.raises(gr.Error) as told:
        user_errors(commands.carry_out)(language, None, click("next", 1), asked_from())
    assert told.value.message == REFUSED[language]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_field_that_is_wrong_is_named_in_the_language_of_the_page(
    stage: Stage, commands: Commands, language: str
) -> None:
    """A job made with another checkpoint, whose picture is gone meanwhile."""
    job = stage.ended("done")
    Path(job.request.shown_picture).unlink()
    with pytest.raises(gr.Error) as told:
        user_errors(commands.carry_out)(language, None, click("duplicate", job.id), asked_from())
    assert told.value.message.startswith(Texts(language)("generate.picture"))


@pytest.mark.parametrize("act", ["", "drop table", "__class__", "outputs", "carry_out"])
def test_an_act_that_nobody_offers_does_nothing(stage: Stage, commands: Commands, act: str) -> None:
    job = stage.add()
    version = stage.queue.version
    press(commands, act, job.id)
    assert stage.queue.version == version


def test_the_tab_wires_private_events_only(stage: Stage) -> None:
    with stage.page.blocks:
        build(stage.page, stage.form)
    events = stage.page.blocks.fns.values()
    assert events
    assert all(event.api_visibility == "private" for event in events)
    assert gr.HTML in {type(block) for block in stage.page.blocks.blocks.values()}


def _video_elsewhere(stage: Stage) -> Path:
    return stage.folder / "outputs" / "kept.mp4"


def _finished_elsewhere(stage: Stage) -> object:
    from diffusers_helper.events import Finished

    _video_elsewhere(stage).write_bytes(b"frames")
    return Finished(path=str(_video_elsewhere(stage)))


def test_a_command_that_cannot_be_is_told(commands: Commands) -> None:
    with pytest.raises(gr.Error, match="7"):
        user_errors(commands.carry_out)("en", None, click("stop", 7, "now"), asked_from())
