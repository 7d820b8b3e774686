"""The page's own routes: what its live parts ask for each second, media of jobs, pictures of LoRAs, and two for who
watches it.

They stand before Gradio's and behind the same guards. Files are named by job, never by path, and lie in the output
folder; whatever the jobs say.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import anyio.to_thread
import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from ..errors import FramePackError, UnusableInput
from ..media.fit import resize_and_crop
from ..media.pictures import media_type, open_picture
from ..media.places import lies_in
from ..media.stills import middle_still
from ..request.output import OUTPUTS
from ..words import LANGUAGES
from . import fragments
from .app_context import AppContext
from .batch import sheet
from .fragments_queue import Wish
from .pace import ASK_AGAIN, SERVER_TIME, Pace
from .screen import has_video, makes_picture

NO_STORE = {"Cache-Control": "no-store"}
REVALIDATED = {"Cache-Control": "private, no-cache"}
KEPT = {"Cache-Control": "private, max-age=86400, immutable"}

REFRESH_SECONDS = 5.0
"""How old an answer may be while no job changes: free memory and the like change without one."""

SHARED_SECONDS = 0.9
"""How old an answer may be in any case: quick steps are not drawn anew for every page that looks on."""

PAGE_NAME_CHARACTERS = 40
READ_AT_ONCE_BYTES = 2**21

POSTER_PIXELS = 640
LORA_PICTURE_PIXELS, LARGEST_PICTURE_BYTES = 192, 50_000_000

RESULTS = {f"video{made.suffix}": made.media_type for made in OUTPUTS.values()}
"""What the result of a job is called here, by its suffix, and its type."""

LEAST_FREE_BYTES = 500_000_000


def own_routes(context: AppContext) -> list[BaseRoute]:
    """The routes over ``context``."""
    live, media, health = LiveAnswers(context), Media(context), Readiness(context)
    return [
        Route("/live", live.answer),
        Route("/media/{job_id:int}/{name}", media.answer),
        Route("/media/lora/{key}.jpg", LoraPictures(context).answer),
        Route("/healthz", alive),
        Route("/readyz", health.answer),
    ]


async def alive(request: Request) -> Response:
    """Says that the server answers, and nothing else."""
    return PlainTextResponse("ok", headers=NO_STORE)


@dataclass(frozen=True)
class _Rendered:
    """What the live parts show. ``seen`` names the content, so that it travels only when it is another."""

    key: tuple[int, int, int]
    seen: str
    body: bytes
    zipped: bytes
    made_at: float

    def serves(self, key: tuple[int, int, int]) -> bool:
        """Whether it is good enough for now: the same, or a step behind for a moment."""
        return self.key == key or (self.key[0] == key[0] and time.monotonic() - self.made_at < SHARED_SECONDS)


class LiveAnswers:
    """The live parts of the page, rendered once for all who ask for the same part of the history."""

    KEPT_ANSWERS = 24

    def __init__(
        self, context: AppContext, render: Callable[[AppContext, str, Wish], dict[str, str]] = fragments.render
    ) -> None:
        self._context, self._render = context, render
        self._rendering = threading.Lock()
        self._kept: dict[tuple[str, Wish], _Rendered] = {}
        self._pace = Pace()

    async def answer(self, request: Request) -> Response:
        """204 when the client has seen it all, else the fragments as JSON; and when to ask again."""
        language = request.query_params.get("language", "")
        if language not in LANGUAGES:
            return JSONResponse({"detail": f"language: give one of {', '.join(LANGUAGES)}"}, 400)
        wish = Wish.of(request.query_params)
        found = self._kept.get((language, wish))
        if found is None or not found.serves(self._key()):
            found = await anyio.to_thread.run_sync(self._fresh, language, wish)
        again = self._pace.seconds(request.query_params.get("page", "")[:PAGE_NAME_CHARACTERS])
        headers = {**NO_STORE, ASK_AGAIN: f"{again:g}", SERVER_TIME: f"{time.time():.2f}"}
        if request.query_params.get("seen") == found.seen:
            return Response(status_code=204, headers=headers)
        headers = {**headers, "Content-Type": "application/json", "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(found.body, headers=headers)
        return Response(found.zipped, headers={**headers, "Content-Encoding": "gzip"})

    def _key(self) -> tuple[int, int, int]:
        queue, found = self._context.queue, self._context.likenesses.found + self._context.loras.version
        return queue.steady_version + found, queue.version, int(time.monotonic() / REFRESH_SECONDS)

    def _fresh(self, language: str, wish: Wish) -> _Rendered:
        with self._rendering:
            key, found = self._key(), self._kept.get((language, wish))
            if found is None or not found.serves(key):
                content = {
                    **fragments.state(self._context, language, wish),
                    "fragments": self._render(self._context, language, wish),
                }
                text = json.dumps(content, sort_keys=True)
                seen = f"{self._context.run}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
                body = json.dumps({"seen": seen, **content}).encode()
                if len(self._kept) >= self.KEPT_ANSWERS:
                    self._kept.clear()
                found = self._kept[language, wish] = _Rendered(
                    key, seen, body, gzip.compress(body, 4), time.monotonic()
                )
            return found


class Media:
    """Videos and pictures of jobs."""

    def __init__(self, context: AppContext) -> None:
        self._queue = context.queue

    async def answer(self, request: Request) -> Response:
        """The file called ``name`` of a job."""
        job_id, name = request.path_params["job_id"], request.path_params["name"]
        try:
            return await anyio.to_thread.run_sync(self._response, job_id, name, request)
        except (FramePackError, OSError, ValueError):
            return JSONResponse({"detail": f"job {job_id} has no {name[:40]}"}, 404, headers=NO_STORE)

    def _response(self, job_id: int, name: str, request: Request) -> Response:
        if name == "log.txt":
            told = self._queue.events(job_id)
            return PlainTextResponse("\n".join(json.dumps(event) for event in told))
        if name in RESULTS:
            suffix = Path(name).suffix
            return self._result(self._within(self._queue.result(job_id), suffix), RESULTS[name], request)
        if sample := self._sample(job_id, name):
            return self._result(sample, RESULTS[f"video{sample.suffix}"], request)
        if name == "poster.jpg":
            result = self._queue.result(job_id)
            return self._poster(self._within(result, _usual_suffix(result)), request)
        if name == "sheet.png":
            return Response(
                _as_png(sheet(self._queue.job(job_id), self._queue.jobs())), media_type="image/png", headers=NO_STORE
            )
        if name == "start.png" and (start := self._beside_picture(job_id)):
            return start
        return self._picture(self._picture_file(job_id, name), request)

    def _sample(self, job_id: int, name: str) -> Path | None:
        """The sample of a training that is called so. It lies where its LoRA does; whatever the job says."""
        job = self._queue.job(job_id)
        found = next((Path(path) for _, path in job.progress.samples if Path(path).name == name), None)
        if job.order is None or found is None or f"video{found.suffix}" not in RESULTS:
            return None
        place = found.resolve(strict=True)
        return place if place.is_relative_to(Path(job.order.out).parent.resolve()) else None

    def _picture_file(self, job_id: int, name: str) -> Path:
        if name == "thumb.png":
            return self._within(self._queue.thumbnail(job_id), ".png")
        if name == "start.png":
            return self._within(self._fitted_picture(job_id) or self._queue.thumbnail(job_id), ".png")
        preview = self._queue.job(job_id).progress.preview_path
        if name == "preview.png" and preview:
            return self._within(Path(preview), ".png")
        raise UnusableInput(f"a job has no {name}")

    def _beside_picture(self, job_id: int) -> Response | None:
        """The start picture at the size of the one that was made of it; None where none was."""
        job = self._queue.job(job_id)
        if not (makes_picture(job) and has_video(job)):
            return None
        path = self._within(self._queue.picture(job_id), self._queue.picture(job_id).suffix)
        pixels = resize_and_crop(open_picture(path), job.progress.height, job.progress.width)
        return Response(_as_png(pixels), media_type="image/png", headers=KEPT)

    def _fitted_picture(self, job_id: int) -> Path | None:
        """The start picture as the video begins with it: in the work folder, later beside the video."""
        told = self._queue.job(job_id).progress
        places = [Path(told.folder, "picture.png")] if told.folder else []
        places += [Path(told.video).with_suffix(".png")] if told.video else []
        return next(filter(Path.is_file, places), None)

    def _within(self, path: Path, suffix: str) -> Path:
        """The file itself. Raises UnusableInput when it is none, of another kind, or lies elsewhere."""
        place = path.resolve(strict=True)
        if not lies_in(self._queue.output_dir, path) or place.suffix != suffix or not place.is_file():
            raise UnusableInput(f"{path.name} is not one of the files that are shown")
        return place

    def _result(self, path: Path, media_type: str, request: Request) -> Response:
        held = HeldFile(path, media_type)
        answer = _unless_known(held, request)
        if answer is not held:
            held.close()
        return answer

    def _poster(self, path: Path, request: Request) -> Response:
        """A frame of the video, decoded only for those who have not seen it."""
        status = path.stat()
        headers = {**REVALIDATED, "ETag": f'"poster-{status.st_mtime_ns:x}-{status.st_size:x}"'}
        known = _unless_known(Response(headers=headers), request)
        if known.status_code == 304:
            return known
        return Response(_as_jpeg(middle_still(path), POSTER_PIXELS), media_type="image/jpeg", headers=headers)

    def _picture(self, path: Path, request: Request) -> Response:
        """Read at once, since a preview is replaced while it is asked for."""
        with path.open("rb") as file:
            status, content = os.fstat(file.fileno()), file.read()
        kind = media_type(content[:512])
        if kind is None:
            raise UnusableInput(f"{path.name} is no picture")
        headers = {**REVALIDATED, "ETag": f'"{status.st_mtime_ns:x}-{status.st_size:x}"'}
        return _unless_known(Response(content, media_type=kind, headers=headers), request)


def _usual_suffix(path: Path) -> str:
    """That of a result; of another file one that it does not have."""
    return path.suffix if f"video{path.suffix}" in RESULTS else next(iter(OUTPUTS.values())).suffix


class LoraPictures:
    """Pictures that lie beside LoRAs, small. They are asked for by keys that the shelf's list has, never by a path."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._one = anyio.CapacityLimiter(1)
        """A large picture takes a hundred MB while it is decoded."""

    async def answer(self, request: Request) -> Response:
        """The picture, which stays what it is: another one has another key."""
        key = request.path_params["key"]
        try:
            content = await anyio.to_thread.run_sync(self._small, key, limiter=self._one)
        except (FramePackError, OSError):
            return JSONResponse({"detail": "there is no such picture"}, 404, headers=NO_STORE)
        return Response(content, media_type="image/jpeg", headers=KEPT)

    def _small(self, key: str) -> bytes:
        found = self._context.loras.picture(key)
        if found is None or found.size > LARGEST_PICTURE_BYTES:
            raise UnusableInput("there is no such picture")
        return _as_jpeg(open_picture(found.path), LORA_PICTURE_PIXELS)


def _as_jpeg(pixels: np.ndarray, side: int) -> bytes:
    """The picture, its longer side at most so many pixels."""
    picture, content = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((side, side))
    picture.save(content, "JPEG", quality=85)
    return content.getvalue()


def _as_png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


class HeldFile(FileResponse):
    """A file that is opened once and held: a growing video is replaced or removed while it is being sent.

    A small one is read at once, where it was opened: each further read would wake a thread, which a generation on the
    same processor feels.
    """

    chunk_size = 2**20

    def __init__(self, path: Path, media_type: str) -> None:
        self._file: BinaryIO = path.open("rb")
        status = os.fstat(self._file.fileno())
        if status.st_size <= READ_AT_ONCE_BYTES:
            with self._file as file:
                self._file = io.BytesIO(file.read())
        super().__init__(path, headers=REVALIDATED, media_type=media_type, stat_result=status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)

    @asynccontextmanager
    async def _open_file(self) -> AsyncIterator[Any]:
        """What Starlette reads from, in the place of a file that it would open by name."""
        yield _InMemory(self._file) if isinstance(self._file, io.BytesIO) else anyio.wrap_file(self._file)

    def close(self) -> None:
        """For one that is not sent."""
        self._file.close()


class _InMemory:
    """Bytes as the file that a response awaits."""

    def __init__(self, content: io.BytesIO) -> None:
        self._content = content

    async def read(self, size: int) -> bytes:
        return self._content.read(size)

    async def seek(self, offset: int) -> int:
        return self._content.seek(offset)


def _unless_known(response: Response, request: Request) -> Response:
    """``response``, or 304 when the client has it already."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if response.headers["etag"] not in known:
        return response
    return Response(status_code=304, headers={**REVALIDATED, "ETag": response.headers["etag"]})


class Readiness:
    """Whether jobs can be taken and done."""

    def __init__(self, context: AppContext) -> None:
        self._context = context

    async def answer(self, request: Request) -> Response:
        """200, or 503 with the reasons."""
        reasons = await anyio.to_thread.run_sync(self.reasons)
        content = {"ready": not reasons, "reasons": reasons}
        return JSONResponse(content, 503 if reasons else 200, headers=NO_STORE)

    def reasons(self) -> list[str]:
        """What stands in the way, in words; nothing when all is well."""
        checks = (self._worker, self._disk, self._store, self._checkpoint)
        return [reason for check in checks if (reason := check())]

    def _worker(self) -> str:
        silent = self._context.worker_heartbeat()
        if math.isinf(silent):
            return "worker: it has ended"
        limit = fragments.SILENT_AT_WORK_SECONDS if self._context.queue.is_running else fragments.SILENT_SECONDS
        return f"worker: silent for {silent:.0f} s" if silent > limit else ""

    def _disk(self) -> str:
        try:
            free = shutil.disk_usage(self._context.settings.paths.output_dir).free
        except OSError as error:
            return f"disk: {error.strerror}"
        return f"disk: {free // 10**6} MB free" if free < LEAST_FREE_BYTES else ""

    def _store(self) -> str:
        folder = self._context.settings.paths.output_dir / ".framepack"
        return "" if os.access(folder, os.W_OK) else "queue: its folder cannot be written"

    def _checkpoint(self) -> str:
        return "" if self._context.checkpoint else "checkpoint: it cannot be used"
