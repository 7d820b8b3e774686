"""The evaluation's figures on clips whose motion, sharpness and seams are known."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from tools.pocket.evaluation import measures, motion
from tools.pocket.evaluation.measures import Row

SIDE = 64


def picture(height: int, width: int) -> torch.Tensor:
    """Smooth noise, [3, height, width] in -1..1."""
    noise = torch.rand((1, 3, height // 6 + 2, width // 6 + 2), generator=torch.Generator().manual_seed(1)) * 2 - 1
    return torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic")[0].clamp(-1, 1)


def pan(places: list[float]) -> torch.Tensor:
    """A clip [3, F, side, side] whose content has moved by these many pixels to the right."""
    wide = picture(SIDE, 4 * SIDE)
    xs = torch.arange(SIDE) + 2 * SIDE - torch.tensor(places)[:, None]
    low = xs.floor().long()
    part = (xs - low)[None, :, None]
    left, right = (wide[:, :, low + k].transpose(1, 2) for k in (0, 1))
    return left * (1 - part) + right * part


def test_motion_a_frame_is_the_way_and_not_the_distance() -> None:
    there_and_back = pan([*np.arange(0, 9, 1.0), *np.arange(8, -1, -1.0)])
    assert abs(motion.measure(there_and_back).right) < 1
    assert measures.motion_per_frame(there_and_back) == pytest.approx(0.94, abs=0.15)


def test_sharpness_kept() -> None:
    still = picture(SIDE, SIDE)[:, None].expand(-1, 70, -1, -1).clone()
    assert measures.sharpness_kept(still) == pytest.approx(1)
    still[:, 40:] *= 0.5**0.5
    assert measures.sharpness_kept(still) == pytest.approx(0.5)
    soft = avg_pool2d(still, 3, stride=1, padding=1)
    assert measures.sharpness_kept(torch.cat([still[:, :40], soft[:, 40:]], 1)) < 0.45


def test_calm_is_neither_motion_nor_noise() -> None:
    still = picture(SIDE, SIDE)[:, None].expand(-1, 12, -1, -1).clone()
    assert measures.is_calm(still)
    assert not measures.is_calm(pan(list(np.arange(0, 12, 1.0))))
    assert not measures.is_calm(pan(list(np.arange(12) * 0.43)))  # "slowly"
    dissolved = still.clone()
    dissolved[:, 6:] = torch.randn(3, 6, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert not measures.is_calm(dissolved)


def test_a_pan_that_starts_from_rest() -> None:
    seconds = np.arange(37) / 30
    assert measures.starts_from_rest(pan(list(-26 * np.minimum(seconds, 1) ** 2 / 2)), "right")
    assert measures.starts_from_rest(pan(list(-26 * seconds)), "right") is False
    assert measures.starts_from_rest(pan(list(-26 * seconds)), "left") is None
    assert measures.starts_from_rest(pan(list(0 * seconds)), "right") is None


def test_a_steady_pan_passes_its_seams() -> None:
    assert measures.seams_passed(pan(list(np.arange(73) * 0.8)), "left", 36) == [True]
    assert measures.seams_passed(pan(list(-np.arange(73) * 0.8)), "right", 36) == [True]


@pytest.mark.parametrize("case", ["jump", "stop", "still", "other way"])
def test_a_seam_with_a_fault_is_seen(case: str) -> None:
    frames = np.arange(73)
    places = {
        "jump": frames * 0.8 + 3.5 * (frames > 36),
        "stop": np.minimum(frames, 28) * 0.8 + np.maximum(frames - 44, 0) * 0.8,
        "still": frames * 0.0,
        "other way": -frames * 0.8,
    }[case]
    assert measures.seams_passed(pan(list(places)), "left", 36) == [False]


@pytest.mark.parametrize("seconds", [0.15, 0.6, 1.2])
def test_extent_finds_how_far_two_pictures_lie_apart(seconds: float) -> None:
    clip = pan([0.0, 26.0 * seconds])
    assert motion.extent(clip[:, 0], clip[:, 1], "left", 2.0) == pytest.approx(seconds, abs=0.06)


def test_rank_correlation() -> None:
    assert measures.rank_correlation((1, 4, 9, 16), (0.1, 0.4, 0.9, 2)) == pytest.approx(1)
    assert measures.rank_correlation((1, 4, 9, 16), (2, 1, 0.5, 0)) == pytest.approx(-1)
    assert measures.rank_correlation((1, 4, 9, 16), (1, 1, 1, 1)) == 0


def test_rows_know_their_bounds() -> None:
    assert Row("", 0.95, 0.95).reached
    assert not Row("", 0.94, 0.95).reached
    assert not Row("", 1.3, 0.8, 1.25).reached
    assert not Row("", measures.share([]), 0.9).reached
    assert [Row("", 1, 2).wanted, Row("", 1, at_most=3).wanted, Row("", 1, 2, 3).wanted] == [
        "at least 2",
        "at most 3",
        "2 to 3",
    ]
