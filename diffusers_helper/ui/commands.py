"""What the buttons beside jobs do, on whichever tab they stand."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import gradio as gr
from gradio.processing_utils import save_pil_to_cache
from PIL import Image

from ..errors import InvalidCommand
from ..jobs.job import Job, Keep
from ..media.stills import last_still
from ..request import DRAW_A_SEED
from ..request.fields import PICTURE, PICTURES
from ..words import Message, Texts
from .controls import is_one_frame
from .folders import is_at_this_machine, open_folder
from .form import Form
from .options import CACHE
from .page import Act, Page, inform

KEEPS: tuple[Keep, ...] = get_args(Keep)


class Filling(NamedTuple):
    """What comes into the form: fields of a request, for the checkpoint of this source as far as there is one.

    The job that is edited stays the same unless another is named.
    """

    fields: Mapping[str, Any]
    source: str = ""
    editing: int | None = None


class Commands:
    """One method per button; ``asked`` is what ``carry_out`` needs, ``outputs`` are what the answer fills."""

    def __init__(self, page: Page, form: Form) -> None:
        self._queue, self._form, self._context = page.context.queue, form, page.context
        self.asked = [page.language, form.checkpoint]
        self.outputs = [form.editing, *form.components, page.tabs, form.checkpoint]
        self._by_number: Mapping[str, Callable[[int], object]] = {
            "remove": self._queue.remove,
            "trash": self._queue.trash,
            "undo": self._queue.restore,
        }
        self._acts: Mapping[str, Callable[[Job, str, Texts], Filling | None]] = {
            "up": lambda job, value, texts: self._shift(job, -1),
            "down": lambda job, value, texts: self._shift(job, 1),
            "next": lambda job, value, texts: self._queue.run_next(job.id),
            "cancel": lambda job, value, texts: self._queue.cancel(job.id, "now"),
            "stop": self._stop,
            "duplicate": self._duplicate,
            "retry": self._retry,
            "go_on": self._go_on,
            "again": self._again,
            "compare": self._compare,
            "show": lambda job, value, texts: Filling({}),
            "edit": self._edit,
            "use": self._use,
            "last_frame": self._last_frame,
            "use_ratios": self._use_ratios,
            "use_lora": lambda job, value, texts: Filling({}),
        }

    def carry_out(self, language: str, chosen: str | None, event: gr.EventData, request: gr.Request) -> list[Any]:
        """One click; the answer fills the form where that was the wish. Raises FramePackError."""
        act, texts = Act.of(event), Texts(language)
        if act.name == "open_folder":
            self._open_folder(self._queue.job(act.job), texts, request)
        elif act.name in self._by_number:
            self._by_number[act.name](act.job)
        elif act.name in ("pause", "unpause", "retry_failed", "go_on_all"):
            self._all(act.name, texts)
        elif act.name in self._acts:
            filling = self._acts[act.name](self._queue.job(act.job), act.value, texts)
            if filling:
                return self._filled(filling, chosen, texts)
        return [gr.skip() for _ in self.outputs]

    def _all(self, name: str, texts: Texts) -> None:
        if name == "pause":
            self._queue.pause()
        elif name == "unpause":
            self._queue.unpause()
        else:
            count = self._queue.retry_failed() if name == "retry_failed" else self._go_on_all()
            inform(texts("queue.told_many", count=count))

    def _go_on_all(self) -> int:
        broken = [job for job in self._queue.jobs() if job.state == "interrupted" and job.can_go_on][::-1]
        for job in broken:
            self._queue.go_on(job.id)
        return len(broken)

    def _shift(self, job: Job, by: int) -> None:
        waiting = [other.id for other in self._queue.jobs() if other.state == "queued"]
        if job.id in waiting:
            others = [other for other in waiting if other != job.id]
            place = waiting.index(job.id) + by
            self._queue.move(job.id, others[max(place, 0)] if place < len(others) else None)

    def _stop(self, job: Job, value: str, texts: Texts) -> None:
        for keep in KEEPS:
            if keep == value:
                self._queue.cancel(job.id, keep)

    def _duplicate(self, job: Job, value: str, texts: Texts) -> None:
        inform(texts("queue.told_duplicate", job=self._queue.duplicate(job.id).id))

    def _retry(self, job: Job, value: str, texts: Texts) -> None:
        inform(texts("queue.told_again", job=self._queue.retry(job.id).id))

    def _go_on(self, job: Job, value: str, texts: Texts) -> None:
        inform(texts("queue.told_again", job=self._queue.go_on(job.id).id))

    def _again(self, job: Job, value: str, texts: Texts) -> None:
        """Another video of the same request: with a seed that will be drawn."""
        added = self._queue.add(job.request.model_copy(update={"seed": DRAW_A_SEED}), job.checkpoint)
        inform(texts("queue.told_new_seed", job=added.id))

    def _compare(self, job: Job, value: str, texts: Texts) -> None:
        """With what the same request makes with and without a step cache."""
        inform(texts("queue.told_compare", job=job.id, twin=self._queue.add_twin(job.id).id))

    def _open_folder(self, job: Job, texts: Texts, request: gr.Request) -> None:
        """For somebody at this machine; everybody else is told the path."""
        folder = self._queue.result(job.id).parent
        here = is_at_this_machine(request.client.host if request.client else "", request.headers)
        if not (here and open_folder(folder)):
            gr.Info(html.escape(texts("queue.told_folder", path=folder)), duration=30)

    def _edit(self, job: Job, value: str, texts: Texts) -> Filling:
        if job.state != "queued":
            raise InvalidCommand(Message("queue.too_late", job=job.id))
        return Filling(job.request.flat(), job.checkpoint, job.id)

    def _use(self, job: Job, value: str, texts: Texts) -> Filling:
        """The job's settings with the seed that was drawn, so that the same video would come out."""
        fields = job.request.flat()
        if not Path(job.request.shown_picture).is_file():
            fields.pop(PICTURE, None)
        inform(texts("queue.told_use", job=job.id))
        seed = fields["seed"] if job.progress.seed is None else job.progress.seed
        return Filling({**fields, "seed": seed}, job.checkpoint)

    def _last_frame(self, job: Job, value: str, texts: Texts) -> Filling:
        """Nothing else in the form changes. The frame goes to Gradio's cache, where it serves the form losslessly.

        One picture takes the place of the first that it was made of, too.
        """
        pixels = last_still(self._queue.result(job.id))
        frame = save_pil_to_cache(Image.fromarray(pixels), self._form[PICTURE].GRADIO_CACHE, format="png")
        inform(texts("queue.told_last_frame", job=job.id))
        fields = job.request.flat()
        slots = [{"role": "control", "path": frame}, *fields.get(PICTURES, ())[1:]]
        return Filling({PICTURE: frame, **({PICTURES: slots} if is_one_frame(fields) else {})})

    def _use_ratios(self, job: Job, value: str, texts: Texts) -> Filling:
        """MagCache with what the job has measured, which the engine has kept as the checkpoint's own."""
        told = job.progress.calibrated
        if told is None:
            raise InvalidCommand(Message("queue.no_ratios", job=job.id))
        inform(texts("queue.told_ratios", steps=len(told.mean)))
        return Filling({CACHE: "magcache", "magcache_calibration": False, "magcache_mag_ratios": ""}, job.checkpoint)

    def _filled(self, filling: Filling, chosen: str | None, texts: Texts) -> list[Any]:
        """The answer for a page that shows the checkpoint ``chosen``."""
        fields, source, editing = filling
        checkpoint = self._context.checkpoints.get(source) if source else None
        if checkpoint is None or checkpoint == self._context.shown(chosen):
            values = self._form.values_of(fields, chosen)
        else:
            values = self._form.values_for(fields, checkpoint, texts)
        name = checkpoint.name if checkpoint else gr.skip()
        return [editing or gr.skip(), *values, gr.Tabs(selected="generate"), name]
