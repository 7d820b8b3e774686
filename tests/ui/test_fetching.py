"""A checkpoint fetched from the page: begun, watched, stopped, refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusers_helper.errors import InvalidCommand
from diffusers_helper.events import Event, Failed, Notice
from diffusers_helper.models.table import CHECKPOINTS, find_checkpoint
from diffusers_helper.settings import Network, Paths, resolve
from diffusers_helper.ui.fetching import Fetch, Fetching, render
from diffusers_helper.words import LANGUAGES, Message, Texts, plain

from ..models.hub_server import HubServer

NAME = "framepack"
ENGLISH = Texts("en")


@pytest.fixture
def server(pocket: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with the repositories of a large checkpoint, but small files; this process may not ask it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repositories: dict[str, dict[str, bytes]] = {}
    for part, source in CHECKPOINTS[NAME].sources.items():
        files = repositories.setdefault(source.repository, {})
        for file in (pocket / part).iterdir():
            files[f"{source.subfolder}/{file.name}".lstrip("/")] = file.read_bytes()[:20_000]
    with HubServer(repositories).serving() as serving:
        yield serving


def settings_of(server: HubServer, folder: Path, **flags: str) -> tuple[Paths, Network]:
    chosen = resolve({"models_dir": str(folder), "endpoint": server.endpoint, **flags}, {}, folder / "none.json")
    return chosen.paths, chosen.network


def wait_for_the_end(fetching: Fetching) -> None:
    until = time.monotonic() + 20
    while fetching.now.running:
        assert time.monotonic() < until, fetching.now
        time.sleep(0.01)


def test_a_checkpoint_is_fetched_and_its_button_goes(server: HubServer, tmp_path: Path) -> None:
    settings, fetching = settings_of(server, tmp_path), Fetching()
    before = render(fetching, *settings, ENGLISH)
    assert "42.5 of 42.5 GB missing" in before
    assert 'data-act="fetch" data-value="framepack"' in before
    fetching.start(NAME, *settings)
    wait_for_the_end(fetching)
    assert fetching.now.complete
    assert find_checkpoint(NAME, tmp_path)
    assert 'data-value="framepack"' not in render(fetching, *settings, ENGLISH)


def test_a_refusal_is_shown_escaped_and_the_button_stays(server: HubServer, tmp_path: Path) -> None:
    server.faults["list"] = [403]
    settings, fetching = settings_of(server, tmp_path), Fetching()
    fetching.start(NAME, *settings)
    wait_for_the_end(fetching)
    shown = render(fetching, *settings, ENGLISH)
    assert "HF_TOKEN" in shown
    assert 'data-act="fetch" data-value="framepack"' in shown


@pytest.mark.parametrize("where", ["list", "tokenizer/tokenizer.json"])
def test_it_is_watched_and_stopped_while_it_waits(server: HubServer, tmp_path: Path, where: str) -> None:
    server.faults[where], server.retry_after = [503] * 9, "100"
    settings, fetching = settings_of(server, tmp_path), Fetching()
    fetching.start(NAME, *settings)
    until = time.monotonic() + 20
    while "503" not in str(fetching.now.problem) and time.monotonic() < until:
        time.sleep(0.01)
    shown = render(fetching, *settings, ENGLISH)
    assert "503" in shown
    assert 'data-act="fetch_stop"' in shown
    assert 'data-act="fetch" ' not in shown
    with pytest.raises(InvalidCommand, match="framepack is being fetched already"):
        fetching.start("framepack-f1", *settings)
    fetching.stop()
    wait_for_the_end(fetching)
    assert not fetching.now.complete


@pytest.mark.parametrize("why", [None, plain("needs 59 GB of <RAM>")])
def test_it_asks_first_and_says_what_speaks_against_it(server: HubServer, tmp_path: Path, why: Message | None) -> None:
    settings, fetching = settings_of(server, tmp_path), Fetching()
    fetching.ask(NAME, settings[1], lambda: why)
    asked = render(fetching, *settings, ENGLISH)
    assert "Download 42.5 GB?" in asked
    assert ("needs 59 GB of &lt;RAM&gt;" in asked, "would not run" in asked) == (bool(why), bool(why))
    assert f'data-act="fetch_yes" data-value="{NAME}"' in asked
    assert not fetching.now.running
    fetching.decline()
    assert "fetch_yes" not in render(fetching, *settings, ENGLISH)


SAID = {"en": "needs at least 9.0 GB of RAM", "ja": "少なくとも 9.0 GB の RAM が必要です", "zh": "至少需要 9.0 GB 内存"}
HELD_UP = {"en": "ran out of RAM", "ja": "RAM が足りなくなりました", "zh": "内存已用完"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_speaks_against_it_and_what_holds_it_up_is_in_the_language_of_the_page(
    tmp_path: Path, language: str
) -> None:
    settings, fetching = resolve({"models_dir": str(tmp_path)}, {}, tmp_path / "none.json"), Fetching()
    why = Message("memory.needs_ram", ram=9 * 10**9, ram_free=10**9)
    fetching.ask(NAME, settings.network, lambda: why)
    assert SAID[language] in render(fetching, settings.paths, settings.network, Texts(language))
    fetching.now = Fetch(NAME, running=True).after(Notice.of(Message("memory.freed_ram")))
    assert HELD_UP[language] in render(fetching, settings.paths, settings.network, Texts(language))


@pytest.mark.parametrize("event", [Notice(message="as it was"), Failed(error="as it was", exit_code=1, folder=None)])
def test_an_event_without_data_is_shown_as_it_is(tmp_path: Path, event: Event) -> None:
    settings, fetching = resolve({"models_dir": str(tmp_path)}, {}, tmp_path / "none.json"), Fetching()
    fetching.now = Fetch(NAME, running=True).after(event)
    assert "as it was" in render(fetching, settings.paths, settings.network, Texts("ja"))


def test_what_cannot_begin_is_refused(server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(InvalidCommand, match="offline"):
        Fetching().start(NAME, *settings_of(server, tmp_path, offline="1"))
    with pytest.raises(InvalidCommand, match="There is no checkpoint"):
        Fetching().start("../evil", *settings_of(server, tmp_path))
    assert 'data-act="fetch"' not in render(Fetching(), *settings_of(server, tmp_path, offline="1"), ENGLISH)
