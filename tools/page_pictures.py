"""Pictures of the page at work, light and dark, for the documents.

    python -m tools.page_pictures photo.jpg

starts the real page with the pocket in a folder of its own, asks for a video, and looks at it with the system's
Chromium while the second section is made. Writes docs/page_light.png and docs/page_dark.png.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PROMPT = "the camera pans left"
SECONDS = "3.6"
"""Three sections, so that a second one is made."""
PATIENCE_MS = 120_000
SETTLE_MS = 1_500


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description="Pictures of the page, light and dark.")
    parser.add_argument("photo", type=Path, help="the start picture")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the pictures go")
    options = parser.parse_args(arguments)
    with _browser() as browser:
        take(browser, options.photo, options.docs)


def take(browser: Browser, photo: Path, docs: Path, checkpoint: str = "pocket", seconds: str = SECONDS) -> None:
    """Start the page, ask for a video from ``photo``, put the pictures into ``docs``."""
    with tempfile.TemporaryDirectory() as folder, _page(Path(folder), checkpoint) as address:
        page = _opened(browser, address)
        _ask(page, photo, seconds)
        page.locator("[data-view=video]").click()
        page.locator("[data-live=video] video").wait_for()
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.locator("[data-live=preview] img").wait_for(state="attached")
            page.wait_for_timeout(SETTLE_MS)
            page.screenshot(path=docs / f"page_{scheme}.png")


@contextmanager
def _page(output_dir: Path, checkpoint: str) -> Iterator[str]:
    """The address of the real page, served meanwhile."""
    flags = ("--output-dir", str(output_dir), "--checkpoint", checkpoint, "--offline")
    command = [sys.executable, str(ROOT / "demo_gradio.py"), *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield str(program.stdout.readline()).split()[-1] if program.stdout else ""
        finally:
            program.send_signal(signal.SIGINT)
            program.wait(60)


@contextmanager
def _browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


def _opened(browser: Browser, address: str) -> Page:
    page = browser.new_page(viewport={"width": 1440, "height": 900}, locale="en-GB")
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    page.locator("#start").wait_for()
    return page


def _ask(page: Page, photo: Path, seconds: str) -> None:
    page.locator("#picture input[type=file]").set_input_files(photo)
    page.locator("#picture img").wait_for()
    page.locator("#prompt textarea").fill(PROMPT)
    page.locator("#seconds input").fill(seconds)
    page.locator("#start").click()


if __name__ == "__main__":
    main()
