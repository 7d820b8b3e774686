"""Compiled blocks in training, by the names under which accelerate knows PyTorch's compiler (TorchDynamo)."""

from __future__ import annotations

from dataclasses import dataclass

from accelerate.utils import DynamoBackend, TorchDynamoPlugin

from ..errors import InvalidRequest
from ..models.transformer import FramePackTransformer
from ..names import quoted

NONE = "no"


@dataclass(frozen=True)
class DynamoOptions:
    """How blocks are compiled.

    Attributes:
        backend: what compiles; "no" for nothing.
        mode: default, reduce-overhead or max-autotune; None leaves it to the back end.
        fullgraph: refuse what would fall back to Python within a block.
        dynamic: one code for all sizes; where it is false, each size is compiled.
    """

    backend: str = NONE
    mode: str | None = None
    fullgraph: bool = False
    dynamic: bool = False

    @property
    def acts(self) -> bool:
        """Whether anything is compiled."""
        return self.backend != NONE

    def compile(self, transformer: FramePackTransformer) -> None:
        """From its next call on, each block runs as it is compiled: swapped blocks and activations that are made again
        stay outside."""
        if not self.acts:
            return
        plugin = TorchDynamoPlugin(
            backend=self.backend.upper(), mode=self.mode, fullgraph=self.fullgraph, dynamic=self.dynamic
        )
        for block in transformer.blocks:
            block.compile(**plugin.to_kwargs())


def backend_named(name: str) -> str:
    """The back end in small letters. Raises InvalidRequest where accelerate knows none of that name."""
    known = [each.value.lower() for each in DynamoBackend]
    if name.lower() not in known:
        raise InvalidRequest(f"dynamo_backend: {quoted(name)} is not known; known are {', '.join(known)}")
    return name.lower()
