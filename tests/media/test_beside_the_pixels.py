"""A picture is usable if all its pixels can be decoded, whatever stands beside them; refused if some are missing."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffusers_helper.errors import UnusablePicture
from diffusers_helper.media import pictures
from diffusers_helper.media.pictures import open_picture

CASES = Path(__file__).parent / "cases"
RAMP = (np.mgrid[0:48, 0:64].sum(0)[..., None] * [2, 1, 0] + [10, 40, 90]).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
BOMB = zlib.compress(b"a" * 20_000_000, 9)


def encoded(pixels: np.ndarray, form: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def opened(data: bytes, folder: Path) -> np.ndarray:
    (folder / "picture").write_bytes(data)
    return open_picture(folder / "picture")


def is_refused(data: bytes, folder: Path) -> bool:
    try:
        opened(data, folder)
    except UnusablePicture:
        return True
    return False


def exif(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    """An EXIF block of (tag, type, count, value) without what longer values point to."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    packed = b"".join(
        struct.pack(f"{order}HHL", tag, kind, count) + struct.pack(order + ("H2x" if kind == 3 else "L"), value)
        for tag, kind, count, value in entries
    )
    return b"Exif\0\0" + head + struct.pack(f"{order}LH", 8, len(entries)) + packed + bytes(4)


BROKEN_TAGS = ((0x0102, 2, 4, 0x636261), (0x0132, 3, 1, 5), (0x8769, 4, 1, 99_999), (0x9286, 99, 2**31, 2**31))


def turned(number: int) -> bytes:
    """An orientation among tags that no reader can make sense of."""
    return exif(*BROKEN_TAGS[:2], (0x0112, 3, 1, number), *BROKEN_TAGS[2:])


def as_seen(pixels: np.ndarray, number: int) -> np.ndarray:
    """What a viewer shows of ``pixels`` with orientation 1 to 8."""
    mirrored = pixels[:, ::-1] if number in (2, 4, 5, 7) else pixels
    return np.rot90(mirrored, {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(number, 0))


@pytest.mark.parametrize("name", ["big_zTXt.png", "noeoi.jpg", "mif1.avif", "bv5_0.bmp", "exif_o6_asciinum.jpg"])
def test_the_known_cases_show_one_picture(name: str) -> None:
    drawn = open_picture(CASES / "big_zTXt.png").astype(int)
    assert np.abs(open_picture(CASES / name) - drawn).mean() < 3
    assert drawn.std() > 40


# PNG


def chunk(kind: bytes, data: bytes, checksum: int | None = None, length: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">L", len(data) if length is None else length) + kind + data + struct.pack(">L", checksum)


def chunks_of(png: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(png):
        end = at + 12 + struct.unpack_from(">L", png, at)[0]
        yield png[at:end]
        at = end


def png_with(*beside: bytes, place: int = 1, pixels: np.ndarray = RAMP, mode: str = "RGB", **options: object) -> bytes:
    """A PNG with more chunks, behind the header or wherever ``place`` says."""
    chunks = [*chunks_of(encoded(pixels, "PNG", mode, **options))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks[:place], *beside, *chunks[place:]])


BESIDE_A_PNG = {
    "text bomb": chunk(b"zTXt", b"workflow\0\0" + BOMB),
    "international text bomb": chunk(b"iTXt", b"prompt\0\1\0\0\0" + BOMB),
    "long text": chunk(b"tEXt", b"prompt\0" + b"a" * 2_000_000),
    "texts of many megabytes": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 1_000_000)) * 70,
    "text without an end": chunk(b"zTXt", b"a\0\0" + BOMB[:50]),
    "text of an unknown compression": chunk(b"zTXt", b"a\0\7" + BOMB),
    "name in another encoding": chunk(b"tEXt", b"\xff\xfe\0\xff"),
    "profile bomb": chunk(b"iCCP", b"p\0\0" + BOMB),
    "profile of garbage": chunk(b"iCCP", b"p\0\0" + b"garbage" * 9),
    "profile of an unknown compression": chunk(b"iCCP", b"p\0\1x"),
    "empty profile": chunk(b"iCCP", b""),
    "exif of garbage": chunk(b"eXIf", b"\xff" * 50),
    "exif cut off": chunk(b"eXIf", turned(6)[6:16]),
    "exif beyond its end": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "exif in a text": chunk(b"tEXt", b"exif\0garbage"),
    "short pHYs": chunk(b"pHYs", b"\0"),
    "short cHRM": chunk(b"cHRM", bytes(31)),
    "short gAMA": chunk(b"gAMA", b"\0"),
    "empty sRGB": chunk(b"sRGB", b""),
    "wrong checksum of a text": chunk(b"tEXt", b"a\0b", checksum=1),
    "wrong checksum of an unknown chunk": chunk(b"prVt", b"a", checksum=1),
    "length too large": chunk(b"tEXt", b"a\0b", length=5000),
    "length beyond the file": chunk(b"pHYs", bytes(9), length=2**31 - 1),
    "length too small": chunk(b"zTXt", b"a\0\0" + BOMB[:500], length=7),
    "length below zero": chunk(b"pHYs", bytes(9), length=2**32 - 1),
    "animation cut off": chunk(b"acTL", b"\0") + chunk(b"fcTL", bytes(4)),
    "animation out of order": chunk(b"fcTL", struct.pack(">5L", 9, 64, 48, 0, 0) + bytes(6)),
}


@pytest.mark.parametrize("what", BESIDE_A_PNG)
def test_what_stands_beside_a_pngs_pixels_does_not_matter(tmp_path: Path, what: str) -> None:
    for place in (1, 2):
        assert np.array_equal(opened(png_with(BESIDE_A_PNG[what], place=place), tmp_path), RAMP)


def test_what_is_dropped_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [chunk(kind, head + BOMB) for kind, head in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"))]
    monkeypatch.setattr(zlib, "decompressobj", None)
    assert np.array_equal(opened(png_with(*texts), tmp_path), RAMP)


def test_text_between_the_pixels_and_a_missing_end_chunk(tmp_path: Path) -> None:
    header, pixels, end = chunks_of(encoded(NOISE, "PNG"))
    halves = [chunk(b"IDAT", part) for part in (pixels[8:3000], pixels[3000:-4])]
    text = chunk(b"tEXt", b"a\0b")
    whole = b"\x89PNG\r\n\x1a\n" + header + halves[0] + text + halves[1]
    for tail in (end, b"", text, text[:9], text[:4]):
        assert np.array_equal(opened(whole + tail, tmp_path), NOISE)


def test_a_png_is_turned_and_coloured_whatever_the_checksums_say(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    beside = [chunk(b"eXIf", turned(6)[6:], checksum=1), chunk(b"iCCP", b"p\0\0" + zlib.compress(profile), checksum=1)]
    assert np.abs(opened(png_with(*beside), tmp_path).astype(int) - as_seen(RAMP, 6)).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "L", "1"])
def test_a_png_with_pixels_missing_is_refused(tmp_path: Path, mode: str) -> None:
    png = png_with(pixels=NOISE, mode=mode)
    starts = [png.find(b"IDAT") + 4, png.find(b"IEND") - 8]
    for cut in range(8, starts[1], 97):
        assert is_refused(png[:cut], tmp_path)
    damaged = bytearray(png)
    damaged[sum(starts) // 2] ^= 1
    assert is_refused(bytes(damaged), tmp_path)


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS"])
def test_a_wrong_checksum_of_what_makes_the_pixels_is_refused(tmp_path: Path, kind: bytes) -> None:
    png = bytearray(png_with(mode="P", transparency=0))
    at = png.find(kind)
    png[at + 4 + struct.unpack_from(">L", png, at - 4)[0]] ^= 1
    assert is_refused(bytes(png), tmp_path)


# JPEG


def segment(code: int, data: bytes, length: int | None = None) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(data) + 2 if length is None else length) + data


def jpeg_with(*beside: bytes, pixels: np.ndarray = RAMP, **options: object) -> bytes:
    jpeg = encoded(pixels, "JPEG", **options)
    return jpeg[:2] + b"".join(beside) + jpeg[2:]


BESIDE_A_JPEG = {
    "exif of garbage": segment(0xE1, b"Exif\0\0" + b"\xff" * 50),
    "exif cut off": segment(0xE1, turned(6)[:14]),
    "exif without tags": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "orientation of no meaning": segment(0xE1, exif((0x0112, 3, 1, 9))),
    "orientation as a text": segment(0xE1, exif((0x0112, 2, 2, 0x36))),
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "Photoshop's block cut off": segment(0xED, b"Photoshop 3.0\x008BIM\4\4"),
    "profile with pieces missing": segment(0xE2, b"ICC_PROFILE\0\1\3abc"),
    "profile in more pieces than can be numbered": segment(0xE2, b"ICC_PROFILE\0\1\1x") * 256,
    "profile of garbage": segment(0xE2, b"ICC_PROFILE\0\1\1garbage"),
    "empty profile": segment(0xE2, b"ICC_PROFILE\0"),
    "list of pictures cut off": segment(0xE2, b"MPF\0II*\0"),
    "comment": segment(0xFE, b"\xff" * 60_000),
    "length of nothing": segment(0xE5, b"", length=0),
    "junk": segment(0xFE, b"a") + b"junk\xff\xff",
}


@pytest.mark.parametrize("what", BESIDE_A_JPEG)
def test_what_stands_beside_a_jpegs_pixels_does_not_matter(tmp_path: Path, what: str) -> None:
    clean = opened(jpeg_with(), tmp_path)
    assert np.array_equal(opened(jpeg_with(BESIDE_A_JPEG[what]), tmp_path), clean)


@pytest.mark.parametrize("number", range(1, 9))
def test_a_photo_stands_upright_beside_broken_tags(tmp_path: Path, number: int) -> None:
    seen = as_seen(opened(jpeg_with(), tmp_path), number)
    for block in (turned(number), exif((0x0112, 3, 1, number), order=">"), exif((0x0112, 4, 1, number))):
        assert np.array_equal(opened(jpeg_with(segment(0xE1, block)), tmp_path), seen)


def test_a_profile_in_pieces_is_joined(tmp_path: Path) -> None:
    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(b"rXYZ", b"gXYZ", 1)
    pieces = [segment(0xE2, b"ICC_PROFILE\0" + bytes((n, 2)) + part) for n, part in ((2, grey[300:]), (1, grey[:300]))]
    by_pillow = opened(encoded(RAMP, "JPEG", icc_profile=grey), tmp_path)
    assert np.array_equal(opened(jpeg_with(*pieces), tmp_path), by_pillow)


ENCODERS = [
    {}, {"progressive": True}, {"optimize": True}, {"subsampling": 0, "quality": 100}, {"restart_marker_blocks": 1},
    {"restart_marker_rows": 1}, {"progressive": True, "restart_marker_rows": 1},
]  # fmt: skip


@pytest.mark.parametrize(("mode", "options"), [*itertools.product(["RGB", "L", "CMYK"], ENCODERS)])
def test_a_jpeg_without_its_end_opens_and_one_without_pixels_does_not(
    tmp_path: Path, mode: str, options: dict[str, object]
) -> None:
    half_flat = NOISE.copy()
    half_flat[24:] = 128  # what a decoder puts where pixels are missing
    if mode != "RGB":
        options = {key: value for key, value in options.items() if key != "subsampling"}
    for pixels in (NOISE, half_flat):
        jpeg = encoded(pixels, "JPEG", mode, **options)
        whole = opened(jpeg, tmp_path)
        for end in (-1, -2):
            assert np.array_equal(opened(jpeg[:end], tmp_path), whole)
        first_scan = jpeg.find(b"\xff\xda")
        cuts = {*range(first_scan, len(jpeg) - 20, 101), *range(len(jpeg) - 20, len(jpeg) - 2)}
        for cut in cuts:
            assert is_refused(jpeg[:cut], tmp_path) or np.array_equal(opened(jpeg[:cut], tmp_path), whole)
        assert is_refused(jpeg[: first_scan + (len(jpeg) - first_scan) // 3], tmp_path)


def test_a_progressive_jpeg_that_ends_after_a_scan_is_refused(tmp_path: Path) -> None:
    jpeg = encoded(NOISE, "JPEG", progressive=True)
    at = jpeg.find(b"\xff\xda")
    while (at := jpeg.find(b"\xff\xda", at + 2)) > 0:
        tables = jpeg.rfind(b"\xff\xc4", 0, at)
        assert is_refused(jpeg[: max(tables, jpeg.rfind(b"\xff\xda", 0, at) + 20)], tmp_path)
        assert is_refused(jpeg[:at], tmp_path)


def test_a_giant_without_its_end_is_refused_for_its_size(tmp_path: Path) -> None:
    jpeg = bytearray(encoded(RAMP, "JPEG")[:-2])
    at = jpeg.find(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">2H", 60_000, 60_000)
    with pytest.raises(UnusablePicture, match="60000x60000"):
        opened(bytes(jpeg), tmp_path)


# WebP, AVIF, BMP


def riff(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<L", len(data)) + data + b"\0" * (len(data) % 2)


@pytest.mark.parametrize("lossless", [True, False])
def test_what_stands_beside_a_webps_pixels_does_not_matter(tmp_path: Path, lossless: bool) -> None:
    webp = encoded(NOISE, "WEBP", lossless=lossless, exif=turned(6)[6:])
    seen = opened(webp, tmp_path)
    assert seen.shape == (64, 48, 3)
    for length in (0, 12, len(webp) + 1000, 2**32 - 1):
        assert np.array_equal(opened(webp[:4] + struct.pack("<L", length) + webp[8:], tmp_path), seen)
    for added in (riff(b"XMP ", b"<x"), riff(b"none", b"abc"), riff(b"XMP ", b"abcd")[:-2], b"junk", bytes(900_000)):
        assert np.array_equal(opened(webp + added, tmp_path), seen)
    at = webp.find(b"EXIF")
    assert opened(webp[:at] + riff(b"EXIF", b"\xff" * 21), tmp_path).shape == (48, 64, 3)
    assert opened(webp[: at + 12], tmp_path).shape == (48, 64, 3)
    for cut in range(20, at - 1, 61):
        assert is_refused(webp[:cut], tmp_path)


BRANDS = [
    b"avif mif1 miaf", b"mif1 avif miaf", b"mif1 miaf avif", b"miaf mif1 avif", b"avio avif mif1", b"avio miaf avif",
    b"msf1 mif1 avif", b"MA1A mif1 avif", b"MA1B avif mif1", b"mif2 mif1 avif", b"1pic avif miaf",
]  # fmt: skip


@pytest.mark.parametrize("brands", BRANDS)
def test_an_avif_is_known_by_any_of_its_brands(tmp_path: Path, brands: bytes) -> None:
    avif = encoded(RAMP, "AVIF")
    major, second, third = brands.split()
    box = b"ftyp" + major + bytes(4) + second + third
    renamed = avif[:4] + box.ljust(struct.unpack(">L", avif[:4])[0] - 4, b"\0") + avif[24 + 8 :]
    assert np.array_equal(opened(renamed, tmp_path), opened(avif, tmp_path))


@pytest.mark.parametrize(
    ("brands", "said"),
    [
        (b"mif1\0\0\0\0heicmif1", "an HEIC photo"), (b"heix\0\0\0\0mif1heic", "an HEIC photo"),
        (b"msf1\0\0\0\0hevcmsf1", "an HEIC photo"), (b"isom\0\0\2\0isomiso2avc1mp41", "a video"),
        (b"mp42\0\0\0\0isommp42", "a video"), (b"qt  \0\0\0\0qt  ", "a video"), (b"iso6\0\0\0\0av01iso6", "a video"),
    ],
)  # fmt: skip
def test_what_is_no_avif_is_still_named(tmp_path: Path, brands: bytes, said: str) -> None:
    (tmp_path / "a.avif").write_bytes(struct.pack(">L", 8 + len(brands)) + b"ftyp" + brands + b"\0\0\0\x08mdat")
    with pytest.raises(UnusablePicture, match=said):
        open_picture(tmp_path / "a.avif")


def test_an_avif_is_turned_by_itself_and_its_exif_does_not_matter(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112], tags[0x0110] = 6, "a camera of some name"
    avif = encoded(RAMP, "AVIF", exif=tags.tobytes())
    seen = opened(avif, tmp_path)
    assert seen.shape == (64, 48, 3)
    at = avif.find(b"MM\0*\0\0\0\x08")
    for broken in (b"XXXX", b"MM\0*\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"MM\0*\0\0\0\x08\0\1\1\x10\0\4"):
        assert np.array_equal(opened(avif[:at] + broken + avif[at + len(broken) :], tmp_path), seen)


LAYOUTS = {"BGRA": (16, 8, 0, 24), "RGBA": (0, 8, 16, 24), "ABGR": (24, 16, 8, 0)}


@pytest.mark.parametrize(("header_bytes", "layout"), [*itertools.product((56, 108, 124), LAYOUTS)])
def test_an_alpha_that_is_empty_everywhere_is_none_in_a_bmp(tmp_path: Path, header_bytes: int, layout: str) -> None:
    def bmp(alpha: int, elsewhere: int) -> bytes:
        channels = np.dstack([RAMP, np.full(RAMP.shape[:2], elsewhere, np.uint8)]).astype(np.uint32)
        channels[0, 0, 3] = alpha
        packed = sum(channels[::-1, :, n] << np.uint32(shift) for n, shift in enumerate(LAYOUTS[layout]))
        masks = struct.pack("<4L", *(0xFF << shift for shift in LAYOUTS[layout]))
        info = struct.pack("<LllHHLLllLL", header_bytes, 64, 48, 1, 32, 3, 0, 0, 0, 0, 0) + masks
        start = 14 + header_bytes
        head = b"BM" + struct.pack("<LLL", start + packed.nbytes, 0, start)
        return head + info.ljust(header_bytes, b"\0") + packed.astype("<u4").tobytes()

    assert np.array_equal(opened(bmp(0, 0), tmp_path), RAMP)
    assert np.array_equal(opened(bmp(255, 255), tmp_path), RAMP)
    mostly_clear = opened(bmp(255, 0), tmp_path)
    assert mostly_clear[0, 0].tolist() == RAMP[0, 0].tolist()
    assert mostly_clear[1:].min() == 255


def test_an_alpha_that_is_empty_everywhere_stays_one_in_a_png(tmp_path: Path) -> None:
    assert opened(encoded(np.dstack([RAMP, RAMP[..., :1] * 0]), "PNG", "RGBA"), tmp_path).min() == 255


def test_a_file_that_no_picture_needs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 1000)
    with pytest.raises(UnusablePicture, match="larger than"):
        opened(encoded(NOISE, "PNG"), tmp_path)
