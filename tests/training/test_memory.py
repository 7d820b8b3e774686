"""Training with little memory: blocks that pass through in both directions, activations made again, quantised weights.
The weights that are learnt are the same bits, and what is kept and copied is counted."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from diffusers_helper.errors import InvalidRequest
from diffusers_helper.memory.recompute import Recompute
from diffusers_helper.memory.swap import BlockSwap
from diffusers_helper.memory.transport import ThreadTransport
from diffusers_helper.models.compile import is_compiled
from diffusers_helper.models.quantise import KINDS, quantise
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.training.dynamo import DynamoOptions
from diffusers_helper.training.loop import Loop
from diffusers_helper.training.network import Network, NetworkOptions
from diffusers_helper.training.network_args import NetworkArgs

from ..parity import pack
from .test_loop import CPU, EXAMPLES, SHORT, same, trained, weights

DROPPING = NetworkOptions(rank=2, alpha=2.0, args=NetworkArgs(rank_dropout=0.5))


def model() -> FramePackTransformer:
    torch.manual_seed(7)
    return FramePackTransformer.from_pretrained(pack.PACK / "model").train()


def swapped_loop(
    network: NetworkOptions, resident_bytes: int = 0, in_ram: bool = False, **options: Any
) -> tuple[Loop, BlockSwap]:
    transformer = model()
    swap = transformer.swap_blocks(ThreadTransport(), resident_bytes, **options)
    recompute = Recompute(swap, in_ram)
    transformer.block_source = recompute.blocks
    transformer.enable_gradient_checkpointing(recompute)
    return Loop(transformer, Network(transformer, network), EXAMPLES, SHORT, CPU), swap


@pytest.mark.parametrize("network", [NetworkOptions(rank=2, alpha=2.0), DROPPING], ids=["plain", "dropping"])
@pytest.mark.parametrize("in_ram", [False, True], ids=["on the device", "in RAM"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_swapped_blocks_learn_the_same(share: float, in_ram: bool, network: NetworkOptions) -> None:
    """With none, some and all of the blocks resident; a ring of the smallest size."""
    whole = sum(sum(t.nbytes for t in block.parameters()) for block in model().blocks)
    loop, swap = swapped_loop(network, int(2 * share * whole), in_ram, ring_bytes=1)
    with swap:
        assert len(list(loop.run())) == SHORT.steps
        assert same(weights(loop), trained(network=network))


def test_a_step_copies_each_block_twice() -> None:
    """And no more than the ring holds beyond that; nothing comes back."""
    loop, swap = swapped_loop(NetworkOptions(rank=2))
    with swap:
        list(loop.run())
        once = sum(block.size for block in swap._blocks)
        assert swap.bytes_per_pass == 2 * once
        assert 0 <= swap.bytes_moved - SHORT.steps * 2 * once <= swap.ring_bytes


def test_a_pass_without_gradients_goes_one_way() -> None:
    """As for a video that is made meanwhile; training goes on after it as if nothing had been."""
    loop, swap = swapped_loop(NetworkOptions(rank=2, alpha=2.0))
    example, transformer = EXAMPLES[0], loop.model
    with swap:
        steps = loop.run()
        next(steps)
        with torch.no_grad():
            transformer(
                hidden_states=example.target, timestep=torch.tensor([500.0]), guidance=torch.tensor([1000.0]),
                **example.inputs(),
            )  # fmt: skip
        assert swap.bytes_per_pass == sum(block.size for block in swap._blocks)
        list(steps)
    assert same(weights(loop), trained())


def test_blocks_in_another_order_are_refused() -> None:
    blocks = [nn.Linear(2, 2).requires_grad_(False) for _ in range(3)]
    recompute = Recompute(BlockSwap(blocks, ThreadTransport()))
    x = torch.ones(1, 2, requires_grad=True)
    handed = list(recompute.blocks())
    made = [recompute(block, x) for block in handed]
    with pytest.raises(RuntimeError, match="another order"):
        made[0].sum().backward()


def stored_bytes(prepare: Callable[[FramePackTransformer], None]) -> int:
    """What a forward pass keeps for the backward pass, beside weights."""
    transformer = model()
    prepare(transformer)
    Network(transformer, NetworkOptions(rank=2))
    own = {tensor.untyped_storage().data_ptr() for tensor in (*transformer.parameters(), *transformer.buffers())}
    kept: dict[int, int] = {}

    def pack_(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    example = EXAMPLES[0]
    with saved_tensors_hooks(pack_, lambda tensor: tensor):
        made = transformer(
            hidden_states=example.target, timestep=torch.tensor([500.0]), guidance=torch.tensor([1000.0]),
            **example.inputs(),
        )  # fmt: skip
    del made
    gc.collect()
    return sum(kept.values())


def test_activations_that_are_made_again_are_not_kept() -> None:
    kept = stored_bytes(lambda transformer: None)
    again = stored_bytes(lambda transformer: transformer.enable_gradient_checkpointing(Recompute(None)))
    assert again < 0.25 * kept


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantised_weights_are_not_kept_in_16_bits(precision: str) -> None:
    """Their product keeps neither its input nor a weight."""
    kept = stored_bytes(lambda transformer: None)
    quantised = stored_bytes(lambda transformer: quantise(transformer, precision))  # type: ignore[arg-type]
    assert quantised <= 1.01 * kept


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("multiply", [False, True])
def test_the_gradient_through_codes_is_that_of_their_weights(precision: str, multiply: bool) -> None:
    """8-bit products have no gradient: in training the codes are multiplied as numbers."""
    torch.manual_seed(0)
    linear = nn.Linear(32, 48).requires_grad_(False)
    codes = KINDS[precision](linear, multiply)
    x = torch.randn(2, 20, 32, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    codes(x).square().sum().backward()
    nn.functional.linear(again, codes.weight_in(torch.float32), codes.bias).square().sum().backward()
    assert x.grad is not None
    assert again.grad is not None
    assert torch.equal(x.grad, again.grad)


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_network_learns_beside_quantised_weights(precision: str, kind: str, tmp_path: Path) -> None:
    transformer = model()
    quantise(transformer, precision)  # type: ignore[arg-type]
    codes = {name: each.clone() for name, each in transformer.named_buffers() if name.endswith("codes")}
    network = Network(transformer, NetworkOptions(kind, rank=2, alpha=2.0))  # type: ignore[arg-type]
    before = {name: each.detach().clone() for name, each in network.parameters().items()}
    loop = Loop(transformer, network, EXAMPLES, SHORT, CPU)
    losses = [done.loss for done in loop.run()]
    assert all(0 < loss < 10 for loss in losses)
    assert not same(before, weights(loop))
    after = {name.replace(".base_layer.of", ""): each for name, each in transformer.named_buffers() if "codes" in name}
    assert codes.keys() == after.keys()
    assert same(codes, after)


def test_a_dora_of_quantised_weights_is_refused() -> None:
    transformer = model()
    quantise(transformer, "int8")
    with pytest.raises(InvalidRequest, match="16 bits"):
        Network(transformer, NetworkOptions("dora"))


def test_the_transformer_is_itself_while_the_network_is_away() -> None:
    transformer = model()
    example = EXAMPLES[0]

    def velocity() -> Tensor:
        with torch.no_grad():
            return transformer(
                hidden_states=example.target, timestep=torch.tensor([500.0]), guidance=torch.tensor([1000.0]),
                **example.inputs(),
            )  # fmt: skip

    plain = velocity()
    network = Network(transformer, NetworkOptions(rank=2))
    for parameter in network.parameters().values():
        parameter.data += 0.1
    changed = velocity()
    with network.away():
        assert not transformer.training
        assert torch.equal(velocity(), plain)
        assert all("base_layer" not in name for name, _ in transformer.named_modules())
    assert transformer.training
    assert torch.equal(velocity(), changed)
    assert not torch.equal(changed, plain)


def test_nothing_is_compiled_while_the_network_is_away() -> None:
    """A sample is made as the program makes it; LoRAs cannot stand beside compiled blocks."""
    transformer = model()
    network = Network(transformer, NetworkOptions(rank=2))
    DynamoOptions("eager").compile(transformer)
    assert is_compiled(transformer)
    with network.away():
        assert not is_compiled(transformer)
    assert is_compiled(transformer)
