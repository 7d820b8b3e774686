"""The transformer with its blocks swapped in: not one bit differs, and a skipped step moves nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from diffusers_helper.caches.step_cache import BlockPass, ResidualCache, Rule
from diffusers_helper.memory.transport import CudaTransport, ThreadTransport, Transport
from diffusers_helper.models.quantise import quantise
from diffusers_helper.models.transformer import FramePackTransformer

from ..parity import pack

FILE = "forward_i2v"


class ComputeOnce(ResidualCache):
    """A step cache that computes on the first step only."""

    def __init__(self) -> None:
        super().__init__(Rule((1.0, 0.5, 0.2), 1.0))

    def estimate(self, blocks: BlockPass) -> float:
        return 0.0


def inputs(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    values = pack.group(pack.tensors(FILE), pack.cases(FILE)[0])
    names = ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections", "guidance")
    mask = values.get("encoder_attention_mask", pack.tensors(FILE).get("encoder_attention_mask"))
    found = {**{name: values[name] for name in names}, **pack.context_inputs(values)}
    found |= {"encoder_attention_mask": mask, "image_embeds": values["image_embeddings"]}
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        for name, value in found.items()
        if value is not None
    }


def block_bytes(transformer: FramePackTransformer) -> int:
    return sum(t.nbytes for block in transformer.blocks for t in (*block.parameters(), *block.buffers()))


@torch.inference_mode()
def velocity(transformer: FramePackTransformer, given: dict[str, Any], **more: Any) -> Tensor:
    return transformer(**given, **more)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("keep", [True, False])
def test_not_one_bit_differs(share: float, keep: bool) -> None:
    transformer, given = copy.deepcopy(pack.transformer()), inputs()
    plain = velocity(transformer, given)
    with transformer.swap_blocks(ThreadTransport(), int(share * 1.1 * block_bytes(transformer)), keep_host_copy=keep):
        for _ in range(2):
            assert torch.equal(velocity(transformer, given), plain)


def test_a_skipped_step_moves_nothing() -> None:
    transformer, given, cache = copy.deepcopy(pack.transformer()), inputs(), ComputeOnce()
    with transformer.swap_blocks(ThreadTransport()) as swap:
        first = velocity(transformer, given, step_cache=cache)
        before = swap.bytes_moved
        assert before > 0
        torch.testing.assert_close(velocity(transformer, given, step_cache=cache), first)
        assert cache.computed == [True, False]
        assert swap.bytes_moved == before


def test_a_pass_that_an_interruption_breaks_off_ends_there() -> None:
    """Not when the program goes down, where nothing can wait for a copy any more: the block is home at once."""
    transformer = copy.deepcopy(pack.transformer())
    broken = transformer.blocks[1]
    with transformer.swap_blocks(ThreadTransport()):
        at_home = [parameter.data_ptr() for parameter in broken.parameters()]
        broken.register_forward_pre_hook(_interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            velocity(transformer, inputs())
        assert caught.traceback  # held: its frames would keep the pass alive
        assert [parameter.data_ptr() for parameter in broken.parameters()] == at_home


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_compiled_blocks_are_captured_once_and_see_their_weights() -> None:
    """Whichever bytes of the ring a block is given."""
    transformer, given = copy.deepcopy(pack.transformer()), inputs()
    quantise(transformer, "int8")
    plain = velocity(transformer, given)
    torch._dynamo.reset()
    counters.clear()
    for block in transformer.blocks:
        block.compile(backend="eager", fullgraph=True, dynamic=True)
    with transformer.swap_blocks(ThreadTransport()):
        assert torch.equal(velocity(transformer, given), plain)
        graphs = counters["stats"]["unique_graphs"]
        for _ in range(3):
            assert torch.equal(velocity(transformer, given), plain)
    assert counters["stats"]["unique_graphs"] == graphs
    torch._dynamo.reset()


@pytest.mark.gpu
@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_not_one_bit_differs_on_a_gpu(locks: bool, share: float) -> None:
    transformer, given = copy.deepcopy(pack.transformer()).to("cuda", torch.bfloat16), inputs("cuda", torch.bfloat16)
    plain = velocity(transformer, given)
    transformer.to("cpu")
    transport: Transport = CudaTransport(locks=locks)
    with transformer.swap_blocks(transport, int(share * 1.1 * block_bytes(transformer))) as swap:
        for _ in range(3):
            assert torch.equal(velocity(transformer, given), plain)
        swap.release_idle()
        assert torch.equal(velocity(transformer, given), plain)
    transport.close()
    assert {p.device.type for block in transformer.blocks for p in block.parameters()} <= {"cpu", "cuda"}
