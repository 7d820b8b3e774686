"""The compiled decoders that are kept, as a table of the System tab with a button that removes them."""

from __future__ import annotations

from datetime import datetime
from html import escape

from ..media.compiled_files import CompiledFiles, Kept
from ..words import Texts
from .phrases import say

HEADS = ("compiled_shape", "compiled_size", "compiled_made", "compiled_used")


def render(files: CompiledFiles, texts: Texts) -> str:
    """Size, shape and age of each, the last used first."""
    kept = files.listed()
    if not kept:
        return f'<p class="hint">{say(texts, "system.compiled_none")}</p>'
    heads = "".join(f'<th scope="col">{say(texts, f"system.{head}")}</th>' for head in HEADS)
    rows = "".join(_row(each) for each in kept)
    table = f'<table class="settings"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    sure = say(texts, "system.compiled_sure")
    clear = f'<button type="button" class="act" data-act="compiled_clear" data-confirm="{sure}">'
    return f'{table}<div class="acts">{clear}{say(texts, "system.compiled_clear")}</button></div>'


def _row(kept: Kept) -> str:
    made, used = (f"{datetime.fromtimestamp(time):%Y-%m-%d %H:%M}" for time in (kept.made, kept.used))
    cells = (f"{kept.shape} ({kept.key.back_end})", f"{kept.size / 1e6:.1f} MB", made, used)
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
