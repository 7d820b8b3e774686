"""Of a picture file, what its decoder is given: the pixels, without what stands beside them.

Texts, previews, resolutions and whatever else programs write beside the pixels never decide whether a picture is
usable. They are stepped over here, neither read nor decompressed. Two things are kept because they change what is seen:
the colour profile and the orientation. Damage in the pixels is left for the decoder to find.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

log = logging.getLogger(__name__)

MAX_PROFILE_BYTES = 4_000_000
"""Of a colour profile, unpacked. Those of printers, the largest in use, have about half."""
MOST_PIECES = 100_000
"""Of which a file may consist: chunks, segments, blocks. Real ones have thousands, a PNG of a chunk per row 65,535."""

T = TypeVar("T")


@dataclass(frozen=True)
class PixelData:
    """What a decoder is given.

    Attributes:
        stream: a file of the same format, as far as the pixels need it.
        profile: the colour profile that stood beside the pixels, where the stream has it no more.
        exif: the EXIF block, of which nothing but the orientation is read.
        endings: what follows the stream. Where the end is missing there are several, and the picture is whole if its
            pixels are the same with each.
    """

    stream: bytes
    profile: bytes | None = None
    exif: bytes | None = None
    endings: tuple[bytes, ...] = (b"",)


def as_it_is(data: bytes) -> PixelData:
    """For formats whose decoder stumbles over nothing that stands beside the pixels."""
    return PixelData(data)


def _at_most(most: int, what: str, found: Iterable[T]) -> Iterator[T]:
    """``found``. Raises OSError as soon as there is more of it: a small file could have a minute's work in it."""
    for number, one in enumerate(found):
        if number == most:
            raise OSError(f"more than {most} {what}")
        yield one


# PNG: a signature, then chunks of length, kind, data and checksum. Those that may be left out begin small.

_PNG_SIGNATURE_BYTES = 8
_PNG_CHUNK = re.compile(rb".{4}([A-Za-z]{4})", re.DOTALL)
_PNG_PIXELS = re.compile(rb"PLTE|tRNS|IDAT|IEND")


def of_png(data: bytes) -> PixelData:
    """The critical chunks and tRNS. What an animation adds to its first picture is left out, too.

    Raises OSError for more chunks than a picture needs.
    """
    stream = bytearray(data[:_PNG_SIGNATURE_BYTES])
    beside: dict[bytes, bytes] = {}
    for kind, start, end in _at_most(MOST_PIECES, "chunks", _png_chunks(data)):
        if _makes_pixels(kind):
            stream += data[start:end]
        elif kind in (b"iCCP", b"eXIf"):
            beside[kind] = data[start + 8 : end - 4]
    profile = _unpacked_profile(beside[b"iCCP"]) if b"iCCP" in beside else None
    return PixelData(bytes(stream), profile, beside.get(b"eXIf"))


def _makes_pixels(kind: bytes) -> bool:
    return kind[:1].isupper() or kind == b"tRNS"


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk. After a wrong length, what makes pixels is sought."""
    at = _PNG_SIGNATURE_BYTES
    while header := _PNG_CHUNK.match(data, at):
        kind, end = header[1], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if _makes_pixels(kind) or end == len(data) or _PNG_CHUNK.match(data, end):
            yield kind, at, end
            at = end
        elif found := _PNG_PIXELS.search(data, at + 12):
            at = found.start() - 4
        else:
            return


def _unpacked_profile(packed: bytes) -> bytes | None:
    """What an iCCP chunk holds: a name, a zero, the method (a zero), and the profile, compressed."""
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(packed.partition(b"\0")[2][1:], MAX_PROFILE_BYTES)
    except zlib.error:
        profile = b""
    if inflater.eof:
        return profile
    log.warning("The picture's colour profile is ignored: it is damaged or larger than %d bytes", MAX_PROFILE_BYTES)
    return None


# JPEG: segments of marker, length and data. Behind the first scan's header come compressed pixels up to the end marker.

_JPEG_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
"""A marker that has a length behind it, or the end. Markers that restart a scan stand between compressed pixels."""
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_JPEG_PIXELS = {*range(0xC0, 0xD0), *range(_JPEG_SCAN, 0xE0)}
_JPEG_END = b"\xff\xd9"
_JPEG_NOISE = b"\xaa" * 64
_JPEG_COEFFICIENTS = 64
_JPEG_MOST_SCANS = 100
"""Each is a pass over the whole picture, however small its data. Progressive pictures have about ten."""


def of_jpeg(data: bytes) -> PixelData:
    """Tables, frame and scans, with the two segments that say how colours are stored. A missing end is made up for.

    Raises OSError for more segments or scans than a picture needs.
    """
    stream, beside, components = bytearray(data[:2]), list[bytes](), 0
    endings: tuple[bytes, ...] = (b"",)
    for code, segment in _jpeg_segments(data):
        if code in _JPEG_PIXELS or _says_how_colours_are_stored(segment):
            stream += segment
        elif segment.startswith((b"Exif\0\0", b"ICC_PROFILE\0"), 4):
            beside.append(segment[4:])
        if code in _JPEG_FRAMES:
            components = segment[9] if len(segment) > 9 else 0
        elif code == _JPEG_SCAN:
            headers = _scan_headers(segment)
            if _JPEG_END not in segment and _carry_everything(headers, components):
                endings = (_JPEG_END, _JPEG_NOISE + _next_restart(segment) + _JPEG_NOISE + _JPEG_END)
    exif = next((block for block in beside if block.startswith(b"Exif")), None)
    return PixelData(bytes(stream).rstrip(b"\xff"), _joined_profile(beside), exif, endings)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(code, marker and all) of each segment; the first scan comes last, with all that follows it."""
    for code, start, end in _at_most(MOST_PIECES, "segments", _jpeg_places(data, 2)):
        if code == _JPEG_SCAN:
            yield code, data[start:]
            return
        yield code, data[start:end]


def _jpeg_places(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """(code, start, end) of each segment from ``at`` on, up to the end of the picture."""
    while (found := _JPEG_SEGMENT.search(data, at)) and found[0] != _JPEG_END:
        start = found.start()
        at = start + 2 + max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
        yield found[1][0], start, at


def _scan_headers(scans: bytes) -> list[bytes]:
    """What the scans say of themselves, without marker and length. Raises OSError for too many of them."""
    places = _at_most(MOST_PIECES, "segments", _jpeg_places(scans, 0))
    headers = (scans[start + 4 : end] for code, start, end in places if code == _JPEG_SCAN)
    return list(_at_most(_JPEG_MOST_SCANS, "scans", headers))


def _says_how_colours_are_stored(segment: bytes) -> bool:
    """Whether it is a JFIF or an Adobe segment, and long enough to say so."""
    jfif = segment.startswith(b"\xff\xe0") and segment.startswith(b"JFIF\0", 4) and len(segment) >= 18
    return jfif or (segment.startswith(b"\xff\xee") and segment.startswith(b"Adobe", 4) and len(segment) >= 16)


def _carry_everything(headers: list[bytes], components: int) -> bool:
    """Whether the scans, by their headers, bring every coefficient of every component down to its last bit."""
    carried: dict[int, set[int]] = {}
    for header in headers:
        if len(header) < 6 or header[-1] & 0x0F:
            continue
        for component in header[1:-3:2]:
            carried.setdefault(component, set()).update(range(header[-3], header[-2] + 1))
    return sum(len(coefficients) >= _JPEG_COEFFICIENTS for coefficients in carried.values()) >= components


def _next_restart(scans: bytes) -> bytes:
    """The marker that would come next in the last scan; they count from 0 to 7 and begin again.

    A decoder that waits for it passes over everything else, so noise without it could not show that pixels are missing.
    """
    restarts = [bytes((0xFF, code)) for code in range(0xD0, 0xD8)]
    places = [scans.rfind(restart, scans.rfind(b"\xff\xda")) for restart in restarts]
    last = places.index(max(places)) if max(places) >= 0 else -1
    return restarts[(last + 1) % 8]


def _joined_profile(blocks: list[bytes]) -> bytes | None:
    """The colour profile from its numbered pieces, each told how many there are; None where some are missing."""
    pieces = sorted(block[12:] for block in blocks if block.startswith(b"ICC_PROFILE\0"))
    if not pieces:
        return None
    if [*pieces[0][1:2]] == [len(pieces)]:
        return b"".join(piece[2:] for piece in pieces)
    log.warning("The picture's colour profile is ignored: pieces of it are missing")
    return None


# WebP: RIFF chunks of kind, length and data, padded to even lengths.

_WEBP_KIND = re.compile(rb"[^\0]")
_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP")


def of_webp(data: bytes) -> PixelData:
    """The frames and the colour profile, up to the end of the file, whatever its header says of the length.

    Raises OSError for more chunks than a picture needs.
    """
    frames, exif = bytearray(), None
    for kind, start, end in _at_most(MOST_PIECES, "chunks", _webp_chunks(data)):
        if kind in _WEBP_PIXELS:
            frames += data[start:end]
        elif kind == b"EXIF":
            exif = data[start + 8 : end]
    frames += b"\0" * (len(frames) % 2)
    return PixelData(b"RIFF" + struct.pack("<L", len(frames) + 4) + b"WEBP" + bytes(frames), exif=exif)


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk. Zeros before it, with which some programs fill up a file, are no chunks."""
    at = 12
    while (found := _WEBP_KIND.search(data, at)) and (at := found.start()) + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length + length % 2
        yield data[at : at + 4], at, end
        at = end


# AVIF: boxes. The pixels say by themselves how they are turned, and EXIF is an item that can be given another kind.

_AVIF_EXIF_ITEM = re.compile(rb"infe(?:\x02.{7}|\x03.{9})Exif", re.DOTALL)


def of_avif(data: bytes) -> PixelData:
    """The whole file, with its EXIF hidden from the decoder. Raises OSError for more items than a picture needs."""
    hidden = bytearray(data)
    for item in _at_most(MOST_PIECES, "EXIF items", _AVIF_EXIF_ITEM.finditer(data)):
        hidden[item.end() - 4 : item.end()] = b"skip"
    return PixelData(bytes(hidden))


# GIF: a header with its colours, extensions in pieces of up to 255 bytes, pictures.

_GIF_INTRODUCER = re.compile(rb"[!,;]")
_GIF_PIXELS = (b"!\xf9", b",", b";")
"""Which colour is transparent, and what begins a picture or ends the file."""


def of_gif(data: bytes) -> PixelData:
    """Of what stands before the first picture only which colour is transparent.

    Raises OSError for more pieces than a picture needs.
    """
    flags = data[10] if len(data) > 10 else 0
    colours_end = 13 + (flags >> 7) * (6 << (flags & 7))
    stream = bytearray(data[:colours_end])
    for kind, start, end in _at_most(MOST_PIECES, "pieces", _gif_pieces(data, colours_end)):
        if kind in _GIF_PIXELS:
            stream += data[start:end]
    return PixelData(bytes(stream))


def _gif_pieces(data: bytes, at: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each extension's head, pieces and end; at last of the picture, with all that follows it."""
    while (found := _GIF_INTRODUCER.search(data, at)) and found[0] == b"!":
        start, at = found.start(), found.end() + 1
        kind = data[start:at]
        yield kind, start, at
        while at < len(data) and data[at]:
            yield kind, at, at + 1 + data[at]
            at += 1 + data[at]
        yield kind, at, at + 1
        at += 1
    if found:
        yield found[0], found.start(), len(data)


# EXIF: a TIFF file of tags; the first directory has the orientation.

_ORIENTATION_TAG = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "L"}


def orientation(exif: bytes) -> int:
    """How the picture is to be turned, 1 to 8 in EXIF's numbers; 1 (not at all) where nothing can be read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[tiff[:4]]
        (at,) = struct.unpack_from(f"{order}L", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                (value,) = struct.unpack_from(order + _INTEGERS[kind], tiff, entry + 8)
                return value if value in range(1, 9) else 1
    except (struct.error, KeyError):
        pass
    return 1
