"""A table in the place of the modulation linears, a quarter of the 13B transformer's weights.

Within a section every modulation linear sees one vector per step, made of timestep, guidance and pooled text. So its
outputs are computed once for each such vector, and the weights need not be on the device, nor in RAM when they can be
read from the checkpoint's files again. Each row is computed by the same operation on the same shapes as the model
would, so that not one bit differs.

    table = tabulate(transformer, Shards(folder))
    table.prepare(denoiser.time_inputs(sigmas))     # before a section; without it rows are made when they are met

Shapes: B batch, D width of the transformer, O outputs of a linear (6 D or 3 D).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from .transformer import FramePackTransformer

log = logging.getLogger(__name__)

ROWS_MAX = 256
"""Steps times branches of one request; a row of the 13B transformer is 2 MB."""


class Change(Protocol):
    """What is added to a linear's outputs y [B, O] for its inputs x [B, D]; it may overwrite y."""

    def __call__(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor: ...


class TabulatedLinear(nn.Module):
    """Gives the output that was selected for this step; what it is called with has been looked up already."""

    def __init__(self) -> None:
        super().__init__()
        self.output: Tensor | None = None

    def forward(self, modulation: Tensor) -> Tensor:
        """[B, O], for [B, D]."""
        if self.output is None:
            raise RuntimeError("no row of the modulation table is selected")
        return self.output


def modulation_linears(transformer: FramePackTransformer) -> dict[str, nn.Module]:
    """Name -> the linear of each adaptive norm within the blocks, or what stands in its place."""
    return {
        f"{prefix}.{number}.{name}.linear": norm.linear
        for prefix in ("transformer_blocks", "single_transformer_blocks")
        for number, block in enumerate(getattr(transformer, prefix))
        for name, norm in block.named_children()
        if name.startswith("norm") and hasattr(norm, "linear")
    }


def tabulate(transformer: FramePackTransformer, weights: Mapping[str, Tensor] | None = None) -> ModulationTable:
    """Put a table in the place of the modulation linears; before the blocks are swapped.

    Args:
        weights: name -> tensor, asked again for every table; the linears' own, kept in RAM, when left out.
    """
    linears = modulation_linears(transformer)
    if weights is None:
        weights = {
            f"{name}.{key}": value.detach().cpu()
            for name, linear in linears.items()
            for key, value in linear.named_parameters()
        }
    for name in linears:
        transformer.get_submodule(name.rpartition(".")[0]).linear = TabulatedLinear()
    table = ModulationTable(transformer, weights)
    transformer.modulation = table
    return table


class ModulationTable:
    """Rows of outputs, by the content of the vector that they belong to: no stale row can be used."""

    def __init__(self, transformer: FramePackTransformer, weights: Mapping[str, Tensor]) -> None:
        self._transformer, self._weights = transformer, weights
        self._linears = {
            name: linear
            for name, linear in modulation_linears(transformer).items()
            if isinstance(linear, TabulatedLinear)
        }
        self._rows: OrderedDict[bytes, tuple[Tensor, ...]] = OrderedDict()
        self._changes: Mapping[str, Change] = {}
        self.rows_made = 0

    @property
    def nbytes(self) -> int:
        """What the rows take of the device."""
        return sum(output.nbytes for row in self._rows.values() for output in row)

    def read_from(self, weights: Mapping[str, Tensor]) -> None:
        """From now on the linears' weights are these, name -> tensor; every row is made anew."""
        self._weights = weights
        self._rows.clear()

    def change(self, changes: Mapping[str, Change]) -> None:
        """From now on the outputs are those of changed linears, by name; every row is made anew."""
        self._changes = dict(changes)
        self._rows.clear()

    @torch.inference_mode()
    def prepare(self, inputs: Iterable[Mapping[str, Tensor | None]]) -> None:
        """Make the rows of coming steps, reading every weight once; rows of other requests go.

        Args:
            inputs: of each step and branch: timestep, pooled_projections, guidance, as the model is given them.
        """
        vectors = {_key(vector): vector for vector in map(self._vector, inputs)}
        self._rows = OrderedDict((key, row) for key, row in self._rows.items() if key in vectors)
        missing = {key: vector for key, vector in vectors.items() if key not in self._rows}
        self._make(missing)

    def select(self, temb: Tensor) -> None:
        """Let every linear give its outputs for ``temb``, [B, D]."""
        samples = {_key(vector): vector for vector in temb.split(1)}
        self._make({key: vector for key, vector in samples.items() if key not in self._rows})
        keys = [_key(vector) for vector in temb.split(1)]
        for key in keys:
            self._rows.move_to_end(key)
        outputs = zip(*(self._rows[key] for key in keys), strict=True)
        for linear, output in zip(self._linears.values(), outputs, strict=True):
            linear.output = output[0] if len(output) == 1 else torch.cat(output)
        while len(self._rows) > ROWS_MAX:
            self._rows.popitem(last=False)

    def _vector(self, given: Mapping[str, Tensor | None]) -> Tensor:
        """[1, D], as the transformer computes it."""
        timestep, pooled, guidance = (given[name] for name in ("timestep", "pooled_projections", "guidance"))
        vector: Tensor = self._transformer.time_text_embed(timestep, pooled, guidance)[0]
        return vector

    def _make(self, vectors: Mapping[bytes, Tensor]) -> None:
        """One row per vector; every weight goes to the device once."""
        if not vectors:
            return
        log.info("modulation table: %d rows", len(vectors))
        inputs = [functional.silu(vector) for vector in vectors.values()]
        columns = [self._outputs(name, inputs) for name in self._linears]
        self._rows.update(zip(vectors, zip(*columns, strict=True), strict=True))
        self.rows_made += len(vectors)

    def _outputs(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """[1, O] of one linear for each input [1, D]; never as one batch, which would round differently."""
        weight, bias = (self._weights[f"{name}.{part}"].to(inputs[0]) for part in ("weight", "bias"))
        outputs = [functional.linear(vector, weight, bias) for vector in inputs]
        change = self._changes.get(name)
        return [change(x, y, weight) for x, y in zip(inputs, outputs, strict=True)] if change else outputs


def _key(vector: Tensor) -> bytes:
    return bytes(vector.detach().cpu().contiguous().view(torch.uint8).numpy())
