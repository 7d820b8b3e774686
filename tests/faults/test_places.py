"""Where results go is tried before any model is loaded: exit code 2, a sentence, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper import cli
from diffusers_helper.engine import Engine
from diffusers_helper.errors import OutputFailed, UnusableResumeFolder
from diffusers_helper.jobs.executor import LocalExecutor
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.preparation import fit_pictures
from diffusers_helper.request import Request
from diffusers_helper.workfolder import WorkFolder

from .. import program
from ..jobs_support import ended, make_picture, make_request, working

Disk = Callable[[str], Path]


def loads(*arguments: Any) -> Any:
    raise AssertionError("a model was loaded")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's folders, and no model."""
    monkeypatch.setenv("FRAMEPACK_OUTPUT_DIR", str(tmp_path / "outputs"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))
    monkeypatch.setattr(Engine, "load", loads)


@pytest.fixture
def read_only(mounted: Disk) -> Path:
    """A disk that cannot be written, with an older video."""
    disk = mounted("1m")
    (disk / "older.mp4").write_bytes(b"older")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    return disk


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: object) -> str:
    """What is said of a run that ends with exit code 2 and leaves everything as it was."""
    picture = make_picture(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    words = [str(argument) for argument in arguments]
    if "--resume" not in words:
        words += ["--image", str(picture)]
    assert cli.main(["generate", "--json", *words]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    told = capsys.readouterr()
    (event,) = program.parsed(told.out)
    assert (event["event"], event["exit_code"]) == ("failed", 2)
    assert "Traceback" not in told.err
    return str(event["error"])


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("--out", "new.mp4"),
        ("--out", "older.mp4"),
        ("--save-latents", "new.safetensors"),
    ],
)
def test_a_result_on_a_read_only_disk(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, read_only: Path, flag: str, name: str
) -> None:
    said = refused(capsys, tmp_path, flag, read_only / name)
    assert said.startswith(f"{flag}: Could not write {read_only / name}: it cannot be written")
    assert (read_only / "older.mp4").read_bytes() == b"older"


@pytest.mark.parametrize("folder", ["", "outputs", "a/b"])
def test_an_output_folder_on_a_read_only_disk(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, read_only: Path, folder: str
) -> None:
    said = refused(capsys, tmp_path, "--output-dir", read_only / folder)
    assert said.startswith("the output folder: Could not write")
    assert str(read_only / folder) in said


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to(os.devnull)


def in_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


def in_a_link_that_leads_nowhere(path: Path) -> None:
    path.parent.rmdir()
    path.parent.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("obstacle", "words"),
    [
        (a_folder, "a folder of that name is in the way"),
        (a_pipe, "no file but a pipe or a device"),
        (a_device, "no file but a pipe or a device"),
        (in_a_file, "does not exist"),
        (in_a_link_that_leads_nowhere, "does not exist"),
    ],
)
def test_something_is_in_the_way(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, obstacle: Callable[[Path], None], words: str
) -> None:
    target = tmp_path / "folder" / "v.mp4"
    target.parent.mkdir()
    obstacle(target)
    assert words in refused(capsys, tmp_path, "--out", target)


@pytest.mark.parametrize("target", ["/dev/null", "/dev/stdout", "/", "."])
def test_what_is_no_name_of_a_video(capsys: pytest.CaptureFixture[str], tmp_path: Path, target: str) -> None:
    assert f"{target} is not the name of a .mp4 file" in refused(capsys, tmp_path, "--out", target)


@pytest.mark.parametrize("linked", ["outputs", "outputs/%Y-%m-%d"])
def test_a_link_to_a_disk_that_is_gone(capsys: pytest.CaptureFixture[str], tmp_path: Path, linked: str) -> None:
    link = tmp_path / datetime.now().strftime(linked)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "unplugged")
    assert "its folder does not exist" in refused(capsys, tmp_path)


def begun(outputs: Path, tmp_path: Path, pocket: Path) -> Path:
    """A work folder of the pocket's before its first section."""
    checkpoint = find_checkpoint("pocket", tmp_path)
    request = make_request(make_picture(tmp_path))
    pictures = fit_pictures(request, checkpoint)
    return WorkFolder.create(outputs, request, checkpoint, checkpoint.fingerprint(), pictures, 0).path


def test_a_folder_to_resume_on_a_read_only_disk(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, mounted: Disk, pocket: Path
) -> None:
    disk = mounted("2m")
    folder = begun(disk, tmp_path, pocket)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "cannot be written" in refused(capsys, tmp_path, "--resume", folder)


# The same for jobs of the page.


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return make_request(make_picture(tmp_path))


def test_a_job_whose_results_have_no_place_fails_before_a_model_is_loaded(
    request_: Request, read_only: Path, tmp_path: Path
) -> None:
    for output_dir in (read_only, read_only / "outputs", tmp_path / "teal.png"):
        with pytest.raises(OutputFailed, match=r"cannot be written|does not exist"):
            next(LocalExecutor(loads, loads, output_dir).submit(request_, None, "").events())


def test_a_job_whose_work_folder_cannot_be_written_fails_before_a_model_is_loaded(
    request_: Request, mounted: Disk, tmp_path: Path, pocket: Path
) -> None:
    disk = mounted("3m")
    folder = begun(disk, tmp_path, pocket)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(UnusableResumeFolder, match="cannot be written"):
        next(LocalExecutor(loads, loads, disk).submit(request_, folder, "").events())


def test_the_queue_says_so_of_its_job(request_: Request, read_only: Path, tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "outputs")
    job = queue.add(request_)
    with working(queue, LocalExecutor(loads, loads, read_only)):
        failed = ended(queue, job.id)
    assert failed.state == "failed"
    assert "cannot be written" in (failed.progress.error or "")
    queue.close()
