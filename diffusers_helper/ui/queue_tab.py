"""The tab of what runs, what waits and what was made: live fragments with their buttons, and a filter."""

from __future__ import annotations

import gradio as gr

from ..jobs.job import ENDED
from .commands import Commands
from .form import Form
from .page import CLICKS, PRIVATE, Page, live, user_errors

LOOK_FOR = "(find, state) => framepack.wish({find, state: state === 'all' ? '' : state, count: ''})"


def build(page: Page, form: Form) -> None:
    """The queue above, the history with its filter below."""
    queue = live("queue", elem_id="queue")
    page.t(gr.HTML, "queue.history", html_template="<h2>${value}</h2>", elem_id="history-heading")
    with gr.Row(elem_id="history-head"):
        find = page.t(gr.Textbox, "queue.find", max_lines=1, scale=3, elem_id="history-find")
        state = page.t(
            gr.Dropdown, "queue.state", ("all", *ENDED), value="all", scale=1, min_width=130, elem_id="history-state"
        )
    history = live("undo", "history", elem_id="history")
    for one in (find, state):
        one.change(None, [find, state], None, js=LOOK_FOR, **PRIVATE)
    commands = Commands(page, form)
    for place in (queue, history):
        place.click(user_errors(commands.carry_out), commands.asked, commands.outputs, **CLICKS)
