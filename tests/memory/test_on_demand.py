"""Weights that come as they are used, with the pocket's own encoders: the same results, and little on the device.

A second device without a GPU: PyTorch's fake tensors compute nothing but know where they are, and refuse to be mixed
with those of another device. ``cpu:1`` is one that a build without CUDA can pretend to have.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from diffusers_helper.conditioning.picture import encode_picture_tokens
from diffusers_helper.conditioning.prompt import llama_features, pooled_by_clip
from diffusers_helper.memory import DynamicSwapInstaller, on_demand
from diffusers_helper.models.load import Compute, Parts, load_parts
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.vae.codec import decode_clip, encode_picture

FLOAT32 = Compute(torch.device("cpu"), torch.float32, torch.float32, torch.float32, "exact")
ELSEWHERE = torch.device("cpu:1")
MODELS = ("text_encoder", "text_encoder_2", "image_encoder", "vae")
PIXELS = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
LATENTS = torch.randn(1, 16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
USES: dict[str, tuple[str, Callable[[Parts], Tensor]]] = {
    "Llama": ("text_encoder", lambda p: llama_features("the camera pans left", p.tokenizer, p.text_encoder)[0]),
    "CLIP": ("text_encoder_2", lambda p: pooled_by_clip("the camera pans left", p.tokenizer_2, p.text_encoder_2)),
    "SigLIP": ("image_encoder", lambda p: encode_picture_tokens(PIXELS, p.feature_extractor, p.image_encoder)),
    "VAE, a picture": ("vae", lambda p: encode_picture(p.vae, PIXELS).mean),
    "VAE, a clip": ("vae", lambda p: decode_clip(p.vae, LATENTS)),
    "VAE, in tiles": ("vae", lambda p: decode_clip(p.vae, LATENTS, tile=256)),
}
each_use = pytest.mark.parametrize(("part", "use"), USES.values(), ids=USES)


@pytest.fixture
def parts(pocket: Path) -> Parts:
    """Anew for each test: transformers prepares a model at its first use, which may be one on demand."""
    return load_parts(find_checkpoint("pocket", pocket), FLOAT32)


@each_use
@torch.inference_mode()
def test_results_are_the_same_to_the_last_bit(part: str, use: Callable[[Parts], Tensor], parts: Parts) -> None:
    model = getattr(parts, part)
    DynamicSwapInstaller.install_model(model, device="cpu", copy=True)
    used_on_demand = use(parts)
    DynamicSwapInstaller.uninstall_model(model)
    assert torch.equal(use(parts), used_on_demand)


class Watch:
    """Counts the bytes of arrived weights that somebody still holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = self.most = self.arrived = 0
        self._copied = on_demand._copied
        monkeypatch.setattr(on_demand, "_copied", self)

    def __call__(self, weight: Tensor | None, kwargs: dict[str, Any]) -> Tensor | None:
        copied = self._copied(weight, kwargs)
        if copied is not None:
            self.held += copied.nbytes
            self.arrived += copied.nbytes
            self.most = max(self.most, self.held)
            weakref.finalize(copied, self._left, copied.nbytes)
        return copied

    def _left(self, size: int) -> None:
        self.held -= size


def own_bytes(module: nn.Module) -> int:
    return sum(t.nbytes for t in (*module.parameters(recurse=False), *module.buffers(recurse=False)))


@each_use
@torch.inference_mode()
def test_a_weight_is_gone_after_its_use(
    part: str, use: Callable[[Parts], Tensor], parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no time are more weights there than those of one module; an attention of torch's own asks for some twice."""
    model = getattr(parts, part)
    largest = max(own_bytes(module) for module in model.modules())
    watch = Watch(monkeypatch)
    DynamicSwapInstaller.install_model(model, device="cpu", copy=True)
    use(parts)
    DynamicSwapInstaller.uninstall_model(model)
    assert watch.held == 0
    assert largest <= watch.most <= (2 if part == "image_encoder" else 1) * largest
    assert watch.arrived > 3 * largest


@pytest.fixture
def fake(parts: Parts) -> Iterator[Parts]:
    """The parts with fake weights, while every new tensor is a fake one."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        copies = {part: copy.deepcopy(getattr(parts, part)) for part in MODELS}
    with mode, torch.inference_mode():
        yield replace(parts, **copies)


def of_all(output: Tensor | tuple[Tensor, ...]) -> set[torch.device]:
    return {tensor.device for tensor in ([output] if isinstance(output, Tensor) else output)}


@each_use
def test_inputs_and_weights_meet_on_the_device(part: str, use: Callable[[Parts], Tensor], fake: Parts) -> None:
    model, devices = getattr(fake, part), set[torch.device]()
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, __, output: devices.update(of_all(output)))
    DynamicSwapInstaller.install_model(model, device=ELSEWHERE)
    assert model.device == ELSEWHERE
    assert use(fake).device == torch.device("cpu")
    assert devices == {ELSEWHERE}
    DynamicSwapInstaller.uninstall_model(model)
    assert model.device == torch.device("cpu")


def test_the_fake_device_tells_a_mismatch(fake: Parts) -> None:
    DynamicSwapInstaller.install_model(fake.text_encoder, device=ELSEWHERE)
    with pytest.raises(RuntimeError, match="at least two devices, cpu:1 and cpu"):
        fake.text_encoder(input_ids=torch.ones(1, 5, dtype=torch.long))
