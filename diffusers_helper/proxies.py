"""Proxies that the environment names (ALL_PROXY, HTTPS_PROXY, NO_PROXY and their like): for the network alone.

Libraries read these variables, and those of certificates, as soon as they make an HTTP client, and fail on the spot at
what they cannot use.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from .errors import InvalidSetting

EXCEPTIONS = ("NO_PROXY", "no_proxy")
SOCKS_PACKAGE = "socksio"
HTTP_LIBRARIES = ("httpx", "httpx2")
"""Gradio's, and the hub library's from Python 3.11 on."""
SECURITY_FILES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
HOW_TO_NAME = (
    "name it as http://user:password@host:port, in a password %2F for / and %23 for #; NO_PROXY takes names of "
    "machines with commas between"
)


@contextmanager
def no_proxies(environment: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """For what talks to this machine only: whatever proxies are named meanwhile, no client minds them."""
    before = {name: environment.get(name) for name in EXCEPTIONS}
    environment.update(dict.fromkeys(EXCEPTIONS, "*"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value


def require_usable_proxies(make_client: Callable[[], Any]) -> None:
    """Before the network is used: raises InvalidSetting where ``make_client`` fails at what the environment names.

    What a library says of a proxy is not repeated: it may quote a part of the password.
    """
    try:
        make_client()
    except ImportError:
        raise InvalidSetting(
            f"{_named_proxies()}: a SOCKS proxy needs the package {SOCKS_PACKAGE}, which is not installed: "
            f"`.venv/bin/python -m pip install {SOCKS_PACKAGE} -c requirements-optional.txt`"
        ) from None
    except OSError as error:
        raise InvalidSetting(
            f"{_named_files()}: what secure connections need cannot be opened: {error.strerror or error}. "
            "Name another file, or remove the variable."
        ) from None
    except _unreadable_address():
        raise InvalidSetting(f"{_named_proxies()}: the proxy cannot be used; {HOW_TO_NAME}") from None


def _unreadable_address() -> tuple[type[Exception], ...]:
    """What the HTTP libraries that are in use raise for an address that they cannot read."""
    return (ValueError, *(sys.modules[name].InvalidURL for name in HTTP_LIBRARIES if name in sys.modules))


def _named_proxies() -> str:
    """The variables that are set; their values may hold passwords."""
    return ", ".join(sorted(name for name in os.environ if name.lower().endswith("_proxy"))) or "proxy"


def _named_files() -> str:
    return ", ".join(name for name in SECURITY_FILES if os.environ.get(name)) or "certificates"
