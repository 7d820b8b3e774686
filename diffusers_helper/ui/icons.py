"""The page's drawings: strokes on a square of 24."""

from __future__ import annotations

from collections.abc import Mapping

STROKES: Mapping[str, str] = {
    "up": "M12 19V5M6 11l6-6 6 6",
    "down": "M12 5v14M6 13l6 6 6-6",
    "next": "M12 20V9M7 13l5-5 5 5M5 4h14",
    "edit": "M4 20l1-5L16 4l4 4L9 19l-5 1M14 6l4 4",
    "duplicate": "M9 9h11v11H9zM5 15H4V4h11v1",
    "remove": "M6 6l12 12M18 6L6 18",
    "cancel": "M6 6l12 12M18 6L6 18",
    "play": "M8 5l11 7-11 7z",
    "pause": "M8 5v14M16 5v14",
    "back": "M18 6l-8 6 8 6zM6 6v12",
    "forward": "M6 6l8 6-8 6zM18 6v12",
    "loop": "M17 3l3 3-3 3M4 11V9a3 3 0 0 1 3-3h13M7 21l-3-3 3-3M20 13v2a3 3 0 0 1-3 3H4",
    "full": "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
    "save": "M12 4v11M7 10l5 5 5-5M5 20h14",
    "again": "M20 11a8 8 0 1 0-2 6M20 5v6h-6",
    "last_frame": "M4 6h9v12H4zM17 12h4M18 9l3 3-3 3",
    "use": "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
    "compare": "M4 5h7v14H4zM13 5h7v14h-7z",
    "use_ratios": "M4 16l5-6 4 4 7-9M4 20h16",
    "open_folder": "M3 19V5h6l2 3h10v11z",
    "trash": "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
    "go_on": "M6 5l8 7-8 7zM18 5v14",
    "retry": "M4 11a8 8 0 1 1 2 6M4 5v6h6",
    "use_lora": "M4 12h12M11 7l5 5-5 5M20 5v14",
    "learn": "M4 5v15h16M7 8c3 8 6 9 12 9",
    "undo": "M8 5L4 9l4 4M4 9h10a5 5 0 0 1 0 10H9",
}


def svg(name: str) -> str:
    """One drawing, hidden from screen readers: what it means stands beside it in words."""
    return f'<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{STROKES[name]}"/></svg>'
