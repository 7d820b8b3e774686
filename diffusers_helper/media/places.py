"""How the places of results are kept in files, and whether they lie in the output folder.

An output folder may be moved or renamed. So what lies in it is kept as seen from it (``kept``), and is found again by
joining the two; a path that lies elsewhere is kept whole, and joining leaves it as it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_DAY_NAME = re.compile(r"\d{4}-\d\d-\d\d")


def whole(path: Path) -> Path:
    """``path`` from the root of the disk, without ``..``.

    Links stay as they are, but for those before a ``..``: the system goes up from where they lead.
    """
    path = path.absolute()
    if ".." not in path.parts:
        return path
    last = max(place for place, part in enumerate(path.parts) if part == "..")
    return Path(os.path.realpath(Path(*path.parts[: last + 1])), *path.parts[last + 1 :])


def kept(path: str, output_dir: Path) -> str:
    """How ``path`` is kept in a file: as seen from ``output_dir`` where it lies in it, else as it is."""
    place = Path(path)
    return place.relative_to(output_dir).as_posix() if place.is_relative_to(output_dir) else path


def lies_in(output_dir: Path, path: Path) -> bool:
    """Whether ``path`` lies in ``output_dir``, also when its links are followed; a day's folder may be a link."""
    output_dir, named = (Path(os.path.normpath(place.absolute())) for place in (output_dir, path))
    if output_dir not in named.parents:
        return False
    day = output_dir / named.relative_to(output_dir).parts[0]
    homes = [output_dir, day] if _DAY_NAME.fullmatch(day.name) else [output_dir]
    followed = Path(os.path.realpath(path))
    return any(Path(os.path.realpath(home)) in followed.parents for home in homes)


def linked_days(output_dir: Path) -> list[Path]:
    """The days' folders that are links, to another disk for instance."""
    return [day for day in output_dir.glob("*-*-*") if _DAY_NAME.fullmatch(day.name) and day.is_symlink()]
