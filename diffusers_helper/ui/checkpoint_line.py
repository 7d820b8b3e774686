"""The line above the form: which checkpoint it is for, what that can and cannot, and a choice where there are several.

A page keeps the choice that it shows: what is started there is made with it, whatever another page has chosen since.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from ..models.about import said
from ..models.table import Checkpoint
from ..words import Texts
from .app_context import AppContext
from .form import Form
from .form_values import OFFERED
from .page import COMMAND, FORWARD_CLICKS, NEWEST, PRIVATE, Page, user_errors


def build(page: Page) -> tuple[Form, gr.HTML]:
    """The form, of which only the choice is placed yet, and the line."""
    with gr.Row(elem_id="checkpoint-line"):
        form = Form(page)
        line = gr.HTML(elem_id="about", js_on_load=FORWARD_CLICKS, min_height=0)
    line.click(lambda: gr.Tabs(selected="system"), None, page.tabs, **PRIVATE)
    return form, line


def follow(page: Page, form: Form, line: gr.HTML, examples: gr.HTML) -> None:
    """Line, examples and what can be chosen go with the checkpoint; one that somebody chooses brings its defaults."""

    def shown(name: str | None, language: str) -> list[Any]:
        checkpoint, texts = page.context.shown(name), Texts(language)
        choices = form.choices(checkpoint, texts)
        return [line_html(checkpoint, page.context, texts), examples_html(checkpoint, texts), *choices]

    gr.on(
        [form.checkpoint.change, page.spoken.change],
        shown,
        [form.checkpoint, page.language],
        [line, examples, *(form[name] for name in OFFERED)],
        **PRIVATE,
    )
    choose, asked = _choose(page.context, form), [form.checkpoint, page.language]
    form.checkpoint.input(choose, asked, form.chosen_outputs, **COMMAND, **NEWEST)
    page.opened(lambda: offered(page.context), None, form.checkpoint)
    page.tabs.change(lambda name: offered(page.context, name), form.checkpoint, form.checkpoint, **PRIVATE)


def offered(context: AppContext, name: str | None = None) -> dict[str, Any]:
    """The choice as it is now: of all that are installed, ``name`` or else what is chosen; hidden where it is none."""
    names = context.installed_names
    chosen = context.checkpoint.name if context.checkpoint else None
    value = name if name in names else chosen
    return gr.update(choices=list(names), value=value, visible=set(names) != {value})


def _choose(context: AppContext, form: Form) -> Callable[..., Any]:
    @user_errors
    def choose(name: str, language: str) -> list[Any]:
        return form.chosen(context.checkpoints.choose(name), Texts(language))

    return choose


def line_html(checkpoint: Checkpoint | None, context: AppContext, texts: Texts) -> str:
    """One quiet line; nothing where there is no checkpoint, which the page says elsewhere."""
    if checkpoint is None:
        return ""
    about = checkpoint.about
    title = escape(said(about.title, texts.language) if about.title else checkpoint.name)
    rest = [said(words, texts.language) for words in (about.purpose, about.limits) if words]
    rest.append(texts("generate.checkpoint_sizes", sizes=_sizes(checkpoint)))
    more = ""
    if len(context.installed_names) < 2:
        more = f' <button type="button" data-act="system">{escape(texts("generate.checkpoint_more"))}</button>'
    return f"<p><strong>{title}</strong> {escape(' '.join(rest))}{more}</p>"


def _sizes(checkpoint: Checkpoint) -> str:
    """From the shortest side to the longest."""
    sides = [side for size in checkpoint.buckets for side in size]
    return "–".join(dict.fromkeys((str(min(sides)), str(max(sides)))))


def examples_html(checkpoint: Checkpoint | None, texts: Texts) -> str:
    """The checkpoint's own prompts as buttons, in the language of the page; each brings its English text."""
    examples = checkpoint.about.examples if checkpoint else ()
    if not examples:
        return ""
    buttons = "".join(_example(said(words, "en"), said(words, texts.language)) for words in examples)
    return f'<div class="examples">{buttons}</div>'


def _example(prompt: str, shown: str) -> str:
    title = f' title="{escape(prompt)}"' if prompt != shown else ""
    return f'<button type="button" data-act="example" data-value="{escape(prompt)}"{title}>{escape(shown)}</button>'
