"""A hub of our own on this machine: answers as the real one does, and badly where a test asks for it."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LARGE_BYTES = 10_000
"""From this size on a file is kept as the hub keeps large ones, named by its SHA-256."""

Fault = int | str
"""A status to answer with; "cut" breaks off at half, "wrong" changes a byte, "hang up" sends nothing, "page" HTML,
"elsewhere" another piece, "whole" the whole where a piece was asked for, "short" half as if it were all, "long" a byte
more."""


@dataclass
class HubServer:
    """``repositories`` maps a name to its files. ``faults`` maps a path, or "list" for the list of files, to what goes
    wrong with its next requests, one after the other."""

    repositories: Mapping[str, Mapping[str, bytes]]
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    retry_after: str = "0"
    token: str = ""
    commit: str = COMMIT
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent_bytes: int = 0
    endpoint: str = ""

    @contextmanager
    def serving(self) -> Iterator[HubServer]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=lambda: server.serve_forever(0.01))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def files_asked(self) -> list[str]:
        return [path.partition("/resolve/")[2].partition("/")[2] for path, _ in self.asked if "/resolve/" in path]

    def listing(self, repository: str) -> bytes:
        siblings = [_sibling(path, content) for path, content in self.repositories[repository].items()]
        return json.dumps({"id": repository, "sha": self.commit, "siblings": siblings}).encode()


def key_of(content: bytes) -> str:
    """The name of a content on the hub."""
    if len(content) >= LARGE_BYTES:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": "b" * 40}
    if len(content) < LARGE_BYTES:
        return {**found, "blobId": key_of(content)}
    return {**found, "lfs": {"sha256": key_of(content), "size": len(content), "pointerSize": 134}}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((path, dict(self.headers)))
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", path)
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._answer(401, b'{"error": "Invalid username or password."}')
        elif about:
            self._list(about[1], about[2])
        else:
            self._file(*re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path).groups())  # type: ignore[union-attr]

    def _list(self, repository: str, revision: str) -> None:
        fault = self._next_fault("list")
        if isinstance(fault, int):
            self._answer(fault, b"{}", {"Retry-After": self.hub.retry_after})
        elif fault == "page":
            self._answer(200, b"<!DOCTYPE html>")
        elif revision not in ("main", self.hub.commit):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self._answer(200, self.hub.listing(repository))

    def _file(self, repository: str, commit: str, path: str) -> None:
        fault, content = self._next_fault(path), self.hub.repositories[repository][path]
        if isinstance(fault, int):
            return self._answer(fault, b"", {"Retry-After": self.hub.retry_after})
        if fault == "hang up":
            return self.connection.shutdown(socket.SHUT_RDWR)
        if fault == "wrong":
            content = content[:-1] + bytes([content[-1] ^ 1])
        return self._piece(content, fault)

    def _piece(self, content: bytes, fault: Fault | None) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(match[1]) if match and fault != "whole" else 0
        if fault == "elsewhere":
            first += 1
        rest = content[first:]
        piece = f"bytes {first}-{len(content) - 1}/{len(content)}"
        sent = rest[: len(rest) // 2] if fault in ("cut", "short") else rest + b"x" * (fault == "long")
        self.hub.sent_bytes += len(sent)
        self._answer(
            206 if first else 200,
            sent,
            {"Content-Range": piece} if first else {},
            len(rest) if fault == "cut" else None,
        )

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        promised: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.end_headers()
        self.wfile.write(body)
        if promised is not None and promised > len(body):
            self.wfile.flush()
            self.close_connection = True

    def _next_fault(self, path: str) -> Fault | None:
        coming = self.hub.faults.get(path)
        return coming.pop(0) if coming else None
