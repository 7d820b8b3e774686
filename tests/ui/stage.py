"""Tabs without a server: a page over a queue of scripted jobs, whose handlers tests call as Gradio would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.events import Cancelled, Ended, Failed, Finished, Plan, SectionDone, Started
from diffusers_helper.jobs.job import Job, State
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.models.table import Checkpoint
from diffusers_helper.ui.app_context import AppContext
from diffusers_helper.ui.form import NAMES, Form
from diffusers_helper.ui.page import Page
from diffusers_helper.ui.translation import Translator

from ..jobs_support import make_picture, make_request
from .serving import CHECKPOINT, installed_in, make_context, make_video, settings_for

HOSTILE = "<img src=x onerror=alert(1)>\"'&{seed}"


@dataclass(frozen=True)
class Stage:
    """A page, its form and its queue."""

    page: Page
    form: Form
    folder: Path

    @property
    def context(self) -> AppContext:
        return self.page.context

    @property
    def queue(self) -> JobQueue:
        return self.page.context.queue

    def add(self, prompt: str = "a wave", **fields: Any) -> Job:
        return self.queue.add(make_request(make_picture(self.folder), prompt=prompt, **fields))

    def ended(self, state: State = "done", prompt: str = "a wave", sections_done: int = 1, **fields: Any) -> Job:
        """A job that came to this end with so many of its two sections. Needs an empty queue."""
        added = self.add(prompt, **fields)
        assert self.queue.claim() == self.queue.job(added.id)
        folder = self.folder / "outputs" / "2026-01-31" / f"job_{added.id}"
        folder.mkdir(parents=True)
        (folder / "job.json").write_text("{}", encoding="utf-8")
        self._tell(added, folder, sections_done)
        return self.queue.end(added.id, _last(state, folder, sections_done), state)

    def _tell(self, job: Job, folder: Path, sections_done: int) -> None:
        self.queue.record(job.id, Started(folder=str(folder), seed=job.request.with_seed().seed, sections_done=0))
        shape = {"frames": 73, "fps": 30, "seconds": 2.4333, "width": 64, "height": 64}
        self.queue.record(job.id, Plan(checkpoint="scripted", kind="f1", sections=2, steps=2, **shape))
        for section in range(1, sections_done + 1):
            video = make_video(folder / "video.mp4")
            self.queue.record(job.id, SectionDone(section=section, sections=2, frames=5, path=str(video)))

    def filled(self, answer: Sequence[Any]) -> dict[str, Any]:
        """What an answer for the form's components changes, by field."""
        values = dict(zip(NAMES, answer, strict=False))
        return {name: value for name, value in values.items() if not _is_skip(value)}

    def values(self, **fields: Any) -> list[Any]:
        """What the form's components hold when these fields differ from the defaults."""
        shown = dict(zip(NAMES, self.form.values_of({**self.form.defaults, **fields}), strict=True))
        return [None if _is_skip(value) else value for value in shown.values()]


def make_stage(folder: Path, *installed: Checkpoint) -> Stage:
    """A stage with an empty queue, and with these checkpoints."""
    output_dir = folder / "outputs"
    output_dir.mkdir(exist_ok=True)
    checkpoints = installed_in(output_dir, *(installed or [CHECKPOINT]))
    context = make_context(JobQueue(output_dir, checkpoints.get), settings_for(output_dir), checkpoints=checkpoints)
    with gr.Blocks(analytics_enabled=False) as blocks:
        page = Page(context, Translator(), gr.Dropdown(), gr.Textbox(), gr.Tabs(), blocks)
        form = Form(page)
        for name in NAMES:
            form.place(name)
    return Stage(page, form, folder)


def answer(stage: Stage, component: Any, event: str, shown: Mapping[Any, Any], *more: Any) -> list[Any]:
    """What the page's handler of that event answers while its components show this; ``more`` is what Gradio adds."""
    wired = [one for one in stage.page.blocks.fns.values() if (component._id, event) in one.targets and one.fn]
    (found,) = wired
    values = {block._id: value for block, value in shown.items()}
    return list(found.fn(*(values.get(block._id, block.value) for block in found.inputs), *more))


def click(act: str, job: int = 0, value: str = "") -> Any:
    """What Gradio hands on when a button of a fragment was pressed."""
    return gr.EventData(target=None, _data={"act": act, "job": str(job), "value": value})


def tab_of(answer: Sequence[Any]) -> str | None:
    """The tab that an answer shows."""
    tabs = [one for one in answer if isinstance(one, gr.Tabs)]
    return str(tabs[0].selected) if tabs else None


def _is_skip(value: Any) -> bool:
    return isinstance(value, dict) and value.get("__type__") == "update" and len(value) == 1


def _last(state: State, folder: Path, sections_done: int) -> Ended:
    path = str(folder / "video.mp4") if sections_done else None
    seen = {"path": path, "frames": 5 * sections_done, "seconds_total": 65.0}
    if state == "done":
        (folder / "job.json").unlink()
        return Finished(**seen)
    if state == "failed":
        return Failed(**seen, error=f"it broke {HOSTILE}", exit_code=1, folder=str(folder))
    return Cancelled(**seen, folder=str(folder))
