"""The disk fails under a run: it ends in plain words, nothing is half-written, and it goes on when the disk is well."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffusers_helper.errors import OutputFailed
from diffusers_helper.events import Ended, Failed, Finished, Step
from diffusers_helper.generate import generate, resume
from diffusers_helper.media.video import probe
from diffusers_helper.request import Request

from ..parity.engine import PackEngine


@pytest.fixture
def request_of_two_sections(tmp_path: Path) -> Request:
    picture = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "teal").save(picture)
    return Request.parse({"picture": str(picture), "seconds": 2.4, "steps": 2})


def broken_in_the_second_section(request: Request, disk: Path, breaks: Callable[[], Any]) -> Failed:
    """Run until the second section samples, then let ``breaks`` happen."""
    last = None
    for event in generate(request, PackEngine("run_i2v"), disk, result=disk / "video.mp4"):
        if isinstance(event, Step) and event.section == 2 and event.step == 1:
            breaks()
        last = event
    assert isinstance(last, Failed)
    return last


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return filler


def test_disk_full_in_the_middle(request_of_two_sections: Request, mounted: Callable[[str], Path]) -> None:
    disk = mounted("40m")
    filler: list[Path] = []
    last = broken_in_the_second_section(request_of_two_sections, disk, lambda: filler.append(fill(disk)))
    assert "the disk is full" in last.error
    assert last.exit_code == 1
    assert list(disk.rglob("*.part*")) == []
    assert probe(Path(last.path or "")).frames == 33
    filler[0].unlink()
    assert isinstance(list(resume(Path(last.folder or ""), PackEngine("run_i2v")))[-1], Finished)
    assert probe(disk / "video.mp4").frames == 73


def test_disk_turns_read_only_in_the_middle(request_of_two_sections: Request, mounted: Callable[[str], Path]) -> None:
    disk = mounted("41m")

    def remount(mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)

    last = broken_in_the_second_section(request_of_two_sections, disk, lambda: remount("ro"))
    remount("rw")
    assert "cannot be written" in last.error
    assert isinstance(list(resume(Path(last.folder or ""), PackEngine("run_i2v")))[-1], Finished)


def test_a_read_only_disk_is_told_before_the_start(
    request_of_two_sections: Request, mounted: Callable[[str], Path]
) -> None:
    disk = mounted("42m")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OutputFailed, match="cannot be written"):
        generate(request_of_two_sections, PackEngine("run_i2v"), disk)
    assert list(disk.iterdir()) == []


def test_no_space_is_told_before_the_start(request_of_two_sections: Request, small_disk: Path) -> None:
    with pytest.raises(OutputFailed, match=r"MB needed"):
        generate(request_of_two_sections, PackEngine("run_i2v"), small_disk)
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


def test_a_vanished_folder_ends_the_job_alone(request_of_two_sections: Request, tmp_path: Path) -> None:
    engine = PackEngine("run_i2v")
    events = generate(request_of_two_sections, engine, tmp_path / "outputs")
    for event in events:
        if isinstance(event, Step):
            shutil.rmtree(tmp_path / "outputs")
            break
    last = list(events)[-1]
    assert isinstance(last, Failed)
    assert "its folder does not exist" in last.error
    again = list(generate(request_of_two_sections, engine, tmp_path / "outputs"))
    assert isinstance(again[-1], Finished)
    assert sum(isinstance(event, Ended) for event in again) == 1
