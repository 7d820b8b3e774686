"""A LoRA out of a file of any dialect: whatever can be found wrong in its header is found before a weight is read.

A *sketch* is an adapter that has not been read: where its factors lie. Made on the meta device, it is checked and
counted; read, it is the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from ..words import Message
from .adapters import Adapter, Dense, Dora, LoHa, LoKr, LowRank, Pair
from .dialects import DORA, FACTORS, LOW_RANK, OF_EACH, Dialect, split_key, written_names
from .file import DTYPES, LoraFile, open_lora, refused, shown_key
from .layers import Layer, LinearShapes, Part
from .origin import nothing_matches
from .peft_config import PeftConfig, read_config

Keys = Mapping[str, str]
"""Factor -> key in the file."""
ALPHA = "alpha"
KINDS: Mapping[str, type[Adapter]] = {of.kind: of for of in (LowRank, Dora, LoHa, LoKr, Dense)}


@dataclass(frozen=True)
class Sketch:
    """An adapter that has not been read: its kind, where its factors are, and which rows it has of the layer there."""

    kind: type[Adapter]
    keys: Keys
    alpha: float | None
    layer: Layer
    part: Part

    def made(self, read: Callable[[str], Tensor]) -> Adapter:
        """The adapter of the factors that ``read`` gives. Raises ValueError where they do not fit together."""
        factors = {name: read(key) for name, key in self.keys.items()}
        whole = self.kind(alpha=self.alpha, **factors)
        return whole if self.part.rows == ((0, self.layer.shape[0]),) else whole.rows(self.part.rows)


@dataclass(frozen=True)
class StoredAdapters(Mapping[str, Adapter]):
    """Module -> adapter, read each time it is asked for; raises UnusableLora where a weight is NaN or infinite."""

    file: LoraFile
    sketches: Mapping[str, Sketch]

    def __getitem__(self, module: str) -> Adapter:
        return self.sketches[module].made(self.file.read)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sketches)

    def __len__(self) -> int:
        return len(self.sketches)


@dataclass(frozen=True)
class LoRA:
    """What a file adds to a transformer.

    Attributes:
        adapters: diffusers' name of the module -> what is added to it; read when asked for.
        outline: the same on the meta device: kinds, shapes, ranks, alphas and bytes without reading.
        metadata: what the file says of itself.
        unmatched: keys that name nothing in this transformer, and have no effect.
        dialects: how it names its tensors; usually one.
        keys: how many tensors the file has.
    """

    path: Path
    file_bytes: int
    adapters: Mapping[str, Adapter]
    outline: Mapping[str, Adapter]
    metadata: Mapping[str, str]
    unmatched: tuple[str, ...]
    dialects: tuple[str, ...]
    keys: int


@dataclass
class _Group:
    """The tensors of one layer, as a file names it."""

    layer: Layer
    dialect: Dialect
    kinds: set[str] = field(default_factory=set)
    keys: dict[str, str] = field(default_factory=dict)

    def kind(self) -> type[Adapter] | None:
        """The one kind that all its factors belong to, alpha to each; None for several, or alpha alone."""
        kinds = self.kinds - {OF_EACH}
        if DORA in kinds:
            kinds -= {LOW_RANK}
        return KINDS[kinds.pop()] if len(kinds) == 1 else None


class _ProblemError(Exception):
    """What is wrong with a layer's tensors."""

    def __init__(self, said: Message) -> None:
        super().__init__(str(said))
        self.said = said


@dataclass
class _Findings:
    """What a header says, held against a transformer."""

    file: LoraFile
    sketches: dict[str, Sketch] = field(default_factory=dict)
    outline: dict[str, Adapter] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    problems: list[Message] = field(default_factory=list)
    dialects: dict[str, None] = field(default_factory=dict)


def read_lora(path: Path, shapes: LinearShapes) -> LoRA:
    """The LoRA in a file, for a transformer with these linears.

    Raises:
        UnusableLora: at once, for all that the header shows, and where it names none of the linears; for NaN and
            infinite weights when they are read. Names the file and the key.
    """
    return read_fitting(path, {"": shapes})[1]


def read_fitting(path: Path, transformers: Mapping[str, LinearShapes]) -> tuple[str, LoRA]:
    """The LoRA in a file, for that of several transformers which it fits best; the first of equals. See read_lora."""
    file = open_lora(path)
    found = {name: _examine(file, shapes) for name, shapes in transformers.items()}
    best = max(found, key=lambda name: (len(found[name].sketches), -len(found[name].unmatched)))
    return best, _sound(found[best])


def _sound(found: _Findings) -> LoRA:
    file = found.file
    if found.problems:
        raise refused(file.path, found.problems[0])
    if not found.sketches:
        raise refused(file.path, nothing_matches(file.tensors, file.metadata))
    return LoRA(
        file.path,
        file.size,
        StoredAdapters(file, found.sketches),
        found.outline,
        file.metadata,
        tuple(found.unmatched),
        tuple(found.dialects),
        len(file.tensors),
    )


def _examine(file: LoraFile, shapes: LinearShapes) -> _Findings:
    found = _Findings(file)
    try:
        config = read_config(file.metadata)
    except ValueError as error:
        found.problems.append(Message("lora.config", reason=str(error)))
        return found
    for group in _grouped(found, shapes).values():
        found.dialects[group.dialect.name] = None
        try:
            _add(found, group, config)
        except _ProblemError as problem:
            found.problems.append(problem.said)
    return found


def _grouped(found: _Findings, shapes: LinearShapes) -> dict[str, _Group]:
    """The tensors by layer; keys that name none are noted."""
    names, groups = written_names(shapes), dict[str, _Group]()
    for key in found.file.tensors:
        name, token = split_key(key)
        if not token or name not in names:
            found.unmatched.append(key)
            continue
        factor = FACTORS[token]
        if factor is None:
            found.problems.append(Message("lora.unknown_factor", key=shown_key(key)))
            continue
        group = groups.setdefault(name, _Group(*names[name]))
        kind, field_name = factor
        group.kinds.add(kind)
        if (other := group.keys.setdefault(field_name, key)) != key:
            found.problems.append(_twice(other, key))
    return groups


def _add(found: _Findings, group: _Group, config: PeftConfig) -> None:
    """Note the adapters of a group, one for each part of its layer."""
    whole = _whole(found.file, group, config)
    for part in group.layer.parts:
        sketch = replace(whole, part=part)
        if (other := found.sketches.setdefault(part.module, sketch)) is not sketch:
            raise _ProblemError(_twice(next(iter(other.keys.values())), next(iter(sketch.keys.values()))))
        found.outline[part.module] = sketch.made(found.file.empty)


def _whole(file: LoraFile, group: _Group, config: PeftConfig) -> Sketch:
    """The adapter of the whole layer, as the file has it. Raises _ProblemError."""
    layer, kind = group.layer, group.kind()
    factors = {name: key for name, key in group.keys.items() if name != ALPHA}
    if kind is None:
        raise _ProblemError(Message("lora.incomplete", keys=_listed(file, group.keys)))
    for key in factors.values():
        if file.tensors[key].dtype not in DTYPES:
            raise _ProblemError(Message("lora.no_numbers", key=shown_key(key), dtype=file.tensors[key].dtype))
    alpha = _alpha(file, group.keys[ALPHA]) if ALPHA in group.keys else None
    whole = Sketch(kind, factors, alpha, layer, Part(layer.name, ((0, layer.shape[0]),)))
    try:
        outline = whole.made(file.empty)
    except (ValueError, TypeError):
        raise _ProblemError(Message("lora.incomplete", keys=_listed(file, group.keys))) from None
    if outline.shape != layer.shape:
        raise _ProblemError(layer.misfit(_listed(file, factors), outline.shape))
    if isinstance(outline, Pair) and alpha is None:
        return replace(whole, alpha=config.alpha_of(layer.name, outline.rank))
    return whole


def _alpha(file: LoraFile, key: str) -> float:
    """Raises _ProblemError for what is no number of 0 or more."""
    shape = file.tensors[key].shape
    value = float(file.read(key)) if math.prod(shape) == 1 else None
    if value is None or value < 0:
        told = f"of shape {list(shape)}" if value is None else f"{value:g}"
        raise _ProblemError(Message("lora.alpha", key=shown_key(key), value=told))
    return value


def _twice(first: str, second: str) -> Message:
    return Message("lora.twice", first=shown_key(first), second=shown_key(second))


def _listed(file: LoraFile, keys: Keys) -> str:
    return ", ".join(f"{shown_key(key)} {list(file.tensors[key].shape)}" for key in keys.values())
