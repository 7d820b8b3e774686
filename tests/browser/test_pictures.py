"""The pictures of the page in the documents are made by a script, and the script works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageStat

from tests.conftest import ROOT


def brightness(picture: Path) -> float:
    return float(ImageStat.Stat(Image.open(picture).convert("L")).mean[0])


def test_the_page_is_pictured_light_and_dark(
    browser: Any, photograph: Path, quick_checkpoint: Path, tmp_path: Path
) -> None:
    """Of a video long enough that the quick checkpoint does not end before the pictures."""
    from tools import page_pictures

    page_pictures.take(browser, photograph, tmp_path, str(quick_checkpoint), seconds="60")
    light, dark = (tmp_path / f"page_{scheme}.png" for scheme in page_pictures.SCHEMES)
    assert brightness(light) > 2 * brightness(dark)
    for picture in (light, dark):
        assert Image.open(picture).size == Image.open(ROOT / "docs" / picture.name).size
