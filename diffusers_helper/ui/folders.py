"""Opens the folder of a result with the system's file manager; only for somebody who sits at this machine."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

OPENERS: Mapping[str, str] = {"win32": "explorer", "darwin": "open"}
HANDED_ON = ("forwarded", "via", "x-real-ip")
"""Headers of proxies, besides those that begin with ``x-forwarded``."""


def is_at_this_machine(client: str, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a browser on this machine: by loopback, for a loopback name, by no proxy's hand."""
    handed_on = any(name.lower() in HANDED_ON or name.lower().startswith("x-forwarded") for name in headers)
    host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    return _is_loopback(client) and (host == "localhost" or _is_loopback(host)) and not handed_on


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def open_folder(folder: Path) -> bool:
    """Show ``folder``; False where this machine has no program for that, or no screen."""
    opener = shutil.which(OPENERS.get(sys.platform, "xdg-open"))
    blind = sys.platform not in OPENERS and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if opener is None or blind or not folder.is_dir():
        return False
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # It may stay open as long as the file manager does, so somebody else waits for it.
    threading.Thread(target=subprocess.call, args=([opener, str(folder)],), kwargs=silent, daemon=True).start()
    return True
