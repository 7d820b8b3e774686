"""The tab where a video is asked for and watched."""

from __future__ import annotations

import gradio as gr

from .form import Form
from .page import Page, live

ADVANCED = (
    "kind", "size", "seed", "steps", "teacache", "teacache_threshold", "distilled_guidance", "real_cfg",
    "cfg_rescale", "negative_prompt", "latent_window", "mp4_crf", "preserved_memory_gb",
)  # fmt: skip


def build(page: Page) -> Form:
    """The form on the left, the running or last job on the right."""
    form = Form(page)
    with gr.Row():
        with gr.Column(scale=5):
            form.place("picture")
            form.place("prompt")
            form.place("seconds")
            page.t(gr.Button, "generate.start", variant="primary", elem_id="start")
            with page.t(gr.Accordion, "generate.advanced", open=False):
                for name in ADVANCED:
                    form.place_with_reset(name)
        with gr.Column(scale=7):
            live("job", "video", "preview", "sections", "steps", "notices", "stop")
    return form
