"""Compiled blocks in training: every flag reaches the compiler, and what is learnt is the same within rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from diffusers_helper.memory.recompute import Recompute
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.training.dynamo import DynamoOptions
from diffusers_helper.training.loop import Loop
from diffusers_helper.training.network import Network, NetworkOptions

from ..blue import blue_set, training
from ..parity import pack
from .test_loop import CPU, EXAMPLES, SHORT, begun, weights

FLAGS: dict[tuple[str, ...], dict[str, Any]] = {
    (): {"dynamic": False},
    ("--dynamo-mode", "max-autotune"): {"mode": "max-autotune", "dynamic": False},
    ("--dynamo-fullgraph",): {"fullgraph": True, "dynamic": False},
    ("--dynamo-dynamic",): {"dynamic": True},
}


@pytest.mark.parametrize("flags", FLAGS)
def test_every_flag_reaches_the_compiler(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: asked.append(options))
    model = FramePackTransformer.from_pretrained(pack.PACK / "model")
    training(blue_set(tmp_path), "--dynamo-backend", "Inductor", *flags).dynamo.compile(model)
    assert asked == [{"backend": "inductor", **FLAGS[flags]}] * len(model.blocks)
    asked.clear()
    training(blue_set(tmp_path), *flags).dynamo.compile(model)
    assert asked == []


@pytest.mark.usefixtures("nothing_compiled")
def test_compiled_blocks_learn_the_same() -> None:
    """Where activations are made again too."""
    one = replace(SHORT, steps=1)
    torch.manual_seed(7)
    model = FramePackTransformer.from_pretrained(pack.PACK / "model").train()
    network = Network(model, NetworkOptions(rank=2, alpha=2.0))
    model.enable_gradient_checkpointing(Recompute(None))
    DynamoOptions("eager", fullgraph=True).compile(model)
    loop = Loop(model, network, EXAMPLES[:1], one, CPU)
    list(loop.run())
    assert counters["stats"]["unique_graphs"] > 0
    plain = begun(one, examples=EXAMPLES[:1])
    list(plain.run())
    for name, learnt in weights(loop).items():
        torch.testing.assert_close(learnt, weights(plain)[name], rtol=1e-3, atol=1e-5)
