"""What is shown of an output folder that was moved, or holds links, or a queue file that somebody wrote by hand."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.store import FILE
from diffusers_helper.request import Request
from diffusers_helper.ui.routes import own_routes

from ..jobs_support import ScriptedExecutor, ended, make_picture, make_request, working
from .serving import make_context, make_video, settings_for

NAMES = ("video.mp4", "poster.jpg", "thumb.png", "start.png")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with a finished job. Not to be changed."""
    home = tmp_path_factory.mktemp("filled")
    queue = JobQueue(home / "outputs")
    with working(queue, ScriptedExecutor(queue.output_dir)):
        ended(queue, queue.add(make_request(make_picture(home))).id)
    queue.close()
    return queue.output_dir


@pytest.fixture
def outputs(filled: Path, tmp_path: Path) -> Path:
    """The same at another place; the first one is gone for the program."""
    return Path(shutil.copytree(filled, tmp_path / "moved"))


def shown(outputs: Path) -> dict[str, int]:
    """The status of each media route of the job."""
    queue = JobQueue(outputs)
    client = TestClient(Starlette(routes=own_routes(make_context(queue, settings_for(outputs)))))
    status = {name: client.get(f"/media/1/{name}").status_code for name in NAMES}
    queue.close()
    return status


def test_a_moved_folder_is_shown(outputs: Path) -> None:
    assert shown(outputs) == dict.fromkeys(NAMES, 200)


def test_a_linked_day_is_shown(outputs: Path, tmp_path: Path) -> None:
    (day,) = outputs.glob("2*")
    day.rename(tmp_path / "disk")
    day.symlink_to(tmp_path / "disk")
    assert shown(outputs) == dict.fromkeys(NAMES, 200)


@pytest.fixture
def secret(outputs: Path, tmp_path: Path) -> Path:
    """A video beside the output folder, with links to it and to its folder in many places of that."""
    (tmp_path / "secret").mkdir()
    secret = make_video(tmp_path / "secret" / "v.mp4")
    for name in ("v.thumb.png", "v.png"):
        (secret.parent / name).write_bytes(next(outputs.rglob("*.thumb.png")).read_bytes())
    (outputs / "link").symlink_to(secret.parent)
    (outputs / "2000-01-01").symlink_to(secret)
    (outputs / "2000-01-02").mkdir()
    for file in secret.parent.iterdir():
        (outputs / "2000-01-02" / file.name).symlink_to(file)
    (tmp_path / "disk").mkdir()
    (outputs / "2000-01-03").symlink_to(tmp_path / "disk")
    return secret


@pytest.mark.parametrize(
    "place",
    [
        "../secret/v",
        "2000-01-02/../../secret/v",
        ".framepack/../../secret/v",
        "{home}/secret/v",
        "{home}/moved/../secret/v",
        "link/v",
        "{home}/moved/link/v",
        "2000-01-01/v",
        "2000-01-02/v",
        "2000-01-03/../secret/v",
        "/etc/passwd",
        "",
    ],
)
def test_a_crafted_file_shows_nothing_from_outside(outputs: Path, secret: Path, tmp_path: Path, place: str) -> None:
    place = place.format(home=tmp_path)
    with closing(sqlite3.connect(outputs / ".framepack" / FILE)) as file:
        (request, progress) = file.execute("SELECT request, progress FROM job").fetchone()
        request = Request.from_json(request).with_picture_paths(lambda path: f"{place}.picture").to_json()
        progress = json.dumps({**json.loads(progress), "video": f"{place}.mp4"})
        file.execute("UPDATE job SET request = ?, progress = ?", (request, progress))
        file.commit()
    assert shown(outputs) == dict.fromkeys(NAMES, 404)
    assert secret.is_file()
