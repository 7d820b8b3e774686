"""Forty pages that look on while a video is made: what they cost it, and whether the server still answers at once.

    python -m bench.polling [--rounds 3] [--clients 40] [--events] [--write]

The page runs as its users start it, with the pocket, and makes the same video again and again. With and without
clients take turns (A B B A ...) by whole videos. A client asks for the live parts as often as the server tells it to
and fetches every picture and video that they show anew, as the page's script does; now and then somebody loads the
page. Then `/healthz` is asked ten times a second while a video is made: alone, under the clients, under a hundred slow
uploads, and under both. With ``--events`` four turns follow with a page that a Gradio event keeps live, which is what
a `gr.Timer` sends.

Everything stays on the loopback of this machine, and the clients run at its lowest priority: real ones run on other
machines, but here they share the cores with what is measured. Prints a table, and with ``--write`` keeps it in
bench/results. (The page of ``--events`` is started after that and runs at the lowest priority itself, so its figure is
only a rough comparison.)
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from skimage import data

from bench.machine import ROOT, machine, tell
from bench.polling_clients import EventClient, LiveClient, probe, reload_page, upload_slowly
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.request import Request

ABBA = (False, True, True, False)
UPLOADS, PHASE_SECONDS = 100, 10.0
HEALTH_CASES = {"alone": (0, 0), "clients": (1, 0), "uploads": (0, 1), "clients and uploads": (1, 1)}
NOTE = (
    "Generation, server and clients (these at the lowest priority) share the cores: only the ratio within one run "
    "counts. Each ratio is that of the medians over all turns."
)


def main() -> None:
    """Measure all, or be the page that is kept live by events."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3, help="times four videos")
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--events", action="store_true", help="also a page that Gradio events keep live")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--events-page", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.events_page:
        sys.exit(_serve_events_page(options.events_page))
    report = _report(options)
    tell(report, "polling" if options.write else None)


def _report(options: argparse.Namespace) -> dict[str, Any]:
    live = asyncio.run(_measure(options, LiveClient, options.rounds, with_health=True))
    events = asyncio.run(_measure(options, EventClient, 1, with_health=False)) if options.events else None
    return {
        "command": f"python -m bench.polling --rounds {options.rounds} --clients {options.clients} "
        f"--steps {options.steps}{' --events' * options.events}",
        "machine": machine(),
        "note": NOTE,
        "clients": options.clients,
        "live": live,
        **({"gradio_event_for_comparison": events} if events else {}),
    }


async def _measure(
    options: argparse.Namespace, client: type[LiveClient | EventClient], rounds: int, with_health: bool
) -> dict[str, Any]:
    """One page from its start to its end."""
    with tempfile.TemporaryDirectory() as home:
        output_dir, turns = Path(home) / "outputs", ABBA * rounds
        _fill_queue(output_dir, options.steps, 1 + len(turns) + len(HEALTH_CASES) * 2 * with_health)
        page = Page(output_dir, events=client is EventClient)
        waits: list[float] = []
        try:
            await page.videos(1)
            for done, watched in enumerate(turns, start=2):
                async with _clients(client, page.port, options.clients * watched, waits):
                    await page.videos(done)
            health = await _health(page.port, options.clients) if with_health else {}
        finally:
            page.stop()
        report = _compared(turns, _seconds(output_dir)[1 : 1 + len(turns)])
        return {**report, "answer_ms": _spread(waits), **({"healthz_ms": health} if health else {})}


def _fill_queue(output_dir: Path, steps: int, count: int) -> None:
    """The same job many times over; its text is encoded once, by the first."""
    picture = output_dir.parent / "photo.png"
    Image.fromarray(data.astronaut()).save(picture)
    fields = {"picture": str(picture), "prompt": "the camera pans left", "seed": 7, "steps": steps, "kind": "f1"}
    queue = JobQueue(output_dir)
    for _ in range(count):
        queue.add(Request.parse({**fields, "seconds": 2.4, "teacache": False}))
    queue.close()


class Page:
    """The page's process."""

    def __init__(self, output_dir: Path, events: bool) -> None:
        self._output_dir = output_dir
        program = ["-m", "bench.polling", "--events-page"] if events else ["demo_gradio.py", "--output-dir"]
        self._process = subprocess.Popen(
            [sys.executable, *program, str(output_dir)],
            cwd=ROOT,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self._process.stdout.readline() if self._process.stdout else ""
        self.port = int(said.rpartition(":")[2].strip().strip("/"))
        os.setpriority(os.PRIO_PROCESS, 0, 19)  # from now on only clients run here

    async def videos(self, count: int) -> None:
        """Wait until so many are finished."""
        while len(list(self._output_dir.glob("2*/[!.]*.mp4"))) < count:
            if self._process.poll() is not None:
                raise SystemExit("the page has ended")
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        """Let it end as a user would."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=120)


def _serve_events_page(output_dir: str) -> int:
    """The same program with another page: one event that returns all live parts, which a timer would send."""
    import gradio as gr

    import demo_gradio
    from diffusers_helper.ui import app, fragments, server
    from diffusers_helper.ui.app_context import AppContext

    def build(context: AppContext) -> gr.Blocks:
        with gr.Blocks(analytics_enabled=False) as blocks:
            shown, tick = gr.HTML(), gr.Button()
            tick.click(lambda: "".join(fragments.render(context, "en").values()), None, shown, queue=False)
        return blocks

    app.build_page, app.launch_options = build, lambda context: {}
    server._layers = lambda *arguments: []
    return demo_gradio.main(["--output-dir", output_dir])


@asynccontextmanager
async def _clients(
    client: type[LiveClient | EventClient], port: int, count: int, waits: list[float]
) -> AsyncIterator[None]:
    """So many clients meanwhile, spread over the second; ``waits`` gets how long each answer took."""
    looking = [asyncio.create_task(client(port, number).look_on(number / count, waits)) for number in range(count)]
    if count:
        looking.append(asyncio.create_task(reload_page(port)))
    try:
        yield
    finally:
        for task in looking:
            task.cancel()
        ended = await asyncio.gather(*looking, return_exceptions=True)
        broken = [error for error in ended if not isinstance(error, asyncio.CancelledError)]
        if broken:
            raise SystemExit(f"a client failed: {broken[0]!r}")


async def _health(port: int, count: int) -> dict[str, dict[str, float]]:
    """How long `/healthz` takes, case by case, while videos are made."""
    spreads = {}
    for case, (clients, uploads) in HEALTH_CASES.items():
        sending = [asyncio.create_task(upload_slowly(port)) for _ in range(UPLOADS * uploads)]
        async with _clients(LiveClient, port, count * clients, []):
            await asyncio.sleep(1)
            spreads[case] = _spread(await probe(port, "/healthz", PHASE_SECONDS))
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
    return spreads


def _seconds(output_dir: Path) -> list[float]:
    """Of each finished job, in their order."""
    queue = JobQueue(output_dir)
    done = sorted((job for job in queue.jobs() if job.state == "done"), key=lambda job: job.id)
    queue.close()
    return [job.progress.totals.seconds_total for job in done]


def _compared(turns: tuple[bool, ...], seconds: list[float]) -> dict[str, Any]:
    without = [took for watched, took in zip(turns, seconds, strict=True) if not watched]
    watched = [took for watched, took in zip(turns, seconds, strict=True) if watched]
    ratio = statistics.median(watched) / statistics.median(without)
    return {"seconds_without": without, "seconds_with": watched, "with_over_without": round(ratio, 3)}


def _spread(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, in milliseconds."""
    ordered = sorted(1000 * value for value in seconds)
    found = {"median": statistics.median(ordered), "p99": ordered[int(0.99 * (len(ordered) - 1))], "max": ordered[-1]}
    return {**{name: round(value, 1) for name, value in found.items()}, "answers": len(ordered)}


if __name__ == "__main__":
    main()
