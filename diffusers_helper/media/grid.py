"""Pictures side by side with what tells them apart written beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .fit import resize_and_crop

MARGIN, SMALLEST_LETTERS = 6, 12
PAPER, INK = (16, 18, 22), (232, 234, 238)


def labelled_grid(pictures: Sequence[np.ndarray], labels: Sequence[str], columns: int) -> np.ndarray:
    """uint8 [H, W, 3] of pictures, uint8 [height, width, 3] each, row by row, each under its label; those of another
    size than the first are brought to its.

    Letters that do not fit over their picture are made smaller, then the label is cut.
    """
    height, width = pictures[0].shape[:2]
    font = _font(labels, width)
    line = int(font.size) + 2 * MARGIN
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, rows * (height + line + MARGIN) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        left, top = MARGIN + number % columns * (width + MARGIN), MARGIN + number // columns * (height + line + MARGIN)
        draw.text((left, top + MARGIN), _cut(label, font, width), font=font, fill=INK)
        sheet.paste(Image.fromarray(resize_and_crop(picture, height, width)), (left, top + line))
    return np.array(sheet)


def _font(labels: Sequence[str], width: int) -> ImageFont.FreeTypeFont:
    """Pillow's own, so large that the longest label fits."""
    size = max(SMALLEST_LETTERS, width // 16)
    font = ImageFont.load_default(size)
    longest = max(font.getlength(label) for label in labels)
    fitting = max(SMALLEST_LETTERS, min(size, int(size * width / max(longest, 1))))
    found = ImageFont.load_default(fitting)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise OSError("Pillow was built without FreeType")
    return found


def _cut(label: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    while label and font.getlength(label) > width:
        label = label[:-1]
    return label
