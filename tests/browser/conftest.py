"""The real page on a free port, in a real browser. Jobs are played by a script, so that a test can hold them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.events import Event
from diffusers_helper.jobs.checkpoints import Checkpoints
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.models.table import Checkpoint
from diffusers_helper.ui import server
from diffusers_helper.ui.app import build_page, launch_options
from tests.conftest import same_environment
from tests.jobs_support import ScriptedExecutor, working
from tests.ui.serving import CHECKPOINT, a_port, installed_in, make_desk, settings_for

PATIENCE_MS = 20_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """The system's Chromium; skips where there is none.

    Closed after the last test of this folder: as long as it is open, its event loop is the main thread's.
    """
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield running
        running.close()


@dataclass(frozen=True)
class Site:
    """The page being served."""

    address: str
    queue: JobQueue
    executor: ScriptedExecutor
    checkpoints: Checkpoints


@contextmanager
def site(
    output_dir: Path,
    before: Callable[[Event], None] = lambda event: None,
    installed: Sequence[Checkpoint] = (CHECKPOINT,),
    **flags: Any,
) -> Iterator[Site]:
    """The whole page over ``output_dir``; ``before`` sees each event of a played job before it is told."""
    with same_environment():
        output_dir.mkdir(exist_ok=True)
        settings = settings_for(output_dir, **{"port": a_port(), **flags})
        server.prepare_gradio(settings)
        checkpoints = installed_in(output_dir, *installed)
        queue, executor = JobQueue(output_dir, checkpoints.get), ScriptedExecutor(output_dir, before)
        desk = make_desk(queue, settings, checkpoints=checkpoints)
        page = server.PageServer(desk, settings, build_page(desk), launch_options(desk))
        try:
            page.open()
            with working(queue, executor):
                yield Site(page.addresses[0], queue, executor, checkpoints)
        finally:
            page.close()
            queue.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """``serve(before=..., auth=...)`` opens the page over the test's own output folder."""
    with ExitStack() as stack:
        yield lambda *given, **flags: stack.enter_context(site(tmp_path / "outputs", *given, **flags))


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``visit(site)`` opens the page in a browser of its own and waits until it can be used.

    A visitor must see no error of the page's own scripts and send nothing to anywhere else.
    """
    with ExitStack() as stack:
        faults: list[str] = []

        def open_page(place: Site, ready: str = "#start", **options: Any) -> Any:
            context = stack.enter_context(browser.new_context(**{"locale": "en-GB", **options}))
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("request", lambda request: note_foreign(request.url, place.address, faults))
            page.goto(place.address)
            page.locator(f"body:not([inert]) {ready}").wait_for()
            return page

        yield open_page
    assert faults == []


def note_foreign(url: str, address: str, faults: list[str]) -> None:
    """A request to anywhere but the page's own server is a fault."""
    if not url.startswith((address, "data:", "blob:")):
        faults.append(f"the page asked for {url}")
