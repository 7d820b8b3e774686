"""The form's draft: kept in the browser at every change, put back when the page opens and when editing ends.

It is kept without asking the server, for each tab of the browser, and a new tab begins with the newest. While a queued
job is edited the draft stays as it was, so that leaving brings it back, with the checkpoint that it was for. The
start-up preset goes over a draft of an earlier run of the program, but not over one of this run, so that a reload loses
nothing; what a page shows that stays open over a new start is of the new run. The page takes no input before the draft
is back, and no draft once it has waited long enough to be open without.

The picture is kept by the last two parts of the upload's path, and comes back only as one of the uploads that are here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from ..errors import InvalidRequest
from ..request.fields import PICTURE, without_aliases
from .form import NAMES, Form, changes
from .page import PRIVATE, Page
from .server import upload_address, uploads_folder
from .upload_names import path_of_upload, upload_named

CHECKPOINT = "checkpoint"
"""How the name of the checkpoint is kept, beside the fields."""


def remember(page: Page, form: Form) -> gr.Textbox:
    """Wire the form's components to the browser's memory; returns where the draft stands when a handler gets it.

    A handler that takes it needs ``framepack.draft()`` in its place.
    """
    kept, read = gr.Textbox(visible="hidden"), gr.Textbox(visible="hidden")
    form_now, keep = [form.editing, form.checkpoint, *form.components], _keep()
    gr.on(changes([page.spoken, form.checkpoint, *form.components]), None, form_now, None, js=keep, **PRIVATE)
    opened = page.opened(lambda draft: _as_json(restored(draft, form, page)), kept, read, js="() => framepack.draft()")
    fill = "const values = framepack.open(read, now)"
    fill = f"(read, editing, chosen, ...now) => {{ {fill}; ({keep})(editing, chosen, ...values); return values; }}"
    opened.then(None, [read, *form_now], form.components, js=fill, **PRIVATE)
    return kept


def now_shown(text: Any, form: Form) -> list[Any]:
    """The checkpoint and the values of all components, as a handler gets them that takes ``form.now``.

    It needs ``framepack.formNow()`` in its place. Gradio gathers the values of inputs one by one, and keeps a state of
    each from then on.
    """
    shown = _read(text).get("values")
    if not isinstance(shown, dict):
        return [None, *form.values_of(form.defaults)]
    shown = {**shown, PICTURE: path_of_upload(shown.get(PICTURE), form.uploads)}
    return [shown.get(name) for name in (CHECKPOINT, *NAMES)]


def checkpoint_of(draft: Any) -> str:
    """The name of the checkpoint that the draft was for; empty where it does not say."""
    shown = _read(draft).get("values")
    return str(shown.get(CHECKPOINT) or "") if isinstance(shown, dict) else ""


def restored(draft: Any, form: Form, page: Page, chosen: str | None = None) -> list[Any]:
    """The values of all components as the draft, JSON from a browser, has them; what it lacks stays as it is.

    So does what the checkpoint ``chosen`` does not make.
    """
    kept = _read(draft)
    shown = _by_todays_names(kept.get("values"))
    fields = form.usable(form.meant(shown)) if isinstance(shown, dict) else {}
    startup = page.context.startup
    if startup and kept.get("run") != page.context.run:
        fields = {**fields, **startup.values}
    fields.pop(PICTURE, None)
    values = dict(zip(NAMES, form.values_of(fields, chosen), strict=True))
    if isinstance(shown, dict):
        values[PICTURE] = upload_named(shown.get(PICTURE), uploads_folder(page.context.settings.paths.output_dir))
    return list(values.values())


def _by_todays_names(shown: Any) -> Any:
    """What an earlier version of the program kept has older names."""
    with suppress(InvalidRequest):
        return without_aliases(shown) if isinstance(shown, dict) else shown
    return shown


def _read(draft: Any) -> dict[str, Any]:
    with suppress(ValueError, TypeError, RecursionError):
        kept = json.loads(draft)
        return kept if isinstance(kept, dict) else {}
    return {}


def _as_json(values: Sequence[Any]) -> str:
    """``values`` for the script that fills them in, which alone knows whether they come in time; null: stays as it is.

    Gradio gives a picture its address only where an answer fills the form; here the draft has to.
    """
    filled = [None if value == gr.skip() else value for value in values]
    place = NAMES.index(PICTURE)
    if path := filled[place]:
        picture = FileData(path=path, orig_name=Path(path).name, url=upload_address(path))
        filled[place] = picture.model_dump()
    return json.dumps(filled)


def _keep() -> str:
    """What the browser does with the components' values."""
    by_name = f"Object.fromEntries({json.dumps([CHECKPOINT, *NAMES])}.map((name, place) => [name, values[place]]))"
    return f"(editing, ...values) => framepack.keep(editing, {by_name})"
