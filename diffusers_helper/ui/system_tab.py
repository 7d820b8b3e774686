"""The tab that says what this machine has and how the program is set."""

from __future__ import annotations

from .page import Page, live


def build(page: Page) -> None:
    """Live numbers, settings, and what doctor knows."""
    live("disk")
