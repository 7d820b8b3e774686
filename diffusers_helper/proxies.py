"""Proxies that the environment names (ALL_PROXY, HTTPS_PROXY, NO_PROXY and their like): for the network alone.

Libraries read these variables as soon as they make an HTTP client, and fail on the spot at what they cannot use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from .errors import InvalidSetting

EXCEPTIONS = ("NO_PROXY", "no_proxy")
SOCKS_PACKAGE = "socksio"


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
    """Before the network is used: raises InvalidSetting where ``make_client`` fails at the proxies that are named."""
    try:
        make_client()
    except ImportError:
        raise InvalidSetting(
            f"{_named()}: a SOCKS proxy needs the package {SOCKS_PACKAGE}, which is not installed: "
            f"`.venv/bin/python -m pip install {SOCKS_PACKAGE} -c requirements-optional.txt`"
        ) from None
    except Exception as error:
        raise InvalidSetting(f"{_named()}: the proxy cannot be used: {error}") from error


def _named() -> str:
    """The variables that are set; their values may hold passwords."""
    return ", ".join(sorted(name for name in os.environ if name.lower().endswith("_proxy"))) or "proxy"
