"""The sheet of a sweep: every picture whole, under its label."""

import numpy as np
import pytest

from diffusers_helper.media.grid import labelled_grid


def found(sheet: np.ndarray, shade: int) -> tuple[slice, slice]:
    """Where the picture of one colour is."""
    rows, columns = np.nonzero((sheet == shade).all(axis=-1))
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


@pytest.mark.parametrize(("size", "count", "columns"), [((48, 64), 5, 3), ((128, 96), 4, 4), ((16, 16), 2, 1)])
def test_every_picture_is_whole_in_its_row_and_column(size: tuple[int, int], count: int, columns: int) -> None:
    shades = [60 + 20 * n for n in range(count)]
    pictures = [np.full((*size, 3), shade, np.uint8) for shade in shades]
    sheet = labelled_grid(pictures, [f"target_index {n}" for n in range(count)], columns)
    places = [found(sheet, shade) for shade in shades]
    for place, shade in zip(places, shades, strict=True):
        assert (sheet[place] == shade).all()
        assert sheet[place].shape == (*size, 3)
    lefts = [place[1].start for place in places]
    assert lefts == [lefts[n % columns] for n in range(count)]
    assert len({place[0].start for place in places}) == -(-count // columns)


def test_labels_are_told_apart_and_stay_over_their_picture() -> None:
    pictures = [np.full((40, 120, 3), 90, np.uint8)] * 2

    def above(labels: list[str]) -> np.ndarray:
        sheet = labelled_grid(pictures, labels, 2)
        return sheet[: found(sheet, 90)[0].start]

    assert not np.array_equal(above(["seed 1", "seed 2"]), above(["seed 1", "seed 3"]))
    long = above(["a label that is much longer than the picture is wide", ""])
    assert (long[:, 130:] == long[0, 0]).all(), "nothing is written over the next picture"


def test_a_picture_of_another_size_is_brought_to_the_first_one_s() -> None:
    sheet = labelled_grid([np.full((40, 60, 3), 90, np.uint8), np.full((80, 60, 3), 150, np.uint8)], ["a", "b"], 2)
    assert sheet[found(sheet, 150)].shape == (40, 60, 3)
