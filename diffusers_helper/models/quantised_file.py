"""Quantised weights, made tensor by tensor, and from a file of their own the second time.

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

from ..errors import OutputFailed
from ..media.files import make_folder, require_space, written_whole
from .fill import shaped
from .modulation import modulation_linears
from .quantise import Quantisation, QuantisedLinear
from .shards import WeightSource
from .transformer import FramePackTransformer

log = logging.getLogger(__name__)

FORMAT = "1"


def quantised_folder(models_dir: Path) -> Path:
    """Where quantised files are kept."""
    return models_dir / "quantised"


def kept_bytes(cache: Path, fingerprint: str) -> int:
    """What earlier starts have kept of a checkpoint."""
    return sum(file.stat().st_size for file in cache.glob(f"{fingerprint}-*.safetensors"))


def kept_file(cache: Path, fingerprint: str, precision: Quantisation, dtype: torch.dtype) -> Path:
    """Where in ``cache`` the quantised weights of a checkpoint are kept; ``dtype`` is that of what is not quantised."""
    return cache / f"{fingerprint}-{precision}-{str(dtype).removeprefix('torch.')}-{FORMAT}.safetensors"


def quantised_weights(
    transformer: FramePackTransformer, source: WeightSource, folder: Path, file: Path | None
) -> dict[str, Tensor]:
    """All weights of an empty transformer whose linears are quantised ones, see ``quantise``.

    Args:
        folder: where ``source`` comes from, for errors.
        file: where what is quantised is kept for the next start; None keeps nothing.

    Raises:
        UnusableCheckpoint: the source is damaged, of another model, or has 8 bits already.
    """
    weights = None if file is None else _from_file(file, transformer)
    if weights is None:
        log.info("quantising the weights in %s", folder)
        weights = dict(_from_source(source, transformer, folder))
        if file is not None:
            _keep(weights, file)
    return {**weights, **{name: source[name] for name in transformer.state_dict() if name not in weights}}


def _kept_names(transformer: FramePackTransformer) -> dict[str, torch.Size]:
    """What the quantised file holds."""
    modulation = tuple(f"{name}." for name in modulation_linears(transformer))
    return {name: value.shape for name, value in transformer.state_dict().items() if not name.startswith(modulation)}


def _from_source(source: WeightSource, transformer: FramePackTransformer, folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the quantised file, made from the checkpoint's."""
    slots = transformer.state_dict()
    for name, shape in _kept_names(transformer).items():
        module_name, _, part = name.rpartition(".")
        module = transformer.get_submodule(module_name)
        if part == "scale" and isinstance(module, QuantisedLinear):
            continue
        if part == "codes" and isinstance(module, QuantisedLinear):
            codes, scale = module.encode(shaped(source, f"{module_name}.weight", shape, folder))
            yield name, codes
            yield f"{module_name}.scale", scale
        else:
            yield name, shaped(source, name, shape, folder).to(slots[name].dtype)


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
