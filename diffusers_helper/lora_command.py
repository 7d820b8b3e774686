"""The command `lora`: what is known of a LoRA's file, and the same LoRA in another program's form."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import settings
from .errors import InvalidRequest, UnusableCheckpoint
from .lora.shelf import SUFFIX
from .names import shown
from .settings import Settings, given_path

if TYPE_CHECKING:
    from .lora.layers import LinearShapes
    from .lora.passport import Passport
    from .lora.reading import LoRA

FORM_NAMES = ("diffusers", "musubi")
MOST_UNMATCHED, MOST_BLOCKS, MOST_SETTINGS, LONGEST_LINE = 5, 10, 40, 100
BLOCK_LEVELS = 2
"""How many parts of a module's name are its block: ``transformer_blocks.0``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    info = commands.add_parser("info", help="what a LoRA is: form, model, ranks, size of its effect, training")
    info.add_argument("file", help="the LoRA, a safetensors file")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)
    convert = commands.add_parser("convert", help="write a LoRA in another program's form")
    convert.add_argument("file", help="the LoRA, a safetensors file")
    convert.add_argument("target", metavar="OUT.safetensors", help="where it goes")
    convert.add_argument("--to", choices=FORM_NAMES, required=True, help="whose names its tensors get")
    convert.set_defaults(run=_convert)
    for command in commands.choices.values():
        settings.add_flags(command)


def _info(options: argparse.Namespace, chosen: Settings) -> int:
    from .lora.passport import passport_of

    fits, lora = _read(options.file, chosen)
    passport = passport_of(lora, fits)
    text = json.dumps(passport.as_dict(), indent=2) if options.json else "\n".join(_lines(passport))
    sys.stdout.write(f"{text}\n")
    return 0


def _convert(options: argparse.Namespace, chosen: Settings) -> int:
    from .lora.writing import write_lora

    target = given_path(options.target)
    if target.suffix.lower() != SUFFIX:
        raise InvalidRequest(f"{shown(target)} is not the name of a {SUFFIX} file")
    _, lora = _read(options.file, chosen)
    write_lora(lora, target, options.to)
    left_out = f"; left out, since nothing here has that name: {_some(lora.unmatched)}" if lora.unmatched else ""
    sys.stdout.write(f"{shown(target)}: {_count(len(lora.outline), 'module')} as {options.to} names them{left_out}\n")
    return 0


def _read(file: str, chosen: Settings) -> tuple[str, LoRA]:
    """The LoRA, and the checkpoint that it fits: the one that is asked for, or else the full size or the pocket."""
    from .lora.reading import read_fitting

    return read_fitting(given_path(file), _transformers(chosen))


def _transformers(chosen: Settings) -> Mapping[str, LinearShapes]:
    from .lora.bases import FULL_SIZE, full_size_shapes, shapes_in
    from .models.table import CHECKPOINTS, find_checkpoint

    name, models_dir = chosen.paths.checkpoint, chosen.paths.models_dir
    full_size = {FULL_SIZE: full_size_shapes()}
    if name in CHECKPOINTS and CHECKPOINTS[name].sources:
        return full_size
    try:
        checkpoint = find_checkpoint(name, models_dir)
    except UnusableCheckpoint:
        if chosen.origin["checkpoint"] != "default":
            raise
        return full_size
    own = {checkpoint.name: shapes_in(checkpoint.folders["transformer"])}
    return own if chosen.origin["checkpoint"] == "flag" else {**full_size, **own}


def _lines(passport: Passport) -> Iterator[str]:
    """The passport for people: a line per fact, and further lines below it."""
    rows = [row for row in _facts(passport) if row[1]]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        first, *others = text.split("\n")
        yield f"{name:{width}}  {first}"
        yield from (f"{'':{width}}  {line}" for line in others)


def _facts(passport: Passport) -> Iterator[tuple[str, str]]:
    yield "file", f"{shown(passport.file)}, {passport.file_bytes / 1e6:.1f} MB"
    yield "title", _short(passport.title)
    yield "names", ", ".join(passport.dialects)
    yield "made for", _base(passport)
    yield "fits", f"{passport.fits}: {_count(passport.modules, 'module')}"
    yield "kind", _counted(passport.kinds)
    yield "rank", _counted(passport.ranks)
    yield "alpha", _counted({"not given, so the rank" if key is None else key: n for key, n in passport.alphas.items()})
    yield "scale", _counted(passport.scales)
    yield "numbers", ", ".join(passport.numbers)
    yield "tensors", _tensors(passport)
    yield "effect", "\n".join(_effects(passport))
    yield "notes", _short(passport.notes)
    yield "trigger words", _short(", ".join(passport.trigger_words))
    yield "one frame", ", ".join(f"{key} {json.dumps(value)}" for key, value in passport.one_frame.items())
    yield "training", "\n".join(f"{key}: {_short(text)}" for key, text in _first_settings(passport))


def _base(passport: Passport) -> str:
    if passport.foreign:
        return f"{_short(passport.base)}: another model than these, so its effect here is chance"
    return _short(passport.base) + ("" if passport.base_said else ", by the names of its layers")


def _counted(values: Mapping[Any, int]) -> str:
    """One value alone, or each with its number of modules."""
    shown_values = {f"{key:g}" if isinstance(key, float) else str(key): count for key, count in values.items()}
    if len(shown_values) == 1:
        return next(iter(shown_values))
    return ", ".join(f"{value} ({count})" for value, count in shown_values.items())


def _tensors(passport: Passport) -> str:
    matched = passport.keys - len(passport.unmatched)
    told = f"{matched} of {passport.keys} have an effect"
    if not passport.unmatched:
        return told
    of_text = f", {passport.of_text_encoders} of text encoders" if passport.of_text_encoders else ""
    return f"{told}; without: {_some(passport.unmatched)}{of_text}"


def _some(keys: tuple[str, ...]) -> str:
    more = f" and {len(keys) - MOST_UNMATCHED} more" if len(keys) > MOST_UNMATCHED else ""
    return ", ".join(_short(key) for key in keys[:MOST_UNMATCHED]) + more


def _effects(passport: Passport) -> Iterator[str]:
    """The blocks with the largest deltas."""
    squares: dict[str, float] = {}
    for effect in passport.effects:
        if effect.norm is not None:
            block = ".".join(effect.module.split(".")[:BLOCK_LEVELS])
            squares[block] = squares.get(block, 0.0) + effect.norm**2
    if not squares:
        yield "depends on the checkpoint's weights"
        return
    yield f"{math.sqrt(sum(squares.values())):.4g}, the Frobenius norm of the change of all weights; most of it in"
    largest = sorted(squares, key=lambda block: -squares[block])[:MOST_BLOCKS]
    width = max(map(len, largest))
    yield from (f"{block:{width}}  {math.sqrt(squares[block]):.4g}" for block in largest)


def _first_settings(passport: Passport) -> list[tuple[str, str]]:
    return list(passport.settings.items())[:MOST_SETTINGS]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _short(text: str) -> str:
    """On one line, without characters that a terminal would obey."""
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 3]}..."
