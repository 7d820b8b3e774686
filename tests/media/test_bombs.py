"""Small files that would take minutes or gigabytes to decode are refused, or what makes them so is passed over."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from diffusers_helper.errors import UnusablePicture
from diffusers_helper.media import pixel_data
from diffusers_helper.media.pictures import open_picture


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def opened(data: bytes, folder: Path) -> np.ndarray:
    (folder / "picture").write_bytes(data)
    return open_picture(folder / "picture")


PROGRESSIVE = encoded(Image.new("RGB", (64, 48), "red"), "JPEG", progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rfind(b"\xff\xda") : -2]


@pytest.mark.parametrize("between", [b"", b"\xff\xfe\x00\x04\xff\xd9"])
@pytest.mark.parametrize("end", [b"\xff\xd9", b""])
def test_a_jpeg_of_endless_scans_is_refused(tmp_path: Path, between: bytes, end: bytes) -> None:
    with pytest.raises(UnusablePicture, match="more than 100 scans"):
        opened(PROGRESSIVE[:-2] + (between + LAST_SCAN) * 100 + end, tmp_path)


def test_what_follows_a_jpeg_is_not_taken_for_its_scans(tmp_path: Path) -> None:
    assert np.array_equal(opened(PROGRESSIVE + LAST_SCAN * 200, tmp_path), opened(PROGRESSIVE, tmp_path))


@pytest.mark.parametrize("comments", [b"!\xfe" + b"\x01a" * 5000 + b"\0", b"!\xfe\x01a\0" * 5000])
def test_the_comments_of_a_gif_do_not_reach_its_decoder(tmp_path: Path, comments: bytes) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    gif = encoded(image, "GIF", transparency=0)
    colours_end = 13 + (6 << (gif[10] & 7))
    commented = gif[:colours_end] + comments + gif[colours_end:]
    assert len(pixel_data.of_gif(commented).stream) <= len(gif)
    assert opened(commented, tmp_path).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def endless(piece: bytes, form: str, place: int, what: str) -> object:
    """A picture with so many of that piece at that place that only the counting ends it."""
    data = encoded(Image.new("RGB", (2, 1), "red"), form)
    pieces = piece * (pixel_data.MOST_PIECES + 1)
    return pytest.param(data[:place] + pieces + data[place:], what, id=f"{form} {piece!r}")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        endless(b"\0\0\0\0tEXtsum.", "PNG", 33, "chunks"),
        endless(b"\0\0\0\0IDATsum.", "PNG", 33, "chunks"),
        endless(b"\xff\xfe\0\2", "JPEG", 2, "segments"),
        endless(b"\xff\xfe\0\2", "JPEG", -2, "segments"),
        endless(b"\xff\xc4\0\2", "JPEG", 2, "segments"),
        endless(b"XMP \0\0\0\0", "WEBP", 12, "chunks"),
        endless(b"infe\2.......Exif", "AVIF", -1, "EXIF items"),
        endless(b"!\xfe\0", "GIF", 13 + 12, "pieces"),
        endless(b"!\xfe\1a\0", "GIF", 13 + 12, "pieces"),
    ],
)
def test_a_picture_of_endless_pieces_is_refused(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(UnusablePicture, match=f"more than {pixel_data.MOST_PIECES} {what}"):
        opened(data, tmp_path)


def test_so_is_an_endless_comment_of_a_gif(tmp_path: Path) -> None:
    gif = encoded(Image.new("P", (2, 1)), "GIF")
    with pytest.raises(UnusablePicture, match=f"more than {pixel_data.MOST_PIECES} pieces"):
        opened(gif[:19] + b"!\xfe" + b"\1a" * pixel_data.MOST_PIECES + b"\0" + gif[19:], tmp_path)


def test_a_png_of_a_chunk_per_row_opens(tmp_path: Path) -> None:
    png = encoded(Image.new("L", (1, 65_535), 7), "PNG")
    pixels = zlib.compress(b"\0\7" * 65_535, 0)
    parts = (pixels[at : at + 3] for at in range(0, len(pixels), 3))
    chunks = (
        len(part).to_bytes(4, "big") + b"IDAT" + part + zlib.crc32(b"IDAT" + part).to_bytes(4, "big") for part in parts
    )
    assert np.array_equal(opened(png[:33] + b"".join(chunks) + png[-12:], tmp_path), opened(png, tmp_path))


def test_what_fills_up_a_jpeg_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, load_read = [], JpegImageFile.load_read
    monkeypatch.setattr(JpegImageFile, "load_read", lambda image, most: (reads.append(most), load_read(image, most))[1])
    filled = PROGRESSIVE[:-2] + b"\xff" * 1_000_000 + PROGRESSIVE[-2:]
    assert np.array_equal(opened(filled, tmp_path), opened(PROGRESSIVE, tmp_path))
    assert len(reads) == 2, "one for each picture"


class Counted(bytes):
    """Tells how often somebody has looked into it."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        self.looks += 1
        return super().__getitem__(place)


def test_what_stands_before_a_gifs_picture_is_not_walked_through_byte_by_byte() -> None:
    gif = encoded(Image.new("P", (2, 1)), "GIF")
    junk = Counted(gif[:19] + bytes(10_000) + gif[19:])
    assert pixel_data.of_gif(junk).stream == gif
    assert junk.looks < 100


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_gif_that_breaks_off_is_refused(tmp_path: Path, cut: int) -> None:
    gif = encoded(Image.effect_noise((16, 16), 90).convert("P"), "GIF")
    colours_end = 13 + (6 << (gif[10] & 7))
    for data in (gif[:cut], gif[: colours_end + cut], gif[:colours_end] + b";" + gif[colours_end:]):
        with pytest.raises(UnusablePicture):
            opened(data, tmp_path)


def test_a_bmp_that_jumps_over_gigabytes_is_refused_for_its_width(tmp_path: Path) -> None:
    jump = b"\0\2\0\xff\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 20_000_000, 2, 1, 8, 1, len(jump), 0, 0, 2, 0)
    bmp = b"BM" + struct.pack("<IHHI", 62 + len(jump), 0, 0, 62) + header + bytes(8) + jump
    with pytest.raises(UnusablePicture, match=r"20000000x2 .* 65535 pixels a side"):
        opened(bmp, tmp_path)
