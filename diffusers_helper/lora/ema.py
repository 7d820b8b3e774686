"""Post-hoc EMA: several files of one training become their average, one tensor after the other.

Arithmetic is float32. The result has the first file's names, shapes and dtypes, and the last file's metadata. What is
no weight is the first file's: alphas, which must be the same in all, and tensors that hold no floats. No file is ever
in memory as a whole: of each only the tensor whose turn it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UnusableInput
from ..media.files import require_space, require_writable, written_whole
from ..models.streamed_file import Layout
from ..names import shown
from ..words import Message
from .shares import Profile, shares
from .shelf import SUFFIX
from .streamed import write_streamed

ALPHA = ".alpha"
FEWEST = 2
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Averaged:
    """What was made.

    Attributes:
        shares: (file, what it counts), the oldest first; together 1.
        kept: tensors that hold no floats, which are the first file's.
    """

    output: Path
    shares: tuple[tuple[Path, float], ...]
    kept: tuple[str, ...]


def by_age(files: Sequence[Path]) -> list[Path]:
    """The one that was changed longest ago first. Raises UnusableInput for one that cannot be read."""
    return sorted(files, key=_changed)


def _changed(file: Path) -> int:
    with _readable(file):
        return file.stat().st_mtime_ns


def average(files: Sequence[Path], output: Path, profile: Profile) -> Averaged:
    """Write the average of ``files``, in their order, to ``output``: whole or not at all.

    Raises:
        UnusableInput: fewer than two files, or one that is none, is damaged or does not fit the first; names file and
            key. Also where ``output`` is one of them: a file of the training would be lost.
        OutputFailed: it cannot be written.
    """
    _check_names(files, output)
    betas = profile.betas(len(files))
    with ExitStack() as opened:
        sources = [opened.enter_context(_Source(file)) for file in files]
        first, *others = sources
        for other in others:
            other.require_like(first)
        require_writable(output)
        require_space(output.absolute().parent, files[0].stat().st_size)
        with written_whole(output) as part:
            tensors = (_averaged(name, sources, betas) for name in first.layout)
            write_streamed(part, first.layout, sources[-1].metadata, tensors)
        return Averaged(output, tuple(zip(files, shares(betas), strict=True)), tuple(first.kept()))


def _check_names(files: Sequence[Path], output: Path) -> None:
    if len(files) < FEWEST:
        raise UnusableInput(Message("ema.one_file"))
    for file in files:
        if file.suffix.lower() != SUFFIX:
            raise UnusableInput(Message("ema.no_safetensors", file=shown(file)))
    if output.suffix.lower() != SUFFIX:
        raise UnusableInput(Message("ema.output_name", file=shown(output)))
    if output.exists() and any(file.exists() and file.samefile(output) for file in files):
        raise UnusableInput(Message("ema.output_is_input", file=shown(output)))


def _averaged(name: str, sources: Sequence[_Source], betas: Sequence[float]) -> Tensor:
    """One tensor of the result: W = beta * W + (1 - beta) * V for each file after the first, in float32."""
    first = sources[0].tensor(name)
    if name.endswith(ALPHA) or not first.is_floating_point():
        return first
    mean = first.to(torch.float32, copy=True)
    for source, beta in zip(sources[1:], betas, strict=True):
        mean.mul_(beta).add_(source.tensor(name).to(torch.float32), alpha=1 - beta)
    return mean.to(first.dtype)


class _Source:
    """One of the files, open. Raises UnusableInput, naming it.

    Attributes:
        layout: its tensors, in the order in which they lie in it.
    """

    def __init__(self, file: Path) -> None:
        self.name = shown(file)
        self._file = file
        self._opened: Any = None
        self.layout: Layout = {}
        self.metadata: Mapping[str, str] = {}

    def __enter__(self) -> _Source:
        with _readable(self._file):
            self._opened = safe_open(self._file, "pt").__enter__()
            self.metadata = self._opened.metadata() or {}
            self.layout = {name: self._entry(name) for name in self._opened.offset_keys()}
        return self

    def __exit__(self, *failure: object) -> None:
        self._opened.__exit__(*failure)

    def _entry(self, name: str) -> tuple[str, Shape, int]:
        tensor = self._opened.get_tensor(name)
        return self._opened.get_slice(name).get_dtype(), tuple(tensor.shape), tensor.nbytes

    def tensor(self, name: str) -> Tensor:
        """As it is in the file, of which it is a view; refused where a number is none."""
        with _readable(self._file):
            found: Tensor = self._opened.get_tensor(name)
        if found.is_floating_point() and not torch.isfinite(found.float()).all():
            raise UnusableInput(Message("ema.no_numbers", file=self.name, key=name))
        return found

    def kept(self) -> Iterator[str]:
        """The tensors that hold no floats, alphas left out."""
        return (name for name in self.layout if not name.endswith(ALPHA) and not self.tensor(name).is_floating_point())

    def require_like(self, first: _Source) -> None:
        """The same names, shapes and alphas as ``first``."""
        for name in sorted(first.layout.keys() ^ self.layout.keys()):
            lacking, having = (self, first) if name in first.layout else (first, self)
            raise UnusableInput(Message("ema.key_missing", file=lacking.name, key=name, other=having.name))
        for name in first.layout:
            self._require_shape(name, first)
            if name.endswith(ALPHA):
                self._require_alpha(name, first)

    def _require_shape(self, name: str, first: _Source) -> None:
        own, expected = (source.layout[name][1] for source in (self, first))
        if own != expected:
            sizes = {"shape": str(own), "expected": str(expected), "other": first.name}
            raise UnusableInput(Message("ema.other_shape", file=self.name, key=name, **sizes))

    def _require_alpha(self, name: str, first: _Source) -> None:
        own, expected = (source.tensor(name).float() for source in (self, first))
        if not torch.allclose(own, expected):
            values = {"alpha": own.tolist(), "expected": expected.tolist(), "other": first.name}
            raise UnusableInput(Message("ema.other_alpha", file=self.name, key=name, **values))


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """What cannot be read, is cut off, or is another kind of file, as an error that names it."""
    try:
        yield
    except OSError as error:
        raise UnusableInput(Message("files.not_read", file=shown(file), reason=error.strerror or str(error))) from None
    except SafetensorError as error:
        raise UnusableInput(Message("files.damaged", file=shown(file), reason=str(error))) from None
