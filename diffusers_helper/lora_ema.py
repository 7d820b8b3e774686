"""The command `lora-ema`: several LoRA files of one training become their average."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .errors import InvalidRequest
from .lora.shares import DEFAULT_BETA, Profile
from .names import shown
from .settings import Settings, given_path
from .words import Message

if TYPE_CHECKING:
    from .lora.ema import Averaged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes. Underscores do in the place of hyphens."""
    parser.add_argument("files", nargs="+", metavar="FILE.safetensors", help="LoRA files of one training, two or more")
    parser.add_argument("--output-file", required=True, metavar="FILE.safetensors", help="where the average goes")
    words = f"how much of the average stays when the next file joins, 0 to 1 (default {DEFAULT_BETA})"
    parser.add_argument("--beta", type=float, help=words)
    parser.add_argument("--beta2", type=float, help="the same for the last file, in equal steps from --beta to it")
    words = "a power function of this relative width instead, 0.001 to 0.3; excludes --beta and --beta2"
    parser.add_argument("--sigma-rel", type=float, help=words)
    words = "take the files in the order in which they are given, not from the oldest to the newest"
    parser.add_argument("--no-sort", action="store_true", help=words)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Carry it out; returns the exit code."""
    profile, output = _profile(options), given_path(options.output_file, "--output-file")
    files = [given_path(text, "file") for text in options.files]
    from .lora.ema import average, by_age

    made = average(files if options.no_sort else by_age(files), output, profile)
    sys.stdout.write("".join(f"{line}\n" for line in _lines(made)))
    return 0


def _profile(options: argparse.Namespace) -> Profile:
    """The rule that is asked for. Two that exclude each other are refused: one would be ignored."""
    if options.sigma_rel is not None and (options.beta is not None or options.beta2 is not None):
        raise InvalidRequest(Message("ema.two_rules"))
    return Profile(DEFAULT_BETA if options.beta is None else options.beta, options.beta2, options.sigma_rel)


def _lines(made: Averaged) -> list[str]:
    """What each file counts, and where the average is."""
    counts = [f"{share:7.2%}  {shown(file)}" for file, share in made.shares]
    kept = f"as in the first file, since they hold no floats: {', '.join(made.kept[:3])}"
    return [*counts, *([kept] if made.kept else []), shown(made.output)]
