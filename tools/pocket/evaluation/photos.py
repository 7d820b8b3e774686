"""Photographs for evaluation only: samples that ship inside the scikit-image and scikit-learn wheels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage
import sklearn
import torch
from PIL import Image

SKIMAGE = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "camera.png",
    "ihc.png",
    "grass.png",
)
SKLEARN = ("china.jpg", "flower.jpg")


def photo_paths() -> dict[str, Path]:
    """Name -> file, for those that are installed."""
    folders = {name: Path(skimage.__file__).parent / "data" for name in SKIMAGE}
    folders |= {name: Path(sklearn.__file__).parent / "datasets" / "images" for name in SKLEARN}
    paths = {name.split(".")[0]: folder / name for name, folder in folders.items()}
    return {name: path for name, path in paths.items() if path.exists()}


def cover(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Resize to cover and crop the centre, as the application does."""
    scale = max(width / picture.width, height / picture.height)
    resized = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return resized.crop((left, top, left + width, top + height))


def load_photos(height: int, width: int) -> dict[str, torch.Tensor]:
    """Name -> `[3, height, width]` in -1..1."""
    photos = {}
    for name, path in photo_paths().items():
        with Image.open(path) as opened:
            pixels = np.asarray(cover(opened.convert("RGB"), height, width), dtype=np.float32)
        photos[name] = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)
    return photos
