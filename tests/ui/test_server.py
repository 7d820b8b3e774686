"""Before and around the server: its environment, its port, what it warns of, a proxy's path."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import InvalidSetting, OutputFailed
from diffusers_helper.settings import EVERY_ADDRESS
from diffusers_helper.ui import server
from diffusers_helper.words import Texts

from .serving import Served, serving, settings_for


def test_nothing_but_the_settings_speaks_to_gradio(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    environment = {
        "GRADIO_ANALYTICS_ENABLED": "True", "GRADIO_ALLOWED_PATHS": "/", "GRADIO_NUM_WORKERS": "4", "GRADIO_SHARE": "1",
        "GRADIO_SERVER_NAME": "::1", "FRAMEPACK_AUTH": "someone:secret", "NO_PROXY": "example.org", "HOME": "/home",
    }  # fmt: skip
    server.prepare_gradio(settings_for(tmp_path).page, tmp_path, environment)
    uploads = str(tmp_path / ".framepack" / "uploads")
    assert {name: value for name, value in environment.items() if name.startswith("GRADIO_")} == {
        "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": uploads,
    }  # fmt: skip
    assert "FRAMEPACK_AUTH" not in environment
    assert environment["NO_PROXY"].split(",") == ["example.org", "localhost", "127.0.0.1", "::1", "127.0.0.1"]
    said = caplog.text
    assert "GRADIO_ALLOWED_PATHS" in said
    assert "GRADIO_NUM_WORKERS" in said
    assert "GRADIO_SHARE" not in said, "that is a variable of ours"


@pytest.mark.parametrize(
    ("flags", "keys"),
    [
        ({}, ()), ({"server": "localhost"}, ()), ({"server": "::1"}, ()), ({"server": "127.8.8.8"}, ()),
        ({"server": EVERY_ADDRESS}, ("page.warning_open",)), ({"server": "192.168.1.5"}, ("page.warning_open",)),
        ({"share": "1", "offline": "0"}, ("page.warning_open",)),
        ({"server": EVERY_ADDRESS, "auth": "a:b"}, ()), ({"mcp": "1"}, ("page.warning_mcp",)),
    ],
)  # fmt: skip
def test_an_open_page_and_a_missing_package_are_warned_of(
    tmp_path: Path, flags: dict[str, str], keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setattr(server, "mcp_is_installed", lambda: False)
    assert server.warnings(settings_for(tmp_path, **flags).page) == keys
    for language in ("en", "ja", "zh"):
        assert all(Texts(language)(key) for key in keys)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSetting, match=f"--port {port}: is in use already; choose another"):
            server.free_port("127.0.0.1", port)
    assert server.free_port("127.0.0.1", port) == port


def test_the_first_free_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(server, "PORTS", range(port, port + 20))
        assert port < server.free_port("127.0.0.1", None) < port + 20
        monkeypatch.setattr(server, "PORTS", range(port, port + 1))
        with pytest.raises(InvalidSetting, match="are in use; name another"):
            server.free_port("127.0.0.1", None)


@pytest.mark.parametrize("address", ["192.0.2.1", "no-such-name.invalid"])
def test_an_address_that_is_not_this_machines_is_said(address: str) -> None:
    with pytest.raises(InvalidSetting, match=f"--server {address}"):
        server.free_port(address, None)


def test_what_earlier_starts_left_among_the_uploads_goes(tmp_path: Path) -> None:
    old = server.uploads_folder(tmp_path) / "abc" / "old.png"
    old.parent.mkdir(parents=True)
    old.touch()
    server.empty_uploads(tmp_path)
    assert list(server.uploads_folder(tmp_path).iterdir()) == []


def test_an_output_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputFailed) as caught:
        server.empty_uploads(tmp_path / "file")
    folder = server.uploads_folder(tmp_path / "file")
    assert str(caught.value) == f"Could not make {folder}: Not a directory. Choose another output folder."


def asked(served: Served, path: str, **headers: str) -> Any:
    with served.client(headers={name.replace("_", "-"): value for name, value in headers.items()}) as client:
        return client.get(path)


@pytest.fixture
def behind_a_proxy(tmp_path: Path) -> Any:
    with serving(tmp_path / "outputs", root_path="/framepack") as served:
        yield served


def test_behind_a_proxy_the_page_lies_where_it_says(behind_a_proxy: Served) -> None:
    for prefix in ("", "/framepack"):
        for path in ("/config", "/live?language=en", "/healthz", "/readyz", "/gradio_api/info"):
            assert asked(behind_a_proxy, prefix + path).status_code == 200, prefix + path
        assert asked(behind_a_proxy, f"{prefix}/media/1/video.mp4").status_code == 404
        assert asked(behind_a_proxy, f"{prefix}/monitoring").status_code == 404
    assert asked(behind_a_proxy, "/config").json()["root"] == f"{behind_a_proxy.address}/framepack"


def test_a_proxy_may_pass_on_its_own_name_when_that_was_given(tmp_path: Path) -> None:
    with serving(tmp_path / "outputs", root_path="https://page.example.org/framepack") as served:
        assert asked(served, "/healthz", Host="page.example.org").text == "ok"
        assert asked(served, "/healthz", X_Forwarded_Host="page.example.org").text == "ok"
        assert asked(served, "/healthz", Origin="https://page.example.org").text == "ok"
        assert asked(served, "/healthz", Host="other.example.org").status_code == 400
        assert asked(served, "/config").json()["root"] == "https://page.example.org/framepack"


def test_the_password_is_in_no_file_and_no_answer(tmp_path: Path) -> None:
    with serving(tmp_path / "outputs", auth="someone:very secret") as served, served.client() as client:
        assert client.post("/login", data={"username": "someone", "password": "very secret"}).status_code == 200
        told = [client.get(path).text for path in ("/", "/config", "/live?language=en", "/readyz", "/gradio_api/info")]
        assert "very secret" not in "".join(told)
        assert "very secret" not in repr(served.context)
        assert "very secret" not in "".join(served.context.settings.lines())
    for file in (tmp_path / "outputs").rglob("*"):
        assert not file.is_file() or b"very secret" not in file.read_bytes()


def test_gradio_is_imported_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    imported: list[Callable[..., Any]] = []
    monkeypatch.setattr("importlib.import_module", lambda name: imported.append(inspect.getfile))
    before = inspect.getfile
    server.import_gradio()
    assert inspect.getfile is before
    with pytest.raises(OSError, match="not needed"):
        imported[0](object)
