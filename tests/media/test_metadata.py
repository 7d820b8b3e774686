"""Every result carries the request that made it, and strangers' files can do no harm when read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_helper.errors import OutputFailed, UnusableInput
from diffusers_helper.media.metadata import as_comment, read_metadata, write_png
from diffusers_helper.media.video import join_segments, write_segment

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
RECIPES: list[dict[str, Any]] = [
    {"prompt": "the camera pans left", "seed": 31337, "seconds": 2.5, "teacache": True, "negative": None},
    {"prompt": 'a wave 🌊👩\u200d🚀 שלום עולם\nsecond line\ttab "quotes" \\ \'; <script>', "list": [1, {"a": "é"}]},
    {"prompt": "x" * 20_000},
    {"prompt": "夜" * 100_000},
    {"prompt": "a lone surrogate \ud800 and a NUL \0"},
    {},
]


def mp4_with(path: Path, comment: str) -> Path:
    segment = path.with_name("segment.mp4")
    write_segment(segment, PIXELS[None], 30, 30)
    join_segments([segment], path, comment, 30)
    return path


def png_with(path: Path, key: str, text: str, zipped: bool = True) -> Path:
    chunks = PngInfo()
    chunks.add_itxt(key, text, zip=zipped)
    Image.fromarray(PIXELS).save(path, pnginfo=chunks)
    return path


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_survives_both_formats(tmp_path: Path, recipe: dict[str, Any]) -> None:
    write_png(tmp_path / "a.png", PIXELS, recipe)
    assert read_metadata(tmp_path / "a.png") == recipe
    assert read_metadata(mp4_with(tmp_path / "a.mp4", as_comment(recipe))) == recipe


def test_the_picture_itself_is_unchanged(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PIXELS, {"prompt": "p"})
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), PIXELS)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PIXELS, {"seed": 1})
    renamed = (tmp_path / "a.png").rename(tmp_path / "a.mp4")
    assert read_metadata(renamed) == {"seed": 1}


FOREIGN = [
    "made with something",
    "",
    "[1, 2]",
    '"framepack"',
    '{"prompt": {"3": {"class_type": "KSampler"}}}',
    '{"framepack": "a string"}',
    '{"framepack": ' + "[" * 100_000,
    '{"framepack": {"seed": ' + "9" * 10_000 + "}}",
]


@pytest.mark.parametrize("comment", FOREIGN)
def test_a_strangers_comment_is_not_ours(tmp_path: Path, comment: str) -> None:
    for path in (mp4_with(tmp_path / "a.mp4", comment), png_with(tmp_path / "a.png", "Comment", comment)):
        with pytest.raises(UnusableInput, match="carries no FramePack settings"):
            read_metadata(path)


def test_other_peoples_png_texts_are_not_ours(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="carries no FramePack settings"):
        read_metadata(png_with(tmp_path / "a.png", "parameters", "a cat\nSteps: 20"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["Comment", "anything"])
def test_a_text_bomb_is_refused(tmp_path: Path, zipped: bool, key: str) -> None:
    path = png_with(tmp_path / "bomb.png", key, "a" * 80_000_000, zipped)
    with pytest.raises(UnusableInput, match=r"bomb\.png"):
        read_metadata(path)


def test_a_huge_comment_is_refused(tmp_path: Path) -> None:
    path = mp4_with(tmp_path / "huge.mp4", as_comment({"prompt": "x" * 3_000_000}))
    with pytest.raises(UnusableInput, match="never that long"):
        read_metadata(path)


def test_a_path_in_the_metadata_is_only_text(tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    write_png(tmp_path / "a.png", PIXELS, {"image": str(secret), "include": f"file://{secret}"})
    assert read_metadata(tmp_path / "a.png")["image"] == str(secret)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\nrubbish",
        b"\0\0\0\x18ftypisomrubbish",
        b"#EXTM3U\n/etc/passwd",
        b"GIF89a",
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "strange.png"
    path.write_bytes(content)
    with pytest.raises(UnusableInput, match=r"strange\.png"):
        read_metadata(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(UnusableInput, match=path.name):
            read_metadata(path)


def test_a_tag_that_is_not_utf8(tmp_path: Path) -> None:
    path = mp4_with(tmp_path / "a.mp4", "abcdefgh")
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe"))
    with pytest.raises(UnusableInput):
        read_metadata(path)


def test_the_comment_is_plain_json_for_other_tools(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PIXELS, {"prompt": "é"})
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.info["Comment"]) == {"framepack": {"prompt": "é"}}


def test_a_full_disk_leaves_no_picture(small_disk: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    with pytest.raises(OutputFailed, match="the disk is full"):
        write_png(small_disk / "a.png", noise, {})
    assert not list(small_disk.iterdir())
