"""The page: settings become an application, and it is served until somebody stops it.

`bash start.sh` runs this; `bash start.sh page --help` lists the flags. torch is imported by the first job, not here.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from diffusers_helper import __version__
from diffusers_helper.cli import INTERRUPTED, prepare
from diffusers_helper.errors import FramePackError
from diffusers_helper.interrupt import StopSignal
from diffusers_helper.memory.lessons import Lessons
from diffusers_helper.names import take_names_as_utf8
from diffusers_helper.settings import PAGE_KNOBS, PageSettings, add_flags, resolve_page
from diffusers_helper.streams import Parser, flush_streams, prepare_streams
from diffusers_helper.ui import server

if TYPE_CHECKING:
    from diffusers_helper.engine import Engine
    from diffusers_helper.jobs.checkpoints import Checkpoints
    from diffusers_helper.jobs.executor import Executor
    from diffusers_helper.jobs.queue import JobQueue
    from diffusers_helper.lora.shelf import Shelf
    from diffusers_helper.models.table import Checkpoint
    from diffusers_helper.training.training import Training
    from diffusers_helper.words import Message

log = logging.getLogger(__name__)

STOP_SECONDS = 3600.0
"""How long a stop waits for the step under way; a second signal ends the waiting."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page; returns the exit code."""
    prepare_streams()
    try:
        chosen = resolve_page(vars(_parser().parse_args(arguments)))
        prepare(chosen)
        server.prepare_gradio(chosen.page, chosen.paths.output_dir)
        with StopSignal() as stop:
            server.import_gradio()
            return _run(chosen, stop)
    except FramePackError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        flush_streams()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="start.sh page", description="The page in the browser.")
    parser.add_argument("--version", action="version", version=__version__)
    add_flags(parser, PAGE_KNOBS)
    return parser


def _run(chosen: PageSettings, stop: StopSignal) -> int:
    from diffusers_helper.jobs.checkpoints import Checkpoints
    from diffusers_helper.jobs.queue import JobQueue
    from diffusers_helper.jobs.worker import Workers
    from diffusers_helper.lora.shelf import Shelf, shelf_folder
    from diffusers_helper.models.table import find_checkpoint
    from diffusers_helper.presets import PresetStore
    from diffusers_helper.ui.app import build_page, launch_options
    from diffusers_helper.ui.app_context import AppContext

    paths = chosen.paths
    presets = PresetStore(paths.output_dir / ".framepack" / "presets")
    if chosen.page.preset:
        presets.load(chosen.page.preset)
    checkpoints = Checkpoints(
        lambda name: find_checkpoint(name, paths.models_dir),
        paths.checkpoint,
        paths.output_dir / ".framepack" / "checkpoint.json",
    )
    queue = JobQueue(paths.output_dir, checkpoints.get)
    server.empty_uploads(paths.output_dir)
    shelf = Shelf(shelf_folder(paths.models_dir))
    workers = Workers(queue, _executors(chosen, checkpoints, queue, shelf))
    context = AppContext(
        queue=queue,
        settings=chosen,
        checkpoints=checkpoints,
        presets=presets,
        warnings=server.warnings(chosen.page),
        worker_heartbeat=workers.heartbeat_age_seconds,
        shelf=shelf,
    )
    page = server.PageServer(context, build_page(context), launch_options(context))
    page.open()
    queue.tell_address(page.addresses[0])
    workers.start()
    _tell(page, context.warnings, context.checkpoint_problem)
    wished = page.wait(stop)
    if not workers.stop(STOP_SECONDS):
        log.warning("a running job did not stop in %d s; it can go on at the next start", STOP_SECONDS)
    page.close()
    queue.close()
    if not wished:
        log.error("the page's server has ended by itself")
    return 0 if wished else 1


def _executors(chosen: PageSettings, checkpoints: Checkpoints, queue: JobQueue, shelf: Shelf) -> Mapping[str, Executor]:
    """What carries out the jobs, by name: this process, or one for each device that was asked for."""
    from diffusers_helper.jobs.executor import LocalExecutor
    from diffusers_helper.jobs.process_executor import process_executors

    if chosen.page.executors:
        return process_executors(chosen.page.executors, checkpoints.find, chosen.from_flags)
    lessons = Lessons()

    def load(checkpoint: Checkpoint) -> Engine:
        """``lessons`` are those of the engines before."""
        from diffusers_helper.engine import Engine

        return Engine.load(checkpoint, chosen, lessons, shelf=shelf)

    def load_to_train(training: Training, checkpoint: Checkpoint) -> Engine:
        from diffusers_helper.training.train import load_engine

        return load_engine(training, checkpoint, chosen)

    return {"": LocalExecutor(checkpoints.find, load, chosen.paths.output_dir, queue.paces, load_to_train)}


def _tell(page: server.PageServer, warnings: Sequence[str], problem: Message | None) -> None:
    """Where the page is, and what to know about it."""
    from diffusers_helper.words import Texts

    texts = Texts("en")
    for key in warnings:
        log.warning("%s", texts(key))
    if problem:
        log.warning("no checkpoint: %s", problem)
    with suppress(OSError):
        for address in page.addresses:
            sys.stdout.write(f"FramePack is at {address}\n")
    flush_streams()


if __name__ == "__main__":
    take_names_as_utf8()
    code = main()
    if code == INTERRUPTED:
        os._exit(code)  # A job under way would keep the process; what it has finished is on the disk.
    sys.exit(code)
