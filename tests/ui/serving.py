"""A real server on a free port of this machine, for tests of the page and of what surrounds it: without a model."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from diffusers_helper.errors import UnusableCheckpoint
from diffusers_helper.events import Event
from diffusers_helper.jobs.checkpoints import Checkpoints
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.media.video import join_segments, write_segment
from diffusers_helper.models.table import Checkpoint
from diffusers_helper.presets import PresetStore
from diffusers_helper.settings import PageSettings, resolve_page
from diffusers_helper.ui import server
from diffusers_helper.ui.app_context import AppContext

from ..conftest import ROOT, same_environment
from ..jobs_support import ScriptedExecutor, working

CHECKPOINT = Checkpoint("scripted", "scripted", ("f1", "framepack", "one_frame"), {}, ((64, 64),))


@dataclass(frozen=True)
class Served:
    """What a test of the server needs."""

    address: str
    context: AppContext
    executor: ScriptedExecutor

    @property
    def queue(self) -> JobQueue:
        return self.context.queue

    @property
    def checkpoints(self) -> Checkpoints:
        return self.context.checkpoints

    @property
    def output_dir(self) -> Path:
        return self.context.settings.paths.output_dir

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=20, trust_env=False, **options)

    def port(self) -> int:
        return httpx.URL(self.address).port or 80


def settings_for(output_dir: Path, **flags: Any) -> PageSettings:
    """The settings of the page as these flags give them, in this folder and beside it."""
    flags = {"output_dir": str(output_dir), "models_dir": str(output_dir.parent / "models"), "offline": "1", **flags}
    return resolve_page(flags, environment={}, file=output_dir / "none.json")


def make_context(queue: JobQueue, settings: PageSettings, **fields: Any) -> AppContext:
    """A context over ``queue`` with a worker that beats."""
    presets = PresetStore(settings.paths.output_dir / ".framepack" / "presets")
    beats: Any = lambda: 0.0  # noqa: E731
    checkpoints = installed_in(settings.paths.output_dir, CHECKPOINT)
    return AppContext(**{"queue": queue, "settings": settings, "checkpoints": checkpoints,
                   "presets": presets, "warnings": (), "worker_heartbeat": beats, **fields})  # fmt: skip


def installed_in(output_dir: Path, *installed: Checkpoint) -> Checkpoints:
    """These checkpoints, the first chosen by the settings."""
    names = [checkpoint.name for checkpoint in installed]
    return Checkpoints(one_of(*installed), names[0], output_dir / ".framepack" / "checkpoint.json", names)


def one_of(*installed: Checkpoint) -> Callable[[str], Checkpoint]:
    """Finds these by name or source, and nothing else."""

    def find(source: str) -> Checkpoint:
        for checkpoint in installed:
            if source in (checkpoint.name, checkpoint.source):
                return checkpoint
        raise UnusableCheckpoint(f"there is no {source}")

    return find


def without_checkpoint(why: str) -> Checkpoints:
    """Finds none."""

    def find(source: str) -> Checkpoint:
        raise UnusableCheckpoint(why)

    return Checkpoints(find, "missing", Path("nowhere"), ())


def a_port() -> int:
    """A port nobody listens on; the system chooses, so that tests beside each other do not meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SMALL_OPTIONS = {"enable_monitoring": False, "run_history": False}


@contextmanager
def serving(
    output_dir: Path,
    make_page: Callable[[AppContext], tuple[Any, Mapping[str, Any]]] = lambda context: (
        small_page(context),
        SMALL_OPTIONS,
    ),
    before: Callable[[Event], None] = lambda event: None,
    installed: Sequence[Checkpoint] = (CHECKPOINT,),
    **flags: Any,
) -> Iterator[Served]:
    """A page with the public endpoints, its guards and routes, and a worker that plays jobs.

    Args:
        make_page: the page of a context, as Gradio's blocks, and the options of its launch.
        before: sees each event of a played job before it is told.
    """
    with same_environment():
        output_dir.mkdir(exist_ok=True)
        settings = settings_for(output_dir, **{"port": a_port(), **flags})
        server.prepare_gradio(settings.page, settings.paths.output_dir)
        checkpoints = installed_in(output_dir, *installed)
        queue, executor = JobQueue(output_dir, checkpoints.get), ScriptedExecutor(output_dir, before)
        server.empty_uploads(output_dir)
        context = make_context(queue, settings, checkpoints=checkpoints)
        page = server.PageServer(context, *make_page(context))
        try:
            page.open()
            with working(queue, executor):
                yield Served(page.addresses[0].rstrip("/"), context, executor)
        finally:
            page.close()
            queue.close()


def small_page(context: AppContext) -> Any:
    """A picture, a button whose handler is private, and the public endpoints."""
    import gradio as gr

    from diffusers_helper.ui.api import add_endpoints

    with gr.Blocks(analytics_enabled=False) as blocks:
        picture = gr.Image(type="filepath", image_mode=None)
        said = gr.Textbox()
        gr.Button().click(lambda path: f"got {path}", picture, said, api_visibility="private", queue=False)
        add_endpoints(context, server.uploads_folder(context.settings.paths.output_dir))
    return blocks


def make_video(path: Path, frames: int = 5) -> Path:
    """A playable video whose frames become lighter."""
    segment = path.with_name(f"{secrets.token_hex(4)}.segment.mp4")
    shades = np.linspace(0, 200, frames).astype(np.uint8)[:, None, None, None]
    write_segment(segment, np.broadcast_to(shades, (frames, 64, 64, 3)), 30, 16)
    join_segments([segment], path, "{}", 30)
    segment.unlink()
    return path


def page_program() -> Path:
    """The program that serves the page."""
    return ROOT / "demo_gradio.py"
