"""What stands between the network and the page: small ASGI layers, each against one danger.

Gradio serves more than this page needs, checks no Host header, leaves some routes open when a login is asked for, and
takes as many wrong passwords as come. The layers see every request first, also those for the page's own routes.
What is uploaded is judged in ``uploads``.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..settings import EVERY_ADDRESS, PageOptions

CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio's page is started by scripts within it, and compiles what an HTML component brings along.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
RESPONSE_HEADERS = (
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"same-origin"),
)

# Everything else that Gradio offers is closed: monitoring, run history, deep links, code that a model writes into the
# page, proxies, streams, reloading, recordings, components' own servers, and the login's token for scripts.
NEEDED_PATHS = re.compile(
    r"/|/(config|login_check)/?|/(theme\.css|favicon\.ico|manifest\.json|robots\.txt|logout)"
    r"|/(assets|static|svelte)/.+"
    r"|/(live|healthz|readyz)|/media/.+"
    r"|/gradio_api/(info|openapi\.json|app_id|login_check|user)/?"
    r"|/gradio_api/(startup-events|theme\.css|upload_progress|queue/(data|status)|heartbeat/[^/]+|call/.+)"
    r"|/gradio_api/file=(?!(?i:https?):).+"
)
NEEDED_POSTS = re.compile(r"/login/?|/gradio_api/(queue/join|upload|cancel|reset/?|(run|api)/[^/]+/?|call/.+)")
MCP_PATHS = re.compile(r"/gradio_api/mcp(/.*)?")
OPEN_PATHS = re.compile(
    r"/|/(login|logout|login_check)/?|/(theme\.css|favicon\.ico|manifest\.json|robots\.txt|healthz|readyz)"
    r"|/(assets|static|svelte)/.+|/gradio_api/(startup-events|theme\.css|login_check/?)"
)


class AllowedNames:
    """The names under which the page may be asked for.

    A foreign web page can reach this server only by a name of its own that it points here (DNS rebinding), so addresses
    are always allowed, and names are those that were given to this server.
    """

    def __init__(self, listening: Iterable[str] = (), public: Iterable[str] = ()) -> None:
        """``listening``: what this machine is called; ``public``: what it is called from outside, by a proxy."""
        self._listening = {name.lower() for name in listening}
        self._public = {name.lower() for name in public}

    @classmethod
    def of(cls, options: PageOptions) -> AllowedNames:
        """The names that follow from the settings; a public address adds its own later."""
        own = socket.gethostname()
        everywhere = options.server in (EVERY_ADDRESS, "::")
        listening = [options.server, own, f"{own}.local"] if everywhere else [options.server]
        return cls(listening, filter(None, [urlsplit(options.root_path).hostname]))

    def add_public(self, address: str) -> None:
        """Allow the name in ``address``, a URL."""
        self._public.add(host_name(urlsplit(address).netloc))

    def allow(self, host: str) -> bool:
        """Whether ``host``, with or without a port, is one of ours."""
        name = host_name(host)
        ours = self._listening | self._public | {"localhost"}
        return bool(name) and (name in ours or _is_address(name))

    def allow_page(self, origin: str, hosts: Iterable[str]) -> bool:
        """Whether a page of ``origin`` may ask for ``hosts``: the same name and port, or a public name."""
        netloc = origin.partition("://")[2].lower()
        return bool(netloc) and (netloc in (host.lower() for host in hosts) or host_name(netloc) in self._public)


def host_name(host: str) -> str:
    """``name:port`` -> name in lower case; empty when it is none."""
    try:
        parts = urlsplit(f"//{host}")
        named = parts.hostname and parts.port is not False and parts.netloc == host and "@" not in host
    except ValueError:
        return ""
    return (parts.hostname or "").rstrip(".") if named else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def route_path(scope: Scope) -> str:
    """The path within the application, whether or not a proxy left its own part in front."""
    path, root = str(scope["path"]), str(scope.get("root_path") or "")
    return path[len(root) :] or "/" if root and (path == root or path.startswith(f"{root}/")) else path


async def answer(send: Send, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """A refusal as JSON, for programs."""
    await _send(send, status, b"application/json", json.dumps({"detail": text}), headers)


async def say(send: Send, status: int, text: str) -> None:
    """A refusal as plain text, which Gradio's upload shows as it is."""
    await _send(send, status, b"text/plain; charset=utf-8", text)


async def _send(send: Send, status: int, kind: bytes, text: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    body = text.encode()
    head = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


class SafeHeaders:
    """Puts headers on every answer that keep the browser from guessing types, framing, and asking other servers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *RESPONSE_HEADERS]
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class KnownHosts:
    """Refuses requests for a name that is not ours, and those that another site's page sends."""

    def __init__(self, app: ASGIApp, names: AllowedNames) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        hosts = [*(headers.getlist("host") or [""]), *_listed(headers.getlist("x-forwarded-host"))]
        for host in hosts:
            if not self.names.allow(host):
                return await answer(send, 400, f"{host[:100]!r} is not a name of this server. {_REMEDY}")
        origin = headers.get("origin")
        if origin is not None and not self.names.allow_page(origin, hosts):
            return await answer(send, 403, f"a page of {origin[:100]!r} may not use this server. {_REMEDY}")
        return await self.app(scope, receive, send)


_REMEDY = "Behind a proxy, start with --root-path and the whole address that people use."


def _listed(texts: list[str]) -> list[str]:
    return [part.strip() for part in ",".join(texts).split(",") if part.strip()]


class NeededRoutes:
    """Closes every route that the page does not need."""

    def __init__(self, app: ASGIApp, mcp: bool) -> None:
        self.app, self.mcp = app, mcp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._needed(scope["method"], route_path(scope)):
            await self.app(scope, receive, send)
        else:
            await answer(send, 404, "Not Found")

    def _needed(self, method: str, path: str) -> bool:
        if self.mcp and MCP_PATHS.fullmatch(path):
            return True
        wanted = {"GET": NEEDED_PATHS, "HEAD": NEEDED_PATHS, "POST": NEEDED_POSTS}.get(method)
        return wanted is not None and wanted.fullmatch(path) is not None


class LoginRequired:
    """With a password set, lets only what the login page itself needs through without one. Tokens are Gradio's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = scope.get("app")
        if scope["type"] != "http" or page is None or page.auth is None or self._may_pass(scope, page):
            await self.app(scope, receive, send)
        else:
            await answer(send, 401, "Not authenticated")

    def _may_pass(self, scope: Scope, page: Any) -> bool:
        if OPEN_PATHS.fullmatch(route_path(scope)):
            return True
        cookies = HTTPConnection(scope).cookies
        names = (f"access-token-{page.cookie_id}", f"access-token-unsecure-{page.cookie_id}")
        return any(cookies.get(name) in page.tokens for name in names)


class Allowance:
    """So many attempts at once, then one every so many seconds."""

    def __init__(self, at_once: int, seconds_each: float) -> None:
        self.at_once, self.seconds_each = at_once, seconds_each
        self.used_up_until = -math.inf

    def wait_seconds(self, now: float) -> float:
        """How long until the next attempt may be made; 0 when it may be made now."""
        return max(self.used_up_until - now - (self.at_once - 1) * self.seconds_each, 0.0)

    def take(self, now: float) -> None:
        self.used_up_until = max(self.used_up_until, now) + self.seconds_each

    def give_back(self) -> None:
        self.used_up_until -= self.seconds_each


class SlowLogins:
    """Lets wrong passwords be tried slowly: per client, and in total, since a guesser may have many addresses."""

    PER_CLIENT = (5, 10.0)
    IN_TOTAL = (30, 1.0)
    REMEMBERED = 1000

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self.app, self.clock = app, clock
        self._total = Allowance(*self.IN_TOTAL)
        self._clients: MutableMapping[str, Allowance] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or route_path(scope).rstrip("/") != "/login":
            return await self.app(scope, receive, send)
        allowances = (self._total, self._of((scope.get("client") or ("unknown",))[0]))
        now = self.clock()
        wait = max(allowance.wait_seconds(now) for allowance in allowances)
        if wait:
            seconds = math.ceil(wait)
            retry = [(b"retry-after", str(seconds).encode())]
            return await answer(send, 429, f"Too many wrong passwords. Wait {seconds} s and try again.", retry)
        for allowance in allowances:
            allowance.take(now)
        return await self.app(scope, receive, self._giving_back(allowances, send))

    def _of(self, client: str) -> Allowance:
        allowance = self._clients.pop(client, None) or Allowance(*self.PER_CLIENT)
        self._clients[client] = allowance
        while len(self._clients) > self.REMEMBERED:
            del self._clients[next(iter(self._clients))]
        return allowance

    def _giving_back(self, allowances: Iterable[Allowance], send: Send) -> Send:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                for allowance in allowances:
                    allowance.give_back()
            await send(message)

        return watched
