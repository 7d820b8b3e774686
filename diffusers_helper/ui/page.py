"""What the build function of a tab gets, and the few manners that all tabs share.

Events are ``PRIVATE``: outside Gradio's queue, one request each, so that no connection stays open that a lost network
could break; page.js asks again until there is an answer, so that the page never re-mounts. Those that speak are a
``COMMAND``: Gradio shows ``gr.Info``, ``gr.Warning`` and ``gr.Error`` only of events in its queue; such an event holds
a connection for the moment that it takes.
Where many buttons share one event, it is ``CLICKS``: of others, Gradio drops what comes while one is under way. Of a
choice that is changed meanwhile, ``NEWEST`` carries out the last.
None of them shows how far it is, but for those that are ``SHOWN_AT_WORK``, and nothing keeps their state: Gradio would
write it into every output that any event has had, whenever one begins or ends, and look for each of them in all of the
page. That was half of what opening the page cost.
Gradio's "private" hides an event, it does not protect it: a handler checks what it gets.
"""

from __future__ import annotations

import functools
import html
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from gradio.events import Dependency

from ..errors import FramePackError
from ..words import Texts
from .app_context import AppContext
from .refusals import in_words
from .translation import Translator

log = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

PRIVATE: Mapping[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "show_progress_on": [],
    "api_visibility": "private",
}
COMMAND: Mapping[str, Any] = {**PRIVATE, "queue": True}
CLICKS: Mapping[str, Any] = {**COMMAND, "trigger_mode": "multiple"}
NEWEST: Mapping[str, Any] = {"trigger_mode": "always_last"}
SHOWN_AT_WORK: Mapping[str, Any] = {"show_progress": "full", "show_progress_on": None}

MESSAGE_SECONDS = 3
LONGEST_NUMBER = 18

FORWARD_CLICKS = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-act]');
  if (button && element.contains(button) && framepack.agreed(button)) {
    trigger('click', {act: button.dataset.act, job: button.dataset.job, value: button.dataset.value});
    framepack.soon();
  }
});
"""


@dataclass(frozen=True)
class Page:
    """The page while it is built.

    Attributes:
        t: makes components that can change their language.
        language: the chosen language; give it to a handler that speaks, and speak with ``Texts(language)``.
        spoken: hidden; the same, changes after all components have changed their words, and once at the start.
        tabs: to show another tab, return ``gr.Tabs(selected="generate")`` for it (or queue, restore, presets, system).
    """

    context: AppContext
    t: Translator
    language: gr.Dropdown
    spoken: gr.Textbox
    tabs: gr.Tabs
    blocks: gr.Blocks

    def opened(self, handler: Callable[..., Any], inputs: Any, outputs: Any, js: str | None = None) -> Dependency:
        """Run ``handler`` when somebody opens the page, or comes back to it."""
        return self.blocks.load(handler, inputs, outputs, js=js, **PRIVATE)


@dataclass(frozen=True)
class Act:
    """A click on ``<button data-act="up" data-job="17" data-value="...">`` in a fragment."""

    name: str
    job: int
    value: str

    @classmethod
    def of(cls, event: gr.EventData) -> Act:
        """From the event that ``live`` forwards; a click without a job has job 0."""
        data = event._data if isinstance(event._data, dict) else {}
        job = str(data.get("job") or "")
        number = int(job) if job.isdecimal() and len(job) < LONGEST_NUMBER else 0
        return cls(str(data.get("act") or ""), number, str(data.get("value") or ""))


def live(*ids: str, layout: str = "", **properties: Any) -> gr.HTML:
    """The places where page.js puts fragments, by id. Its ``click`` event brings an ``Act`` (see there).

    ``layout`` is HTML with a place ``{id}`` for each id; without it they follow each other.
    """
    places = {name: f'<div data-live="{name}"></div>' for name in ids}
    value = layout.format(**places) if layout else "".join(places.values())
    return gr.HTML(value, js_on_load=FORWARD_CLICKS, **properties)


def inform(words: str) -> None:
    """A short message that goes by itself. For a ``COMMAND``."""
    gr.Info(html.escape(words), duration=MESSAGE_SECONDS)


def user_errors(
    handler: Callable[Parameters, Result], as_shown: Callable[[str], str] = html.escape
) -> Callable[Parameters, Result]:
    """``handler``, with errors that are meant for a user's eyes told to whoever called. The page shows HTML.

    They are told in the language that the handler's parameter ``language`` names; in English, and as programs know the
    fields, where it has none.
    """
    parameters = inspect.signature(handler)

    @functools.wraps(handler)
    def careful(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return handler(*args, **kwargs)
        except FramePackError as error:
            log.info("refused: %s", error)
            language = parameters.bind(*args, **kwargs).arguments.get("language")
            words = in_words(error, Texts(language)) if language else str(error)
            raise gr.Error(as_shown(words), print_exception=False) from None

    return careful
