"""What the training tools do to weights."""

from __future__ import annotations

import argparse

import pytest
import torch
from torch import nn

from tools.pocket import codec, loop, train_vae


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_muon_steps_kernels_as_matrices() -> None:
    conv = nn.Conv3d(4, 6, 3).to(memory_format=torch.channels_last_3d)
    conv.weight.grad = torch.randn_like(conv.weight)
    matrix = nn.Parameter(conv.weight.detach().permute(0, 2, 3, 4, 1).reshape(6, -1).clone())
    matrix.grad = conv.weight.grad.permute(0, 2, 3, 4, 1).reshape(6, -1)
    plain = torch.optim.Muon([matrix], lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    before = conv.weight.detach().clone()
    loop.KernelMuon([conv.weight], 1e-2).step()
    plain.step()
    torch.testing.assert_close(conv.weight.detach().permute(0, 2, 3, 4, 1).reshape(6, -1), matrix.detach())
    assert not torch.equal(conv.weight, before)


@pytest.mark.parametrize("anchor", [0.0, 0.1])
def test_the_encoder_learns_only_where_it_is_anchored(anchor: float) -> None:
    vae = codec.make_vae().to(memory_format=torch.channels_last_3d)
    codec.keep_instants(vae)
    codec.use_fast_convolutions(vae)
    step_of = train_vae.ClipStep(vae, anchor)
    optimizers = train_vae.make_optimizers(vae, argparse.Namespace(stage="clips", anchor=anchor, rate=1e-3))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    loss, made = step_of(vae, torch.rand(1, 3, 5, 16, 16) * 2 - 1)
    loss.backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()
    changed = {name.split(".")[0] for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert made.shape == (1, 3, 5, 16, 16)
    assert "decoder" in changed
    assert ("encoder" in changed) is (anchor > 0)
    older = [m.weight[:, :, :-1] for m in vae.encoder.modules() if isinstance(m, nn.Conv3d)]
    assert not any(taps.any() for taps in older)


def test_what_drifts_is_held() -> None:
    vae = codec.make_vae()
    codec.use_fast_convolutions(vae)
    step_of = train_vae.ClipStep(vae, 0.5)
    clip = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    torch.manual_seed(1)
    near, _ = step_of(vae, clip)
    with torch.no_grad():
        vae.quant_conv.bias[: codec.LATENT_CHANNELS] += 1.0
        vae.post_quant_conv.bias -= vae.post_quant_conv.weight[:, :, 0, 0, 0].sum(1)
    torch.manual_seed(1)
    far, _ = step_of(vae, clip)
    assert (far - near).item() == pytest.approx(0.5 / float(_size(step_of, clip)), rel=1e-2)


def _size(step_of: train_vae.ClipStep, clip: torch.Tensor) -> torch.Tensor:
    """Mean square of the latents before anything moved."""
    instants = clip[:, :, ::4].transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        return codec.encode_frames(step_of.before, instants).square().mean()
