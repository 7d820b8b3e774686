"""A JSON object out of a text from elsewhere, or what is wrong with it in words that a sentence can go on with."""

from __future__ import annotations

import json
from typing import Any


def object_in(text: str) -> dict[str, Any]:
    """The object that is all of ``text``.

    Raises:
        ValueError: "is not JSON: ..." or "must be a JSON object, not ...".
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"must be a JSON object, not {type(found).__name__}")
    return found
