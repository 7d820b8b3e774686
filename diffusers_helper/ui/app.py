"""The whole page: header, tabs, language. The server launches it with ``launch_options``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from ..words import LANGUAGES, Texts
from . import average_tab, generate_tab, options, presets_tab, queue_tab, restore_tab, system_tab, theme, train_tab
from .api import add_endpoints
from .app_context import AppContext
from .page import NEWEST, PRIVATE, Page, live
from .server import uploads_folder
from .translation import Translator

HERE = Path(__file__).parent
PICTURES = Path(".framepack", "pictures")
UPLOADS_GO = (3600, 24 * 3600)
"""How often it is looked for old uploads, and from what age on they are: a form may stay open while a video is made."""


def build_page(context: AppContext) -> gr.Blocks:
    """The page over ``context``. Imports no torch."""
    with gr.Blocks(title="FramePack", fill_width=True, delete_cache=UPLOADS_GO, analytics_enabled=False) as blocks:
        page = _header(context, blocks)
        _tabs(page)
        _switch_languages(page)
        add_endpoints(context, uploads_folder(context.settings.paths.output_dir))
    return blocks


def launch_options(context: AppContext) -> dict[str, Any]:
    """What ``launch`` needs for the page to look and live as it should."""
    return {
        "theme": theme.make(),
        "css": "\n".join((*(file.read_text(encoding="utf-8") for file in sorted(HERE.glob("*.css"))), options.style())),
        "head": "\n".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in sorted(HERE.glob("*.js"))),
        "footer_links": [],
        "allowed_paths": [str((context.settings.paths.output_dir / PICTURES).absolute())],
        "enable_monitoring": False,
        "run_history": False,
    }


def _header(context: AppContext, blocks: gr.Blocks) -> Page:
    t = Translator()
    with gr.Row(elem_id="header"):
        gr.HTML('<h1>FramePack</h1><p data-live-lost role="alert"></p>', elem_id="title")
        t(gr.HTML, "page.subtitle", elem_id="subtitle")
        language = t(
            gr.Dropdown,
            "page.language",
            LANGUAGES,
            value=t.texts.language,
            elem_id="language",
            container=False,
            filterable=False,
            scale=0,
            min_width=90,
        )
        t(gr.Button, "page.colours", size="sm", elem_id="colours", scale=0, min_width=40)
    live("warnings", elem_id="warnings")
    return Page(context, t, language, gr.Textbox(visible="hidden"), gr.Tabs(elem_id="tabs"), blocks)


def _tabs(page: Page) -> None:
    """Each tab is a module with ``build``; those that fill the form get it."""
    with page.tabs:
        with page.t(gr.Tab, "page.generate", id="generate"):
            form = generate_tab.build(page)
        for name, tab in (("queue", queue_tab), ("restore", restore_tab), ("presets", presets_tab)):
            with page.t(gr.Tab, f"page.{name}", id=name):
                tab.build(page, form)
        with page.t(gr.Tab, "page.train", id="train") as tab:
            train_tab.build(page, form, tab)
        with page.t(gr.Tab, "page.average", id="average"):
            average_tab.build(page)
        with page.t(gr.Tab, "page.system", id="system"):
            system_tab.build(page)


def _switch_languages(page: Page) -> None:
    def chosen(language: str) -> list[Any]:
        return [language, *page.t.updates(language)]

    def opened(language: str) -> list[Any]:
        return [Texts(language).language, language, *page.t.opening(language)]

    told = [page.spoken, *page.t.components]
    # A choice isn't written back: another one, made before the answer comes, would be lost.
    page.language.input(chosen, page.language, told, js="language => framepack.speak(language)", **PRIVATE, **NEWEST)
    words = page.opened(opened, page.language, [page.language, *told], js="() => framepack.language()")
    words.then(None, None, None, js="() => framepack.came('words')", **PRIVATE)
    # Gradio finds out only by a resize that tabs with longer names have less room.
    resize = "() => {setTimeout(() => dispatchEvent(new Event('resize')), 100)}"
    page.spoken.change(None, None, None, js=resize, **PRIVATE)
