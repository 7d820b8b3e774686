"""Proxies of the environment: the page starts whatever they are, and what needs the network says what is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from huggingface_hub.utils import close_session
from huggingface_hub.utils._http import default_client_factory

from diffusers_helper.cli import main
from diffusers_helper.errors import InvalidSetting
from diffusers_helper.proxies import no_proxies, require_usable_proxies
from diffusers_helper.ui import server

from .conftest import ROOT
from .ui.serving import serving

SOCKS = {"ALL_PROXY": "socks5://someone:secret@127.0.0.1:9"}
UNREADABLE = [SOCKS, {"no_proxy": "::1/128"}, {"NO_PROXY": "[::1]"}, {"HTTPS_PROXY": "ftp://127.0.0.1:9"}]


def named(monkeypatch: pytest.MonkeyPatch, proxies: dict[str, str]) -> None:
    """These proxies and no others; and the package for SOCKS is not installed."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)


def test_gradio_is_imported_whatever_proxies_are_named() -> None:
    environment = {**os.environ, **SOCKS, "no_proxy": "::1/128,[::1]"}
    program = "from diffusers_helper.ui import server; server.import_gradio()"
    imported = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert imported.returncode == 0, imported.stderr


@pytest.mark.parametrize("proxies", UNREADABLE)
def test_the_page_opens_whatever_proxies_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxies: dict[str, str]
) -> None:
    named(monkeypatch, proxies)
    server.import_gradio()
    with serving(tmp_path) as served:
        assert httpx.get(served.address, trust_env=False).status_code == 200
        assert {name: os.environ[name] for name in proxies if name.lower() != "no_proxy"}.items() <= proxies.items()
        assert os.environ["NO_PROXY"] != "*", "a download started by the page goes through the proxies"


def test_no_proxies_leaves_the_environment_as_it_was() -> None:
    environment = {"NO_PROXY": "a", **SOCKS}
    with no_proxies(environment):
        assert environment == {"NO_PROXY": "*", "no_proxy": "*", **SOCKS}
    assert environment == {"NO_PROXY": "a", **SOCKS}


def test_a_public_address_through_a_socks_proxy_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, SOCKS)
    server.import_gradio()
    with pytest.raises(InvalidSetting, match=r"ALL_PROXY.*package socksio"), serving(tmp_path, share="1", offline="0"):
        pass


def test_a_download_through_a_socks_proxy_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named(monkeypatch, SOCKS)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    close_session()  # which one process has for all its downloads, with the proxies of its first
    assert main(["download", "framepack", "--models-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "error: ALL_PROXY: a SOCKS proxy needs the package socksio" in said
    assert "Traceback" not in said
    assert "secret" not in said


@pytest.mark.parametrize("make_client", [httpx.Client, default_client_factory])
@pytest.mark.parametrize("proxy", ["ftp://me:se@HOST", "http://me:se/cret@HOST", "http://me:se#cret@HOST"])
def test_a_proxy_that_cannot_be_used_is_said_without_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str, make_client: Callable[[], object]
) -> None:
    named(monkeypatch, {"HTTPS_PROXY": proxy.replace("HOST", "127.0.0.1:9")})
    with pytest.raises(InvalidSetting, match=r"^HTTPS_PROXY: the proxy cannot be used; .* %2F for / and %23") as no:
        require_usable_proxies(make_client)
    assert not re.search(r"\bse\b|cret", str(no.value))
    assert no.value.__suppress_context__, "a traceback does not tell it either"


@pytest.mark.parametrize("make_client", [httpx.Client, default_client_factory])
def test_certificates_that_cannot_be_read_are_no_proxys_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_client: Callable[[], object]
) -> None:
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
    named(monkeypatch, {"SSL_CERT_FILE": str(tmp_path / "nowhere")})
    with pytest.raises(InvalidSetting, match=r"^SSL_CERT_FILE: what secure connections need .*: No such file") as no:
        require_usable_proxies(make_client)
    assert "proxy" not in str(no.value)


def test_what_is_no_fault_of_the_environment_is_not_said_to_be() -> None:
    def make_client() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        require_usable_proxies(make_client)


def test_the_import_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "example.org")
    server.import_gradio()
    assert os.environ["no_proxy"] == "example.org"
