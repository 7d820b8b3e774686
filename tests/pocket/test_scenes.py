"""Scenes for the pocket: what the words say is what is drawn, and the measuring code sees it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tools.pocket import camera
from tools.pocket.captions import MOVE_SHARES, SIDES, Caption, Figure, camera_caption
from tools.pocket.evaluation import motion
from tools.pocket.evaluation.measures import starts_from_rest
from tools.pocket.evaluation.scenes import draw_scene, moves_seen
from tools.pocket.evaluation.shape_track import follow
from tools.pocket.shape_captions import FIGURE_MOVES, GROUNDS, ROUND, draw_caption, draw_shape_caption
from tools.pocket.shapes import paint_figures, paint_ground

SIDE = 64
TIMES = (np.arange(0, 37, 3) / camera.FPS).astype(np.float32)


def canvas(size: int = 256) -> torch.Tensor:
    """Smooth coloured noise, [1, size, size, 3] uint8."""
    noise = torch.rand((1, 3, size // 8, size // 8), generator=torch.Generator().manual_seed(3)) * 255
    large = torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic").clamp(0, 255)
    return large.permute(0, 2, 3, 1).byte()


def seen_by_camera(move: str, speed: str = "", times: np.ndarray = TIMES) -> torch.Tensor:
    """Frames [3, F, side, side] of a steady camera move."""
    path = camera.draw_paths(np.random.default_rng(1), [camera.Move(move, speed)], times, 256, distance=0.0)
    return camera.render(canvas(), path, SIDE, SIDE)[0]


@pytest.mark.parametrize("move", camera.MOVES)
def test_every_move_is_measured_as_it_was_drawn(move: str) -> None:
    assert motion.measure(seen_by_camera(move)).camera_move(SIDE) == move


def test_a_camera_that_rolls_clockwise_turns_the_picture_counterclockwise() -> None:
    picture = torch.zeros(1, 256, 256, 3, dtype=torch.uint8)
    picture[:, 126:130, 150:] = 255  # a bar from near the centre to the right
    times = np.array([0.0, 1.2], dtype=np.float32)
    rng = np.random.default_rng(2)
    path = camera.draw_paths(rng, [camera.Move("clockwise")], times, 256, distance=0.0)
    path = replace(path, x=path.x * 0 + 127.5, y=path.y * 0 + 127.5)
    first, last = camera.render(picture, path, 128, 128)[0, 0]
    rows = torch.arange(128.0)[:, None]
    heights = [float(((frame + 1) * rows).sum() / (frame + 1).sum()) for frame in (first, last)]
    assert heights[1] < heights[0] - 10


def test_speed_is_measured() -> None:
    slow, quick = (motion.measure(seen_by_camera("clockwise", speed)).roll for speed in ("slowly", "quickly"))
    seconds = float(TIMES[-1])
    assert slow == pytest.approx(-0.5 * camera.ROLL_PER_SECOND * seconds, rel=0.15)
    assert quick == pytest.approx(-1.6 * camera.ROLL_PER_SECOND * seconds, rel=0.15)


def test_a_soft_start_gathers_speed_and_loses_half_of_its_time() -> None:
    gone = camera.steady_seconds(np.array([0.0, 0.5, 1.0, 3.0]), soft_start=True)
    assert gone == pytest.approx([0, 0.125, 0.5, 2.5])
    assert camera.steady_seconds(TIMES, soft_start=False) == pytest.approx(TIMES)


@pytest.mark.parametrize("move", camera.DIAGONALS)
def test_diagonals_name_both_sides(move: str) -> None:
    rise, side = move.split()
    edges = {"up": ("up", "top"), "down": ("down", "bottom", "lower")}
    assert all(side in words and any(edge in words for edge in edges[rise]) for words in SIDES[move])
    rng = np.random.default_rng(0)
    assert len({camera_caption(rng, move, "", soft_start=True).text for _ in range(200)}) > 80


def test_the_camera_that_starts_softly_is_seen_to() -> None:
    times = np.arange(37, dtype=np.float32) / camera.FPS
    for soft in (False, True):
        move = camera.Move("left", soft_start=soft)
        path = camera.draw_paths(np.random.default_rng(1), [move], times, 256, distance=0.0)
        assert starts_from_rest(camera.render(canvas(), path, SIDE, SIDE)[0], "left") is soft


def test_turns_have_words_that_pans_have_not() -> None:
    rng = np.random.default_rng(0)
    for move in ("clockwise", "counterclockwise"):
        texts = {camera_caption(rng, move, "").text.lower() for _ in range(200)}
        assert len(texts) > 80
        assert all("clock" in text for text in texts)
        assert all(("counter" in t or "anti" in t or "against" in t) == (move != "clockwise") for t in texts)


def test_shares_of_moves_are_whole() -> None:
    assert sum(MOVE_SHARES.values()) == pytest.approx(1)
    assert sum(FIGURE_MOVES.values()) == pytest.approx(1)
    assert set(MOVE_SHARES) == set(camera.MOVES)


def test_shape_captions_say_what_the_figures_do() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_shape_caption(rng) for _ in range(300)]
    assert {len(c.figures) for c in drawn} == {1, 2}
    assert {c.ground for c in drawn} == set(GROUNDS)
    for caption in drawn:
        for figure in caption.figures:
            assert figure.colour in caption.text.lower()
            assert figure.becomes in caption.text.lower()
            assert bool(figure.becomes) == (figure.move == "recolour")
            assert not (figure.move == "spin" and figure.shape in ROUND)


def test_a_share_of_captions_shows_shapes() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_caption(rng, shape_share=0.5, empty_share=0.0) for _ in range(300)]
    assert 0.4 < np.mean([bool(c.figures) for c in drawn]) < 0.6


@pytest.mark.parametrize("move", FIGURE_MOVES)
@pytest.mark.parametrize(("shape", "ground"), [("star", "plain"), ("square", "gradient"), ("triangle", "textured")])
def test_figures_are_followed(move: str, shape: str, ground: str) -> None:
    rng = np.random.default_rng(5)
    figure = Figure(shape, "orange", move, "", "cyan" if move == "recolour" else "")
    other = Figure("ring", "black", "hold")
    caption = Caption("", "hold", figures=(figure, other), ground=ground)
    still = seen_by_camera("hold") * 0.2 + 0.1
    bare = paint_ground(rng, caption, still)
    clip = paint_figures(rng, bare, caption, TIMES)
    assert follow(clip, bare[:, :1], figure, [other]).move(shape, SIDE) == move
    assert follow(clip, bare[:, :1], other, [figure]).move("ring", SIDE) == "hold"


def test_sentences_that_say_nothing_come_in_many_scripts_and_mean_holding_still() -> None:
    rng = np.random.default_rng(0)
    drawn = [camera_caption(rng, "hold", "") for _ in range(400)]
    assert all(c.move == "hold" and not c.speed for c in drawn)
    letters = "".join(c.text for c in drawn)
    for first, last in ((0x430, 0x44F), (0x4E00, 0x9FBF), (0xAC00, 0xD7A3), (0x627, 0x64A)):
        assert any(first <= ord(letter) <= last for letter in letters)


def test_a_drawn_scene_can_be_measured() -> None:
    scene = draw_scene(np.random.default_rng(0), canvas(384), "bounce", (SIDE, SIDE))
    assert scene.picture.shape == (3, SIDE, SIDE)
    assert scene.caption.figures[0].move == "bounce"
    still = scene.picture[:, None].expand(-1, 37, -1, -1)
    assert set(moves_seen(scene, still)) == {"hold"}
