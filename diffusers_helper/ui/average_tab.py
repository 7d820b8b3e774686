"""The tab that averages the LoRA files of one training, and draws what each counts; as the command lora-ema.

Files come from the LoRA folder below the models folder alone: a page names them, and what it names is looked up among
those that lie there. The average goes into the same folder, under a name that no file has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import UnusableInput
from ..lora.shares import DEFAULT_BETA, Profile, shares
from ..lora.shelf import Shelf, new_place, shelf_folder
from ..names import quoted
from ..words import Message, Texts
from .form import changes
from .page import COMMAND, NEWEST, PRIVATE, SHOWN_AT_WORK, Page, inform, user_errors
from .phrases import say

RULES = ("beta", "sigma_rel")
LIST_AGAIN = """
document.addEventListener('framepack-shelf', () => {
  if (document.querySelector('#average-files')?.offsetParent) trigger('click');
});
"""
"""The list follows the folder while it is in sight."""


@dataclass(frozen=True)
class KnownSetting:
    """One beta for the epochs from ``first`` to ``last``, or a power function for whatever is ticked."""

    beta: float | None = None
    first: int = 0
    last: int = 0
    sigma_rel: float | None = None

    @property
    def name(self) -> str:
        """The same in every language."""
        return f"σ_rel {self.sigma_rel:g}" if self.sigma_rel else f"{self.first}–{self.last}: β {self.beta:g}"

    def ticks(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` whose last number is one of its epochs."""
        return [name for name in names if self.first <= int((re.findall(r"\d+", name) or ["-1"])[-1][:9]) <= self.last]


KNOWN = (
    KnownSetting(0.9, 15, 30), KnownSetting(0.95, 10, 30), KnownSetting(0.8, 15, 25),
    KnownSetting(sigma_rel=0.2), KnownSetting(sigma_rel=0.25), KnownSetting(sigma_rel=0.15),
)  # fmt: skip


def build(page: Page) -> None:
    """The files on the left; the rule, what each counts, and where the average goes on the right."""
    page.t(gr.Markdown, "average.intro")
    averages = Averages(shelf_folder(page.context.settings.paths.models_dir))
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            files = page.t(gr.CheckboxGroup, "average.files", tuple, value=[], elem_id="average-files")
        with gr.Column(scale=6, min_width=300):
            with gr.Row(elem_classes="offers"):
                buttons = [gr.Button(setting.name, size="sm", min_width=90) for setting in KNOWN]
            rule = page.t(gr.Radio, "average.rule", RULES, value=RULES[0], elem_id="average-rule")
            with gr.Row():
                beta = page.t(gr.Number, "average.beta", value=DEFAULT_BETA, step=0.01, min_width=90)
                beta2 = page.t(gr.Number, "average.beta2", value=None, step=0.01, min_width=90)
                sigma_rel = page.t(gr.Number, "average.sigma_rel", value=0.2, step=0.01, min_width=90)
            plot = gr.HTML("", elem_id="average-shares", js_on_load=LIST_AGAIN)
            name = page.t(gr.Textbox, "average.name", max_lines=1, elem_id="average-name")
            make = page.t(gr.Button, "average.make", variant="primary", elem_id="average-make")
    page.opened(lambda: None, None, beta2)  # Gradio shows an empty number as 0, and sends it, until it is set
    knobs: list[Any] = [rule, beta, beta2, sigma_rel]
    for button, setting in zip(buttons, KNOWN, strict=True):
        button.click(lambda chosen, of=setting: averages.take(of, chosen), files, [files, *knobs], **PRIVATE)
    asked = [page.language, files, *knobs]
    gr.on(changes([files, *knobs, page.spoken]), averages.shown, asked, plot, **PRIVATE, **NEWEST)
    for looked in (page.tabs.select, plot.click):
        looked(averages.listed, [files, page.language], [files, plot], **PRIVATE)
    making = {**COMMAND, **SHOWN_AT_WORK}
    make.click(user_errors(averages.make), [page.language, name, files, *knobs], [files, name], **making)


class Averages:
    """What the tab does, with the files below ``folder``. The ``knobs`` are rule, beta, beta2 and sigma_rel."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def listed(self, chosen: Sequence[str], language: str) -> list[Any]:
        """The files that can be chosen, and those that are if one has gone; what is said where there are none.

        What somebody ticks meanwhile stays ticked.
        """
        names = list(self._files())
        kept = [each for each in chosen if each in names]
        texts = Texts(language)
        empty = "" if names else f'<p class="q-empty">{say(texts, "average.empty", folder=str(self._folder))}</p>'
        files = gr.update(choices=names) if kept == list(chosen) else gr.update(choices=names, value=kept)
        return [files, empty or gr.skip()]

    def take(self, setting: KnownSetting, chosen: Sequence[str]) -> list[Any]:
        """For files, rule, beta, beta2 and sigma_rel: what a click on a setting sets."""
        files = setting.ticks(list(self._files())) or list(chosen)
        if setting.sigma_rel:
            return [files, "sigma_rel", gr.skip(), gr.skip(), setting.sigma_rel]
        return [files, "beta", setting.beta, None, gr.skip()]

    def shown(self, language: str, chosen: Sequence[str], *knobs: Any) -> str:
        """A bar for each chosen file, the oldest first; or what is wrong."""
        texts, names = Texts(language), [name for name in self._files() if name in chosen]
        try:
            counts = shares(_profile(*knobs).betas(len(names))) if names else ()
        except UnusableInput as error:
            return f'<p class="q-error" role="alert">{escape(texts.said(error.said))}</p>'
        return shares_html(dict(zip(names, counts, strict=True)), texts)

    def make(self, language: str, name: str, chosen: Sequence[str], *knobs: Any) -> list[Any]:
        """Write the average; its name joins the list. Raises UnusableInput, OutputFailed."""
        from ..lora.ema import average

        profile, known = _profile(*knobs), self._files()
        if gone := [each for each in chosen if each not in known]:
            raise UnusableInput(Message("ema.gone", file=quoted(gone[0])))
        output = new_place(self._folder, name)
        made = average([file for each, file in known.items() if each in chosen], output, profile)
        inform(Texts(language)("average.made", name=made.output.name))
        return [self.listed(chosen, language)[0], ""]

    def _files(self) -> Mapping[str, Path]:
        """Name on the shelf -> file, the oldest first."""
        found = []
        for name, file in Shelf(self._folder).files().items():
            with suppress(OSError):
                found.append((file.stat().st_mtime_ns, name, file))
        return {name: file for _, name, file in sorted(found)}


def _profile(rule: str, beta: float | None, beta2: float | None, sigma_rel: float | None) -> Profile:
    """The rule that is chosen; the numbers of the other one have no effect. Raises UnusableInput."""
    if rule == "sigma_rel":
        return Profile(sigma_rel=sigma_rel or 0.0)
    return Profile(DEFAULT_BETA if beta is None else beta, beta2)


def shares_html(counts: Mapping[str, float], texts: Texts) -> str:
    """What each file counts; names may come from strangers and are escaped."""
    if not counts:
        return f'<p class="q-dim">{say(texts, "average.none_chosen")}</p>'
    rows = "".join(
        f'<li><bdi>{escape(name)}</bdi><progress max="1" value="{share:.4f}"></progress><span>{share:.1%}</span></li>'
        for name, share in counts.items()
    )
    return f'<h3 class="r-head">{say(texts, "average.counts")}</h3><ul class="shares">{rows}</ul>'
