"""The form's draft: kept in the browser at every change, put back when the page opens. Everything but the picture.

It is kept without asking the server. The start-up preset goes over a draft of an earlier run of the program, but not
over one of this run, so that a reload loses nothing.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from .form import NAMES, Form, changes
from .page import PRIVATE, Page

KEPT = tuple(name for name in NAMES if name != "picture")


def remember(page: Page, form: Form) -> None:
    """Wire the form's components to the browser's memory."""
    # Key and secret are fixed: random ones, the default, would forget all at each start. It is no secret to keep.
    kept = gr.BrowserState(None, storage_key="framepack.draft", secret="framepack")  # noqa: S106
    components = [form[name] for name in KEPT]
    gr.on(changes(components), None, components, kept, js=_collect(page.desk.run), **PRIVATE)
    page.opened(lambda draft: restored(draft, form, page), kept, components)


def restored(draft: Any, form: Form, page: Page) -> list[Any]:
    """The values of KEPT when the page opens."""
    draft = draft if isinstance(draft, dict) else {}
    shown = draft.get("values")
    fields = form.usable(form.meant(shown)) if isinstance(shown, dict) else {}
    startup = page.desk.startup
    if startup and draft.get("run") != page.desk.run:
        fields = {**fields, **startup.values}
    values = dict(zip(NAMES, form.values_of(fields), strict=True))
    return [values[name] for name in KEPT]


def _collect(run: str) -> str:
    """What the browser does with the components' values."""
    by_name = f"Object.fromEntries({json.dumps(KEPT)}.map((name, place) => [name, values[place]]))"
    return f"(...values) => ({{run: {json.dumps(run)}, values: {by_name}}})"
