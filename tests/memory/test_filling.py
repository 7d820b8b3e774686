"""What stays on a device while tensors are made there: as described, bitwise the same, and within what is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from diffusers_helper.memory.filling import FILLINGS, Filling, KeepUntilFull, Rotate
from diffusers_helper.memory.units import GB
from diffusers_helper.models.sizes import FULL_SIZE
from diffusers_helper.models.transformer import FramePackTransformer

GPU, CPU = torch.device("cuda"), torch.device("cpu")
MIB = 2**20


@dataclass
class Card:
    """A GPU in the test's mind: what was moved there counts until it is moved away. Values are copied, as by a bus.

    Attributes:
        freed: by another program, at the tensor of this number.
    """

    total: int
    freed: Mapping[int, int] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)
    peak: int = 0
    to_card: int = 0
    home: int = 0
    asked: int = 0

    def free(self, device: torch.device) -> int:
        assert device == GPU
        self.total += self.freed.get(self.asked, 0)
        self.asked += 1
        return self.total - sum(self.held.values())

    def moved(self, tensor: Tensor, device: torch.device) -> Tensor:
        if device == CPU:
            self.home += self.held.pop(id(tensor), 0) > 0
            return tensor.clone() if tensor.device == CPU else tensor
        there = tensor.clone() if tensor.device == CPU else torch.empty_like(tensor)
        self.held[id(there)] = there.nbytes
        self.to_card += 1
        self.peak = max(self.peak, sum(self.held.values()))
        return there


def fill(name: str, card: Card, made: Mapping[str, Tensor], preserved: int = 0) -> Filling:
    filling = FILLINGS[name](GPU, preserved, card.free, card.moved)
    for each, tensor in made.items():
        filling.put(each, tensor)
    return filling


@pytest.fixture
def made() -> dict[str, Tensor]:
    """Ten tensors of 1 MiB."""
    generator = torch.Generator().manual_seed(0)
    return {f"{number}": torch.randn(2**18, generator=generator) for number in range(10)}


def test_keep_until_full_keeps_the_front_and_moves_nothing_back(made: dict[str, Tensor]) -> None:
    card = Card(total=6 * MIB)
    filling = fill("KeepUntilFull", card, made, preserved=2 * MIB)
    assert list(filling.there) == ["0", "1", "2", "3"]
    assert list(filling.home) == ["4", "5", "6", "7", "8", "9"]
    assert (card.peak, card.to_card, card.home) == (4 * MIB, 4, 0)


def test_keep_until_full_stays_full_whatever_is_free_later(made: dict[str, Tensor]) -> None:
    card = Card(total=4 * MIB, freed={5: 100 * MIB})
    assert list(fill("KeepUntilFull", card, made).there) == ["0", "1", "2", "3"]


def test_rotate_begins_again_and_keeps_the_tail(made: dict[str, Tensor]) -> None:
    card = Card(total=6 * MIB)
    filling = fill("Rotate", card, made, preserved=2 * MIB)
    assert list(filling.there) == ["8", "9"]
    assert list(filling.home) == ["0", "1", "2", "3", "4", "5", "6", "7"]
    assert (card.peak, card.to_card, card.home) == (4 * MIB, 10, 8)


@pytest.mark.parametrize("total", [0, 1, 3, 7, 100])
def test_both_have_the_same_bits_and_differ_in_where_they_are(total: int, made: dict[str, Tensor]) -> None:
    cards = {name: Card(total=total * MIB) for name in FILLINGS}
    found = {name: fill(name, card, made, preserved=MIB // 2) for name, card in cards.items()}
    for name, filling in found.items():
        assert all(torch.equal(filling.all()[each], tensor) for each, tensor in made.items())
        assert filling.all().keys() == made.keys()
        assert cards[name].peak <= total * MIB
        assert not filling.there.keys() & filling.home.keys()
    if 1 < total < 10:
        assert list(found["KeepUntilFull"].there) != list(found["Rotate"].there)


@pytest.mark.parametrize("name", FILLINGS)
def test_without_a_gpu_everything_is_at_home(name: str, made: dict[str, Tensor]) -> None:
    filling = FILLINGS[name](CPU)
    for each, tensor in made.items():
        filling.put(each, tensor)
    assert not filling.there
    assert all(filling.home[each] is tensor for each, tensor in made.items())


@pytest.mark.parametrize("gigabytes", [8, 12, 24, 80])
def test_the_whole_transformer_on_real_cards(gigabytes: int) -> None:
    """Every weight of a block as it is at full size; 6 GB are preserved, as the original's documents have it."""
    with torch.device("meta"):
        transformer = FramePackTransformer().to(torch.bfloat16)
    blocks = {name: each for name, each in transformer.state_dict().items() if "transformer_blocks." in name}
    size = sum(each.nbytes for each in blocks.values())
    assert size > 2 * FULL_SIZE.block_weights
    room = (gigabytes - 6) * GB
    largest = max(each.nbytes for each in blocks.values())
    for kind in (KeepUntilFull, Rotate):
        card = Card(total=gigabytes * GB)
        filling = fill(kind.__name__, card, blocks, preserved=6 * GB)
        there = sum(each.nbytes for each in filling.there.values())
        assert card.peak <= min(room + largest, size)
        if room > size:
            assert there == size
        elif kind is KeepUntilFull:
            assert room <= there <= room + largest
            assert list(filling.there) == list(blocks)[: len(filling.there)]
            assert card.home == 0
        else:
            assert list(filling.there) == list(blocks)[-len(filling.there) :]
            assert card.home == len(filling.home)
