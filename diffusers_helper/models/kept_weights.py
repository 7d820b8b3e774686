"""Weights that are made of a checkpoint's, quantised or changed: tensor by tensor, and from a file the second time.

They are written while they are made, and read from the file then, mapped: so RAM holds one of them at a time. Only
where the file cannot be kept, all are held. Modulation linears are in no quantised file: they are not quantised, and
with a modulation table nothing holds them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import OutOfMemory, OutputFailed
from ..media.files import make_folder, remove_partials, require_space, written_whole
from ..memory.costs import SPARE_RAM
from ..memory.filling import Filling
from ..memory.host import read_ram
from ..words import Message
from .fill import shaped
from .modulation import modulation_linears
from .quantise import QuantisedLinear
from .shards import WeightSource
from .streamed_file import content, header, layout_of
from .transformer import FramePackTransformer

log = logging.getLogger(__name__)

FORMAT = "1"
ALIGNMENT_BYTES = 64
"""Of tensors in memory and, where their sizes allow it, in the file: a processor's kernels may round differently for
others."""
T = TypeVar("T")
Made = Generator[float, None, T]
"""Work that yields how much of it is done, from 0 to 1."""


@dataclass(frozen=True)
class Keeping:
    """A file for made weights, in a folder of such files.

    Attributes:
        limit_bytes: of all files of the folder; those go first whose last use is longest ago. None keeps all.
    """

    file: Path
    limit_bytes: int | None = None

    def make_room(self, size: int) -> None:
        """For ``size`` bytes on the disk and within the limit. Raises OutputFailed where that cannot be."""
        folder = make_folder(self.file.parent)
        if self.limit_bytes is not None:
            if size > self.limit_bytes:
                sizes = {"size": size, "limit": self.limit_bytes}
                raise OutputFailed(Message("weights.above_limit", folder=str(folder), **sizes))
            remove_partials(folder)
            self._let_go(self.limit_bytes - size)
        require_space(folder, size)

    def _let_go(self, limit: int) -> None:
        """Another process may do the same meanwhile, and a file that a program has in use may not go."""
        sizes = {file: size for file in self.file.parent.glob("*.safetensors") if (size := _size(file)) is not None}
        for oldest in sorted(sizes, key=_last_use):
            if sum(sizes.values()) <= limit:
                return
            with suppress(OSError):
                oldest.unlink(missing_ok=True)
                del sizes[oldest]
                log.info("%s has gone: it was used last of all, and more than the limit would be kept", oldest)


def _size(file: Path) -> int | None:
    """None where it has gone."""
    try:
        return file.stat().st_size
    except OSError:
        return None


def _last_use(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def quantised_folder(models_dir: Path) -> Path:
    """Where quantised weights are kept."""
    return models_dir / "quantised"


def changed_folder(models_dir: Path) -> Path:
    """Where changed weights are kept, quantised or not."""
    return models_dir / "merged"


def kept_bytes(cache: Path, fingerprint: str) -> int:
    """What earlier starts have kept of a checkpoint."""
    return sum(file.stat().st_size for file in cache.glob(f"{fingerprint}-*.safetensors"))


def kept_file(cache: Path, fingerprint: str, precision: str, dtype: torch.dtype) -> Path:
    """Where in ``cache`` the made weights of a content are kept; ``dtype`` is that of what is not quantised."""
    return cache / f"{fingerprint}-{precision}-{str(dtype).removeprefix('torch.')}-{FORMAT}.safetensors"


def made_slots(transformer: FramePackTransformer, changed: Collection[str] = ()) -> dict[str, Tensor]:
    """What of an empty transformer's tensors the checkpoint's files do not hold as they are.

    Args:
        changed: names of weights that a ``WeightChange`` changes.
    """
    slots = transformer.state_dict()
    if any(isinstance(module, QuantisedLinear) for module in transformer.modules()):
        modulation = tuple(f"{name}." for name in modulation_linears(transformer))
        return {name: slot for name, slot in slots.items() if not name.startswith(modulation)}
    return {name: slot for name, slot in slots.items() if name in changed}


def made_weights(
    transformer: FramePackTransformer,
    source: WeightSource,
    folder: Path,
    slots: Mapping[str, Tensor],
    keeping: Keeping | None,
    filling: Filling,
) -> Made[dict[str, Tensor]]:
    """The tensors for ``slots``, see ``made_slots``, of an empty transformer; yields while they are made.

    Args:
        folder: where ``source`` comes from, for errors.
        keeping: where they are kept for the next time; None keeps nothing.
        filling: what stays on the device that they are made on.

    Raises:
        UnusableCheckpoint: the source is damaged, of another model, or has 8 bits already.
        OutOfMemory: they cannot be kept, and RAM has no room for them.
    """
    kept = None if keeping is None else _from_file(keeping.file, slots)
    if kept is not None:
        return kept
    log.info("making the weights of %s", folder)
    if keeping is not None:
        try:
            return (yield from _through_file(_made(source, transformer, folder, slots), slots, keeping, filling))
        except (OutputFailed, SafetensorError) as error:
            log.warning("the weights are not kept: %s", error)
    return (yield from _in_memory(_made(source, transformer, folder, slots), slots, filling))


def _through_file(
    made: Iterator[tuple[str, Tensor]], slots: Mapping[str, Tensor], keeping: Keeping, filling: Filling
) -> Made[dict[str, Tensor]]:
    """Each is written while the next is made. Raises OutputFailed."""
    head = header(layout_of(slots), {}, ALIGNMENT_BYTES)
    keeping.make_room(len(head) + sum(slot.nbytes for slot in slots.values()))
    with written_whole(keeping.file) as part, part.open("wb") as opened, ThreadPoolExecutor(1) as writer:
        writing = writer.submit(opened.write, head)
        for number, (name, tensor) in enumerate(made, start=1):
            writing.result()
            writing = writer.submit(opened.write, content(tensor))
            filling.put(name, tensor)
            filling.home.clear()
            yield number / len(slots)
        writing.result()
    kept = _from_file(keeping.file, slots)
    if kept is None:  # another process has removed it meanwhile
        raise OutputFailed(Message("files.not_written", file=str(keeping.file), reason=Message("weights.gone")))
    return {**kept, **filling.there}


def _in_memory(
    made: Iterator[tuple[str, Tensor]], slots: Mapping[str, Tensor], filling: Filling
) -> Made[dict[str, Tensor]]:
    needed, free = sum(slot.nbytes for slot in slots.values()), read_ram().free
    if needed + SPARE_RAM > free:
        raise OutOfMemory(Message("weights.no_room", needed=needed, free=free))
    for number, (name, tensor) in enumerate(made, start=1):
        filling.put(name, tensor)
        yield number / len(slots)
    return filling.all()


def _made(
    source: WeightSource, transformer: FramePackTransformer, folder: Path, slots: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor, in the order of ``slots``, wherever the source has it."""
    for name, slot in slots.items():
        module_name, _, part = name.rpartition(".")
        module = transformer.get_submodule(module_name)
        if part == "scale" and isinstance(module, QuantisedLinear):
            continue  # made with the codes, which come before it
        if part == "codes" and isinstance(module, QuantisedLinear):
            codes, scale = module.encode(shaped(source, f"{module_name}.weight", slot.shape, folder))
            yield name, codes
            yield f"{module_name}.scale", scale
        else:
            yield name, shaped(source, name, slot.shape, folder).to(slot.dtype)


def _from_file(file: Path, slots: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The weights of an earlier time, mapped; None when there are none, or not these."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        log.warning("%s is damaged (%s); it is made again", file, error)
        return None
    if {name: (each.shape, each.dtype) for name, each in weights.items()} != _kinds(slots):
        log.warning("%s is of another model; it is made again", file)
        return None
    log.info("weights from %s", file)
    with suppress(OSError):
        os.utime(file)
    return weights


def _kinds(slots: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (slot.shape, slot.dtype) for name, slot in slots.items()}
