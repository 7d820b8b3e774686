"""What plans predict, against PyTorch's allocator on the cards people have; without a card.

The real classes at full size run on the meta device, and what they allocate is served by a model of the allocator.
Assumed, and to be measured on a GPU: attention holds nothing, cuDNN takes nothing or the worst that is known
("workspaces"), CUDA has 0.6 GB and 1.5 % of the card before the first byte, and its libraries 0.4 GB more later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.vae import DecoderOutput

from bench.virtual_clock import VirtualTransport
from diffusers_helper.caches.step_cache import Rule
from diffusers_helper.caches.teacache import TeaCache
from diffusers_helper.errors import OutOfMemory
from diffusers_helper.memory.candidates import LIBRARIES_BYTES, Candidate
from diffusers_helper.memory.costs import Cached, Constraints, Machine, Precision, Workload
from diffusers_helper.memory.plan import MemoryPlan
from diffusers_helper.memory.swap import BlockSwap
from diffusers_helper.memory.units import GB, GIB
from diffusers_helper.models.modulation import tabulate
from diffusers_helper.models.quantise import quantise
from diffusers_helper.models.sizes import FULL_SIZE
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.vae.codec import in_tiles
from diffusers_helper.vae.decoders import Chunked, Decoder, Reference, decoders
from diffusers_helper.vae.streaming import StreamingDecoder
from diffusers_helper.vae.tiles import cuts

from .caching_allocator import Allocator, ExpandableSegments, OrdinarySegments, OutOfMemoryError, replay, smallest_card
from .recording import Recording, Step, record
from .support import plan_on
from .test_peak_on_gpu import step_inputs

CONFIG = Path(__file__).parent.parent / "models" / "data" / "framepack_transformer_config.json"
HEIGHT, WIDTH = 640, 608
USUAL = Workload.of(HEIGHT, WIDTH)
CARDS = ((6, 32), (8, 32), (10, 32), (12, 32), (16, 32), (20, 64), (24, 32), (24, 64), (32, 64), (80, 128))
"""GiB of the card and GB of RAM."""
TABLE_BYTES = 2 * 25 * 12 * 60 * 3072 * 2
"""Of the modulation's table, in 16 bits: both branches, 25 steps, 12 vectors for each of 60 blocks at most."""


WAYS: Mapping[str, Decoder] = decoders("lean") | {
    f"{decoding} {name}": decoder
    for decoding in ("reference", "quality")
    for name, decoder in decoders(decoding).items()  # type: ignore[arg-type]
}
ON_DEVICE = [name for name, decoder in WAYS.items() if isinstance(decoder, (Chunked, Reference))]


class Decoding:
    """Recordings of the full VAE that decodes a section, by way and by whether cuDNN takes workspaces."""

    def __init__(self) -> None:
        with torch.device("meta"):
            self.vae = AutoencoderKLHunyuanVideo().to(torch.float16).eval().requires_grad_(False)
        for name in ("blend_h", "blend_v", "blend_t"):  # in place, by slices of a pixel or a frame
            setattr(self.vae, name, lambda before, here, width: here)
        self._decoder, self._tiled = self.vae.decoder.forward, self.vae.tiled_decode
        self._made: dict[tuple[str, bool], Recording] = {}

    def __call__(self, how: str, workspaces: bool) -> Recording:
        if (how, workspaces) not in self._made:
            self._made[how, workspaces] = self._record(how, workspaces)
        return self._made[how, workspaces]

    @torch.inference_mode()
    def _record(self, how: str, workspaces: bool) -> Recording:
        decoder = WAYS[how]
        if isinstance(decoder, Chunked):
            return self._record_chunks(decoder, workspaces)
        assert isinstance(decoder, Reference)
        side = decoder.tile
        with Recording(workspaces) as recording, in_tiles(self.vae, side) if side else nullcontext():
            self.vae.decoder.forward = recording.repeat(self._decoder)
            tile = recording.repeat(lambda z: self._tiled(z).sample, left_out=range(1, 4))
            self.vae.tiled_decode = lambda z, return_dict=True: DecoderOutput(sample=tile(z))
            self.vae.decode(torch.empty(1, 16, 18, HEIGHT // 8, WIDTH // 8, device="meta", dtype=torch.float16))
        return recording

    def _record_chunks(self, decoder: Chunked, workspaces: bool) -> Recording:
        """The first chunks of a tile: those to come need as much."""
        rows, columns = cuts(HEIGHT // 8, WIDTH // 8, decoder.tile)
        chunk = torch.empty(1, 16, decoder.chunk, rows.size, columns.size, device="meta", dtype=torch.float16)
        with Recording(workspaces) as recording:
            decode = StreamingDecoder(self.vae)
            for _ in range(3):
                decode(chunk)
        return recording


@pytest.fixture(scope="module")
def decoding() -> Decoding:
    return Decoding()


def transformer(precision: Precision, blocks: Mapping[str, int]) -> FramePackTransformer:
    config = {**json.loads(CONFIG.read_text()), **blocks}
    with torch.device("meta"):
        made = FramePackTransformer.from_config(config).to(torch.bfloat16).eval().requires_grad_(False)
    if precision == "int8":
        quantise(made, "int8")
    return made


@pytest.fixture(scope="module")
def steps_of() -> Mapping[tuple[str, int], list[Step]]:
    """Of a step, by what weights are kept in and by the CFG branches that have a step cache. Blocks run one after the
    other: six need what sixty need."""
    few = {"num_layers": 2, "num_single_layers": 4}
    inputs = step_inputs(device="meta")
    found = {}
    for precision in ("as_is", "int8"):
        made = transformer(precision, few)  # type: ignore[arg-type]
        for branches in (0, 1, 2):
            found[precision, branches] = record(lambda made=made, n=branches: three_steps(made, inputs, n)).steps
    return found


def three_steps(made: FramePackTransformer, inputs: Mapping[str, Any], branches: int) -> None:
    """In the third the caches hold all they ever do: their own, and what a step that is tried again returns to."""
    caches = [TeaCache(Rule([1 - step / 25 for step in range(25)], 0.15)) for _ in range(branches)]
    for _ in range(3 if caches else 1):
        kept = [cache.state() for cache in caches]
        for cache in caches or [None]:
            made(**inputs, step_cache=cache)
        assert len(kept) == branches


@pytest.fixture(scope="module")
def swaps() -> Mapping[str, tuple[BlockSwap, int]]:
    """All sixty blocks in a swap, by what weights are kept in, and the bytes of the transformer outside of them."""
    found = {}
    for precision in ("as_is", "int8"):
        made = transformer(precision, {})  # type: ignore[arg-type]
        tabulate(made, {})
        swap = BlockSwap(made.blocks, VirtualTransport(1.0))
        blocks = {id(tensor) for block in made.blocks for tensor in (*block.parameters(), *block.buffers())}
        others = sum(t.nbytes for t in (*made.parameters(), *made.buffers()) if id(t) not in blocks)
        found[precision] = swap, others + TABLE_BYTES
    return found


class Card:
    """A card with a plan, on which a video is made; raises OutOfMemoryError where there would be a fallback."""

    def __init__(self, plan: MemoryPlan, swap: BlockSwap, allocator: Allocator) -> None:
        self._plan, self._swap, self._allocator = plan, swap, allocator
        swap.limit(plan.resident_bytes if plan.resident_blocks < FULL_SIZE.blocks else 10**12)
        self._blocks: list[object] = []

    def blocks_come(self) -> None:
        """What stays, and the ring; all of it where the next step wants it."""
        if not self._blocks:
            sizes = [self._swap._blocks[index].size for index in sorted(self._swap.resident)]
            self._blocks = [self._allocator.allocate(size) for size in (*sizes, self._swap.ring_bytes) if size]

    def blocks_leave(self) -> None:
        while self._blocks:
            self._allocator.free(self._blocks.pop())

    def video(self, others: int, step: list[Step], clip: list[Step], vae: int) -> None:
        """From the first step to the first of the next section."""
        stays = self._plan.residency["vae"] == "gpu"
        lent = [self._allocator.allocate(size) for size in (others, *([vae] if stays else []))][1:]
        self.sample(step)
        if self._plan.take_turns:
            self.blocks_leave()
        lent = lent or [self._allocator.allocate(vae)]
        replay(clip, self._allocator)
        if not stays:
            self._allocator.free(lent[0])
            self._allocator.empty_cache()
        self.sample(step)

    def sample(self, step: list[Step]) -> None:
        """Two steps."""
        self.blocks_come()
        for _ in range(2):
            replay(step, self._allocator)


@pytest.mark.parametrize(
    ("workspaces", "branches"), [(False, 2), (True, 1)], ids=["no workspaces, real CFG", "workspaces"]
)
@pytest.mark.parametrize("grow", [True, False], ids=["growing segments", "ordinary segments"])
@pytest.mark.parametrize(("vram", "ram"), CARDS)
def test_no_card_runs_out(
    vram: int, ram: int, grow: bool, workspaces: bool, branches: int, decoding: Decoding, steps_of: Any, swaps: Any
) -> None:
    """Of 32 GB of RAM `start.sh` makes the small host copy. ``branches``: of CFG, with a step cache each."""
    free = int(0.985 * vram * GIB - 0.6 * GB)
    here = Machine(vram * GIB, free, ram * GIB, int(0.85 * ram * GIB), 10**12, segments_grow=grow)
    workload = Workload.of(HEIGHT, WIDTH, cached=Cached(branches, branches))
    if (vram, grow, branches) == (6, False, 2):
        with pytest.raises(OutOfMemory, match="It would fit without a step cache"):
            plan_on(here, FULL_SIZE, workload, Constraints(small_host_copy=True))
        return
    plan = plan_on(here, FULL_SIZE, workload, Constraints(small_host_copy=ram < 40))
    swap, others = swaps[plan.precision]
    card = Card(plan, swap, (ExpandableSegments if grow else OrdinarySegments)(free - LIBRARIES_BYTES))
    vae = sum(weights.nbytes for weights in decoding.vae.parameters())
    card.video(others, steps_of[plan.precision, branches], decoding(plan.decode, workspaces).steps, vae)


def test_what_was_thought_too_little_is_too_little(decoding: Decoding) -> None:
    """Whole frames in 16 GiB, as an earlier plan had them, with all blocks away."""
    with pytest.raises(OutOfMemoryError):
        replay(decoding("reference whole", False).steps, OrdinarySegments(int(0.985 * 16 * GIB - GB)))


@pytest.mark.parametrize("how", ON_DEVICE)
def test_the_memory_of_decoding_is_counted(how: str, decoding: Decoding) -> None:
    """What tensors and cuDNN hold at most, and not a fifth more; and what the allocator needs for it."""
    predicted = WAYS[how].device_bytes(FULL_SIZE, USUAL)
    assert decoding(how, True).held <= predicted < 1.2 * decoding(how, True).held
    assert decoding(how, False).held < predicted
    for workspaces in (False, True):
        way = Candidate(FULL_SIZE, USUAL, Constraints(), True, "int8", WAYS[how], True, 0, segments_grow=False)
        replay(decoding(how, workspaces).steps, OrdinarySegments(way.clip_bytes()))


@pytest.mark.parametrize("branches", [0, 1, 2])
@pytest.mark.parametrize("precision", ["as_is", "int8"])
def test_the_memory_of_a_step_is_counted(precision: Precision, branches: int, steps_of: Any) -> None:
    """And not a seventh more."""
    workload, step = Workload.of(HEIGHT, WIDTH, cached=Cached(branches, branches)), steps_of[precision, branches]
    way = Candidate(
        FULL_SIZE, workload, Constraints(), True, precision, WAYS["reference whole"], True, 0, segments_grow=False
    )
    needed = smallest_card(step, ExpandableSegments)
    assert needed <= way.activation_bytes() < 1.14 * needed
    needed = smallest_card(step, OrdinarySegments)
    assert way.activation_bytes() < needed <= way.step_bytes() < 1.14 * needed
