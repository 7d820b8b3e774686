"""Clients of the page, as light as can be, since they share their cores with what is measured: bare sockets."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping

HOST = "127.0.0.1"
PERIOD_SECONDS, RELOAD_SECONDS = 1.0, 10.0
UPLOAD_BYTES, PIECE = 5_000_000, b"\0" * 512
SEEN, SHOWN = re.compile(r'"seen": "([^"]+)"'), re.compile(r'src=\\"(media/[^"\\]+)')


class Connection:
    """One connection that is kept open, to the page on ``port``."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.headers: Mapping[str, str] = {}

    async def ask(self, path: str, message: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of a GET, or a POST of JSON; asked once more, as browsers do, where the server had closed."""
        try:
            return await self._asked(path, message)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._streams = None
            return await self._asked(path, message)

    async def _asked(self, path: str, message: bytes | None) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        reader, writer = self._streams
        writer.write(_head("GET" if message is None else "POST", path, self._port, message) + (message or b""))
        status, headers = await _read_head(reader)
        self.headers = headers
        body = await _read_body(reader, headers) if status not in (204, 304) else b""
        if headers.get("connection") == "close":
            writer.close()
            self._streams = None
        return status, body


def _head(method: str, path: str, port: int, message: bytes | None) -> bytes:
    sent = f"Content-Type: application/json\r\nContent-Length: {len(message)}\r\n" if message is not None else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n{sent}\r\n".encode()


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines if line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, value in pairs}


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)


class LiveClient:
    """Asks for the live parts when the server says so, as the page's script does, and for what they show anew."""

    def __init__(self, port: int, number: int) -> None:
        self._connection, self._name = Connection(port), f"client{number}"
        self._seen, self._known = "", set[str]()
        self._pause = PERIOD_SECONDS

    async def look_on(self, delay_seconds: float, waits: list[float]) -> None:
        """Until cancelled."""
        await asyncio.sleep(delay_seconds)
        while True:
            began = time.perf_counter()
            await self._look()
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(self._pause)

    async def _look(self) -> None:
        status, body = await self._connection.ask(f"/live?language=en&seen={self._seen}&page={self._name}")
        self._pause = float(self._connection.headers["ask-again"])
        if status == 204:
            return
        if status != 200:
            raise RuntimeError(f"/live answers {status}")
        answer = body.decode()
        self._seen = SEEN.search(answer)[1]  # type: ignore[index]
        for path in set(SHOWN.findall(answer)) - self._known:
            self._known.add(path)
            await self._connection.ask("/" + path.replace("&amp;", "&"))


class EventClient:
    """Sends a Gradio event each second, as a timer of a Gradio page does, and takes all live parts in answer."""

    def __init__(self, port: int, number: int) -> None:
        self._connection = Connection(port)
        self._message = json.dumps({"data": [], "fn_index": 0, "session_hash": f"session{number}"}).encode()

    async def look_on(self, delay_seconds: float, waits: list[float]) -> None:
        """Until cancelled."""
        await asyncio.sleep(delay_seconds)
        while True:
            began = time.perf_counter()
            status, _ = await self._connection.ask("/gradio_api/run/predict", self._message)
            if status != 200:
                raise RuntimeError(f"the event answers {status}")
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(max(PERIOD_SECONDS - waits[-1], 0))


async def reload_page(port: int) -> None:
    """Load the page's document every now and then, until cancelled."""
    connection = Connection(port)
    while True:
        await connection.ask("/")
        await asyncio.sleep(RELOAD_SECONDS)


async def upload_slowly(port: int) -> None:
    """Begin to upload a file and send a little of it each second, until cancelled."""
    _, writer = await asyncio.open_connection(HOST, port)
    border = "slow"
    form = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    length = len(form) + UPLOAD_BYTES
    kind = f"multipart/form-data; boundary={border}"
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: {kind}\r\n"
    writer.write(f"{head}Content-Length: {length}\r\n\r\n{form}".encode())
    try:
        while True:
            writer.write(PIECE)
            await writer.drain()
            await asyncio.sleep(1)
    finally:
        writer.close()


async def probe(port: int, path: str, seconds: float) -> list[float]:
    """How long each answer takes, asked ten times a second for so long."""
    connection, waits, end = Connection(port), [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        status, _ = await connection.ask(path)
        if status != 200:
            raise RuntimeError(f"{path} answers {status}")
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(0.1)
    return waits
