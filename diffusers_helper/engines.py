"""The command `engines`: the compiled decoders that are kept, listed or removed. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from .settings import Settings

if TYPE_CHECKING:
    from .media.compiled_files import CompiledFiles, Kept


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("what", choices=("list", "clear"), help="list them, or remove all")
    parser.set_defaults(run=run)


def files_of(settings: Settings) -> CompiledFiles:
    """Where they are kept."""
    from .media.compiled_files import CompiledFiles, compiled_folder

    return CompiledFiles(compiled_folder(settings.paths.models_dir), settings.decoders.compiled_limit)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Carry it out; returns the exit code."""
    files = files_of(settings)
    kept = files.clear() if options.what == "clear" else files.listed()
    done = "removed: " if options.what == "clear" else ""
    sys.stdout.write("".join(f"{line}\n" for line in [*map(_line, kept), f"{done}{_total(kept)}"]))
    return 0


def _line(kept: Kept) -> str:
    made, used = (f"{datetime.fromtimestamp(time):%Y-%m-%d %H:%M}" for time in (kept.made, kept.used))
    key = kept.key
    return f"{kept.shape}  {kept.size / 1e6:.1f} MB  made {made}, used {used}  {key.back_end}, {key.device}"


def _total(kept: Sequence[Kept]) -> str:
    count = f"{len(kept)} compiled decoder" + ("" if len(kept) == 1 else "s")
    return f"{count}, {sum(each.size for each in kept) / 1e6:.1f} MB"
