"""The kind of file on the command line: by --output, by a parameter of it, or by the suffix of --out."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from PIL import Image

from diffusers_helper.media.metadata import read_metadata

from . import program
from .test_cli import places, refused

__all__ = ["places"]


@pytest.mark.parametrize(
    ("name", "flags", "told"),
    [
        ("a.mp4", ("--crf", "30"), {"name": "mp4", "crf": 30, "pixels": "8bit"}),
        ("a.mp4", ("--mp4-pixels", "444"), {"name": "mp4", "crf": 16, "pixels": "444"}),
        ("a.WebM", (), {"name": "webm", "codec": "vp9", "crf": 20}),
        ("a.webm", ("--webm-codec", "av1", "--webm-crf", "40"), {"name": "webm", "codec": "av1", "crf": 40}),
        ("a.gif", ("--output", "gif"), {"name": "gif"}),
        ("a.webp", ("--webp-quality", "40"), {"name": "webp", "quality": 40, "lossless": False}),
        ("a.webp", ("--webp-lossless",), {"name": "webp", "quality": 85, "lossless": True}),
        ("", ("--output", "frames"), {"name": "frames"}),
        ("", ("--output", "webm", "--crf", "0"), {"name": "webm", "codec": "vp9", "crf": 20}),
    ],
)
def test_a_file_of_the_kind_that_was_asked_for(
    photograph: Path, quick_checkpoint: Path, tmp_path: Path, name: str, flags: tuple[str, ...], told: dict[str, object]
) -> None:
    given = ("--out", str(tmp_path / name)) if name else ()
    arguments = ("generate", "--image", str(photograph), "--checkpoint", str(quick_checkpoint), *given, *flags)
    done = program.run(tmp_path, *arguments, *program.FAST, "--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert "Svt" not in done.stderr
    result = Path(done.stderr.strip().splitlines()[-1].split(": ")[-1])
    assert read_metadata(result)["request"]["output"] == told
    assert result == tmp_path / name or not name
    if result.suffix in (".gif", ".webp"):
        with Image.open(result) as image:
            assert getattr(image, "n_frames", 1) == 37
    elif result.suffix != ".zip":
        with av.open(str(result)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 37


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--out", "video.avi"),
            "video.avi is not the name of a .mp4 file, which output mp4 makes. Another",
        ),
        (("--out", "video.webm", "--output", "mp4"), "video.webm is not the name of a .mp4 file"),
        (("--out", "video.webm", "--crf", "20"), "video.webm is not the name of a .mp4 file"),
        (("--out", "video.mp4", "--webm-crf", "20"), "is not the name of a .webm file, which output webm makes"),
        (("--out", "video.zip", "--output", "gif"), ".zip for frames"),
        (("--out", "picture.png"), "output: 'png' is not allowed; give a video, as"),
        (("--output", "avi"), "invalid choice: 'avi'"),
        (("--webm-crf", "0"), "webm_crf: 0 is not allowed; give a whole number from 1 to 63"),
        (("--webm-codec", "vp8"), "invalid choice: 'vp8'"),
        (("--webp-quality", "101"), "webp_quality: 101 is not allowed; give a whole number from 0 to 100"),
        (("--mp4-pixels", "12bit"), "invalid choice: '12bit'"),
        (("--output", "gif", "--crf", "200"), "mp4_crf: 200 is not allowed"),
        (("--resume", ".", "--output", "gif"), "leave out output"),
    ],
)
def test_what_contradicts_itself_is_refused_in_words(
    capsys: pytest.CaptureFixture[str], photograph: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    picture = () if "--resume" in arguments else ("--image", str(photograph))
    assert words in refused(capsys, tmp_path, *picture, *arguments)
