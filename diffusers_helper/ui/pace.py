"""How often pages ask for their live parts: each second, and less often the more of them look on.

A generation shares its processor with the answers. So all pages together may ask so many times a second and no more;
the server tells each page when to come again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

ASK_AGAIN = "Ask-Again"
"""The header of an answer that says after how many seconds to ask again."""
SERVER_TIME = "Server-Time"
"""The header that says when it was sent, in unix seconds: a browser's clock may be another."""

SHORTEST_SECONDS = 1.0
TOGETHER_PER_SECOND = 5.0
GONE_SECONDS = 60.0
MOST_PAGES = 1000


class Pace:
    """Counts the pages that look on, by the names they give themselves."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_seen: OrderedDict[str, float] = OrderedDict()

    def seconds(self, page: str) -> float:
        """When ``page``, which asks now, may ask again."""
        now = self._clock()
        self._last_seen[page] = now
        self._last_seen.move_to_end(page)
        while len(self._last_seen) > MOST_PAGES or now - next(iter(self._last_seen.values())) > GONE_SECONDS:
            self._last_seen.popitem(last=False)
        return max(SHORTEST_SECONDS, len(self._last_seen) / TOGETHER_PER_SECOND)
