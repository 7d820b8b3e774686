"""Whatever a user drops becomes the picture they see in a viewer, or a refusal that says what is wrong."""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffusers_helper.errors import UnusablePicture
from diffusers_helper.media import pictures
from diffusers_helper.media.pictures import ACCEPTED, ACCEPTED_NAMES, open_picture
from diffusers_helper.words import LANGUAGES, Texts

WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)
SMOOTH = np.mgrid[0:48, 0:64].sum(0)[..., None] * np.array([2, 1, 0]) + np.array([10, 40, 90])


@pytest.fixture
def smooth() -> Image.Image:
    """A soft 48x64 ramp that survives lossy formats closely."""
    return Image.fromarray(SMOOTH.astype(np.uint8))


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UnusablePicture) as caught:
        open_picture(path)
    return str(caught.value)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size in its header and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif", "gif", "bmp"])
def test_every_accepted_format_shows_the_same_picture(tmp_path: Path, smooth: Image.Image, suffix: str) -> None:
    pixels = open_picture(saved(smooth, tmp_path / f"a.{suffix}"))
    assert pixels.shape == (48, 64, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - SMOOTH).mean() < 6


def test_lossless_rgb_is_untouched(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert np.array_equal(open_picture(saved(Image.fromarray(noise), tmp_path / "a.png")), noise)


def test_the_content_decides_not_the_name(tmp_path: Path, smooth: Image.Image) -> None:
    path = saved(smooth, tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(open_picture(path), SMOOTH)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_photo_taken_upright_stands_upright(tmp_path: Path, suffix: str) -> None:
    sideways = np.zeros((32, 64, 3), np.uint8)
    sideways[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = open_picture(saved(Image.fromarray(sideways), tmp_path / f"a.{suffix}", exif=exif.tobytes()))
    assert pixels.shape == (64, 32, 3)
    assert pixels[:24].min() > 240
    assert pixels[40:].max() < 15


def test_hidden_colour_behind_alpha_stays_hidden(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 255, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))
    pixels = open_picture(saved(image, tmp_path / "a.png"))
    assert pixels[0].tolist() == [list(WHITE), list(BLUE), [204, 204, 204]]


def test_grey_with_alpha_lies_over_white(tmp_path: Path) -> None:
    image = Image.new("LA", (2, 1), (100, 255))
    image.putpixel((1, 0), (0, 0))
    pixels = open_picture(saved(image, tmp_path / "a.png"))
    assert pixels[0].tolist() == [[100, 100, 100], list(WHITE)]


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_transparent_palette_entry_becomes_white(tmp_path: Path, suffix: str) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    pixels = open_picture(saved(image, tmp_path / f"a.{suffix}", transparency=0))
    assert pixels[0].tolist() == [list(WHITE), list(BLUE)]


def test_one_transparent_colour_of_rgb_becomes_white(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    pixels = open_picture(saved(image, tmp_path / "a.png", transparency=RED))
    assert pixels[0].tolist() == [list(WHITE), list(BLUE)]


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 32768, 65535]], np.uint16)
    pixels = open_picture(saved(Image.fromarray(deep), tmp_path / "a.png"))
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_grey_with_a_transparent_level_opens(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((2, 2), 40000, np.uint16))
    assert open_picture(saved(deep, tmp_path / "a.png", transparency=5))[0, 0].tolist() == [156, 156, 156]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_black_and_white_and_grey(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), 255)
    assert open_picture(saved(image, tmp_path / "a.png"))[0].tolist() == [[0, 0, 0], list(WHITE)]


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = open_picture(saved(red, tmp_path / "a.jpg", quality=95))
    assert np.abs(pixels.astype(int) - RED).max() < 8


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    path = saved(first, tmp_path / f"a.{suffix}", save_all=True, append_images=[second], lossless=True)
    assert np.abs(open_picture(path).astype(int) - RED).max() <= 1


def swapped_profile() -> bytes:
    """An RGB profile in which red and green have changed places: visible proof that a profile is applied."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for at in range(132, 132 + 12 * struct.unpack(">I", data[128:132])[0], 12):
        names = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
        data[at : at + 4] = names.get(bytes(data[at : at + 4]), data[at : at + 4])
    return bytes(data)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_the_embedded_profile_is_applied(tmp_path: Path, mode: str) -> None:
    red = Image.new("RGB", (2, 2), RED).convert(mode)
    pixels = open_picture(saved(red, tmp_path / "a.png", icc_profile=swapped_profile()))
    assert np.abs(pixels.astype(int) - (0, 255, 0)).max() <= 3


def test_an_srgb_profile_changes_nothing_visible(tmp_path: Path, smooth: Image.Image) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = open_picture(saved(smooth, tmp_path / "a.png", icc_profile=profile))
    assert np.abs(pixels.astype(int) - SMOOTH).max() <= 1


@pytest.mark.parametrize("profile", [b"no profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()])
def test_an_unusable_profile_is_ignored_and_logged(
    tmp_path: Path, smooth: Image.Image, profile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(smooth, tmp_path / "a.png", icc_profile=profile)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(open_picture(path), SMOOTH)
    assert "profile is ignored" in caplog.text


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1)])
def test_odd_sizes_open(tmp_path: Path, width: int, height: int) -> None:
    assert open_picture(saved(Image.new("RGB", (width, height)), tmp_path / "a.png")).shape == (height, width, 3)


@pytest.mark.parametrize(("width", "height"), [(20000, 20000), (9000, 10000), (8000, 5001)])
def test_a_giant_is_refused_with_its_size_and_the_limit(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "giant.png"
    path.write_bytes(png_of_size(width, height))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        message = refusal(path)
    assert f"{width}x{height}" in message
    assert "limit is 40 megapixels" in message
    assert not heard


def test_pillows_own_limit_is_left_alone(tmp_path: Path, smooth: Image.Image) -> None:
    before = Image.MAX_IMAGE_PIXELS
    open_picture(saved(smooth, tmp_path / "a.png"))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "avif"])
def test_a_truncated_picture_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"half.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = refusal(path)
    assert "half." in message
    assert "damaged or incomplete" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty (0 bytes)"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x --><svg/>", "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "an HEIC photo"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"II*\0\x08\0\0\0", "a TIFF picture"),
        (b"just words", "not a known picture format"),
        (b"\x89PNG\r\n\x1a\n", "damaged or incomplete"),
        (b"\x89PNG\r\n\x1a\nand then something else entirely", "damaged or incomplete"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    message = refusal(path)
    assert said in message
    assert "picture.png" in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"%PDF-1.7",
            (
                "'a.png' is a PDF document, which is not accepted. "
                "Save it as PNG, JPEG, WebP, AVIF, GIF or BMP and try again.",
                "'a.png' はPDF 文書で、使えません。PNG、JPEG、WebP、AVIF、GIF、BMP のいずれかで保存し直してください。",
                "'a.png' 是PDF 文档，不被接受。请另存为 PNG、JPEG、WebP、AVIF、GIF 或 BMP 后重试。",
            ),
        ),
        (
            png_of_size(8000, 5001),
            (
                "The picture 'a.png' is 8000x5001 (40 megapixels); the limit is 40 megapixels and 65535 pixels a side. "
                "Make it smaller and try again.",
                "画像 'a.png' は 8000x5001（40 メガピクセル）です。上限は 40 メガピクセル、一辺 65535 ピクセルです。"
                "小さくしてからもう一度お試しください。",
                "图片 'a.png' 的尺寸为 8000x5001（40 百万像素）；上限为 40 百万像素，且每边不超过 65535 像素。"
                "请缩小后重试。",
            ),
        ),
        (
            b"",
            (
                "The picture 'a.png' is empty (0 bytes). Save or upload it again.",
                "画像 'a.png' は空です（0 バイト）。保存またはアップロードをやり直してください。",
                "图片 'a.png' 是空文件（0 字节）。请重新保存或上传。",
            ),
        ),
    ],
    ids=["format", "large", "empty"],
)
def test_a_refusal_is_told_in_each_language(tmp_path: Path, content: bytes, told: tuple[str, ...]) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnusablePicture) as caught:
        open_picture(tmp_path / "a.png")
    assert tuple(Texts(language).said(caught.value.said) for language in LANGUAGES) == told


def test_a_folder_in_place_of_a_picture_is_told_in_each_language(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UnusablePicture) as caught:
        open_picture(tmp_path / "a.png")
    assert [Texts(language).said(caught.value.said) for language in LANGUAGES] == [
        "The picture 'a.png' cannot be read: it is a folder or a device, not a file. "
        "Choose a PNG, JPEG, WebP, AVIF, GIF or BMP file.",
        "画像 'a.png' を読み込めません: ファイルではなく、フォルダーかデバイスです。"
        "PNG、JPEG、WebP、AVIF、GIF、BMP のいずれかのファイルを選んでください。",
        "无法读取图片 'a.png'：它是文件夹或设备，不是文件。请选择 PNG、JPEG、WebP、AVIF、GIF 或 BMP 文件。",
    ]


def test_a_file_that_is_too_large_is_told_in_each_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smooth: Image.Image
) -> None:
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 10)
    with pytest.raises(UnusablePicture) as caught:
        open_picture(saved(smooth, tmp_path / "a.png"))
    assert [Texts(language).said(caught.value.said) for language in LANGUAGES] == [
        "The picture file 'a.png' is larger than 1e-08 GB. Save it again, smaller.",
        "画像ファイル 'a.png' は 1e-08 GB を超えています。小さくして保存し直してください。",
        "图片文件 'a.png' 大于 1e-08 GB。请缩小后重新保存。",
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_accepted_formats_are_named_in_each_language(language: str) -> None:
    assert [name for name in ACCEPTED_NAMES if name not in Texts(language).said(ACCEPTED)] == []


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "gone.png")
    assert "it is a folder" in refusal(tmp_path)
    assert "null" in refusal(Path("a\0b.png"))


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this system")
    os.mkfifo(tmp_path / "pipe.png")
    assert "a folder or a device" in refusal(tmp_path / "pipe.png")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "secret.png"
    path.write_bytes(b"x")
    monkeypatch.setattr(Path, "open", denied)
    assert "Permission denied" in refusal(path)


def test_a_strange_name_cannot_break_the_message(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines \u202etxt.png"
    path.write_bytes(b"words")
    message = refusal(path)
    assert "\n" not in message
    assert "\u202e" not in message


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path, smooth: Image.Image) -> None:
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("JPEG", "PNG", "WEBP"):
        stream = io.BytesIO()
        smooth.save(stream, suffix, exif=exif.tobytes())
        for _ in range(40):
            data = np.frombuffer(stream.getvalue(), np.uint8).copy()
            data[random.integers(0, min(len(data), 300), 3)] = random.integers(0, 256, 3)
            (tmp_path / "a").write_bytes(data.tobytes())
            try:
                assert open_picture(tmp_path / "a").ndim == 3
            except UnusablePicture:
                continue
