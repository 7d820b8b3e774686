"""What the server refuses: names and pages that are not its own, closed routes, strangers, guessers, bad uploads."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from diffusers_helper.ui.guard import AllowedNames, SlowLogins, route_path

from .serving import Served, serving, settings_for

LOGIN = "someone:secret word"
EVERYTHING = (
    "/config", "/live?language=en", "/media/1/video.mp4", "/media/1/thumb.png", "/media/lora/0.jpg",
    "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/app_id", "/gradio_api/user",
    "/gradio_api/queue/status", "/gradio_api/queue/data?session_hash=x", "/gradio_api/heartbeat/x",
    "/gradio_api/file=/etc/passwd", "/gradio_api/upload_progress?upload_id=x", "/gradio_api/call/list/x",
)  # fmt: skip
EVERY_POST = (
    "/gradio_api/queue/join", "/gradio_api/run/list", "/gradio_api/api/list", "/gradio_api/call/list",
    "/gradio_api/upload", "/gradio_api/cancel", "/gradio_api/reset",
)  # fmt: skip


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("open")) as served:
        yield served


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "outputs", auth=LOGIN) as served:
        yield served


# Names.


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True), ("127.0.0.1:7860", True), ("localhost:7860", True), ("LOCALHOST.", True),
        ("[::1]:7860", True), ("192.168.1.5:7860", True), ("box.lan:7860", True), ("page.example.org", True),
        ("evil.com", False), ("evil.com:7860", False), ("127.0.0.1.evil.com", False), ("localhost.evil.com", False),
        ("user@127.0.0.1", False), ("127.0.0.1/evil.com", False), ("evil.com#127.0.0.1", False), ("", False),
        ("127.0.0.1:port", False), ("[::1", False), ("127.0.0.1, evil.com", False),
    ],
)  # fmt: skip
def test_addresses_and_given_names_are_ours(host: str, allowed: bool, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, server="box.lan", root_path="https://page.example.org/framepack")
    assert AllowedNames.of(settings.page).allow(host) is allowed


def test_a_server_for_every_address_knows_its_own_name_and_its_public_one(tmp_path: Path) -> None:
    names = AllowedNames.of(settings_for(tmp_path, server="0.0.0.0").page)  # noqa: S104
    assert names.allow(f"{socket.gethostname()}:7860")
    assert not names.allow("abc.gradio.live")
    names.add_public("https://abc.gradio.live/")
    assert names.allow("abc.gradio.live")


@pytest.mark.parametrize(
    ("path", "root", "within"),
    [
        ("/live", "", "/live"), ("/live", "/framepack", "/live"), ("/framepack/live", "/framepack", "/live"),
        ("/framepack", "/framepack", "/"), ("/framepackage", "/framepack", "/framepackage"),
    ],
)  # fmt: skip
def test_a_proxys_part_of_the_path_may_be_there_or_not(path: str, root: str, within: str) -> None:
    assert route_path({"path": path, "root_path": root}) == within


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "evil.com"}, 400),
        ({"X-Forwarded-Host": "evil.com"}, 400),
        ({"X-Forwarded-Host": "localhost, evil.com"}, 400),
        ({"Origin": "http://evil.com"}, 403),
        ({"Origin": "http://evil.com", "Host": "evil.com"}, 400),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://192.168.1.9"}, 403),
    ],
)
def test_foreign_hosts_and_pages_are_refused(open_server: Served, headers: dict[str, str], status: int) -> None:
    with open_server.client() as client:
        for path in ("/config", "/healthz", "/live?language=en", "/gradio_api/info"):
            assert client.get(path, headers=headers).status_code == status
        assert client.post("/gradio_api/run/list", json={"data": []}, headers=headers).status_code == status


def test_the_pages_own_origin_is_welcome(open_server: Served) -> None:
    with open_server.client(headers={"Origin": open_server.address}) as client:
        assert client.get("/config").status_code == 200
        assert client.post("/gradio_api/run/list", json={"data": []}).json()["data"] == [[]]


def test_every_answer_keeps_the_browser_here(open_server: Served) -> None:
    with open_server.client() as client:
        for path in ("/", "/config", "/live?language=en", "/nowhere"):
            headers = client.get(path).headers
            assert "default-src 'self'" in headers["content-security-policy"]
            assert "frame-ancestors 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"


# Routes.


@pytest.mark.parametrize(
    "path",
    [
        "/monitoring", "/monitoring/summary", "/monitoring/x/dashboard", "/gradio_api/runs",
        "/gradio_api/run-history/buckets", "/gradio_api/stream/a/b/1/playlist.m3u8", "/pwa_icon",
        "/gradio_api/deep_link?session_hash=x", "/gradio_api/proxy=https://example.org", "/gradio_api/dev/reload",
        "/gradio_api/vibe-code/", "/gradio_api/custom_component/a/client/b/c.js",
        "/gradio_api/token", "/gradio_api/file=http://127.0.0.1/", "/gradio_api/file=HTTPS://example.org/x",
        "/gradio_api/mcp/", "/docs", "/openapi.json", "/gradio_api/file/etc/passwd", "/%6donitoring",
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_closed(open_server: Served, path: str) -> None:
    with open_server.client() as client:
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/component_server", "/gradio_api/process_recording", "/gradio_api/vibe-edit", "/config", "/live"],
)
def test_only_needed_routes_take_posts(open_server: Served, path: str) -> None:
    with open_server.client() as client:
        assert client.post(path, json={}).status_code == 404
        assert client.delete(path).status_code == 404


# Logins.


def test_without_the_password_only_the_login_page_is_there(locked: Served) -> None:
    with locked.client() as client:
        assert "auth_required" in client.get("/").text
        assert client.get("/healthz").text == "ok"
        for path in EVERYTHING:
            assert client.get(path).status_code == 401, path
        for path in EVERY_POST:
            assert client.post(path, json={}).status_code == 401, path


def test_the_password_opens_the_page_and_our_routes_and_logging_out_closes_them(locked: Served) -> None:
    user, _, password = LOGIN.partition(":")
    with locked.client() as client:
        assert client.post("/login", data={"username": user, "password": password}).status_code == 200
        for path in ("/config", "/live?language=en", "/gradio_api/info"):
            assert client.get(path).status_code == 200
        client.get("/logout")
        assert client.get("/live?language=en").status_code == 401


def test_a_program_logs_in_as_gradio_lets_it(locked: Served) -> None:
    user, _, password = LOGIN.partition(":")
    client = Client(locked.address, auth=(user, password), verbose=False)
    assert client.predict(api_name="/list") == []


def test_a_made_up_cookie_opens_nothing(locked: Served) -> None:
    cookies = {"access-token-x": "y", "access-token-unsecure-": "None", "access-token-unsecure-None": "None"}
    with locked.client(cookies=cookies) as client:
        assert client.get("/live?language=en").status_code == 401


def test_wrong_passwords_are_slowed_down(locked: Served) -> None:
    with locked.client() as client:
        answers = [client.post("/login", data={"username": "someone", "password": str(n)}) for n in range(7)]
        assert [answer.status_code for answer in answers] == [400] * 5 + [429] * 2
        assert 0 < int(answers[-1].headers["retry-after"]) <= 20
        assert client.post("/login", data={"username": "someone", "password": "secret word"}).status_code == 429


class Guesser:
    """Sends passwords to SlowLogins without a server; the answer of the application beneath is given."""

    def __init__(self) -> None:
        self.now = 0.0
        self.status = 400
        self.layer = SlowLogins(self._login, clock=lambda: self.now)

    async def _login(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": []})

    def guess(self, client: str = "10.0.0.1") -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/login", "client": (client, 1)}
        asyncio.run(self.layer(scope, None, send))  # type: ignore[arg-type]
        return int(sent[0]["status"])


def test_a_guesser_gets_a_new_attempt_every_ten_seconds() -> None:
    guesser = Guesser()
    assert [guesser.guess() for _ in range(6)] == [400] * 5 + [429]
    guesser.now = 10.0
    assert [guesser.guess() for _ in range(2)] == [400, 429]


def test_right_passwords_cost_nothing() -> None:
    guesser = Guesser()
    guesser.status = 200
    assert {guesser.guess() for _ in range(100)} == {200}


def test_guessers_with_many_addresses_share_an_allowance_and_are_not_all_remembered() -> None:
    guesser = Guesser()
    answers = [guesser.guess(f"10.0.{n // 250}.{n % 250}") for n in range(2000)]
    assert answers.count(400) == 30
    assert len(guesser.layer._clients) == SlowLogins.REMEMBERED
