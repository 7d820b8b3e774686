"""What the page asks for each second, the media of jobs, and the two routes for who watches the server."""

from __future__ import annotations

import gzip
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from diffusers_helper.events import Finished, Preview, Step
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.job_progress import fold
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.media.video import read_frames
from diffusers_helper.ui.fragments_queue import Wish
from diffusers_helper.ui.routes import HeldFile, LiveAnswers, Readiness

from ..jobs_support import Hold, at_step, ended, make_picture, make_request, wait_until
from .serving import Served, make_context, make_video, serving, settings_for, without_checkpoint


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("routes")) as served:
        yield served


@pytest.fixture(scope="module")
def done(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with a finished video."""
    picture = make_picture(tmp_path_factory.mktemp("pictures"))
    return ended(served.queue, served.queue.add(make_request(picture, kind="f1")).id)


def get(served: Served, path: str, **headers: str) -> httpx.Response:
    with served.client(headers={name.replace("_", "-"): value for name, value in headers.items()}) as client:
        return client.get(path)


# Live.


def test_forty_pages_are_told_to_ask_less_often(served: Served) -> None:
    told = [get(served, f"/live?language=en&page={number}").headers["ask-again"] for number in range(40)]
    assert float(told[-1]) >= 5


def test_what_was_seen_is_not_sent_again(served: Served, done: Job) -> None:
    news = get(served, "/live?language=en").json()
    assert not news["running"]
    assert set(news["fragments"]) >= {"job", "queue", "history"}
    answer = get(served, f"/live?language=en&seen={news['seen']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert float(answer.headers["ask-again"]) >= 1
    assert get(served, f"/live?language=ja&seen={news['seen']}").status_code == 200
    assert get(served, "/live?language=en&seen=made-up").json() == news


def test_a_running_job_is_said_to_run(served: Served, tmp_path: Path) -> None:
    hold = Hold(at_step(1, 1))
    served.executor.after = hold
    job = served.queue.add(make_request(make_picture(tmp_path), kind="f1"))
    assert hold.reached.wait(60)
    wait_until(lambda: get(served, "/live?language=en").json()["running"], "the page to say so")
    hold.go.set()
    ended(served.queue, job.id)
    wait_until(lambda: not get(served, "/live?language=en").json()["running"], "the page to say that it ended")


def test_news_travel_packed_where_the_browser_takes_that(served: Served) -> None:
    packed = get(served, "/live?language=en", Accept_Encoding="gzip")
    plain = get(served, "/live?language=en", Accept_Encoding="identity")
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json()
    assert packed.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("language", ["", "xx", "../en", "EN"])
def test_an_unknown_language_is_refused(served: Served, language: str) -> None:
    assert get(served, f"/live?language={language}").status_code == 400


class Rendering:
    """Counts how often the page is rendered."""

    def __init__(self, queue: JobQueue, output_dir: Path) -> None:
        self.count = 0
        self.answers = LiveAnswers(make_context(queue, settings_for(output_dir)), self)

    def ask(self, language: str) -> Any:
        return self.answers._fresh(language, Wish())

    def __call__(self, context: Any, language: str, wish: Wish) -> dict[str, str]:
        self.count += 1
        return {"job": language}


def test_forty_who_ask_at_once_cost_one_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers_helper.ui.routes.REFRESH_SECONDS", 1000.0)
    monkeypatch.setattr("diffusers_helper.ui.routes.SHARED_SECONDS", 0.0)
    queue = JobQueue(tmp_path)
    rendering = Rendering(queue, tmp_path)
    with ThreadPoolExecutor(40) as pool:
        seen = {rendered.seen for rendered in pool.map(rendering.ask, ["en"] * 40)}
    assert (len(seen), rendering.count) == (1, 1)
    rendering.ask("ja")
    assert rendering.count == 2
    queue.add(make_request(make_picture(tmp_path)))
    rendering.ask("en")
    assert rendering.count == 3
    queue.close()


def test_steps_that_follow_quickly_are_drawn_together_and_commands_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers_helper.ui.routes.SHARED_SECONDS", 1000.0)
    queue = JobQueue(tmp_path)
    rendering = Rendering(queue, tmp_path)
    queue.add(make_request(make_picture(tmp_path)))
    queue.claim()
    for step in (1, 2, 3):
        queue.record(1, Step(section=1, sections=2, step=step, steps=3, computed=True, seconds_left=None))
        rendering.ask("en")
    assert rendering.count == 1
    queue.cancel(1, "section")
    rendering.ask("en")
    assert rendering.count == 2
    queue.close()


def test_what_looks_the_same_after_a_change_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers_helper.ui.routes.SHARED_SECONDS", 0.0)
    queue = JobQueue(tmp_path)
    rendering = Rendering(queue, tmp_path)
    before = rendering.ask("en")
    queue.pause()
    after = rendering.ask("en")
    assert before.key != after.key
    assert before.seen == after.seen
    assert json.loads(gzip.decompress(after.zipped)) == json.loads(after.body)
    queue.close()


# Media.


def test_the_media_of_a_job_are_served(served: Served, done: Job) -> None:
    video = get(served, f"/media/{done.id}/video.mp4?v=7")
    assert video.headers["content-type"] == "video/mp4"
    assert video.content == served.queue.result(done.id).read_bytes()
    picture = get(served, f"/media/{done.id}/thumb.png")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert picture.headers["cache-control"] == "private, no-cache"
    assert get(served, f"/media/{done.id}/preview.png").status_code == 404


def test_a_poster_is_a_frame_of_the_video_and_not_its_start(served: Served, done: Job) -> None:
    answer = get(served, f"/media/{done.id}/poster.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    poster = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)
    frames = read_frames(served.queue.result(done.id)).astype(int)
    assert np.abs(poster - frames[len(frames) // 2]).mean() < np.abs(poster - frames[0]).mean()


def test_the_start_picture_is_the_fitted_one_as_soon_as_it_is_there(served: Served, done: Job) -> None:
    beside = served.queue.result(done.id).with_suffix(".png")
    assert get(served, f"/media/{done.id}/start.png").content == beside.read_bytes()
    beside.unlink()
    thumbnail = served.queue.thumbnail(done.id).read_bytes()
    assert get(served, f"/media/{done.id}/start.png").content == thumbnail


def test_the_preview_of_a_running_job_is_served(served: Served, tmp_path: Path) -> None:
    hold = Hold(at_step(2, 2))
    served.executor.after = hold
    job = served.queue.add(make_request(make_picture(tmp_path), kind="f1"))
    assert hold.reached.wait(60)
    assert get(served, f"/media/{job.id}/preview.png").headers["content-type"] == "image/png"
    assert get(served, f"/media/{job.id}/video.mp4").status_code == 200, "the video so far"
    hold.go.set()
    ended(served.queue, job.id)


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)), ("bytes=10-", 206, slice(10, None)), ("bytes=-7", 206, slice(-7, None)),
        ("bytes=999999999-", 416, None), ("bytes=5-2", 400, None), ("bananas", 400, None),
    ],
)  # fmt: skip
def test_a_part_of_a_video_is_served(served: Served, done: Job, asked: str, status: int, part: slice | None) -> None:
    answer = get(served, f"/media/{done.id}/video.mp4", Range=asked)
    assert answer.status_code == status
    if part:
        assert answer.content == served.queue.result(done.id).read_bytes()[part]


@pytest.mark.parametrize("name", ["video.mp4", "thumb.png", "start.png", "poster.jpg"])
def test_what_the_browser_has_is_not_sent_again(served: Served, done: Job, name: str) -> None:
    first = get(served, f"/media/{done.id}/{name}")
    again = get(served, f"/media/{done.id}/{name}", If_None_Match=first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert get(served, f"/media/{done.id}/{name}", If_None_Match='"other"').status_code == 200


@pytest.mark.parametrize("at_once", [0, 2**21])
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.with_name("other").replace(path)])
def test_a_video_that_goes_while_it_is_sent_is_sent_whole(
    tmp_path: Path, change: Callable[[Path], object], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers_helper.ui.routes.READ_AT_ONCE_BYTES", at_once)
    video = tmp_path / "video.mp4"
    video.write_bytes(content := bytes(range(256)) * 1000)
    (tmp_path / "other").write_bytes(b"shorter")
    held = HeldFile(video, "video/mp4")
    change(video)
    answer = TestClient(held).get("/", headers={"Range": "bytes=1000-"})
    assert (answer.status_code, answer.content) == (206, content[1000:])


def test_what_a_job_told_can_be_read(served: Served, done: Job) -> None:
    log = get(served, f"/media/{done.id}/log.txt")
    assert log.headers["content-type"].startswith("text/plain")
    told = [json.loads(line)["event"] for line in log.text.splitlines()]
    assert (told[0], told[-1]) == ("started", "finished")


def test_the_head_of_a_video_can_be_asked_for(served: Served, done: Job) -> None:
    with served.client() as client:
        answer = client.head(f"/media/{done.id}/video.mp4")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == served.queue.result(done.id).stat().st_size


@pytest.mark.parametrize(
    "path",
    [
        "/media/999/video.mp4", "/media/1/", "/media/1/picture", "/media/1/video.MP4", "/media/1/job.json",
        "/media/1/..%2f..%2fetc%2fpasswd",
        "/media/1/../../.framepack/jobs.sqlite3", "/media/1/%2e%2e/%2e%2e/jobs.sqlite3", "/media/1//etc/passwd",
        "/media/1/video.mp4%00.png", "/media/1/thumb.png%00", "/media/-1/video.mp4", "/media/1e0/video.mp4",
        "/media/..%2f1/video.mp4", "/media/1/C:%5Cwindows%5Cwin.ini", "/media/%2fetc/passwd", "/MEDIA/1/video.mp4",
        "/media/99999999999999999999999/video.mp4", "/media/1/.framepack", "/media/1/video.mp4/x",
    ],
)  # fmt: skip
def test_nothing_else_is_served(served: Served, done: Job, path: str) -> None:
    assert get(served, path).status_code == 404


@pytest.fixture
def pointing(served: Served, done: Job) -> Iterator[Any]:
    """``pointing(path)``: the job's video and preview are said to be there."""

    def point(path: Path) -> None:
        elsewhere = Preview(section=1, step=1, path=str(path))
        told = replace(done, progress=replace(fold(done.progress, Finished(path=str(path))), preview=elsewhere))
        served.queue._ledger.jobs[done.id] = told

    yield point
    served.queue._ledger.jobs[done.id] = done


def test_files_outside_of_the_output_folder_are_not_served_whatever_a_job_says(
    served: Served, done: Job, pointing: Any, tmp_path: Path
) -> None:
    outside = make_video(tmp_path / "outside.mp4")
    link = served.output_dir / "link.mp4"
    link.symlink_to(outside)
    folder_link = served.output_dir / "folder"
    folder_link.symlink_to(tmp_path)
    database = served.output_dir / ".framepack" / "jobs.sqlite3"
    disguised = served.output_dir / "database.mp4"
    disguised.symlink_to(database)
    page = served.output_dir / "page.html"
    page.write_text("<script>alert(1)</script>")
    for path in (
        outside,
        link,
        folder_link / "outside.mp4",
        database,
        disguised,
        page,
        served.output_dir,
        tmp_path / "no",
    ):
        pointing(path)
        for name in ("video.mp4", "preview.png", "poster.jpg"):
            assert get(served, f"/media/{done.id}/{name}").status_code == 404, (path, name)


def test_a_page_in_a_pictures_clothes_is_not_served(served: Served, done: Job, pointing: Any) -> None:
    disguised = served.output_dir / "page.png"
    disguised.write_text("<script>alert(1)</script>")
    pointing(disguised)
    assert get(served, f"/media/{done.id}/preview.png").status_code == 404


# Health.


def test_the_server_says_that_it_is_alive_and_ready(served: Served) -> None:
    assert get(served, "/healthz").text == "ok"
    answer = get(served, "/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": []})


@pytest.mark.parametrize(
    ("silent", "words"),
    [(math.inf, "it has ended"), (90_000.0, "silent for 90000 s"), (31.0, "silent for 31 s"), (0.5, "")],
)
def test_a_worker_that_is_gone_or_silent_is_not_ready(tmp_path: Path, silent: float, words: str) -> None:
    queue = JobQueue(tmp_path)
    context = make_context(queue, settings_for(tmp_path), worker_heartbeat=lambda: silent)
    reasons = " ".join(Readiness(context).reasons())
    assert words in reasons
    assert bool(reasons) == bool(words)
    queue.close()


def test_a_long_step_is_not_taken_for_a_dead_worker(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path)
    queue.add(make_request(make_picture(tmp_path)))
    queue.claim()
    assert Readiness(make_context(queue, settings_for(tmp_path), worker_heartbeat=lambda: 600.0)).reasons() == []
    queue.close()


def test_a_full_or_missing_disk_and_a_missing_checkpoint_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = JobQueue(tmp_path / "outputs")
    readiness = Readiness(
        make_context(queue, settings_for(tmp_path / "outputs"), checkpoints=without_checkpoint("gone"))
    )
    monkeypatch.setattr("diffusers_helper.ui.routes.LEAST_FREE_BYTES", 10**18)
    assert [reason.partition(":")[0] for reason in readiness.reasons()] == ["disk", "checkpoint"]
    queue.close()
    shutil.rmtree(tmp_path / "outputs")
    assert [reason.partition(":")[0] for reason in readiness.reasons()] == ["disk", "queue", "checkpoint"]
