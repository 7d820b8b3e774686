"""What the shelf shows of a LoRA, from its header alone: what it says of itself, and which checkpoints it is for.

A passport tells more, and reads all weights for it. What only they show, such as NaN, or what only all factors of a
layer show together, is found when a job begins. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..models.sizes import header_of
from ..words import Message
from .dialects import FACTORS, LOW_RANK, Dialect, split_key, written_names
from .header import Header, Stored, shown_key
from .layers import Layer, LinearShapes
from .origin import base_model, foreign_model, nothing_matches
from .said import Said, said_in

Names = Mapping[str, tuple[Layer, Dialect]]
"""What the layers of a transformer can be called in a file."""
WEIGHT = ".weight"


@dataclass(frozen=True)
class Fit:
    """A file held against a checkpoint.

    Attributes:
        matched: how many of its tensors name something there.
        problem: why it cannot be used there; None where nothing shows that.
    """

    matched: int
    problem: Message | None = None


@dataclass(frozen=True)
class Label:
    """What is shown of a file.

    Attributes:
        base: the model that it was made for, as its metadata or its names say; empty where nothing tells.
        foreign: that this is a model whose LoRAs have no meaningful effect here.
        dialects: how it names its tensors.
        keys: how many tensors it has.
        ranks: of its adapters of low rank, each once.
        fits: by the checkpoint's name.
    """

    file_bytes: int
    said: Said
    base: str
    foreign: bool
    dialects: tuple[str, ...]
    keys: int
    ranks: tuple[int, ...]
    fits: Mapping[str, Fit]


def names_of(transformer: Path) -> Names:
    """Those of the transformer in a folder, by the headers of its files: its matrices are its linears.

    Raises OSError, ValueError.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for file in sorted(transformer.glob("*.safetensors")):
        shapes.update(_matrices(header_of(file)))
    return written_names(shapes)


class Transformers:
    """The names of transformers by their folders; a header is read again when a file has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[Path, int, int], ...], Names] = {}

    def names(self, folders: Mapping[str, Path]) -> dict[str, Names]:
        """Of checkpoints by name, but for those whose files cannot be read."""
        found: dict[str, Names] = {}
        for name, folder in folders.items():
            with suppress(OSError, ValueError):
                files = [(file, file.stat()) for file in sorted(folder.glob("*.safetensors"))]
                key = tuple((file, status.st_size, status.st_mtime_ns) for file, status in files)
                if key not in self._known:
                    self._known[key] = names_of(folder)
                found[name] = self._known[key]
        return found


def _matrices(header: Mapping[str, Mapping[str, object]]) -> LinearShapes:
    shapes = {key.removesuffix(WEIGHT): entry.get("shape") for key, entry in header.items() if key.endswith(WEIGHT)}
    return {
        name: (int(shape[0]), int(shape[1]))
        for name, shape in shapes.items()
        if isinstance(shape, list) and len(shape) == 2
    }


def label_of(header: Header, checkpoints: Mapping[str, Names]) -> Label:
    """The label of a file, held against these checkpoints."""
    found = {name: _held(header, names) for name, names in checkpoints.items()}
    best = max(found.values(), key=lambda held: held.matched, default=_Held())
    base = base_model(header.tensors, header.metadata) or next((each.naming for each in best.dialects), "")
    return Label(
        header.size,
        said_in(header.metadata),
        base,
        bool(foreign_model(header.tensors, header.metadata)),
        tuple(each.name for each in best.dialects),
        len(header.tensors),
        _ranks(header.tensors, best),
        {name: Fit(held.matched, _problem(header, held)) for name, held in found.items()},
    )


@dataclass
class _Held:
    """A header held against names: what matches, and of each layer the factors that show the size of its delta."""

    matched: int = 0
    dialects: dict[Dialect, None] = field(default_factory=dict)
    pairs: dict[str, tuple[Layer, dict[str, str]]] = field(default_factory=dict)


def _held(header: Header, names: Names) -> _Held:
    held = _Held()
    for key in header.tensors:
        name, token = split_key(key)
        if not token or name not in names:
            continue
        layer, dialect = names[name]
        held.matched += 1
        held.dialects[dialect] = None
        kind, factor = FACTORS[token] or ("", "")
        if kind == LOW_RANK:
            held.pairs.setdefault(name, (layer, {}))[1][factor] = key
    return held


def _ranks(tensors: Mapping[str, Stored], held: _Held) -> tuple[int, ...]:
    down = (tensors[keys["down"]].matrix for _, keys in held.pairs.values() if "down" in keys)
    return tuple(sorted({shape[0] for shape in down if shape}))


def _problem(header: Header, held: _Held) -> Message | None:
    """Why a file cannot be used with a checkpoint, as far as its header shows it."""
    if not held.matched:
        return nothing_matches(header.tensors, header.metadata)
    for layer, keys in held.pairs.values():
        shape = _delta_shape(header.tensors, keys)
        if shape and shape != layer.shape:
            return layer.misfit(", ".join(map(shown_key, keys.values())), shape)
    return None


def _delta_shape(tensors: Mapping[str, Stored], keys: Mapping[str, str]) -> tuple[int, int] | None:
    """What both factors of low rank make together; None where there are not both, or one is no matrix."""
    if keys.keys() != {"down", "up"}:
        return None
    down, up = tensors[keys["down"]].matrix, tensors[keys["up"]].matrix
    return (up[0], down[1]) if len(down) == len(up) == 2 else None
