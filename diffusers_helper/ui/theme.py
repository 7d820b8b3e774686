"""Colours and type of the page. System fonts only: nothing is fetched from elsewhere."""

from __future__ import annotations

import gradio as gr

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Noto Sans CJK JP", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def make() -> gr.themes.Base:
    """The theme that ``launch`` is given."""
    fonts = gr.themes.utils.fonts
    return gr.themes.Base(
        primary_hue="teal",
        neutral_hue="slate",
        font=[fonts.Font(name) for name in SANS],
        font_mono=[fonts.Font(name) for name in MONO],
    )
