"""Frames of a video side by side in one picture: how the README's picture was made.

python -m tools.contact_sheet video.mp4 docs/pocket.png [--frames 6] [--scale 2]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from diffusers_helper.media.video import read_frames

GAP_PIXELS = 4


def main() -> None:
    """Read the arguments, write the picture."""
    parser = argparse.ArgumentParser(description="Put frames of a video side by side.")
    parser.add_argument("video", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--scale", type=int, default=2)
    options = parser.parse_args()
    contact_sheet(read_frames(options.video), options.frames, options.scale).save(options.picture)


def contact_sheet(frames: np.ndarray, count: int, scale: int) -> Image.Image:
    """``count`` evenly spaced frames of uint8 [T, H, W, 3], first and last among them, enlarged ``scale`` times."""
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    height, width = (size * scale for size in chosen.shape[1:3])
    sheet = Image.new("RGB", (count * (width + GAP_PIXELS) - GAP_PIXELS, height), "white")
    for number, frame in enumerate(chosen):
        enlarged = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(enlarged, (number * (width + GAP_PIXELS), 0))
    return sheet


if __name__ == "__main__":
    main()
