"""What clients send, judged before it counts: how long it is, how long it takes, and what it is by its content.

Gradio's upload route takes any file under any name, keeps half of one when the client goes away, and reads other
requests without a limit. It also fetches a file for whoever names a URL as one; this server asks nobody for anything.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..media.metadata import holds_settings, is_mp4
from ..media.pictures import ACCEPTED_NAMES, describe, media_type
from ..words import Texts
from .guard import answer, route_path, say

log = logging.getLogger(__name__)

MESSAGE_BYTES = 4_000_000
"""Enough for every field of the page at its longest."""

FORM_BYTES = 100_000
"""What a form adds to the file it carries."""

SPARE_BYTES = 200_000_000
"""What an upload leaves free on the disk."""

IDLE_SECONDS = 30.0
WHOLE_MESSAGE_SECONDS = 60.0
WHOLE_UPLOAD_SECONDS = 1800.0

_HEAD_BYTES = 512
_MP4 = re.compile(rb".{4}ftyp(iso|mp4|avc|dash|M4V)", re.DOTALL)
_URL = re.compile(r"\s*(https?|ftp|file|data):", re.IGNORECASE)
LANGUAGE_COOKIE = "framepack_language"


class Bodies:
    """Lets no request's body be too long, too slow, or something that this page does not take."""

    def __init__(self, app: ASGIApp, max_upload_bytes: int, output_dir: Path) -> None:
        self.app, self.output_dir = app, output_dir
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif route_path(scope) == "/gradio_api/upload":
            await self._upload(scope, receive, send)
        else:
            await self._message(scope, receive, send)

    async def _message(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that is read whole before anything is done with it."""
        try:
            reading = _read(receive, MESSAGE_BYTES, Headers(scope=scope))
            body = await asyncio.wait_for(reading, WHOLE_MESSAGE_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            return await answer(send, 408, "The request took too long.")
        except _TooLargeError:
            return await answer(send, 413, f"The request is longer than {MESSAGE_BYTES // 10**6} MB.")
        if names_a_url(body):
            return await answer(send, 400, "A file must be uploaded; this server fetches nothing from an address.")
        return await self.app(scope, _replay(body, receive), send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A file: its length is watched while it comes, its content is judged when it is there."""
        length, texts = _declared_bytes(Headers(scope=scope)), _texts(scope)
        if length is not None and length > self.max_upload_bytes + FORM_BYTES:
            return await say(send, 413, texts("upload.too_large", most=self.max_upload_bytes // 10**6))
        if await anyio.to_thread.run_sync(self._is_full, length or self.max_upload_bytes):
            return await say(send, 507, texts("upload.disk_full"))
        reply = _Reply()
        await self.app(scope, self._watched(receive, texts), reply.collect)
        paths = reply.paths()
        if refusal := await anyio.to_thread.run_sync(_judge, paths, texts):
            scope["app"].get_blocks().upload_file_set.difference_update(map(str, paths))
            return await say(send, 415, refusal)
        return await reply.pass_on(send)

    def _is_full(self, expected_bytes: int) -> bool:
        try:
            return shutil.disk_usage(self.output_dir).free < expected_bytes + SPARE_BYTES
        except OSError:
            return True

    def _watched(self, receive: Receive, texts: Texts) -> Receive:
        """``receive`` with limits. What breaks one is told as a broken form: Gradio then removes what it wrote."""
        begun, count = time.monotonic(), 0

        async def watched() -> Message:
            nonlocal count
            try:
                message = await asyncio.wait_for(receive(), IDLE_SECONDS)
            except (TimeoutError, asyncio.TimeoutError):
                raise MultiPartException(texts("upload.idle", seconds=round(IDLE_SECONDS))) from None
            if message["type"] == "http.disconnect":
                raise MultiPartException(texts("upload.lost"))
            count += len(message.get("body", b""))
            if count > self.max_upload_bytes + FORM_BYTES:
                raise MultiPartException(texts("upload.too_large", most=self.max_upload_bytes // 10**6))
            if time.monotonic() - begun > WHOLE_UPLOAD_SECONDS:
                raise MultiPartException(texts("upload.slow"))
            return message

        return watched


class _TooLargeError(Exception):
    pass


def _declared_bytes(headers: Headers) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


async def _read(receive: Receive, limit: int, headers: Headers) -> bytes:
    """The whole body. Raises _TooLargeError as soon as that is known."""
    if (_declared_bytes(headers) or 0) > limit:
        raise _TooLargeError
    parts, count, more = [], 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        count += len(parts[-1])
        more = message.get("more_body", False)
        if count > limit:
            raise _TooLargeError
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """``receive`` as if nothing had been read yet."""
    told = False

    async def replayed() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def names_a_url(body: bytes) -> bool:
    """Whether the JSON in ``body`` gives a URL as a file, which Gradio would fetch."""
    try:
        return _holds(json.loads(body), lambda found: isinstance(found, str) and _URL.match(found) is not None)
    except (ValueError, RecursionError):
        return False


def _holds(found: Any, unwanted: Callable[[Any], bool]) -> bool:
    if isinstance(found, dict):
        return unwanted(found.get("path")) or any(_holds(value, unwanted) for value in found.values())
    return isinstance(found, list) and any(_holds(value, unwanted) for value in found)


class _Reply:
    """The application's answer, held back."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def collect(self, message: Message) -> None:
        self.messages.append(message)

    async def pass_on(self, send: Send) -> None:
        for message in self.messages:
            await send(message)

    def paths(self) -> list[Path]:
        """The files that Gradio has kept."""
        if not self.messages or self.messages[0]["status"] != 200:
            return []
        body = b"".join(message.get("body", b"") for message in self.messages[1:])
        return [Path(path) for path in json.loads(body)]


def _judge(paths: list[Path], texts: Texts) -> str:
    """Why these files are refused, in words; they are deleted then. Empty when they are all of use here."""
    refusals = [refusal for path in paths if (refusal := _refusal(path, texts))]
    if refusals:
        for path in paths:
            path.unlink(missing_ok=True)
    return " ".join(refusals)


def _refusal(path: Path, texts: Texts) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        return texts("upload.not_kept", name=repr(path.name), reason=error.strerror)
    if media_type(head) or _may_be_ours(head) or _begins_as_json(head):
        return ""
    kind = texts.said(describe(head)) if head else texts("upload.empty")
    return texts("upload.not_taken", name=repr(path.name), kind=kind, accepted=", ".join(ACCEPTED_NAMES))


def _may_be_ours(head: bytes) -> bool:
    """Of the many kinds of files that begin as an MP4, only videos."""
    return _MP4.match(head) is not None if is_mp4(head) else holds_settings(head)


def _texts(scope: Scope) -> Texts:
    """In the language of the page that asks, which its script leaves in a cookie; else in English."""
    cookies = Request(scope).cookies
    return Texts(cookies.get(LANGUAGE_COOKIE, "en"))


def _begins_as_json(head: bytes) -> bool:
    try:
        head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "strict" if len(head) < _HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        return False
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{" and b"\0" not in head
