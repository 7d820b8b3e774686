"""What is sent to the server: how long, how slow, what by its content, and from where."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image

from diffusers_helper.ui.uploads import names_a_url

from ..jobs_support import wait_until
from .serving import Served, make_video, serving


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("open"), max_upload_size="1mb") as served:
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
            assert client.get("/healthz").text == "ok"
            assert upload(client, png()).status_code == 200
        for sender in senders:
            sender.setblocking(False)
            with pytest.raises(BlockingIOError):  # it was neither answered nor sent away: the others went before it
                sender.recv(1)
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


def test_a_refusal_speaks_the_language_of_the_page(open_server: Served) -> None:
    with open_server.client(cookies={"framepack_language": "ja"}) as client:
        refused = client.post("/gradio_api/upload", files={"files": ("a.png", b"%PDF-1.4")})
    assert (refused.status_code, "'a.png' はPDF 文書です" in refused.text) == (415, True)
