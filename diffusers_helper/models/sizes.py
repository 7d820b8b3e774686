"""How many weights every part of a checkpoint has, read from the headers of its files. No tensors here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UnusableCheckpoint
from ..memory.costs import PartSizes
from ..words import Message, joined
from .table import FETCH_AGAIN, WEIGHTS_PARTS, Checkpoint

BLOCK = re.compile(r"(?:single_)?transformer_blocks\.\d+\.")
MODULATION = re.compile(r"\.norm(1|1_context)?\.linear\.")
HEADER_BYTES_MAX = 100 * 2**20

FULL_SIZE = PartSizes(
    blocks=60,
    block_weights=9_061_806_080,
    largest_block_weights=226_548_224,
    modulation_weights=3_398_492_160,
    other_weights=414_016_576,
    width=3072,
    heads=24,
    vae_channels=128,
    rest={
        "vae": 246_478_000,
        "text_encoder": 7_504_924_672,
        "text_encoder_2": 123_060_480,
        "image_encoder": 428_225_600,
    },
    bytes_per_weight=dict.fromkeys(WEIGHTS_PARTS, 2),
    mapped=frozenset({"transformer", "text_encoder"}),
)
"""FramePack I2V and F1, 13B, on a GPU."""
BYTES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}
"""Of a weight, by the name that safetensors gives its dtype."""
NARROW = re.compile(r"(U|I|F)[1-8](_|$)")
"""Names of dtypes of at most 8 bits."""


def part_sizes(checkpoint: Checkpoint, dtypes: Mapping[str, str]) -> PartSizes:
    """The sizes of a checkpoint's parts.

    Args:
        dtypes: part -> what it computes in, one of BYTES.

    Raises:
        UnusableCheckpoint: a header or a config cannot be read, or weights have 8 bits or fewer already.
    """
    tensors = {part: list(_tensors(part, checkpoint.folders[part])) for part in WEIGHTS_PARTS}
    for part, found in tensors.items():
        _refuse_narrow(checkpoint.folders[part], part, found)
    weights = {part: {name: count for name, count, _ in tensors[part]} for part in WEIGHTS_PARTS}
    blocks: dict[str, int] = {}
    modulation = 0
    for name, count in weights["transformer"].items():
        block = BLOCK.match(name)
        if block and MODULATION.search(name):
            modulation += count
        elif block:
            blocks[block[0]] = blocks.get(block[0], 0) + count
    config = _config(checkpoint, "transformer")
    heads = int(config.get("num_attention_heads", 24))
    return PartSizes(
        blocks=len(blocks),
        block_weights=sum(blocks.values()),
        largest_block_weights=max(blocks.values(), default=0),
        modulation_weights=modulation,
        other_weights=sum(weights["transformer"].values()) - sum(blocks.values()) - modulation,
        width=heads * int(config.get("attention_head_dim", 128)),
        heads=heads,
        vae_channels=int(_config(checkpoint, "vae").get("block_out_channels", [128])[0]),
        rest={part: sum(weights[part].values()) for part in WEIGHTS_PARTS if part != "transformer"},
        bytes_per_weight={part: BYTES[dtypes[part]] for part in WEIGHTS_PARTS},
        mapped=frozenset(part for part in WEIGHTS_PARTS if all(kind == dtypes[part] for *_, kind in tensors[part])),
    )


def _tensors(part: str, folder: Path) -> Iterator[tuple[str, int, str]]:
    """Name, number of weights and dtype of every tensor in a part's files."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            header = header_of(file)
            entries = ((name, entry) for name, entry in header.items() if name != "__metadata__")
            yield from ((name, math.prod(entry["shape"]), str(entry["dtype"])) for name, entry in entries)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            told = Message("checkpoint.part_damaged", part=part, folder=str(folder), reason=repr(error))
            raise UnusableCheckpoint(joined(told, FETCH_AGAIN)) from None


def _refuse_narrow(folder: Path, part: str, tensors: Iterable[tuple[str, int, str]]) -> None:
    """Their scales are in no form that is read here, and as they stand they are wrong."""
    name, kind = next(((name, kind) for name, _, kind in tensors if NARROW.match(kind)), ("", ""))
    if kind:
        raise UnusableCheckpoint(Message("checkpoint.narrow", part=part, folder=str(folder), name=name, dtype=kind))


def header_of(file: Path) -> dict[str, dict[str, Any]]:
    """What a safetensors file says of its tensors, and of itself under ``__metadata__``. Raises OSError, ValueError."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 0 < size <= HEADER_BYTES_MAX:
            raise ValueError(f"{file.name} is not a safetensors file")
        header: dict[str, dict[str, Any]] = json.loads(stream.read(size))
    return header


def _config(checkpoint: Checkpoint, part: str) -> dict[str, Any]:
    file = checkpoint.folders[part] / "config.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UnusableCheckpoint(Message("checkpoint.file_damaged", file=str(file), reason=str(error))) from None
