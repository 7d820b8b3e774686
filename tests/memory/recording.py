"""What a model allocates, recorded without a byte of it: on the meta device, under a mode that sees every storage.

Attention is taken as fused, which holds nothing but its result. What kernels take for themselves is not seen; of the
VAE's convolutions it can be assumed, see ``Recording.workspaces``.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SMALL_BYTES = 2**20
"""Up to here PyTorch serves from another pool, of 2 MB pieces, which all together stay small: left out."""
Step = tuple[int, int]
"""(number of a storage, its bytes when it is born or 0 when it dies)."""


class Recording(TorchDispatchMode):
    """Birth and death of every storage above ``SMALL_BYTES``, in order.

    Args:
        workspaces: cuDNN brings each convolution's input and output into another order and back, beside them. Its
            usual way with 16 bits; an assumption, and the worst that is known.

    Attributes:
        steps: what happened.
    """

    def __init__(self, workspaces: bool = False) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._workspaces, self._alive, self._births = workspaces, dict[int, int](), 0
        self._fused = _FusedAttention()

    def __enter__(self) -> Any:
        self._fused.__enter__()
        return super().__enter__()

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._fused.__exit__(*failure)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.name() in (
            "aten::item",
            "aten::_local_scalar_dense",
        ):  # a number that is asked for: as large as can be
            return 2**31 - 1
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        if self._workspaces and "conv" in function.name():
            self._pass(args[0].nbytes + result.nbytes)
        return result

    def repeat(self, forward: Callable[[Tensor], Tensor], left_out: Collection[int] = ()) -> Callable[[Tensor], Tensor]:
        """``forward``, computed once for each shape; from then on what it allocated is written down again. Of the calls
        ``left_out``, counted from 0, only the result is, since they come between others like them."""
        seen: dict[torch.Size, tuple[list[Step], int, torch.Size]] = {}
        calls = count()

        def run(x: Tensor) -> Tensor:
            call = next(calls)
            if x.shape in seen:
                steps, output, shape = seen[x.shape]
                return x.new_empty(shape) if call in left_out else self._again(x, steps, output, shape)
            before = len(self.steps)
            result = forward(x)
            output = self._alive.get(result.untyped_storage()._cdata, -1)
            seen[x.shape] = self.steps[before:], output, result.shape
            return result

        return run

    def _again(self, x: Tensor, steps: list[Step], output: int, shape: torch.Size) -> Tensor:
        numbers: dict[int, int] = {}
        result = x.new_empty(shape) if output < 0 else x
        for number, size in steps:
            if number == output:
                result = x.new_empty(shape)
            elif size:
                numbers[number] = self._born(size)
            else:
                self.steps.append((numbers.pop(number), 0))
        return result

    @property
    def held(self) -> int:
        """The most bytes that were alive at once."""
        alive, now, most = dict[int, int](), 0, 0
        for number, size in self.steps:
            now += size or -alive.pop(number)
            alive[number] = size
            most = max(most, now)
        return most

    def _see(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if storage.nbytes() <= SMALL_BYTES or address in self._alive:
            return
        self._alive[address] = self._births
        weakref.finalize(storage, self._gone, address).atexit = False
        self._born(storage.nbytes())

    def _born(self, size: int) -> int:
        self.steps.append((self._births, size))
        self._births += 1
        return self._births - 1

    def _gone(self, address: int) -> None:
        self.steps.append((self._alive.pop(address), 0))

    def _pass(self, size: int) -> None:
        if size > SMALL_BYTES:
            self.steps.append((self._born(size), 0))


class _FusedAttention(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.scaled_dot_product_attention:
            query, _, value = args[:3] if len(args) > 2 else [kwargs[name] for name in ("query", "key", "value")]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return function(*args, **(kwargs or {}))


def record(work: Callable[[], Any], workspaces: bool = False) -> Recording:
    """Of what ``work`` allocates; its result is let go."""
    with torch.inference_mode(), Recording(workspaces) as recording:
        work()
    return recording
