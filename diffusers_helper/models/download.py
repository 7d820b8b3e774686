"""Fetching a known checkpoint from the hub, with the hub library's own progress bars."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ..errors import UnusableCheckpoint, UnusableInput
from .table import CHECKPOINTS, missing_files, part_folders


def download_checkpoint(name: str, models_dir: Path) -> None:
    """Download what is missing of ``name`` to ``models_dir``. A broken-off download goes on where it stopped.

    Raises:
        UnusableInput: a name that is not in the table.
        UnusableCheckpoint: the hub could not be reached or refused.
    """
    from huggingface_hub import snapshot_download

    known = CHECKPOINTS.get(name)
    if known is None:
        raise UnusableInput(f"unknown checkpoint {name!r}; the names are {', '.join(CHECKPOINTS)}")
    patterns: dict[str, list[str]] = defaultdict(list)
    here = part_folders(known, models_dir)
    for part, source in known.sources.items():
        if part not in here or missing_files(part, here[part]):
            patterns[source.repository].append(f"{source.subfolder}/*" if source.subfolder else "*")
    for repository, allowed in patterns.items():
        try:
            snapshot_download(repository, allow_patterns=allowed, cache_dir=models_dir / "hub")
        except OSError as error:  # what the hub library raises for the network, the hub and the disk alike
            raise UnusableCheckpoint(f"{repository} could not be downloaded: {error}") from None
