"""The five public endpoints. Everything else that the page calls is private.

What a docstring or a signature says here stands on the API page, and is what a program is told about the endpoint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, get_args

from gradio import events
from gradio.data_classes import FileDataDict

from ..errors import InvalidRequest
from ..jobs.job import Keep
from ..json_object import object_in
from ..media.files import make_folder, written_whole
from ..models.table import Checkpoint
from ..names import quoted
from ..request import Recipe, Request
from ..request.fields import PICTURE, PICTURES
from ..request.output import output_by_suffix
from .app_context import AppContext
from .page import user_errors

INPUTS = {PICTURE, *Request.model_fields} - Recipe.model_fields.keys()
"""They hold paths, which no program may name here."""
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def add_endpoints(context: AppContext, uploads: Path) -> None:
    """Put the endpoints into the Blocks that is being built. ``uploads``: the folder of uploaded files."""
    for name, endpoint in endpoints(context, uploads).items():
        careful = user_errors(endpoint, as_shown=str)
        careful.__name__ = name  # what MCP calls the tool
        events.api(careful, api_name=name, concurrency_limit=None)


def endpoints(context: AppContext, uploads: Path) -> dict[str, Callable[..., Any]]:
    """The endpoints by their names."""
    queue = context.queue

    def submit(picture: FileDataDict, request_json: str = "{}") -> int:
        """Queue a video, or with kind one_frame a picture, and say which job it is.

        Parameters:
            picture: the start picture, uploaded before; of one_frame the first control picture
            request_json: the fields of the request as JSON, all but the pictures; what is left out has its default.
                Beside them, checkpoint names an installed one; by default it is the one that is chosen on the page.
                For one_frame, others is a list of the further control pictures, and masks one of a mask for each, or
                null: files that were uploaded, as the upload has named them
        Returns:
            the number of the job
        """
        fields = _fields(request_json)
        found = _checkpoint(fields.pop("checkpoint"), context) if "checkpoint" in fields else context.checkpoints.find()
        others, masks = (_listed(fields.pop(name, []), name, uploads) for name in ("others", "masks"))
        paths = [str(_uploaded(picture, uploads)), *filter(None, others)]
        recipe = Recipe.parse(fields, context.defaults(found))
        request = Request.parse({**fields, **_inputs(recipe, paths, masks)}, context.defaults(found))
        return queue.add(request, found.source).id

    def status(job_id: int) -> dict[str, Any]:
        """How far a job is.

        Parameters:
            job_id: the number of the job
        Returns:
            among others state, section, sections, step, steps, seconds_left, ready_at, fraction, notices, error
        """
        return queue.snapshot(_number(job_id))

    def cancel(job_id: int, keep: Literal["now", "section", "nothing"] = "now") -> dict[str, Any]:
        """Stop a job.

        Parameters:
            job_id: the number of the job
            keep: now keeps the finished sections, section those and the running one, nothing discards all
        Returns:
            how far the job is
        """
        if keep not in get_args(Keep):
            raise InvalidRequest(f"keep: {quoted(keep)} is not allowed; give {', '.join(get_args(Keep))}")
        queue.cancel(_number(job_id), keep)
        return queue.job(job_id).snapshot()

    def result(job_id: int) -> FileDataDict:
        """The video of a job: the finished one, or what is playable so far.

        Parameters:
            job_id: the number of the job
        Returns:
            the file: until the job is done the MP4 of what it has, then what its output asks for
        """
        return _offered(job_id, queue.result(_number(job_id)), uploads)

    def list_jobs() -> list[dict[str, Any]]:
        """All jobs: the running ones, the queued in their order, then the others, newest first; unreadable ones last.

        Returns:
            for each job what status says of it
        """
        return queue.snapshots()

    return {"submit": submit, "status": status, "cancel": cancel, "result": result, "list": list_jobs}


def _fields(text: Any) -> dict[str, Any]:
    """The fields of a request as they were sent. Raises InvalidRequest."""
    if not isinstance(text, str):
        raise InvalidRequest(f"request_json: must be a text that holds JSON, not {type(text).__name__}")
    try:
        fields = object_in(text)
    except ValueError as error:
        raise InvalidRequest(f"request_json: {error}") from None
    if fields.keys() & INPUTS:
        raise InvalidRequest("picture: is not named in request_json; upload it and give it beside")
    return fields


def _checkpoint(name: Any, context: AppContext) -> Checkpoint:
    """The installed checkpoint of that name; no other is ever looked for. Raises InvalidRequest, UnusableCheckpoint."""
    if not isinstance(name, str):
        raise InvalidRequest(f"checkpoint: {quoted(name)} is not allowed; give the name of an installed one")
    return context.checkpoints.named(name)


def _number(job_id: Any) -> int:
    if type(job_id) is not int:
        raise InvalidRequest(f"job_id: {quoted(job_id)} is not allowed; give a whole number")
    return job_id


def _listed(given: Any, name: str, uploads: Path) -> list[str | None]:
    """Uploads by their paths, among them null. Raises InvalidRequest."""
    if not isinstance(given, list):
        raise InvalidRequest(f"{name}: {quoted(given)} is not allowed; give a list of uploaded files")
    files = (each if isinstance(each, dict) else {"path": each} for each in given if each is not None)
    found = iter([str(_uploaded(file, uploads)) for file in files])
    return [None if each is None else next(found) for each in given]


def _inputs(recipe: Recipe, pictures: Sequence[str], masks: Sequence[str | None]) -> dict[str, Any]:
    """Uploaded pictures as what a recipe's kind takes. Raises InvalidRequest for more than it has a use for."""
    if "control" in recipe.kind.needs:
        if len(masks) > len(pictures):
            raise InvalidRequest(f"masks: {len(masks)} are given for {len(pictures)} pictures")
        pairs = zip_longest(pictures, masks)
        return {PICTURES: [{"role": "control", "path": path, "mask": mask} for path, mask in pairs]}
    if masks or pictures[1:]:
        raise InvalidRequest(f"others: {recipe.kind.name} takes one picture, and no masks")
    return {PICTURE: pictures[0]}


def _uploaded(picture: Any, uploads: Path) -> Path:
    """The file of an upload; no other path is ever opened. Raises InvalidRequest."""
    if not isinstance(picture, dict) or not isinstance(picture.get("path"), str) or not picture["path"]:
        raise InvalidRequest(
            "picture: is missing; upload the start picture (gradio_client: handle_file) and give it here"
        )
    with suppress(OSError, ValueError):
        path = Path(picture["path"]).resolve(strict=True)
        if path.is_file() and path.is_relative_to(uploads.resolve()):
            return path
    raise InvalidRequest("picture: was not uploaded here, or too long ago; upload it again")


def _offered(job_id: int, video: Path, uploads: Path) -> FileDataDict:
    """``video`` as a file that Gradio hands out: a second name of it among the uploads, not a copy."""
    offered = make_folder(uploads / "results" / str(job_id)) / video.name
    with written_whole(offered, durable=False) as part:
        try:
            os.link(video, part)
        except OSError:
            shutil.copyfile(video, part)
    meta = {"_type": "gradio.FileData"}
    return {
        "path": str(offered),
        "orig_name": video.name,
        "mime_type": made.media_type if (made := output_by_suffix(video.suffix)) else None,
        "size": offered.stat().st_size,
        "is_stream": False,
        "meta": meta,
    }
