"""A small cache keyed by content, so that a repeated prompt or picture is not encoded again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def content_key(*contents: str | np.ndarray) -> str:
    """A hash of texts and arrays, shape and dtype included."""
    digest = hashlib.sha256()
    for content in contents:
        data = content.encode() if isinstance(content, str) else np.ascontiguousarray(content).tobytes()
        kind = "text" if isinstance(content, str) else f"{content.dtype}{content.shape}"
        digest.update(f"{kind}:{len(data)}:".encode() + data)
    return digest.hexdigest()


class ContentCache:
    """Keeps the ``size`` results used last."""

    def __init__(self, size: int = 32) -> None:
        self._size = size
        self._values: OrderedDict[str, object] = OrderedDict()

    def get(self, key: str, make: Callable[[], T]) -> T:
        """The value of ``key``, made when it is not here."""
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > self._size:
            self._values.popitem(last=False)
        return self._values[key]  # type: ignore[return-value]
