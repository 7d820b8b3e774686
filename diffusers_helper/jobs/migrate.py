"""What earlier versions of the program kept of a job, in today's form: pure functions of what the JSON held.

The only place that knows yesterday's forms. A request has its own version (``request/migrate.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import FramePackError
from ..events import Cancelled, Decoding, Ended, Failed, Finished, Notice, Plan, Preview, SectionDone, Started, Step
from ..words import Message
from .job_progress import FORM, JobProgress

_FIRST: Mapping[str, Any] = {
    "started": False, "checkpoint": "", "kind": "", "sections": 0, "steps": 0, "frames_planned": 0, "fps": 0,
    "seconds": 0.0, "width": 0, "height": 0, "memory": "", "section": 0, "step": 0, "sections_done": 0,
    "sections_before": 0, "decoding": False, "computed": [], "seconds_left": None, "told_at": 0.0, "preview": None,
    "previews": 0, "video": None, "frames": 0, "notices": [], "error": None, "folder": None, "seed": None,
    "seconds_loading": 0.0, "seconds_total": 0.0, "seconds_sampling": 0.0, "seconds_decoding": 0.0,
    "steps_computed": 0, "steps_reused": 0,
}  # fmt: skip
"""The first form; its fields came one by one, and one that is missing has this value."""
FIGURES = ("seconds_total", "seconds_sampling", "seconds_decoding", "steps_computed", "steps_reused")


def progress_of(content: Mapping[str, Any], state: str) -> dict[str, Any]:
    """A job's progress as ``JobProgress.from_dict`` takes it. Raises FramePackError, TypeError.

    ``state``: the job's; the first form does not say how a job ended.
    """
    if not isinstance(content, Mapping):
        raise FramePackError(Message("queue_notice.no_progress", type=type(content).__name__))
    form = content.get("form", 1)
    if form == FORM:
        return dict(content)
    if form == 1:
        return _from_1({**_FIRST, **content}, state)
    raise FramePackError(Message("queue_notice.later_progress", form=repr(form), known=FORM))


def _from_1(flat: Mapping[str, Any], state: str) -> dict[str, Any]:
    """From one field for each thing that was told."""
    ended = _ended(flat, state)
    is_known = flat["started"] or flat["folder"] is not None
    done = SectionDone(**_place(flat, flat["sections_done"]), frames=flat["frames"], path=flat["video"] or "")
    progress = JobProgress(
        started=_started(flat) if is_known else None,
        plan=_plan(flat) if flat["sections"] else None,
        loading=is_known and not flat["started"],
        at=_at(flat),
        step=_step(flat),
        computed=tuple(flat["computed"]),
        section_done=done if flat["sections_done"] != flat["sections_before"] else None,
        playable=(ended if ended and ended.path else done) if flat["video"] else None,
        preview=Preview(section=flat["section"], step=flat["step"], path=flat["preview"]) if flat["preview"] else None,
        previews=flat["previews"],
        notices=tuple(Notice(message=message) for message in flat["notices"]),
        ended=ended,
        discarded=flat["started"] and flat["folder"] is None and state == "cancelled",
        **{name: flat[name] for name in ("seconds_left", "told_at", "seconds_loading")},
    )
    return progress.as_dict()


def _started(flat: Mapping[str, Any]) -> Started:
    return Started(folder=flat["folder"] or "", seed=flat["seed"], sections_done=flat["sections_before"])


def _plan(flat: Mapping[str, Any]) -> Plan:
    same = ("checkpoint", "kind", "sections", "steps", "fps", "seconds", "width", "height", "memory")
    return Plan(frames=flat["frames_planned"], **{name: flat[name] for name in same})


def _at(flat: Mapping[str, Any]) -> Step | Decoding | SectionDone | None:
    """Where the run was; what said so is told by what it had said of itself."""
    if not flat["section"]:
        return None
    place = _place(flat, flat["section"])
    if flat["decoding"]:
        return Decoding(**place)
    step = _step(flat)
    if step and step.step < step.steps:
        return step
    return SectionDone(**place, frames=flat["frames"], path=flat["video"] or "")


def _step(flat: Mapping[str, Any]) -> Step | None:
    if not flat["step"]:
        return None
    computed = bool(flat["computed"]) and flat["computed"][-1]
    return Step(**_place(flat, flat["section"]), step=flat["step"], steps=flat["steps"], computed=computed)


def _place(flat: Mapping[str, Any], section: int) -> dict[str, int]:
    return {"section": section, "sections": flat["sections"]}


def _ended(flat: Mapping[str, Any], state: str) -> Ended | None:
    """The last event, as far as it can be known."""
    figures = {name: flat[name] for name in FIGURES}
    shape = {name: flat[name] for name in ("fps", "width", "height", "frames")}
    totals = {**figures, **shape, "path": flat["video"], "seed": -1 if flat["seed"] is None else flat["seed"]}
    if state == "done":
        return Finished(**totals)
    if flat["error"] is not None:
        return Failed(**totals, error=flat["error"], exit_code=1, folder=flat["folder"])
    if state in ("cancelled", "interrupted") and flat["seconds_total"]:
        return Cancelled(**totals, folder=flat["folder"] or "")
    return None
