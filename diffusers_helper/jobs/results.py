"""The files of a job that ended: which they are, to the trash with them, or away. Nothing outside the output folder."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from .. import faults
from ..errors import OutputFailed
from ..events import Finished
from ..media.files import require_folder
from ..media.places import lies_in
from ..training.order import TrainingOrder
from ..words import Message
from .job import Job
from .job_progress import JobProgress, fold

log = logging.getLogger(__name__)

TRASH = "trash"
Moved: TypeAlias = tuple[tuple[Path, Path], ...]
"""Of each file, where it was and where it is."""


def result_files(job: Job) -> list[Path]:
    """The work folder of an unfinished job; the video and the picture beside it of a finished one; what a training has
    written."""
    if job.order:
        return _learnt_files(job.order, job.progress)
    progress = job.progress
    if progress.folder:
        return [Path(progress.folder)]
    if not progress.video:
        return []
    video = Path(progress.video)
    return list(dict.fromkeys((video, video.with_suffix(".png"))))


def with_finished_video(job: Job) -> Job | None:
    """The job with the video that it had finished when the program was killed before that was told; None without one.

    The work folder, or at least its ``job.json``, is removed when the video lies beside it.
    """
    progress = job.progress
    if progress.folder is None or Path(progress.folder, "job.json").exists():
        return None
    video = Path(progress.folder).with_suffix(job.request.output.suffix)
    shape = {"frames": progress.frames_planned, "fps": progress.fps, "width": progress.width, "height": progress.height}
    finished = Finished(path=str(video), **shape, seed=job.request.seed if progress.seed is None else progress.seed)
    return replace(job, progress=fold(progress, finished)) if video.is_file() else None


def _learnt_files(order: TrainingOrder, progress: JobProgress) -> list[Path]:
    """What it has told that it wrote, and the folder of samples. Since a training begins only where its LoRA and its
    state are not, these are its own from the first step on, told or not; what it is to begin with is not."""
    lora, files = Path(order.out), [Path(path) for path in progress.written]
    if progress.learning:
        files += [lora, order.state]
    if progress.samples:
        files.append(lora.with_name(f"{lora.stem}_samples"))
    return [file for file in dict.fromkeys(files) if file != Path(order.resume or "")]


@contextmanager
def in_trash(output_dir: Path, job: Job) -> Iterator[Moved]:
    """Move what there is of a job's files to the trash folder; back, where the block fails. Raises OutputFailed.

    Those of a training lie where its LoRA was asked for; they are its own by their names.
    """
    files = result_files(job)
    ours = [file for file in files if file.exists()] if job.order else _ours(output_dir, files)
    moves = tuple((file, _free_name(output_dir / TRASH, file)) for file in ours)
    with moved(moves):
        yield moves


@contextmanager
def moved(moves: Moved) -> Iterator[None]:
    """Move all of them, each from its first place to its second; back, where one or the block fails.

    Raises OutputFailed.
    """
    with ExitStack() as back:
        for file, place in moves:
            move(file, place)
            back.callback(move, place, file)
        yield
        back.pop_all()


def move(file: Path, place: Path) -> None:
    """Move a file or a folder, whole or not at all. Raises OutputFailed."""
    try:
        faults.passing("move")
        place.parent.mkdir(parents=True, exist_ok=True)
        _rename(file, place)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputFailed(
            Message("command.not_moved", file=str(file), folder=str(place.parent), reason=reason)
        ) from None


def _rename(file: Path, place: Path) -> None:
    """To another disk it is copied, and deleted where it was once the copy is whole."""
    try:
        file.rename(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        require_folder(file.parent)
        _copy_over(file, place)


def _copy_over(file: Path, place: Path) -> None:
    try:
        if file.is_dir():
            shutil.copytree(file, place, symlinks=True)
        else:
            shutil.copy2(file, place, follow_symlinks=False)
            file.unlink()
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):
            place.unlink(missing_ok=True)
        raise
    shutil.rmtree(file, ignore_errors=True)


def without_results(output_dir: Path, job: Job) -> Job:
    """The job after its unfinished work was deleted, or its finished video moved to the trash. Raises OutputFailed."""
    without = replace(job, progress=job.progress.without_results())
    if job.progress.folder:
        delete_unfinished(output_dir, Path(job.progress.folder))
        return without
    with in_trash(output_dir, job):
        return without


def delete_unfinished(output_dir: Path, folder: Path) -> None:
    """Delete a work folder; one that is none, or lies elsewhere, is left alone."""
    for ours in _ours(output_dir, [folder]):
        if (ours / "job.json").is_file():
            shutil.rmtree(ours, ignore_errors=True)


def _ours(output_dir: Path, files: Iterable[Path]) -> list[Path]:
    """Those that exist and lie in the output folder."""
    found = [file for file in files if file.exists()]
    ours = [file for file in found if lies_in(output_dir, file)]
    for file in set(found) - set(ours):
        log.warning("%s lies outside %s and is left alone", file, output_dir)
    return ours


def _free_name(trash: Path, file: Path) -> Path:
    names = (file.name, *(f"{file.stem}_{number}{file.suffix}" for number in range(1, 1000)))
    return next(trash / name for name in names if not (trash / name).exists())
