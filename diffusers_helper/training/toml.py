"""TOML, by the standard library; for Python 3.10 by the package that became it."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found]


def parsed_toml(text: str) -> dict[str, Any]:
    """What it says. Raises ValueError."""
    said: dict[str, Any] = tomllib.loads(text)
    return said
