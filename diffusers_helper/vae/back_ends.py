"""What compiles the upper part of the decoder, and loads it again: PyTorch's AOTInductor, or torch-tensorrt.

Both take the same exported program and make one file of it that holds no weights, for one shape and one kind of device.
Neither is asked for anything before a setting asks for it: torch-tensorrt need not be installed.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from ..words import Message
from .upper import Given

Compiled: TypeAlias = Callable[[Sequence[Tensor], Tensor, Sequence[Tensor]], Sequence[Tensor]]
"""``PureUpperPart`` for one shape. It must be given no other one: some would answer with a tensor of a wrong size."""
TENSORRT = "torch_tensorrt"


class BackEnd(Protocol):
    """A compiler of one kind."""

    @property
    def name(self) -> str:
        """As files keep it."""

    def version(self) -> str:
        """Of its libraries: a file serves no other one."""

    def why_not(self, device: torch.device) -> Message | None:
        """What of its own it lacks to work for ``device``; None when nothing."""

    def compile(self, program: Any, given: Given, file: Path) -> None:
        """Make ``file``, whose suffix is .pt2, of an exported program that takes what ``given`` is like."""

    def load(self, file: Path) -> Compiled:
        """What ``compile`` has made; the file is not needed after that."""


class AOTInductor:
    """PyTorch's own, for CPUs and GPUs. It wants a C++ compiler."""

    name = "aot_inductor"

    def version(self) -> str:
        """See BackEnd."""
        return ""

    def why_not(self, device: torch.device) -> Message | None:
        """See BackEnd; what compilers need is asked where the transformer's blocks are compiled, too."""
        return None

    def compile(self, program: Any, given: Given, file: Path) -> None:
        """See BackEnd."""
        torch._inductor.aoti_compile_and_package(program, package_path=str(file))

    def load(self, file: Path) -> Compiled:
        """See BackEnd. It is told to check its inputs too, which it does only when the environment says so."""
        os.environ.setdefault("AOTI_RUNTIME_CHECK_INPUTS", "1")
        return torch._inductor.aoti_load_package(str(file))


class TensorRT:
    """NVIDIA's, by the package torch-tensorrt."""

    name = "tensorrt"

    def version(self) -> str:
        """See BackEnd."""
        return metadata.version("torch-tensorrt")

    def why_not(self, device: torch.device) -> Message | None:
        """See BackEnd."""
        if find_spec(TENSORRT) is None:
            return Message("compiled.no_tensorrt", version=torch.__version__.partition("+")[0])
        return None if device.type == "cuda" else Message("compiled.no_gpu")

    def compile(self, program: Any, given: Given, file: Path) -> None:
        """See BackEnd."""
        package = importlib.import_module(TENSORRT)
        compiled = package.dynamo.compile(program, arg_inputs=tuple(given), truncate_double=True)
        package.save(compiled, str(file), output_format="exported_program", arg_inputs=tuple(given))

    def load(self, file: Path) -> Compiled:
        """See BackEnd. The package must be there, so that PyTorch knows its operations."""
        importlib.import_module(TENSORRT)
        return torch.export.load(str(file)).module()


BACK_ENDS: dict[str, type[BackEnd]] = {each.name: each for each in (AOTInductor, TensorRT)}
