"""One picture, of some moments later or of two: the pocket makes it, by LoRAs of its own where it needs one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from diffusers_helper import settings
from diffusers_helper.engine import Engine
from diffusers_helper.lora.said import said_in
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.sections.modes import MODES
from tools.pocket.evaluation.pairs import Seen, look
from tools.pocket.evaluation.photos import load_photos
from tools.pocket.one_frame_scenes import Pair, Way, draw_pair, paint
from tools.pocket.show_one_frame import HELD_OUT_SEED, LORAS, PAN_SIDE, Table, lora_file, stocked, ways_moved
from tools.pocket.train_one_frame import SIDE

PAIRS, MOST_WRONG = 4, 1
WAYS: tuple[Way, ...] = ("kisekaeichi", "1f-mc")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, pocket: Path) -> Iterator[Table]:
    folder = stocked(tmp_path_factory.mktemp("models"))
    chosen = settings.resolve({"models_dir": str(folder)}, {}, folder / "none")
    with Engine.load(find_checkpoint("pocket", pocket), chosen) as engine:
        yield Table(engine, folder, steps=4)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """New to the LoRAs."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    return [draw_pair(rng) for _ in range(PAIRS)]


@pytest.fixture(scope="module")
def in_order(table: Table, pairs: Sequence[Pair]) -> list[np.ndarray]:
    """What 1f-mc makes of the pairs."""
    return [table.make_of(pair, "1f-mc") for pair in pairs]


def seen(made: Sequence[np.ndarray], pairs: Sequence[Pair], way: Way) -> list[Seen]:
    return [look(*each, way) for each in zip(made, pairs, strict=True)]


def right(made: Sequence[np.ndarray], pairs: Sequence[Pair], way: Way) -> int:
    return sum(each.whole for each in seen(made, pairs, way))


@pytest.mark.parametrize("way", WAYS)
def test_the_measure_takes_the_target_and_nothing_that_was_given(way: Way, pairs: Sequence[Pair]) -> None:
    side = SIDE
    for pair in pairs:
        assert look(paint(pair.target(way), side), pair, way).whole
        for other in (pair.first, pair.second, pair.swapped().target(way)):
            assert not look(paint(other, side), pair, way).whole


def test_the_way_moved_grows_with_the_target_index(table: Table) -> None:
    way = ways_moved(table, load_photos(PAN_SIDE, PAN_SIDE)["astronaut"], (1, 4, 16))
    assert all(later > 2 * earlier for earlier, later in itertools.pairwise(way)), way


def test_kisekaeichi_paints_the_shape_as_the_references(table: Table, pairs: Sequence[Pair]) -> None:
    way: Way = "kisekaeichi"
    assert right([table.make_of(pair, way) for pair in pairs], pairs, way) >= PAIRS - MOST_WRONG
    without = table.make_of(pairs[0], way, lora=False)
    assert not look(without, pairs[0], way).colour


def test_a_black_mask_keeps_the_reference_out(table: Table, pairs: Sequence[Pair]) -> None:
    way: Way = "kisekaeichi"
    masked = [table.make_of(pair, way, black=True) for pair in pairs]
    assert not any(each.colour for each in seen(masked, pairs, way))


def test_1f_mc_puts_the_seconds_shape_on_the_firsts_ground(
    table: Table, pairs: Sequence[Pair], in_order: list[np.ndarray]
) -> None:
    assert right(in_order, pairs, "1f-mc") >= PAIRS - MOST_WRONG
    without = table.make_of(pairs[0], "1f-mc", lora=False)
    assert not look(without, pairs[0], "1f-mc").whole


def test_1f_mc_keeps_the_order_of_its_pictures(table: Table, pairs: Sequence[Pair], in_order: list[np.ndarray]) -> None:
    swapped = [pair.swapped() for pair in pairs]
    made = [table.make_of(pair, "1f-mc") for pair in swapped]
    assert right(made, swapped, "1f-mc") >= PAIRS - MOST_WRONG
    assert right(made, pairs, "1f-mc") == right(in_order, swapped, "1f-mc") == 0


@pytest.mark.parametrize("way", WAYS)
def test_the_files_say_how_they_were_trained(way: Way) -> None:
    with safe_open(LORAS / lora_file(way), framework="np") as file:
        said = said_in(file.metadata())
    kind = MODES[way].kind
    assert said.one_frame == {
        "fp_latent_window_size": 9,
        "fp_1f_clean_indices": list(kind.control_indices),
        "fp_1f_target_index": kind.target_index,
        "fp_1f_no_post": not kind.post,
    }
    assert json.loads(said.settings["network_dim"]) <= 8
