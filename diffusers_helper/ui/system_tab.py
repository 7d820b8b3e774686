"""The tab that says what this machine has and how the program is set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape

import gradio as gr

from .. import doctor
from ..engines import files_of
from ..settings import Settings
from ..words import Texts
from .app_context import AppContext
from .page import CLICKS, PRIVATE, SHOWN_AT_WORK, Act, Page, inform, live, user_errors


def build(page: Page) -> None:
    """Live numbers, settings, and what doctor knows, which it looks up when asked: it needs torch."""
    with gr.Row(elem_id="system"):
        with gr.Column(scale=5, min_width=320):
            _title(page, "system.now")
            live("disk")
            _title(page, "system.checkpoints")
            checkpoints = live("fetching")
            _title(page, "system.compiled")
            page.t(gr.Markdown, "system.compiled_hint", elem_classes="hint")
            compiled = live("compiled")
            _title(page, "system.settings")
            page.t(gr.Markdown, "system.settings_hint", elem_classes="hint")
            settings = gr.HTML()
        with gr.Column(scale=6, min_width=320):
            _title(page, "system.doctor")
            page.t(gr.Markdown, "system.doctor_hint", elem_classes="hint")
            examine = page.t(gr.Button, "system.examine", elem_id="examine")
            report = gr.HTML(elem_id="report", min_height=0)
    checkpoints.click(user_errors(_fetch_command(page.context)), page.language, None, **CLICKS)
    compiled.click(user_errors(_clear_command(page.context)), page.language, None, **CLICKS)
    page.spoken.change(
        lambda language: settings_table(page.context.settings, Texts(language)), page.spoken, settings, **PRIVATE
    )
    examine.click(_examination(page.context.settings), page.language, report, **{**PRIVATE, **SHOWN_AT_WORK})


def _fetch_command(context: AppContext) -> Callable[[str, gr.EventData], None]:
    """A click on Fetch, on an answer to its question, or on Stop. Raises InvalidCommand."""

    def carry_out(language: str, event: gr.EventData) -> None:
        act, texts, settings = Act.of(event), Texts(language), context.settings
        if act.name == "fetch":
            context.fetching.ask(act.value, settings.network, lambda: doctor.why_not(settings))
        elif act.name == "fetch_no":
            context.fetching.decline()
        elif act.name == "fetch_yes":
            context.fetching.start(act.value, settings.paths, settings.network)
            inform(texts("system.fetch_told", name=act.value))
        elif act.name == "fetch_stop":
            context.fetching.stop()
            inform(texts("system.fetch_stopped"))

    return carry_out


def _clear_command(context: AppContext) -> Callable[[str, gr.EventData], None]:
    """A click on the button that removes compiled decoders."""

    def carry_out(language: str, event: gr.EventData) -> None:
        if Act.of(event).name == "compiled_clear":
            removed = files_of(context.settings).clear()
            inform(Texts(language)("system.compiled_cleared", count=len(removed)))

    return carry_out


def _title(page: Page, key: str) -> None:
    page.t(gr.Markdown, key, elem_classes="section-title")


def settings_table(settings: Settings, texts: Texts) -> str:
    """Every setting, its value, and where the value came from. Secrets are not in it."""
    rows = [
        (name, value, texts(f"system.origin_{origin.replace(' ', '_')}")) for name, value, origin in settings.rows()
    ]
    return _table([texts(f"system.{head}") for head in ("setting", "value", "origin")], rows)


def _examination(settings: Settings) -> Callable[[str], str]:
    return lambda language: report_html(doctor.examine(settings), Texts(language))


def report_html(report: doctor.Report, texts: Texts) -> str:
    """Doctor's facts; a gap with what to do about it."""
    facts = "".join(_fact(fact, texts) for fact in report.facts)
    fixes = any(fact.fix for fact in report.facts)
    well = "" if fixes else f'<p class="well">{escape(texts("system.all_well"))}</p>'
    return f'{well}<dl class="facts">{facts}</dl>'


def _fact(fact: doctor.Fact, texts: Texts) -> str:
    fix = ""
    if fact.fix:
        fix = f'<dd class="fix"><strong>{escape(texts("system.fix"))}</strong> {_lines(fact.fix)}</dd>'
    return f"<div><dt>{escape(fact.name.replace('_', ' '))}</dt><dd>{_lines(fact.text)}</dd>{fix}</div>"


def _lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<table class="settings"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
