"""Where tensors stay that are made on a device one after the other: on it, as far as it has room, and the rest in RAM.

Two ways to go on when it is full; the tensors are the same. Their names are those of PlusOne's program, which users
know. What becomes of the tensors afterwards is the placement's matter (placement.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from . import tensors, vram

CPU = torch.device("cpu")


class Filling(ABC):
    """Named tensors, on the device and at home in RAM.

    Attributes:
        there: on the device.
        home: in RAM; whoever has these elsewhere may clear it.
    """

    def __init__(
        self,
        device: torch.device,
        preserved_bytes: int = 0,
        free: Callable[[torch.device], int] = vram.unused_bytes,
        moved: Callable[[Tensor, torch.device], Tensor] = tensors.moved,
    ) -> None:
        """``preserved_bytes``: the device is full when no more than these are ``free``, the working memory of whoever
        makes the next tensor included."""
        self._device, self._preserved, self._free, self._moved = device, preserved_bytes, free, moved
        self.there: dict[str, Tensor] = {}
        self.home: dict[str, Tensor] = {}

    def put(self, name: str, tensor: Tensor) -> None:
        """The next tensor, wherever it was made."""
        if self._device.type == "cpu":
            self.home[name] = tensor
        else:
            self._put(name, tensor)

    @abstractmethod
    def _put(self, name: str, tensor: Tensor) -> None: ...

    @property
    def _is_full(self) -> bool:
        return self._free(self._device) <= self._preserved

    def _send_home(self, name: str, tensor: Tensor) -> None:
        self.home[name] = self._moved(tensor, CPU)

    def all(self) -> dict[str, Tensor]:
        """Every tensor, wherever it is."""
        return {**self.home, **self.there}


class KeepUntilFull(Filling):
    """Once the device is full, everything that comes goes home, whatever is free then: the first tensors stay there,
    and nothing moves back."""

    _was_full = False

    def _put(self, name: str, tensor: Tensor) -> None:
        self._was_full = self._was_full or self._is_full
        if self._was_full:
            self._send_home(name, tensor)
        else:
            self.there[name] = self._moved(tensor, self._device)


class Rotate(Filling):
    """Each time the device is full, all that is there goes home, and filling begins again: the last tensors stay
    there. Only what finds it full even so goes home itself."""

    def _put(self, name: str, tensor: Tensor) -> None:
        if self._is_full:
            for each in tuple(self.there):
                self._send_home(each, self.there.pop(each))
            vram.empty_cache()
        if self._is_full:
            self._send_home(name, tensor)
        else:
            self.there[name] = self._moved(tensor, self._device)


FILLINGS: Mapping[str, type[Filling]] = {each.__name__: each for each in (KeepUntilFull, Rotate)}
"""By the name that the settings have for it."""
