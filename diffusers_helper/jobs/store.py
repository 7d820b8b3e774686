"""The jobs on disk: one SQLite file. Reads all at the start, writes every change through.

The file says whose it is (``application_id``) and of which version (``user_version``). It is read whole and checked
before anything relies on it; ``open_store`` says what happens to a file that cannot be used. A row that is no job stays
as it is, and costs no other.

The column ``work`` says what is asked for, and ``request`` holds it, whatever it is.

Paths in the output folder are kept as seen from it, so that it may be moved. Version 1 kept whole paths.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import DamagedQueue, ForeignQueue, FramePackError, QueueUnavailable, told_by, unforeseen
from ..events import Event
from ..media.files import written_whole
from ..media.places import kept
from ..request import Request
from ..words import Message, joined, plain
from . import migrate
from .job import Job, UnreadableJob
from .job_progress import JobProgress
from .work import KINDS, Work, kind_of

log = logging.getLogger(__name__)

FILE, BACKUP = "jobs.sqlite3", "jobs.backup.sqlite3"
APPLICATION_ID = 0x46504A42  # "FPJB"
VERSION = 7
BUSY_SECONDS = 3.0

_TABLES = f"""
CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT NOT NULL, place INTEGER NOT NULL, request TEXT NOT NULL,
    progress TEXT NOT NULL, stop TEXT, created_at REAL NOT NULL, started_at REAL, ended_at REAL,
    checkpoint TEXT NOT NULL DEFAULT '', executor TEXT NOT NULL DEFAULT '', twin INTEGER NOT NULL DEFAULT 0,
    batch INTEGER NOT NULL DEFAULT 0, work TEXT NOT NULL DEFAULT 'video'
);
CREATE TABLE event (job INTEGER NOT NULL REFERENCES job ON DELETE CASCADE, content TEXT NOT NULL);
CREATE INDEX event_of_job ON event (job);
CREATE TABLE flag (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""
_STEPS = {
    2: "",
    3: "ALTER TABLE job ADD COLUMN checkpoint TEXT NOT NULL DEFAULT '';",
    4: "ALTER TABLE job ADD COLUMN executor TEXT NOT NULL DEFAULT '';",
    5: "ALTER TABLE job ADD COLUMN twin INTEGER NOT NULL DEFAULT 0;",
    6: "ALTER TABLE job ADD COLUMN batch INTEGER NOT NULL DEFAULT 0;",
    7: "ALTER TABLE job ADD COLUMN work TEXT NOT NULL DEFAULT 'video';",
}
"""What makes each version's tables out of those of the one before. What the rows hold is read by ``migrate.py``."""
_COLUMNS = (
    "id", "state", "place", "request", "progress", "stop", "created_at", "started_at", "ended_at", "checkpoint",
    "executor", "twin", "batch", "work",
)  # fmt: skip
_TIMES = ("created_at", "started_at", "ended_at")
LAST_SECOND = 253402300799.0
"""Of the year 9999, in unix seconds: no later time has a date."""
_PATHS = ("path", "folder", "state")
"""What an event calls a file or a folder."""
_JOB = TypeAdapter(Job)


class JobStore:
    """The jobs of ``output_dir`` in one file, or in memory where ``file`` is None. Thread-safe."""

    def __init__(self, file: Path | None, output_dir: Path) -> None:
        """Open ``file``, making it where there is none.

        Raises:
            DamagedQueue, ForeignQueue: nothing was changed.
            QueueUnavailable: it cannot be opened or written.
        """
        self._lock = threading.RLock()
        self._output_dir = output_dir
        with _explained(file):
            self._connection = sqlite3.connect(
                file or ":memory:", timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None
            )
            self._connection.text_factory = _text
            try:
                self._prepare()
                self._rows()
            except BaseException:
                self._connection.close()
                raise
        self._file = file
        self._inode = file.stat().st_ino if file else 0

    def _prepare(self) -> None:
        run = self._connection.execute
        made_by, version = (run(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        empty = not run("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not empty and made_by != APPLICATION_ID:
            raise ForeignQueue(Message("queue_notice.foreign"))
        if not empty and not 1 <= version <= VERSION:
            raise ForeignQueue(Message("queue_notice.other_version", version=version, known=VERSION))
        if (fault := run("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise DamagedQueue(fault)
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")  # a command that was taken outlives a power cut
        run("PRAGMA foreign_keys = ON")
        if empty:
            self._connection.executescript(f"BEGIN;{_TABLES}COMMIT;")
        elif version < VERSION:
            steps = "".join(_STEPS[later] for later in range(version + 1, VERSION + 1))
            self._connection.executescript(f"BEGIN IMMEDIATE;{steps}PRAGMA user_version = {VERSION};COMMIT;")
        run("BEGIN IMMEDIATE")  # shows now, not at the first job, whether it can be written
        run("ROLLBACK")

    @property
    def is_removed(self) -> bool:
        """Whether somebody removed the file; what is written now would go with it. Raises QueueUnavailable.

        One that was put in its place is not ours to write.
        """
        if self._file is None:
            return False
        try:
            found = self._file.stat().st_ino
        except OSError:
            return True
        if found != self._inode:
            raise QueueUnavailable(Message("queue_notice.replaced", file=str(self._file)))
        return False

    def read(self) -> tuple[list[Job], list[UnreadableJob]]:
        """All jobs, and the rows that are none, by id. Raises DamagedQueue, QueueUnavailable."""
        read = [_read(row, self._output_dir) for row in self._rows()]
        jobs = [each for each in read if isinstance(each, Job)]
        return jobs, [each for each in read if isinstance(each, UnreadableJob)]

    def _rows(self) -> list[tuple[Any, ...]]:
        with self._reading():
            return self._connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM job ORDER BY id").fetchall()  # noqa: S608

    def new_id(self) -> int:
        """A number that no job has had."""
        with self._reading():
            row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'job'").fetchone()
        return (row[0] if row else 0) + 1

    def save(self, *jobs: Job) -> None:
        """Write jobs, new or changed, all or none. Raises QueueUnavailable."""
        places = ", ".join("?" * len(_COLUMNS))
        changes = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])
        command = f"INSERT INTO job ({', '.join(_COLUMNS)}) VALUES ({places}) ON CONFLICT (id) DO UPDATE SET {changes}"  # noqa: S608
        with self._writing():
            self._connection.executemany(command, [_row(job, self._output_dir) for job in jobs])

    def put_back(self, job: UnreadableJob) -> None:
        """Write a row as it was. Raises QueueUnavailable."""
        places = ", ".join("CAST(? AS TEXT)" if isinstance(value, _OtherText) else "?" for value in job.row)
        with self._writing():
            self._connection.execute(f"INSERT INTO job ({', '.join(_COLUMNS)}) VALUES ({places})", job.row)  # noqa: S608

    def delete(self, job_id: int) -> None:
        """Forget a job and its events. Raises QueueUnavailable."""
        with self._writing():
            self._connection.execute("DELETE FROM job WHERE id = ?", (job_id,))

    def log_event(self, job_id: int, event: Event) -> None:
        """Append to the job's log. Raises QueueUnavailable."""
        with self._writing():
            self._connection.execute("INSERT INTO event (job, content) VALUES (?, ?)", (job_id, event.to_json()))

    def events(self, job_id: int) -> list[dict[str, Any]]:
        """The job's log, oldest first."""
        with self._reading():
            rows = self._connection.execute("SELECT content FROM event WHERE job = ? ORDER BY rowid", (job_id,))
            return [json.loads(content) for (content,) in rows]

    @property
    def paused(self) -> bool:
        """Whether the queue rests."""
        with self._reading():
            row = self._connection.execute("SELECT value FROM flag WHERE name = 'paused'").fetchone()
        return bool(row and row[0])

    def set_paused(self, paused: bool) -> None:
        """Raises QueueUnavailable."""
        with self._writing():
            self._connection.execute("INSERT OR REPLACE INTO flag VALUES ('paused', ?)", (int(paused),))

    def back_up(self) -> None:
        """Put a copy beside the file; a failure is logged only, since the file itself is sound."""
        if self._file is None:
            return
        try:
            target = self._file.with_name(BACKUP)
            with self._reading(), written_whole(target) as part, closing(sqlite3.connect(part)) as copy:
                self._connection.backup(copy)
        except FramePackError as error:
            log.warning("no backup of the queue: %s", error)

    def close(self) -> None:
        """Write what is pending and let go of the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, _explained(getattr(self, "_file", None)):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction."""
        with self._reading():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def open_store(folder: Path) -> tuple[JobStore, tuple[Message, ...]]:
    """The store in ``folder``, which is the program's own in its output folder, and what the user has to know about it.

    A damaged file is put aside and its backup takes its place, else a new one. A file of another program or version, or
    one that cannot be written, stays as it is, and this run keeps its jobs in memory.
    """
    file = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store, notices = _open_sound(file)
    except (OSError, ForeignQueue, QueueUnavailable) as error:
        return JobStore(None, folder.parent), (_unusable(file, error),)
    store.back_up()
    return store, notices


def _unusable(file: Path, error: Exception) -> Message:
    return Message("queue_notice.unusable", file=str(file), reason=told_by(error))


def _open_sound(file: Path) -> tuple[JobStore, tuple[Message, ...]]:
    output_dir = file.parent.parent
    try:
        return JobStore(file, output_dir), ()
    except DamagedQueue as error:
        aside = _put_aside(file)
        told = [Message("queue_notice.damaged", reason=error.said, kept=aside.name)]
    backup = file.with_name(BACKUP)
    if backup.is_file():
        try:
            JobStore(backup, output_dir).close()
            with written_whole(file) as part:
                part.write_bytes(backup.read_bytes())
            return JobStore(file, output_dir), (joined(*told, Message("queue_notice.from_backup")),)
        except (DamagedQueue, ForeignQueue) as error:
            told.append(Message("queue_notice.backup_unusable", reason=error.said))
    return JobStore(file, output_dir), (joined(*told, Message("queue_notice.begins_empty")),)


def _put_aside(file: Path) -> Path:
    """Rename a damaged file and its journal so that a new one can begin."""
    aside = file.with_name(f"jobs.damaged-{datetime.now():%y%m%d_%H%M%S}.sqlite3")
    for suffix in ("", "-wal", "-shm"):
        part = file.with_name(file.name + suffix)
        if part.exists():
            part.replace(aside.with_name(aside.name + suffix))
    return aside


@contextmanager
def _explained(file: Path | None) -> Iterator[None]:
    """SQLite's errors in words."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise QueueUnavailable(Message("queue_notice.unreachable", file=str(file), reason=str(error))) from error
    except sqlite3.DatabaseError as error:
        raise DamagedQueue(str(error)) from error


def _row(job: Job, output_dir: Path) -> tuple[Any, ...]:
    def seen(path: str) -> str:
        return kept(path, output_dir)

    texts = {
        "work": kind_of(job.work),
        "request": _with_places(job.work, seen).to_json(),
        "progress": json.dumps(_with_paths(job.progress.as_dict(), seen)),
    }
    return tuple(texts[name] if name in texts else getattr(job, name) for name in _COLUMNS)


class _OtherText(bytes):
    """What stands as text in the file and is not UTF-8."""


def _text(content: bytes) -> str | _OtherText:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return _OtherText(content)


def _read(row: tuple[Any, ...], output_dir: Path) -> Job | UnreadableJob:
    """The job of a row. Whatever is wrong with one costs no other."""
    try:
        return _job(dict(zip(_COLUMNS, row, strict=True)), output_dir)
    except FramePackError as error:
        reason = error.said
    except ValidationError as error:
        reason = plain("; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()))
    except Exception as error:
        log.exception("job %d cannot be read", row[0])
        reason = unforeseen(error)
    return UnreadableJob(row[0], reason, row)


def _job(row: dict[str, Any], output_dir: Path) -> Job:
    for name in _TIMES:
        if isinstance(row[name], (int, float)) and not 0 <= row[name] <= LAST_SECOND:
            raise FramePackError(Message("queue_notice.no_time", field=name, value=repr(row[name])))
    work = _work(row.pop("work"), row.pop("request"))
    progress = migrate.progress_of(json.loads(row["progress"]), row["state"])

    def here(path: str) -> str:
        return str(output_dir / (_as_version_2(path, work.shown_picture) if isinstance(work, Request) else path))

    row["progress"] = JobProgress.from_dict(_with_paths(progress, here))
    return _JOB.validate_python({**row, "work": _with_places(work, here)})


def _work(kind: Any, content: str) -> Work:
    """What is asked for. Raises FramePackError."""
    if kind not in KINDS:
        raise FramePackError(Message("queue_notice.unknown_work", kind=repr(kind), known=", ".join(KINDS)))
    return KINDS[kind].from_json(content)


def _with_places(work: Work, changed: Callable[[str], str]) -> Work:
    """The same with each path changed; where a training reads and writes is no matter of the output folder."""
    return work.with_paths(changed) if isinstance(work, Request) else work


def _as_version_2(path: str, picture: str) -> str:
    """A path of version 1 as seen from its output folder then; the picture's place tells where that was."""
    if not Path(picture).is_absolute():
        return path
    return kept(str(Path(path).absolute()), Path(picture).parent.parent.parent)


def _with_paths(progress: Mapping[str, Any], changed: Callable[[str], str]) -> dict[str, Any]:
    """A progress as JSON has it, with each path in its events changed."""

    def event(told: Mapping[str, Any]) -> dict[str, Any]:
        return {name: changed(value) if name in _PATHS and value else value for name, value in told.items()}

    return {name: event(value) if isinstance(value, dict) else value for name, value in progress.items()}
