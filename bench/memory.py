"""Weights in little memory: steps of a full-size transformer of random weights, under caps of GPU memory.

    python -m bench.memory [--rows roofline resident swap ...] [--caps 12 24] [--steps 5] [--write]
    python -m bench.memory --dry-run

Beside the prefetching swap run, in the same process and with the same bytes of resident blocks, a swap as the original
program does it (tensor by tensor, from ordinary memory, waited for, without the modulation table, then with it), and
diffusers' group offload, which keeps no block. A row is the median of timed steps after two that warm up; what is
compared takes turns (A B A). The weights are random, so no quality is measured. ``--dry-run`` goes the same way with a
tiny model on the CPU: it shows that the script works, no more.
``--write`` keeps what a GPU said after every row, beside the other rows of the same machine, so that the rows can be
measured by several commands.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench.machine import RESULTS, machine
from bench.memory_gauge import REFUSALS, Bench, Row, told
from bench.memory_headline import headline, projection
from bench.memory_rows import quantised, resident, roofline, table
from bench.memory_swapped import MEASURES, swapped

IN_INT8 = "swap-int8"
ALONE: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "roofline": roofline,
    "resident": resident,
    "table": table,
    "quantised": quantised,
}
DERIVED = ("headline", "projection")
ROWS = (*ALONE, *MEASURES, IN_INT8, *DERIVED)
"""All but the VAE's, which come with decoding."""
DEFAULT_ROWS = tuple(name for name in ROWS if name != IN_INT8)
PRETENDED_CARD = "H100"


class Report:
    """Rows as they come: each is a line of the output, and in the file if there is one."""

    def __init__(self, dry: bool, file: Path | None) -> None:
        self._file = file
        self.content: dict[str, Any] = {"machine": machine(), "dry_run": dry, "commands": [], "rows": {}}
        if file and file.exists():
            self._go_on(json.loads(file.read_text()))
        self.content["commands"].append("python -m bench.memory " + " ".join(sys.argv[1:]))
        _print({"machine": self.content["machine"], "dry_run": dry})

    @property
    def rows(self) -> dict[str, list[Row]]:
        rows: dict[str, list[Row]] = self.content["rows"]
        return rows

    def begin(self, names: list[str]) -> None:
        """Rows of these names are measured anew."""
        for name in names:
            self.rows[name] = []

    def add(self, name: str, row: Row) -> None:
        self.rows[name].append(row)
        _print({name: row})
        if self._file:
            self._file.write_text(json.dumps(self.content, indent=1) + "\n")

    def _go_on(self, before: dict[str, Any]) -> None:
        """Keep what the same machine said."""
        if all(before["machine"].get(key) == self.content["machine"][key] for key in ("device", "torch")):
            self.content["commands"], self.content["rows"] = before["commands"], before["rows"]


def measured(bench: Bench, names: list[str]) -> Iterator[tuple[str, Row]]:
    """(name, row); what fails is a row, and the others go on."""
    for name, measure in ALONE.items():
        if name in names:
            yield from _refusals_told([name], ((name, row) for row in measure(bench)))
    in_swap = [name for name in MEASURES if name in names]
    if in_swap:
        yield from _refusals_told(in_swap, swapped(bench, in_swap))
    if IN_INT8 in names:
        yield from _refusals_told([IN_INT8], ((IN_INT8, row) for _, row in swapped(bench, ["swap"], "int8")))


def _refusals_told(names: list[str], rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
    try:
        yield from rows
    except REFUSALS as error:
        for name in names:
            yield name, {"row": name, **told(error)}


def derived(rows: dict[str, list[Row]], device: str) -> Iterator[tuple[str, Row]]:
    """What is computed from other rows."""
    yield from (("headline", row) for row in headline(rows))
    yield from (("projection", row) for row in projection(rows, device))


def main() -> None:
    """Measure, print, and keep what a GPU said where that is asked for."""
    options = _options()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --dry-run goes the same way on the CPU, with a tiny model")
    if options.dry_run:
        torch.set_num_threads(1)
    report = Report(options.dry_run, RESULTS / "memory.json" if options.write else None)
    report.begin(options.rows)
    for name, row in measured(Bench(options.dry_run, options.steps, options.caps), options.rows):
        report.add(name, row)
    device = PRETENDED_CARD if options.dry_run else report.content["machine"]["device"]
    for name, row in derived(report.rows, device):
        if name in options.rows:
            report.add(name, row)


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(DEFAULT_ROWS), help=f"all but {IN_INT8} when left out"
    )
    parser.add_argument("--caps", nargs="+", type=int, default=[12, 24], help="GB of GPU memory")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each row")
    parser.add_argument("--dry-run", action="store_true", help="a tiny model on the CPU; measures nothing of worth")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results; not of a dry run")
    options = parser.parse_args()
    if options.write and options.dry_run:
        parser.error("a dry run is no measurement: nothing to keep")
    return options


if __name__ == "__main__":
    main()
