"""The real page on a free port, in a real browser. Jobs are played by a script, so that a test can hold them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.events import Event
from diffusers_helper.ui.app import build_page, launch_options
from diffusers_helper.ui.app_context import AppContext
from tests.ui.serving import Served, a_port, serving

EMPTY, LOCALE, VIEWPORT = "about:blank", "en-GB", {"width": 1280, "height": 720}
CHANGED_LATER = {"viewport", "permissions"}
"""What a page that is there already can be given."""
PATIENCE_MS = 60_000
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
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield running
        running.close()


@pytest.fixture(scope="package")
def usual_page(browser: Any) -> Iterator[Any]:
    """The page of most visits, one after the other: it fetches and compiles files once."""
    context = browser.new_context(locale=LOCALE, viewport=VIEWPORT)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="package")
def port() -> int:
    """That of every server, since a browser knows files by their address."""
    return a_port()


def whole_page(context: AppContext) -> tuple[Any, dict[str, Any]]:
    """The page as it is served to people, and the options of its launch."""
    return build_page(context), launch_options(context)


Serve = Callable[..., Served]
Visit = Callable[..., Any]


@pytest.fixture
def serve(tmp_path: Path, port: int) -> Iterator[Serve]:
    """``serve(before=..., auth=...)`` opens the page over the test's own output folder."""
    with ExitStack() as stack:

        def open_page(before: Callable[[Event], None] = lambda event: None, **flags: Any) -> Served:
            return stack.enter_context(serving(tmp_path / "outputs", whole_page, before, **{"port": port, **flags}))

        yield open_page


@pytest.fixture
def visit(browser: Any, usual_page: Any) -> Iterator[Visit]:
    """``visit(place)`` opens the page in a browser that knows nothing of it, and waits until it can be used.

    ``options`` are those of Playwright's contexts. With ``own``, or options that cannot be changed later, it is a page
    of its own; where the clock is changed it must be. So it is with a ``script``, which runs before the page's. A
    visitor must see no error of the page's own scripts and send nothing to anywhere else.
    """
    with ExitStack() as stack:
        faults: list[str] = []

        def open_page(place: Served, ready: str = "#start", own: bool = False, script: str = "", **options: Any) -> Any:
            if own or script or options.keys() - CHANGED_LATER or usual_page.url != EMPTY:
                page = stack.enter_context(browser.new_context(**{"locale": LOCALE, **options})).new_page()
                if script:
                    page.add_init_script(script)
            else:
                page = stack.enter_context(forgotten(usual_page, place.address, **options))
            page.context.set_default_timeout(PATIENCE_MS)
            stack.enter_context(heard(page, "pageerror", lambda error: faults.append(str(error))))
            stack.enter_context(heard(page, "request", partial(note_foreign, place.address, faults)))
            page.goto(place.address)
            page.locator(f"body:not([inert]) {ready}").wait_for()
            return page

        yield open_page
    assert faults == []


@contextmanager
def forgotten(
    page: Any, address: str, viewport: Mapping[str, int] = VIEWPORT, permissions: Sequence[str] = ()
) -> Iterator[Any]:
    """The page, which knows nothing of ``address`` but the files that it has fetched, and is empty afterwards."""
    page.context.clear_cookies()
    page.goto(f"{address}/healthz")
    page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    page.set_viewport_size(viewport)
    if permissions:
        page.context.grant_permissions(list(permissions))
    yield page
    for other in page.context.pages:
        if other != page:
            other.close()
    page.unroute_all()
    page.context.set_offline(False)
    page.context.clear_permissions()
    page.goto(EMPTY)


@contextmanager
def heard(page: Any, event: str, listener: Callable[[Any], None]) -> Iterator[None]:
    """``listener`` hears of the page's events meanwhile."""
    page.on(event, listener)
    yield
    page.remove_listener(event, listener)


def note_foreign(address: str, faults: list[str], request: Any) -> None:
    """A request to anywhere but the page's own server is a fault."""
    if not request.url.startswith((address, "data:", "blob:")):
        faults.append(f"the page asked for {request.url}")
