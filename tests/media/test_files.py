"""A result is there whole or not at all, and a failure says why."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import av
import pytest

from diffusers_helper.errors import OutputFailed
from diffusers_helper.media import files
from diffusers_helper.media.files import (
    day_folder,
    job_stem,
    make_folder,
    remove_partials,
    require_space,
    written_whole,
)
from diffusers_helper.words import LANGUAGES, Texts

KILLED_WHILE_WRITING = """
import os, pathlib, signal, sys
from diffusers_helper.media.files import written_whole
with written_whole(pathlib.Path(sys.argv[1])) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGTERM)
"""


def write_half(target: Path, end: BaseException) -> None:
    with written_whole(target) as part:
        part.write_bytes(b"half")
        raise end


def test_the_name_appears_only_when_the_file_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    with written_whole(target) as part:
        part.write_bytes(b"whole")
        assert not target.exists()
        assert (part.parent, part.suffix) == (tmp_path, ".mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert target.read_bytes() == b"whole"


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_end_in_the_middle_leaves_the_older_file(tmp_path: Path, end: type[BaseException]) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(end):
        write_half(target, end())
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "cannot be written"),
        (errno.EROFS, "cannot be written"),
        (errno.ENOENT, "folder does not exist"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("family", [OSError, av.FFmpegError])
def test_the_reason_is_said_plainly(tmp_path: Path, number: int, said: str, family: type[Exception]) -> None:
    with pytest.raises(OutputFailed, match=said) as caught:
        write_half(tmp_path / "a.png", family(number, "Input/output error"))
    assert "a.png" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("en", "Could not write {}: the disk is full. Check free space and permissions, or choose another folder."),
        (
            "ja",
            "{} を書き込めませんでした: ディスクに空きがありません。空き容量とアクセス権を確認するか、"
            "別のフォルダーを選んでください。",
        ),
        ("zh", "无法写入 {}：磁盘已满。请检查可用空间和权限，或选择其他文件夹。"),
    ],
)
def test_the_whole_sentence_is_in_one_language(tmp_path: Path, language: str, sentence: str) -> None:
    with pytest.raises(OutputFailed) as caught:
        write_half(tmp_path / "a.png", OSError(errno.ENOSPC, "No space left on device"))
    assert Texts(language).said(caught.value.said) == sentence.format(tmp_path / "a.png")


@pytest.mark.parametrize("number", list(files._REASONS))
def test_every_reason_has_its_words_in_each_language(tmp_path: Path, number: int) -> None:
    with pytest.raises(OutputFailed) as caught:
        write_half(tmp_path / "a.png", OSError(number, "what the system says"))
    told = [Texts(language).said(caught.value.said) for language in LANGUAGES]
    reasons = [Texts(language).said(caught.value.said.values["reason"]) for language in LANGUAGES]
    assert len(set(reasons)) == len(LANGUAGES)
    assert all(reason in sentence for reason, sentence in zip(reasons, told, strict=True))


def test_a_full_disk_is_named_and_left_clean(small_disk: Path) -> None:
    with pytest.raises(OutputFailed, match="the disk is full"), written_whole(small_disk / "a.bin") as part:
        part.write_bytes(bytes(100_000))
    assert not list(small_disk.iterdir())


def test_a_folder_that_goes_away_while_writing(tmp_path: Path) -> None:
    folder = tmp_path / "day"
    folder.mkdir()
    with pytest.raises(OutputFailed, match="folder does not exist"), written_whole(folder / "a.bin"):
        folder.rmdir()


def test_a_folder_in_the_way_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(OutputFailed, match="in the way"), written_whole(tmp_path / "a.bin") as part:
        part.write_bytes(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_space_is_compared_before_writing(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(OutputFailed, match=r"1000000000000 MB needed, \d+ MB free"):
        require_space(tmp_path, 10**18)
    with pytest.raises(OutputFailed, match="does not exist"):
        require_space(tmp_path / "gone", 1)


def test_what_a_killed_writer_leaves_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    for folder in (tmp_path, tmp_path / "day"):
        command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(folder / "a.mp4")]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
        assert done.returncode != 0
        assert not (folder / "a.mp4").exists()
    of_a_living_process = f".{os.getppid()}_0123456789ab.part.mp4"
    kept = [tmp_path / name for name in ("film.part.mp4", ".hidden", "download.part", of_a_living_process)]
    for path in kept:
        path.write_bytes(b"x")
    assert remove_partials(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(path.name for path in kept)


def test_names_carry_the_moment_and_the_seed(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, 67_890)
    assert day_folder(tmp_path / "outputs", now) == tmp_path / "outputs" / "2026-01-02"
    assert job_stem(now, 31337) == "260102_030405_067_31337"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(OutputFailed, match="outputs"):
        make_folder(tmp_path / "outputs" / "2026-01-02")
