"""One download beside the page: the command `download` as a process, what it has said last, and how that looks.

A process of its own, because the page's asks the network for nothing and keeps the hub library from it too.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

from ..errors import InvalidCommand, UnreadableEvent, told_by
from ..events import Downloaded, Downloading, Event, Failed, Notice
from ..jobs.program import said_by, start_program
from ..models.about import describe_large
from ..models.table import CHECKPOINTS, missing_parts
from ..settings import Network, Paths
from ..words import Message, Texts, plain
from .phrases import duration

GB = 1e9


@dataclass(frozen=True)
class Fetch:
    """How far a download is. ``running`` ends with it; ``problem`` is why it ended, or what holds it up.

    ``asked``: somebody wished for it and has not agreed yet; ``against`` is why it would be of no use here.
    """

    name: str = ""
    asked: bool = False
    against: Message | None = None
    running: bool = False
    stopping: bool = False
    complete: bool = False
    last: Downloading | None = None
    problem: Message | None = None

    def after(self, event: Event) -> Fetch:
        """Once the command has said ``event``."""
        match event:
            case Downloading():
                return replace(self, last=event, problem=None)
            case Notice():
                return replace(self, problem=event.said or plain(event.message))
            case Failed():
                return replace(self, problem=event.said or plain(event.error))
            case Downloaded():
                return replace(self, complete=True, problem=None)
        return self


class Fetching:
    """Starts and stops the one download."""

    def __init__(self) -> None:
        self.now = Fetch()
        self._changing = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, name: str, network: Network, why_not: Callable[[], Message | None]) -> None:
        """Put the question before ``name`` is fetched, with what speaks against it. Raises as ``start``.

        ``why_not``: why the model would not run on this machine; None where nothing is known against it.
        """
        self._check(name, network)
        against = why_not()
        with self._changing:
            self._check_idle()
            self.now = Fetch(name, asked=True, against=against)

    def decline(self) -> None:
        """Take the question back."""
        with self._changing:
            if self.now.asked:
                self.now = Fetch()

    def start(self, name: str, paths: Paths, network: Network) -> None:
        """Begin to fetch ``name``; raises InvalidCommand while another download runs, and offline."""
        self._check(name, network)
        with self._changing:
            self._check_idle()
            self._process = None
            self.now = Fetch(name, running=True)
        arguments = _arguments(name, paths, network)
        threading.Thread(target=self._fetch, args=(arguments,), name="download", daemon=True).start()

    def _check(self, name: str, network: Network) -> None:
        if network.offline:
            raise InvalidCommand(Message("command.fetch_offline"))
        if name not in CHECKPOINTS or not CHECKPOINTS[name].sources:
            raise InvalidCommand(Message("command.fetch_unknown", name=repr(name)))

    def _check_idle(self) -> None:
        if self.now.running:
            raise InvalidCommand(Message("command.fetch_running", name=self.now.name))

    def stop(self) -> None:
        """End the download; what has arrived is kept."""
        with self._changing:
            self.now = replace(self.now, stopping=True)
            if self._process:
                self._process.terminate()

    def _fetch(self, arguments: Sequence[str]) -> None:
        try:
            self._follow(arguments)
        except (OSError, UnreadableEvent) as error:
            self._change(problem=told_by(error))
        finally:
            self._change(running=False)

    def _follow(self, arguments: Sequence[str]) -> None:
        """Run the command, and take in what it says. It ends with this process, whose end of the pipe is then gone."""
        with start_program(*arguments, environment={"HF_HUB_OFFLINE": "0"}) as process:
            with self._changing:
                self._process = process
                if self.now.stopping:
                    process.terminate()
            for event in said_by(process):
                with self._changing:
                    self.now = self.now.after(event)
        if self.now.stopping:
            self._change(problem=None)

    def _change(self, **fields: Message | bool | None) -> None:
        with self._changing:
            self.now = replace(self.now, **fields)  # type: ignore[arg-type]


def _arguments(name: str, paths: Paths, network: Network) -> list[str]:
    folder = ("--models-dir", str(paths.models_dir.absolute()))
    return ["download", name, "--json", *folder, "--endpoint", network.endpoint]


def render(fetching: Fetching, paths: Paths, network: Network, texts: Texts) -> str:
    """The checkpoints that can be fetched: here, or how much is missing; the download under way, and its button."""
    now = fetching.now
    rows = "".join(
        f"<div><dt>{escape(name)}</dt>{_row(name, now, paths, network, texts)}</div>"
        for name, known in CHECKPOINTS.items()
        if known.sources
    )
    return f'<dl class="machine">{rows}</dl>'


def _row(name: str, now: Fetch, paths: Paths, network: Network, texts: Texts) -> str:
    if now.running and now.name == name:
        return _under_way(now, texts)
    known = CHECKPOINTS[name]
    missing = sum(known.sources[part].size_gb for part in missing_parts(known, paths.models_dir))
    if not missing:
        return f"<dd>{escape(texts('system.fetch_here'))}</dd>"
    words = escape(texts("system.fetch_missing", missing=f"{missing:.1f}", total=f"{known.size_gb:.1f}"))
    problem = _problem(now, texts) if now.name == name else ""
    about = describe_large(name).about
    told = f"<dd>{escape(about.sentences(texts.language))}</dd>"
    if now.asked and now.name == name:
        return told + _question(now, missing, texts)
    button = "" if now.running or network.offline else _button("fetch", name, texts("system.fetch"))
    return f"{told}<dd>{words} {button}</dd>{problem}"


def _question(now: Fetch, missing: float, texts: Texts) -> str:
    """Whether to fetch so much, and what doctor thinks of it."""
    against = ""
    if now.against:
        reason = escape(texts.said(now.against))
        against = f'<dd class="fix"><strong>{escape(texts("system.fetch_against"))}</strong> {reason}</dd>'
    sure = escape(texts("system.fetch_sure", missing=f"{missing:.1f}"))
    yes = _button("fetch_yes", now.name, texts("system.fetch_yes"))
    return f'{against}<dd role="alert">{sure} {yes} {_button("fetch_no", now.name, texts("system.fetch_no"))}</dd>'


def _under_way(now: Fetch, texts: Texts) -> str:
    words, meter = texts("system.fetch_begins"), ""
    if now.last:
        done, total = now.last.bytes_done / GB, now.last.bytes_total / GB
        words = texts("system.fetch_progress", done=f"{done:.2f}", total=f"{total:.2f}")
        if now.last.seconds_left is not None:
            words += f" · {duration(now.last.seconds_left, texts)}"
        meter = f'<meter min="0" max="{total:.3f}" value="{done:.3f}"></meter>'
    button = "" if now.stopping else _button("fetch_stop", now.name, texts("system.fetch_stop"))
    return f"<dd>{escape(words)} {button}{meter}</dd>{_problem(now, texts)}"


def _problem(now: Fetch, texts: Texts) -> str:
    return f"<dd>{escape(texts.said(now.problem))}</dd>" if now.problem else ""


def _button(act: str, name: str, words: str) -> str:
    return f'<button type="button" data-act="{act}" data-value="{escape(name)}">{escape(words)}</button>'
