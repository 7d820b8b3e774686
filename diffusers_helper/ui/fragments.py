"""The live parts of the page as HTML: pure functions of the jobs. What comes from users is escaped."""

from __future__ import annotations

from .desk import Desk
from .texts import Texts


def render(desk: Desk, language: str) -> dict[str, str]:
    """Every fragment by the id of its place."""
    texts = Texts(language)
    return {"queue": "", "history": "", "job": texts("job.none")}
