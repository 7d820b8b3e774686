"""The one place where picture files are decoded: whatever a user drops becomes uint8 [H, W, 3] sRGB or a clear refusal.

Formats are told apart by content, never by name, and only the decoders listed here ever see the bytes. The size is
checked before a pixel is decoded. The decoders are Pillow's own, called directly, so that neither its global limit
nor the process-wide warning filters take part in the decision.
"""

from __future__ import annotations

import errno
import io
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageCms, ImageOps
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import UnusablePicture

log = logging.getLogger(__name__)

MAX_PIXELS = 40_000_000
ACCEPTED = "PNG, JPEG, WebP, AVIF, GIF or BMP"

_HEAD_BYTES = 512
_READERS: tuple[tuple[bytes, str, Callable[[IO[bytes]], Image.Image]], ...] = (
    (rb"\x89PNG\r\n\x1a\n", "image/png", PngImageFile),
    (rb"\xff\xd8\xff", "image/jpeg", JpegImageFile),
    (rb"RIFF.{4}WEBP", "image/webp", WebPImageFile),
    (rb".{4}ftypavi[fs]", "image/avif", AvifImageFile),
    (rb"GIF8[79]a", "image/gif", GifImageFile),
    (rb"BM", "image/bmp", BmpImageFile),
)
_REFUSED: tuple[tuple[bytes, str], ...] = (
    (rb"(?i)(\xef\xbb\xbf)?\s*<(svg|(\?xml|!--|!doctype svg).*<svg)", "an SVG drawing"),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)", "a web page"),
    (rb"%PDF", "a PDF document"),
    (rb".{4}ftyp(hei|hev|mif|msf)", "an HEIC photo"),
    (rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", "a video"),
    (rb"II\*\0|MM\0\*", "a TIFF picture or camera raw file"),
    (rb"8BPS", "a Photoshop file"),
)


def _name(path: Path) -> str:
    """The file's name in quotes, with line breaks and invisible characters written out."""
    return repr(path.name or str(path))


def _opened(path: Path) -> IO[bytes]:
    """The file, open for reading. Folders and devices are refused before anything waits on them."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is a folder or a device, not a file")
        return path.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnusablePicture(
            f"The picture {_name(path)} cannot be read: {reason}. Choose a {ACCEPTED} file."
        ) from error


def _matching(head: bytes, pattern: bytes) -> bool:
    return re.match(pattern, head, re.DOTALL) is not None


def media_type(head: bytes) -> str | None:
    """The type of an accepted picture that begins with ``head``, such as image/png; None for anything else."""
    return next((kind for pattern, kind, _ in _READERS if _matching(head, pattern)), None)


def describe(head: bytes) -> str:
    """In words, what begins with ``head``, where that is no accepted picture."""
    return next((kind for pattern, kind in _REFUSED if _matching(head, pattern)), "not a known picture format")


def _reader(head: bytes, path: Path) -> Callable[[IO[bytes]], Image.Image]:
    """The decoder for a file that begins with ``head``."""
    if not head:
        raise UnusablePicture(f"The picture {_name(path)} is empty (0 bytes). Save or upload it again.")
    for pattern, _, reader in _READERS:
        if _matching(head, pattern):
            return reader
    kind = describe(head)
    raise UnusablePicture(f"{_name(path)} is {kind}, which is not accepted. Save it as {ACCEPTED} and try again.")


def _check_size(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnusablePicture(
            f"The picture {_name(path)} is {width}x{height} ({width * height / 1e6:.0f} megapixels); "
            f"the limit is {MAX_PIXELS // 10**6} megapixels. Make it smaller and try again."
        )


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey (modes I;16 and I) scaled to mode L; other modes as they are."""
    if not image.mode.startswith("I"):
        return image
    grey = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
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


def _over_white(image: Image.Image) -> Image.Image:
    """Mode RGB in sRGB, with whatever is transparent laid over white."""
    colours = _to_srgb(_without_alpha(image), image.info.get("icc_profile"))
    if not image.has_transparency_data:
        return colours
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(colours, mask=image.convert("RGBA").getchannel("A"))
    return canvas


def _decoded(file: IO[bytes], path: Path) -> np.ndarray:
    """uint8 [H, W, 3]. Raises UnusablePicture for what is refused, and whatever the decoder raises for damage."""
    reader = _reader(file.read(_HEAD_BYTES), path)
    file.seek(0)
    image = reader(file)
    _check_size(image, path)
    image.load()
    return np.array(_over_white(_eight_bit(ImageOps.exif_transpose(image))))


def open_picture(path: Path) -> np.ndarray:
    """Decodes a picture file to uint8 [H, W, 3] sRGB: upright, opaque over white, first frame of an animation.

    Raises UnusablePicture, naming the file, what is wrong with it and what to do.
    """
    with _opened(path) as file:
        try:
            return _decoded(file, path)
        except UnusablePicture:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise UnusablePicture(
                f"The picture {_name(path)} is damaged or incomplete ({reason}). Save or upload it again."
            ) from error
