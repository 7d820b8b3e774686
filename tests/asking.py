"""A request for three sections of two steps: what tests of the road ask for."""

from pathlib import Path
from typing import Any

from diffusers_helper.request import Request


def ask(picture: Path, **fields: Any) -> Request:
    return Request.parse({"picture": str(picture), "seconds": 3.6, "steps": 2, **fields})
