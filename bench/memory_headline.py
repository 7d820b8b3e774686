"""What follows from the measured rows: time of a section, official style against ours, and a model of other cards."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from bench.memory_gauge import Row
from bench.memory_model import FRAMES_PER_SECTION
from bench.memory_swapped import COMPUTED, STEPS

PEAK_TFLOPS = {"H100": 990.0, "H200": 990.0, "RTX 4090": 165.0, "RTX 3090": 71.0, "RTX 3060": 25.5}
"""bfloat16, dense."""
MODELLED = {"RTX 3060": 12, "RTX 4090": 24}
"""Card -> GB of its memory."""
LOCKED_BYTES_PER_SECOND, ORDINARY_BYTES_PER_SECOND = 25e9, 8e9
"""PCIe 4 x16."""
MODEL = "not measured: official style is compute + bytes / 8 GB/s, ours is max(compute, bytes / 25 GB/s)"
Rows = Mapping[str, Sequence[Row]]


def headline(rows: Rows) -> Iterator[Row]:
    """How near steps come to what the machine can; then, at each cap, a section and the boundary before it, without
    decoding: every step computed, and with the mask."""
    yield from _efficiency(rows)
    for cap in _caps(rows):
        for computed in (STEPS, COMPUTED):
            official = _section_seconds(rows, "official style", cap, computed)
            own = _section_seconds(rows, "ours", cap, computed)
            if official is not None and own is not None:
                yield {"row": f"section, {computed} of {STEPS} computed", "cap_gb": cap, **_compared(official, own)}


def _efficiency(rows: Rows) -> Iterator[Row]:
    """The whole step against its products and attention; a swapped one against the longer of computing and copying."""
    limit = _of_row(rows, "roofline", "all products and attention of a step")
    eager, compute = _of_row(rows, "resident", "eager"), _of_row(rows, "table", "on")
    bus = _of_row(rows, "roofline", "bus, locked memory", "gb_per_second")
    if limit and eager:
        yield {"row": "products and attention as a share of the resident step", "share": round(limit / eager, 3)}
    for cap in _caps(rows):
        step, moved = _measured(rows, "swap", "ours", cap), _measured(rows, "swap", "ours", cap, "gb_moved")
        if step and moved is not None and compute and bus:
            ratio = round(step / max(compute, moved / bus), 3)
            yield {"row": "our step to the longer of computing and copying", "cap_gb": cap, "ratio": ratio}


def _caps(rows: Rows) -> list[int]:
    return sorted({row["cap_gb"] for row in rows.get("swap", ()) if "cap_gb" in row})


def _of_row(rows: Rows, name: str, row_name: str, key: str = "seconds") -> float | None:
    return next((row[key] for row in rows.get(name, ()) if row["row"] == row_name and key in row), None)


def _section_seconds(rows: Rows, way: str, cap: int, computed: int) -> float | None:
    """With every step computed it is so many times the measured step; else it was measured whole."""
    boundary = _measured(rows, "boundary", way, cap)
    section = _measured(rows, "swap" if computed == STEPS else "section", way, cap)
    if boundary is None or section is None:
        return None
    return boundary + section * (STEPS if computed == STEPS else 1)


def _measured(rows: Rows, name: str, way: str, cap: int, key: str = "seconds") -> float | None:
    """The median of this way's turns; None where it did not fit or was not asked for."""
    wanted = {"row": way, "cap_gb": cap}
    found = [row[key] for row in rows.get(name, ()) if wanted.items() <= row.items() and key in row]
    return statistics.median(found) if found else None


def _compared(official: float, own: float) -> Row:
    seconds = {"official_style_seconds": round(official, 4), "our_seconds": round(own, 4)}
    per_frame = round(own / FRAMES_PER_SECTION, 5)
    return {**seconds, "official_style_to_ours": round(official / own, 3), "our_seconds_per_frame": per_frame}


def projection(rows: Rows, device: str) -> Iterator[Row]:
    """A step on cards that were not here, from the step of the card that was: a model, and called so."""
    peak = next((peak for name, peak in PEAK_TFLOPS.items() if name in device), None)
    compute = _of_row(rows, "resident", "eager")
    if peak is None or compute is None:
        yield {"row": "projection", "left_out": "it needs the row 'resident' of a card whose peak is known"}
        return
    for card, cap in MODELLED.items():
        moved = _measured(rows, "swap", "ours", cap, "gb_moved")
        if moved is not None:
            yield {"row": f"model of an {card}", "cap_gb": cap, **_modelled(compute * peak / PEAK_TFLOPS[card], moved)}


def _modelled(compute: float, moved_gb: float) -> Row:
    official = compute + moved_gb * 1e9 / ORDINARY_BYTES_PER_SECOND
    own = max(compute, moved_gb * 1e9 / LOCKED_BYTES_PER_SECOND)
    seconds = {"official_style_seconds": round(official, 4), "our_seconds": round(own, 4)}
    return {**seconds, "official_style_to_ours": round(official / own, 3), "model": MODEL}
