"""Colours and type of the page. System fonts only: nothing is fetched from elsewhere.

Text keeps a contrast of 4.5 to 1 and more against what it stands on, in both colour schemes.
"""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors, fonts, sizes

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas")

INK = colors.Color(
    name="ink", c50="#f7f7f5", c100="#efeeeb", c200="#e2e0db", c300="#cbc8c1", c400="#a5a29b", c500="#75726b",
    c600="#5a5751", c700="#43413c", c800="#2a2927", c900="#1c1b1a", c950="#131312",
)  # fmt: skip
PINE = colors.Color(
    name="pine", c50="#eef7f4", c100="#d5ece4", c200="#aedbcc", c300="#7cc3ae", c400="#4fae94", c500="#2b8f75",
    c600="#1b745e", c700="#175f4e", c800="#154c3f", c900="#123e34", c950="#09231d",
)  # fmt: skip


CORNERS = sizes.Size(name="corners", xxs="6px", xs="6px", sm="6px", md="6px", lg="6px", xl="10px", xxl="10px")


def make() -> gr.themes.Base:
    """The theme that ``launch`` is given."""
    return gr.themes.Base(
        primary_hue=PINE,
        secondary_hue=PINE,
        neutral_hue=INK,
        radius_size=CORNERS,
        font=[*map(fonts.Font, SANS), "sans-serif"],
        font_mono=[*map(fonts.Font, MONO), "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_800",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_text_weight="600",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_shadow="none",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_border_width="1px",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        checkbox_label_background_fill="*neutral_50",
        checkbox_label_background_fill_dark="*neutral_950",
        checkbox_label_background_fill_selected="*primary_50",
        checkbox_label_background_fill_selected_dark="*primary_950",
        checkbox_label_border_color="*neutral_300",
        checkbox_label_border_color_dark="*neutral_700",
        checkbox_label_border_color_selected="*primary_600",
        checkbox_label_border_color_selected_dark="*primary_400",
        checkbox_label_border_width="1px",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_500",
    )
