"""What the server refuses: names and pages that are not its own, closed routes, strangers, guessers, bad uploads."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from PIL import Image

from diffusers_helper.ui.guard import AllowedNames, SlowLogins, route_path
from diffusers_helper.ui.uploads import names_a_url

from ..jobs_support import wait_until
from .serving import Served, make_video, serving, settings_for

LOGIN = "someone:secret word"
EVERYTHING = (
    "/config", "/live?language=en", "/media/1/video.mp4", "/media/1/thumb.png",
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
    with serving(tmp_path_factory.mktemp("open"), max_upload_size="1mb") as served:
        yield served


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "outputs", auth=LOGIN) as served:
        yield served


def png(side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 90).save(buffer, "PNG")
    return buffer.getvalue()


def upload(client: httpx.Client, content: bytes, name: str = "picture.png") -> httpx.Response:
    return client.post("/gradio_api/upload", files={"files": (name, content)})


def kept(served: Served) -> list[Path]:
    """What lies among the uploads."""
    folder = served.output_dir / ".framepack" / "uploads"
    return [path for path in folder.rglob("*") if path.is_file()]


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
    assert AllowedNames.of(settings).allow(host) is allowed


def test_a_server_for_every_address_knows_its_own_name_and_its_public_one(tmp_path: Path) -> None:
    names = AllowedNames.of(settings_for(tmp_path, server="0.0.0.0"))  # noqa: S104
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


# Uploads.


def test_pictures_videos_and_settings_are_taken(open_server: Served, tmp_path: Path) -> None:
    video = make_video(tmp_path / "video.mp4")
    with open_server.client() as client:
        for name, content in (("a.png", png()), ("v.mp4", video.read_bytes()), ("s.json", b' {"seed": 1}')):
            answer = upload(client, content, name)
            assert answer.status_code == 200, answer.text
            assert Path(answer.json()[0]).read_bytes() == content


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("page.html", b"<!doctype html><script>alert(1)</script>", "a web page"),
        ("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        ("photo.png", b"\0\0\0\x18ftypheic\0\0\0\0", "an HEIC photo"),
        ("weights.safetensors", b"\x80\x02\x8a\nl\xfc", "not a known"),
        ("empty.png", b"", "empty"),
        ("list.json", b"[1, 2]", "not a known"),
        ("half.json", b'{"a": "\xff\xfe"}', "not a known"),
        ("script.sh", b"#!/bin/sh\nrm -rf /", "not a known"),
    ],
)
def test_other_files_are_refused_by_their_content_and_not_kept(
    open_server: Served, name: str, content: bytes, words: str
) -> None:
    before = kept(open_server)
    with open_server.client() as client:
        answer = upload(client, content, name)
        assert answer.status_code == 415
        assert words in answer.text
        both = [("files", ("a.png", png())), ("files", (name, content))]
        assert client.post("/gradio_api/upload", files=both).status_code == 415
    assert kept(open_server) == before


@pytest.mark.parametrize(
    "name", ["../../../x.png", "/etc/x.png", "..\\x.png", "a\nb.png", "x" * 300 + ".png", "\u202egnp.png"]
)
def test_a_name_stays_in_its_folder(open_server: Served, name: str) -> None:
    with open_server.client() as client:
        path = Path(upload(client, png(), name).json()[0])
    assert path.is_relative_to(open_server.output_dir / ".framepack" / "uploads")


def test_a_file_that_says_it_is_too_large_is_refused_before_it_comes(open_server: Served) -> None:
    with socket.create_connection(("127.0.0.1", open_server.port())) as connection:
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        connection.settimeout(5)
        assert b"413" in connection.recv(4096).split(b"\r\n")[0]


def form(content: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return head + content + b"\r\n--x--\r\n"


def test_a_file_of_unknown_length_is_cut_off_and_not_kept(open_server: Served) -> None:
    before = kept(open_server)

    def chunks() -> Iterator[bytes]:
        body = form(png() + bytes(3_000_000))
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    # The server answers and hangs up while we are still sending.
    with suppress(httpx.TransportError), open_server.client(headers=kind) as client:
        assert client.post("/gradio_api/upload", content=chunks()).status_code == 413
    wait_until(lambda: kept(open_server) == before, "the half file to go")


def test_a_file_that_breaks_off_is_not_kept(open_server: Served) -> None:
    before = kept(open_server)
    with socket.create_connection(("127.0.0.1", open_server.port())) as connection:
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + form(png())[:-10]
        )
        wait_until(lambda: len(kept(open_server)) > len(before), "the half file")
    wait_until(lambda: kept(open_server) == before, "the half file to go")


def test_slow_senders_do_not_hold_up_others(open_server: Served) -> None:
    senders = [socket.create_connection(("127.0.0.1", open_server.port())) for _ in range(50)]
    try:
        for sender in senders:
            sender.sendall(
                b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )
        with open_server.client() as client:
            begun = time.monotonic()
            assert client.get("/healthz").text == "ok"
            assert time.monotonic() - begun < 1
            assert upload(client, png()).status_code == 200
    finally:
        for sender in senders:
            sender.close()


def test_a_full_disk_is_said_before_the_upload(open_server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers_helper.ui.uploads.SPARE_BYTES", 10**18)
    with open_server.client() as client:
        answer = upload(client, png())
    assert answer.status_code == 507
    assert "disk is full" in answer.text


def test_other_requests_may_not_be_long(open_server: Served) -> None:
    with open_server.client() as client:
        answer = client.post("/gradio_api/run/list", content=b" " * 5_000_000)
        assert answer.status_code == 413
        chunked = client.post("/gradio_api/run/list", content=(b" " * 100_000 for _ in range(60)))
        assert chunked.status_code == 413


URL_AS_FILE = {"data": [{"path": "http://127.0.0.1/x.png", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0}


def test_the_server_fetches_nothing_from_an_address(open_server: Served) -> None:
    with open_server.client() as client:
        for path in (
            "/gradio_api/run/submit",
            "/gradio_api/call/submit",
            "/gradio_api/queue/join",
            "/gradio_api/call/v2/submit",
        ):
            assert client.post(path, json=URL_AS_FILE).status_code == 400


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_a_url_is_found_in_every_writing(encoding: str) -> None:
    assert names_a_url(json.dumps(URL_AS_FILE).encode(encoding))
    assert names_a_url(json.dumps(URL_AS_FILE).replace("path", "p\\u0061th").encode(encoding))
    assert not names_a_url(json.dumps({"data": ["see http://example.org", {"path": "/folder/x"}]}).encode(encoding))
    assert not names_a_url(b"{")
    assert not names_a_url(b"[" * 100_000)


def test_a_private_event_opens_no_path_that_was_not_uploaded(open_server: Served) -> None:
    secret = open_server.output_dir / "secret.png"
    secret.write_bytes(png())
    data = {"data": [{"path": str(secret), "meta": {"_type": "gradio.FileData"}}], "fn_index": 0}
    with open_server.client() as client:
        assert client.post("/gradio_api/run/predict", json=data).status_code == 500
        uploaded = upload(client, png()).json()[0]
        data["data"][0]["path"] = uploaded  # type: ignore[index]
        assert client.post("/gradio_api/run/predict", json=data).json()["data"] == [f"got {uploaded}"]
