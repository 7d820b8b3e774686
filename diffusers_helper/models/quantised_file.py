"""Loading the transformer quantised, tensor by tensor, and from a file of its own the second time.

The checkpoint's files are read one tensor at a time, so RAM holds the quantised model and one tensor. The result is
kept in one safetensors file, named by the content of the checkpoint. The modulation linears are not in it: they are not
quantised, and with a modulation table nothing holds them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import OutputFailed, UnusableCheckpoint
from ..media.files import make_folder, require_space, written_whole
from .modulation import modulation_linears, tabulate
from .quantise import KINDS, Quantisation, QuantisedLinear, quantise
from .shards import Shards
from .transformer import FramePackTransformer

log = logging.getLogger(__name__)

FORMAT = "1"


def quantised_folder(models_dir: Path) -> Path:
    """Where quantised files are kept."""
    return models_dir / "quantised"


def kept_bytes(cache: Path, fingerprint: str) -> int:
    """What earlier starts have kept of a checkpoint."""
    return sum(file.stat().st_size for file in cache.glob(f"{fingerprint}-*.safetensors"))


def load_quantised(
    folder: Path,
    precision: Quantisation,
    dtype: torch.dtype,
    cache: Path,
    fingerprint: str,
    table: bool,
    multiply: bool = False,
) -> FramePackTransformer:
    """The transformer of ``folder``, on the CPU, in evaluation mode.

    Args:
        precision: int8 or fp8.
        dtype: of what is not quantised.
        cache: the folder for the quantised file; made when missing.
        fingerprint: of the checkpoint's content.
        table: a modulation table stands for the modulation linears, and reads them from ``folder``.
        multiply: see ``quantise``.

    Raises:
        UnusableCheckpoint: the files are damaged, of another model, or have 8 bits already.
    """
    source = Shards(folder)
    transformer = _empty(folder, precision, dtype, multiply)
    if table:
        tabulate(transformer, source)
    file = cache / f"{fingerprint}-{precision}-{str(dtype).removeprefix('torch.')}-{FORMAT}.safetensors"
    weights = _from_file(file, transformer)
    if weights is None:
        weights = dict(_from_source(source, transformer, dtype))
        _keep(weights, file)
    modulation = {name: source[name].to(dtype) for name in transformer.state_dict() if name not in weights}
    transformer.load_state_dict({**weights, **modulation}, assign=True)
    return transformer.eval().requires_grad_(False)


def _empty(folder: Path, precision: Quantisation, dtype: torch.dtype, multiply: bool) -> FramePackTransformer:
    """Its shape without weights, on the meta device."""
    if precision not in KINDS:
        raise ValueError(f"{precision} weights are packed in memory, not in a file")
    with torch.device("meta"):
        transformer = FramePackTransformer.from_config(FramePackTransformer.load_config(folder))
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(dtype)
    quantise(transformer, precision, multiply=multiply)
    return transformer


def _kept_names(transformer: FramePackTransformer) -> dict[str, torch.Size]:
    """What the quantised file holds."""
    modulation = tuple(f"{name}." for name in modulation_linears(transformer))
    return {name: value.shape for name, value in transformer.state_dict().items() if not name.startswith(modulation)}


def _from_source(source: Shards, transformer: FramePackTransformer, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the quantised file, made from the checkpoint's."""
    log.info("quantising the weights in %s", source.folder)
    for name, shape in _kept_names(transformer).items():
        module_name, _, part = name.rpartition(".")
        module = transformer.get_submodule(module_name)
        if part == "scale" and isinstance(module, QuantisedLinear):
            continue
        if part == "codes" and isinstance(module, QuantisedLinear):
            codes, scale = module.encode(_checked(source, f"{module_name}.weight", shape))
            yield name, codes
            yield f"{module_name}.scale", scale
        else:
            yield name, _checked(source, name, shape).to(dtype)


def _checked(source: Shards, name: str, shape: torch.Size) -> Tensor:
    if name not in source:
        raise UnusableCheckpoint(f"{source.folder} lacks the weights {name}. Fetch its files again.")
    tensor = source[name]
    if tensor.shape != shape:
        raise UnusableCheckpoint(
            f"{name} in {source.folder} has the shape {tuple(tensor.shape)}; its config promises {tuple(shape)}"
        )
    return tensor


def _from_file(file: Path, transformer: FramePackTransformer) -> dict[str, Tensor] | None:
    """The weights of an earlier start; None when there are none, or not these."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        log.warning("%s is damaged (%s); it is made again", file, error)
        return None
    if {name: tensor.shape for name, tensor in weights.items()} != _kept_names(transformer):
        log.warning("%s is of another model; it is made again", file)
        return None
    log.info("quantised weights from %s", file)
    return weights


def _keep(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write the file, whole or not at all. Without it the next start takes longer, and no more than that."""
    needed = sum(tensor.nbytes for tensor in weights.values())
    try:
        require_space(make_folder(file.parent), needed + needed // 100)
        with written_whole(file) as part:
            save_file(dict(weights), part)
    except (OutputFailed, SafetensorError) as error:
        log.warning("the quantised weights are not kept: %s", error)
