"""Step caches that are not there: what adding one takes, and that the pass serves those that look into it.

Each is a class, and a line in the table.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusers_helper.caches.first_block import FirstBlockCache
from diffusers_helper.caches.step_cache import (
    BlockPass,
    Measured,
    ResidualCache,
    Rule,
    StepCache,
    StepCacheOption,
)
from diffusers_helper.caches.table import STEP_CACHES
from diffusers_helper.engine import Engine
from diffusers_helper.errors import InvalidRequest
from diffusers_helper.events import Finished, Step
from diffusers_helper.generate import generate
from diffusers_helper.memory.costs import Cached
from diffusers_helper.memory.transport import CudaTransport, ThreadTransport, Transport
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.request import Request

from ..models.test_swapped_transformer import block_bytes, inputs
from ..parity import pack


class EverySecond(ResidualCache):
    """Skips every second step."""

    def estimate(self, blocks: BlockPass) -> float:
        return float(len(self.computed) % 2 == 0)


class EverySecondOption(StepCacheOption):
    name: ClassVar[str] = "every_second"

    def make(self, sigmas: Sequence[float], measured: Measured) -> StepCache:
        return EverySecond(Rule(sigmas, 0.5))


# On the road: a request asks for a method by its name in the table.


@pytest.fixture(scope="module")
def engine(quick_checkpoint: Path) -> Iterator[Engine]:
    with Engine.load(find_checkpoint(str(quick_checkpoint), quick_checkpoint.parent)) as made:
        yield made


@dataclass
class Video:
    """Which steps were computed, the latents, and what the plan counts for step caches."""

    computed: list[bool]
    latents: Tensor
    cached: Cached


@pytest.fixture
def video(engine: Engine, photograph: Path, tmp_path: Path) -> Callable[..., Video]:
    def make(**fields: Any) -> Video:
        asked = {"picture": str(photograph), "seconds": 1.0, "steps": 6, "seed": 3, **fields}
        latents = tmp_path / "latents.safetensors"
        events = list(generate(Request.parse(asked), engine, tmp_path, latents_result=latents))
        assert isinstance(events[-1], Finished), events[-1]
        computed = [event.computed for event in events if isinstance(event, Step)]
        return Video(computed, load_file(latents)["latents"], engine.planner.workload.cached)

    return make


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[StepCacheOption]], None]:
    """A line in the table."""
    return lambda option: monkeypatch.setitem(STEP_CACHES, option.name, option)


def test_a_cache_of_a_few_lines_serves_every_second_step(
    video: Callable[..., Video], add: Callable[[type[StepCacheOption]], None]
) -> None:
    plain = video(step_cache="off")
    with pytest.raises(InvalidRequest, match="step_cache: 'every_second' is not allowed"):
        video(step_cache="every_second")
    add(EverySecondOption)
    cached = video(step_cache="every_second")
    assert plain.computed == [True] * 6
    assert cached.computed == [True, False, True, False, True, True]
    assert (plain.cached, cached.cached) == (Cached(), Cached(targets=1))
    assert not torch.equal(cached.latents, plain.latents)
    assert torch.isfinite(cached.latents).all()


# The first block alone, of a transformer whose blocks pass through the device.

CHANGES = (0.0, 0.001, 0.002, -2.0, -2.001, -2.002)
COMPUTED = [True, False, False, True, False, False]
SIGMAS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""One more than the steps, so that none of them is the last, which is computed always."""


class Counting:
    """A transport that counts the copies that it begins."""

    def __init__(self, transport: Transport) -> None:
        self._transport, self.copies = transport, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def begin(self, *arguments: Any) -> Any:
        self.copies += 1
        return self._transport.begin(*arguments)


@torch.inference_mode()
def steps(
    transformer: FramePackTransformer, given: dict[str, Any], count: Callable[[], int] = int
) -> tuple[list[Tensor], list[bool], list[int]]:
    """Velocities of a few steps with a first-block cache, which of them were computed, and what each has copied."""
    cache = FirstBlockCache(Rule(SIGMAS, 0.05))
    velocities, counts = list[Tensor](), [count()]
    for change in CHANGES:
        noisy = given["hidden_states"] * (1 + change)
        velocities.append(transformer(**{**given, "hidden_states": noisy}, step_cache=cache))
        counts.append(count())
    return velocities, cache.computed, [after - before for before, after in pairwise(counts)]


def assert_the_first_block_alone_is_enough(device: str, dtype: torch.dtype, transport: Transport, share: float) -> None:
    """The same bits as with resident blocks, and a step that stops after the first block begins no copy."""
    transformer, given = copy.deepcopy(pack.transformer()).to(device, dtype), inputs(device, dtype)
    plain, computed, _ = steps(transformer, given)
    assert computed == COMPUTED
    transformer.to("cpu")
    counting = Counting(transport)
    with transformer.swap_blocks(counting, int(share * block_bytes(transformer))) as swap:  # type: ignore[arg-type]
        swapped, computed, copies = steps(transformer, given, lambda: counting.copies)
        assert computed == COMPUTED == [begun > 0 for begun in copies]
        assert sum(copies) <= len(swap.resident) + 3 * (len(transformer.blocks) - len(swap.resident))
    assert all(torch.equal(mine, wanted) for mine, wanted in zip(swapped, plain, strict=True))


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_cache_that_stops_after_the_first_block_fetches_no_other(share: float) -> None:
    assert_the_first_block_alone_is_enough("cpu", torch.float32, ThreadTransport(), share)


@pytest.mark.gpu
@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_cache_that_stops_after_the_first_block_fetches_no_other_on_a_gpu(locks: bool, share: float) -> None:
    transport = CudaTransport(locks=locks)
    assert_the_first_block_alone_is_enough("cuda", torch.bfloat16, transport, share)
    transport.close()


class Interrupted(FirstBlockCache):
    """Interrupted while it looks at what the first block has made."""

    def note(self, computed: bool) -> None:
        raise KeyboardInterrupt


def test_a_cache_that_is_interrupted_leaves_no_pass_open() -> None:
    """It closes nothing itself; with the block that it looked at home again, the swap can end, and begin again."""
    transformer, given = copy.deepcopy(pack.transformer()), inputs()
    plain, _, _ = steps(transformer, given)
    with transformer.swap_blocks(ThreadTransport()):
        at_home = [parameter.data_ptr() for parameter in transformer.blocks[0].parameters()]
        with pytest.raises(KeyboardInterrupt) as caught:
            transformer(**given, step_cache=Interrupted(Rule(SIGMAS, 0.05)))
        assert caught.traceback  # held: its frames would keep the pass alive
        assert [parameter.data_ptr() for parameter in transformer.blocks[0].parameters()] == at_home
        again, _, _ = steps(transformer, given)
    assert all(torch.equal(mine, wanted) for mine, wanted in zip(again, plain, strict=True))
