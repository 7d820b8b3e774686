"""Files in the form of TAEHV with random weights, of any widths, and its layers as the file numbers them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from diffusers_helper.vae.tiny import TinyDecoder

WIDTHS = (12, 8, 6, 5)


def random_weights(widths: tuple[int, ...] = WIDTHS, channels: int = 16, colours: int = 3) -> dict[str, Tensor]:
    """By the names of the file; those of an encoder are in it too."""
    generator = torch.Generator().manual_seed(0)
    first, second, third, last = widths
    sizes: dict[str, tuple[int, ...]] = {"encoder.0.weight": (64, 3, 3, 3)}

    def conv(layer: str, to: int, of: int, bias: bool = True) -> None:
        sizes[f"decoder.{layer}.weight"] = (to, of, 3, 3)
        if bias:
            sizes[f"decoder.{layer}.bias"] = (to,)

    conv("1", first, channels)
    for begin, width, after, growth in ((3, first, second, 1), (9, second, third, 2), (15, third, last, 2)):
        for layer in range(begin, begin + 3):
            for place, of in (("0", 2 * width), ("2", width), ("4", width)):
                conv(f"{layer}.conv.{place}", width, of)
        sizes[f"decoder.{begin + 4}.conv.weight"] = (growth * width, width, 1, 1)
        conv(f"{begin + 5}", after, width, bias=False)
    conv("22", colours, last)
    return {name: _spread(torch.randn(size, generator=generator)) for name, size in sizes.items()}


def _spread(weight: Tensor) -> Tensor:
    """So that numbers neither grow nor vanish on their way, and colours are seldom cut off."""
    return weight / weight[0].numel() ** 0.5 / 2 if weight.ndim > 1 else 0.2 + 0.2 * weight


def write_decoder(file: Path, **of: tuple[int, ...] | int) -> Path:
    """A file of random weights; returns it."""
    save_file(random_weights(**of), file)  # type: ignore[arg-type]
    return file


def made(weights: Mapping[str, Tensor] | None = None, dtype: torch.dtype = torch.float32) -> TinyDecoder:
    """The decoder of these weights, else of random ones."""
    return TinyDecoder.of(random_weights() if weights is None else weights, torch.device("cpu"), dtype)


def layer_by_layer(weights: Mapping[str, Tensor], latents: Tensor) -> Tensor:
    """[1, 16, T, H, W] through the numbered layers, each over all frames at once: [4 T - 3, 3, 8 H, 8 W]."""

    def conv(x: Tensor, layer: str) -> Tensor:
        weight = weights[f"decoder.{layer}.weight"]
        return functional.conv2d(x, weight, weights.get(f"decoder.{layer}.bias"), padding=weight.shape[-1] // 2)

    x = functional.relu(conv(3 * torch.tanh(latents[0].transpose(0, 1) / 3), "1"))
    for begin in (3, 9, 15):
        for layer in range(begin, begin + 3):
            earlier = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
            inner = functional.relu(conv(torch.cat([x, earlier], 1), f"{layer}.conv.0"))
            inner = conv(functional.relu(conv(inner, f"{layer}.conv.2")), f"{layer}.conv.4")
            x = functional.relu(inner + x)
        channels = x.shape[1]
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        grown = conv(x, f"{begin + 4}.conv")
        x = conv(grown.reshape(-1, channels, *grown.shape[2:]), f"{begin + 5}")
    return conv(functional.relu(x), "22").clamp(0, 1)[3:]
