"""One hub over HTTP: what a repository holds, and its files, patiently.

The names, the addresses and the token are the hub library's; the bytes are fetched here, because the library throws a
broken-off file away, and a part of 10 GB should go on where it stopped.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from ..errors import FramePackError, UnusableCheckpoint, told_by
from ..proxies import require_usable_proxies
from ..words import Message, plain

log = logging.getLogger(__name__)

MAIN = "main"
TIMEOUT_SECONDS = 30.0
TRIES = 6
"""How often in a row nothing new may arrive."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 120.0
PULSE_SECONDS = 0.2
WORTH_ANOTHER_TRY = (408, 425, 429)


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a commit. ``key`` tells its content: SHA-256 if it is large, else git's hash."""

    repository: str
    commit: str
    path: str
    size: int
    key: str


@dataclass(frozen=True)
class Trouble:
    """A try failed; the next one comes in so many seconds."""

    what: Message
    seconds: float


class BrokenOffError(FramePackError):
    """The answer ended before the file did, or was not the piece that was asked for."""


TRANSIENT = (HTTPError, BrokenOffError)


class Hub:
    """The hub at ``endpoint``, asked with the token of HF_TOKEN or of the library's login, where there is one."""

    def __init__(self, endpoint: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.endpoint = endpoint
        self._token = get_token()
        self._sleep = sleep

    def files(self, repository: str, revision: str) -> Generator[Trouble | int, None, list[HubFile]]:
        """All files of ``repository``. A commit that the hub has no more is replaced by its newest.

        Raises:
            UnusableCheckpoint: the hub refuses or cannot be reached.
            InvalidSetting: the proxies of the environment cannot be used.
        """
        require_usable_proxies(get_session)
        tries = _Tries(self, repository)
        while True:
            try:
                return self._listed(repository, revision)
            except TRANSIENT as error:
                if revision != MAIN and _status(error) == HTTPStatus.NOT_FOUND:
                    revision = MAIN
                    continue
                yield from tries.wait(error)
            except OfflineModeIsEnabled:
                raise UnusableCheckpoint(Message("download.offline")) from None
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                log.info("no list of files: %r", error)
                raise UnusableCheckpoint(Message("download.no_hub", hub=self.endpoint)) from None

    def fetch(self, file: HubFile, partial: Path) -> Generator[Trouble | int, None, None]:
        """Fill ``partial`` with ``file``, going on with what it holds; tells how many bytes that are.

        Raises:
            UnusableCheckpoint: the hub refuses or cannot be reached.
            OSError: the disk.
        """
        tries = _Tries(self, file.repository)
        while (have := size_of(partial)) < file.size:
            try:
                yield from self._stream(file, partial, have)
            except TRANSIENT as error:
                if size_of(partial) > have:
                    tries.failed = 0
                yield from tries.wait(error, size_of(partial))

    def _listed(self, repository: str, revision: str) -> list[HubFile]:
        api = HfApi(endpoint=self.endpoint, token=self._token or False)
        found = api.model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
        return [
            HubFile(
                repository,
                _hash(found.sha),
                str(one.rfilename),
                int(one.size),
                _hash(one.lfs.sha256 if one.lfs else one.blob_id),
            )
            for one in found.siblings
        ]

    def _stream(self, file: HubFile, partial: Path, have: int) -> Generator[int, None, None]:
        url = hf_hub_url(file.repository, file.path, revision=file.commit, endpoint=self.endpoint)
        headers = {**build_hf_headers(token=self._token or False), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as answer:
            hf_raise_for_status(answer)
            with partial.open("ab" if _goes_on(answer, have) else "wb") as target:
                for chunk in answer.iter_bytes():
                    target.write(chunk)
                    if target.tell() > file.size:
                        raise BrokenOffError(Message("download.too_long", file=file.path))
                    yield target.tell()
        if size_of(partial) < file.size:
            raise BrokenOffError(Message("download.broken_off", file=file.path))


@dataclass
class _Tries:
    """How often in a row a hub has failed."""

    hub: Hub
    repository: str
    failed: int = 0

    def wait(self, error: Exception, have: int = 0) -> Generator[Trouble | int, None, None]:
        """Tell the trouble and wait, with a pulse so that somebody can end it; raises UnusableCheckpoint instead
        when another try makes no sense."""
        self.failed += 1
        status = _status(error)
        refused = status is not None and status < 500 and status not in WORTH_ANOTHER_TRY
        if refused or self.failed >= TRIES:
            raise UnusableCheckpoint(self._refusal(error, status)) from None
        told = Message("download.trouble", hub=self.hub.endpoint, reason=_in_words(error))
        trouble = Trouble(told, self._seconds(error))
        log.info("%s; trying again in %.0f s", trouble.what, trouble.seconds)
        yield trouble
        left = trouble.seconds
        while left > 0:
            self.hub._sleep(min(PULSE_SECONDS, left))
            left -= PULSE_SECONDS
            yield have

    def _seconds(self, error: Exception) -> float:
        asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
        longer_each_time = FIRST_WAIT_SECONDS * 2 ** (self.failed - 1)
        return min(max(float(asked) if asked.isdecimal() else 0.0, longer_each_time), LONGEST_WAIT_SECONDS)

    def _refusal(self, error: Exception, status: int | None) -> Message:
        hub = self.hub.endpoint
        place = f"{hub}/{self.repository}"
        if status in (401, 403):
            token = Message("download.token_refused" if self.hub._token else "download.no_token")
            return Message("download.closed", place=place, token=token, status=status, hub=hub)
        if status == HTTPStatus.NOT_FOUND:
            return Message("download.not_there", place=place)
        return Message("download.failed", repository=self.repository, hub=hub, reason=_in_words(error))


def size_of(file: Path) -> int:
    """In bytes; 0 when it is not there."""
    return file.stat().st_size if file.is_file() else 0


def _hash(text: Any) -> str:
    """A hash that a hub names; it becomes the name of a file. Raises ValueError for anything else."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", str(text)):
        raise ValueError(f"{text!r} is no hash")
    return str(text)


def _goes_on(answer: Any, have: int) -> bool:
    """Whether the answer is the rest of a file, not its whole; raises BrokenOffError for any other piece."""
    if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
        return False
    if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        raise BrokenOffError(Message("download.other_piece"))
    return True


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _in_words(error: Exception) -> Message:
    status = _status(error)
    if status is None:
        return told_by(error) if str(error) else plain(type(error).__name__)
    if status not in list(HTTPStatus):
        return plain(str(status))
    return Message("download.answered", status=f"{status} {HTTPStatus(status).phrase}")
