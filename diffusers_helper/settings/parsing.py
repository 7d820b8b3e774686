"""From the text of a setting to its value. Each function raises ValueError saying what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..errors import InvalidRequest
from ..limits import LEAST_PRESERVED_GB, MOST_DECODED_AT_ONCE, MOST_PRESERVED_GB
from ..names import path_of, quoted

_ALLOC_PAIR = r"[a-z0-9_]+:([A-Za-z0-9_.-]+|\[(\d+|>):\d+(,(\d+|>):\d+)*\])"


def truth(text: str) -> bool:
    """The words that the hub's own libraries know, and their opposites."""
    yes, no = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
    if text.lower() not in (*yes, *no):
        raise ValueError(f"allowed are {', '.join((*yes, *no))}")
    return text.lower() in yes


def given_path(text: str, what: str = "") -> Path:
    """The path that was given on the command line for ``what``. Raises InvalidRequest, which names it."""
    try:
        return path_of(text)
    except ValueError as error:
        raise InvalidRequest(f"{what}{what and '='}{quoted(text)}: {error}") from None


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words, in letters of either case; as it stands here."""
    known = {word.lower(): word for word in words}

    def parse(text: str) -> str:
        if text.lower() not in known:
            raise ValueError(f"allowed are {', '.join(words)}")
        return known[text.lower()]

    return parse


def or_nothing(parse: Callable[[str], str]) -> Callable[[str], str]:
    """The same, or an empty text, which says nothing."""
    return lambda text: text and parse(text)


def file_or(*words: str) -> Callable[[str], str]:
    """One of these words, in letters of either case, or the path of a file."""

    def parse(text: str) -> str:
        if text.lower() in words:
            return text.lower()
        path_of(text)
        return text

    return parse


def checkpoint(text: str) -> str:
    """A name, or the path of a folder."""
    path_of(text)
    return text


def endpoint(text: str) -> str:
    """The address of a hub."""
    if not re.fullmatch(r"https?://[0-9A-Za-z.:_\[\]-]+(/[0-9A-Za-z._~-]+)*/?", text):
        raise ValueError("give the address of a hub, such as https://huggingface.co")
    return text.rstrip("/")


def gb(text: str) -> float:
    """GPU memory in GB, within the bounds of what may be left free."""
    least, most = LEAST_PRESERVED_GB, MOST_PRESERVED_GB
    if not re.fullmatch(r"\d{1,3}(\.\d{1,3})?", text, re.ASCII) or not least <= float(text) <= most:
        raise ValueError(f"allowed is a number of GB from {least} to {most}")
    return float(text)


def chunk_size(text: str) -> int | None:
    """Latent frames that are decoded at once; empty for what the memory allows."""
    if text and (not re.fullmatch(r"\d", text, re.ASCII) or not 1 <= int(text) <= MOST_DECODED_AT_ONCE):
        raise ValueError(f"allowed is a whole number from 1 to {MOST_DECODED_AT_ONCE}")
    return int(text) if text else None


def alloc_conf(text: str) -> str:
    """Documents of other versions write ``name=value``; PyTorch wants a colon. A value may be a list in brackets."""
    plain = re.sub(r"\s", "", text).replace("=", ":")
    pairs = [pair for pair in re.split(r",(?![^\[]*\])", plain) if pair]
    if not all(re.fullmatch(_ALLOC_PAIR, pair) for pair in pairs):
        raise ValueError("give name:value, with commas between them, such as expandable_segments:True")
    return ",".join(pairs)


def host(text: str) -> str:
    """An address to listen on, without the brackets of IPv6."""
    if not re.fullmatch(r"\[?[0-9A-Za-z._:-]+\]?", text):
        raise ValueError("give an address or a name of this machine, such as 127.0.0.1, or 0.0.0.0 for all")
    return text.strip("[]")


def port(text: str) -> int | None:
    """None where none is named."""
    if not text:
        return None
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        raise ValueError("allowed is a whole number from 1 to 65535")
    return int(text)


def devices(text: str) -> tuple[str, ...]:
    """The devices of executors; none where none is named."""
    named = tuple(part.strip().lower() for part in text.split(",")) if text.strip() else ()
    if not all(re.fullmatch(r"cpu|\d{1,2}", device, re.ASCII) for device in named):
        raise ValueError("give cpu or the number of a GPU for each, with commas between: 0,1")
    return named


def login(text: str) -> tuple[str, str] | None:
    """User and password; None where none is asked for."""
    if not text:
        return None
    user, colon, password = text.partition(":")
    if not (colon and user.strip() and password):
        raise ValueError("give a user and a password with a colon between them, user:password")
    return user.strip(), password


def size_bytes(text: str) -> int:
    """A size with its unit, in bytes."""
    match = re.fullmatch(r"(\d{1,6})\s*(kb|mb|gb)", text.strip().lower(), re.ASCII)
    if not match or not int(match[1]):
        raise ValueError("give a size such as 500kb, 100mb or 2gb")
    return int(match[1]) * {"kb": 10**3, "mb": 10**6, "gb": 10**9}[match[2]]


def root_path(text: str) -> str:
    """Where a proxy shows the page, without a slash at the end."""
    if text and not re.fullmatch(r"(https?://[0-9A-Za-z.:_\[\]-]+)?(/[0-9A-Za-z._~-]+)*/?", text):
        raise ValueError("give a path such as /framepack, or the whole address, https://example.org/framepack")
    return text.rstrip("/")
