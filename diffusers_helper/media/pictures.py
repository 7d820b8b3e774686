"""The one place where picture files are decoded: whatever a user drops becomes uint8 [H, W, 3] sRGB or a clear refusal.

Formats are told apart by content, never by name, and only the decoders listed here ever see the bytes. A picture is
usable if all its pixels can be decoded, and refused if some are missing; what stands beside them does not reach the
decoder (``pixel_data.py``). Its size, and how often it would be passed over, are checked before a pixel is decoded.
The decoders are Pillow's own, called directly, so that neither its global limit nor the process-wide warning filters
take part in the decision.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageChops, ImageCms
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import UnusablePicture
from ..words import Message, plain
from . import pixel_data

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_PIXELS = 40_000_000
MAX_SIDE_PIXELS = 65_535
"""The most that JPEG and GIF know. A BMP may jump over 255 lines; all are made before it shows that few are left."""
MAX_FILE_BYTES = 1_000_000_000
ACCEPTED_NAMES = ("PNG", "JPEG", "WebP", "AVIF", "GIF", "BMP")
ACCEPTED = Message("picture.accepted")

_HEAD_BYTES = 512


class _Format(NamedTuple):
    """How a file begins, its type, what of it is decoded, and by what."""

    pattern: bytes
    media_type: str
    pixels_of: Callable[[bytes], pixel_data.PixelData]
    decoder: Callable[[IO[bytes]], ImageFile]


_FORMATS = (
    _Format(rb"\x89PNG\r\n\x1a\n", "image/png", pixel_data.of_png, PngImageFile),
    _Format(rb"\xff\xd8\xff", "image/jpeg", pixel_data.of_jpeg, JpegImageFile),
    _Format(rb"RIFF.{4}WEBP", "image/webp", pixel_data.of_webp, WebPImageFile),
    _Format(rb".{4}ftyp(.{4}){0,15}?avi[fs]", "image/avif", pixel_data.of_avif, AvifImageFile),
    _Format(rb"GIF8[79]a", "image/gif", pixel_data.of_gif, GifImageFile),
    _Format(rb"BM", "image/bmp", pixel_data.as_it_is, BmpImageFile),
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REFUSED: tuple[tuple[bytes, Message], ...] = (
    (rb"(?i)(\xef\xbb\xbf)?\s*<(svg|(\?xml|!--|!doctype svg).*<svg)", Message("picture.svg")),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)", Message("picture.web_page")),
    (rb"%PDF", Message("picture.pdf")),
    (rb".{4}ftyp(hei|hev|mif|msf)", Message("picture.heic")),
    (rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", Message("picture.video")),
    (rb"II\*\0|MM\0\*", Message("picture.tiff")),
    (rb"8BPS", Message("picture.photoshop")),
)


def _name(path: Path) -> str:
    """The file's name in quotes, with line breaks and invisible characters written out."""
    return repr(path.name or str(path))


def _opened(path: Path) -> IO[bytes]:
    """The file, open for reading. Folders and devices are refused before anything waits on them."""
    try:
        if path.exists() and not path.is_file():
            raise _unreadable(path, Message("picture.no_file"))
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise _unreadable(path, plain(getattr(error, "strerror", None) or str(error))) from error


def _unreadable(path: Path, reason: Message) -> UnusablePicture:
    what = {"name": _name(path), "reason": reason}
    return UnusablePicture(Message("picture.unreadable", **what, accepted=ACCEPTED), "unreadable", **what)


def _matching(head: bytes, pattern: bytes) -> bool:
    return re.match(pattern, head, re.DOTALL) is not None


def media_type(head: bytes) -> str | None:
    """The type of an accepted picture that begins with ``head``, such as image/png; None for anything else."""
    return next((known.media_type for known in _FORMATS if _matching(head, known.pattern)), None)


def describe(head: bytes) -> Message:
    """What begins with ``head``, where that is no accepted picture."""
    return next((kind for pattern, kind in _REFUSED if _matching(head, pattern)), Message("picture.unknown"))


def _format(head: bytes, path: Path) -> _Format:
    """The format of a file that begins with ``head``."""
    if not head:
        raise UnusablePicture(Message("picture.empty", name=_name(path)), "empty", name=_name(path))
    for known in _FORMATS:
        if _matching(head, known.pattern):
            return known
    what = {"name": _name(path), "found": describe(head)}
    raise UnusablePicture(
        Message("picture.format", **what, accepted=ACCEPTED), "format", **what, choices=ACCEPTED_NAMES
    )


def _whole(file: IO[bytes], path: Path) -> bytes:
    """All bytes of the file."""
    file.seek(0)
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        what = {"name": _name(path), "most": f"{MAX_FILE_BYTES / 1e9:g}"}
        raise UnusablePicture(Message("picture.large_file", **what), "large_file", **what)
    return data


def _check_size(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PIXELS:
        limits = {"most": MAX_PIXELS // 10**6, "side": MAX_SIDE_PIXELS}
        what = {"name": _name(path), "found": f"{width}x{height}", **limits}
        told = Message("picture.large", **what, megapixels=f"{width * height / 1e6:.0f}")
        raise UnusablePicture(told, "large", **what)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says."""
    turn = _TURNS.get(pixel_data.orientation(image.info.get("exif") or b""))
    return image if turn is None else image.transpose(turn)


def _without_empty_alpha(image: Image.Image) -> Image.Image:
    """A BMP whose alpha is 0 everywhere has none: programs that know no alpha leave it so."""
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey (modes I;16 and I) scaled to mode L; other modes as they are."""
    if not image.mode.startswith("I"):
        return image
    grey = (np.asarray(image).astype(np.int32).clip(0, 65535) + 128) // 257
    scaled = Image.fromarray(grey.astype(np.uint8))
    scaled.info.update({key: value for key, value in image.info.items() if key != "transparency"})
    return scaled


def _without_alpha(image: Image.Image) -> Image.Image:
    """The colours alone, in the mode that an embedded profile describes: L, CMYK or RGB."""
    if image.mode in ("L", "CMYK"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _to_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    """Mode RGB in sRGB. A profile that is broken or belongs to another mode is ignored, with a log line."""
    if profile:
        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(colours, embedded, srgb, outputMode="RGB")
            return converted or colours.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            log.warning("The picture's colour profile is ignored: %s", error)
    return colours.convert("RGB")


def _alpha(image: Image.Image) -> Image.Image | None:
    """Mode L; None where nothing is transparent."""
    if not image.has_transparency_data:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def _over(background: str, image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """Mode RGB in sRGB, with whatever is transparent laid over one colour."""
    colours = _to_srgb(_without_alpha(image), image.info.get("icc_profile"))
    if alpha is None:
        return colours
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(colours, mask=alpha)
    return canvas


def _image(found: pixel_data.PixelData, ending: bytes, known: _Format, path: Path) -> Image.Image:
    """Every pixel decoded. Raises UnusablePicture for a size over the limit, and what the decoder raises for damage."""
    data = found.stream + ending
    image = known.decoder(io.BytesIO(data))
    _check_size(image, path)
    image.decodermaxblock = len(data)  # all at once: of pieces, what fills up a JPEG would be read again with each
    image.load()
    beside = {"icc_profile": found.profile, "exif": found.exif}
    image.info.update({key: value for key, value in beside.items() if value is not None})
    return image


def _decoded(file: IO[bytes], path: Path) -> Image.Image:
    """Upright, of 8 bits. Raises UnusablePicture for what is refused, and whatever the decoder raises for damage."""
    known = _format(file.read(_HEAD_BYTES), path)
    found = known.pixels_of(_whole(file, path))
    image = _image(found, found.endings[0], known, path)
    for ending in found.endings[1:]:
        if ImageChops.difference(image, _image(found, ending, known, path)).getbbox() is not None:
            raise OSError("image file is truncated")
    return _eight_bit(_upright(_without_empty_alpha(image)))


class Opened(NamedTuple):
    """A picture file: uint8 ``pixels`` [H, W, 3] sRGB, and ``alpha`` [H, W], None where nothing is transparent."""

    pixels: np.ndarray
    alpha: np.ndarray | None


def open_with_alpha(path: Path) -> Opened:
    """See ``open_picture``."""

    def opened(image: Image.Image) -> Opened:
        alpha = _alpha(image)
        return Opened(np.array(_over("white", image, alpha)), None if alpha is None else np.array(alpha))

    return _opened_as(path, opened)


def open_picture(path: Path) -> np.ndarray:
    """Decodes a picture file to uint8 [H, W, 3] sRGB: upright, opaque over white, first frame of an animation.

    Raises UnusablePicture, naming the file, what is wrong with it and what to do.
    """
    return open_with_alpha(path).pixels


def open_mask(path: Path) -> np.ndarray:
    """How light a picture file is, uint8 [H, W]; what is transparent counts as black. Raises UnusablePicture."""
    return _opened_as(path, lambda image: np.array(_over("black", image, _alpha(image)).convert("L")))


def _opened_as(path: Path, made: Callable[[Image.Image], T]) -> T:
    with _opened(path) as file:
        try:
            return made(_decoded(file, path))
        except UnusablePicture:
            raise
        except Exception as error:
            what = {"name": _name(path), "reason": str(error) or type(error).__name__}
            raise UnusablePicture(Message("picture.damaged", **what), "damaged", **what) from error
