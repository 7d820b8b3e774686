"""Groups that are measured on fresh scenes: coloured shapes that move as written.

Shape legend: F frames, H x W pixels.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tools.pocket import camera
from tools.pocket.captions import Caption, Figure
from tools.pocket.evaluation.measures import Row, share
from tools.pocket.evaluation.shape_track import follow
from tools.pocket.evaluation.studio import Studio
from tools.pocket.shape_captions import COLOURS, FIGURE_MOVES, GROUNDS, ROUND, SHAPE_WORDS, shape_caption
from tools.pocket.shapes import paint_figures, paint_ground

LOG = logging.getLogger(__name__)
PAIR_SHARE = 0.25
TIMES = (np.arange(37) / camera.FPS).astype(np.float32)  # of the frames of one section


@dataclass(frozen=True)
class Scene:
    """A sentence, the first picture `[3, H, W]`, and the bare ground `[3, 1, H, W]`."""

    caption: Caption
    picture: torch.Tensor
    ground: torch.Tensor


def draw_scene(rng: np.random.Generator, canvases: torch.Tensor, move: str, size: tuple[int, int]) -> Scene:
    """A scene whose first figure makes `move`; sometimes a second one rests beside it.

    Drawn until its true video is measured as written: where shape and ground look alike, nothing could be measured.
    """
    while True:
        caption = _draw_caption(rng, move)
        canvas = canvases[int(rng.integers(len(canvases)))][None]
        view = camera.render(canvas, camera.draw_paths(rng, [camera.Move("hold")], TIMES[:1], len(canvas[0])), *size)[0]
        ground = paint_ground(rng, caption, view)
        true = paint_figures(rng, ground.expand(-1, len(TIMES), -1, -1), caption, TIMES)
        scene = Scene(caption, true[:, 0], ground)
        if moves_seen(scene, true) == [figure.move for figure in caption.figures]:
            return scene


def _draw_caption(rng: np.random.Generator, move: str) -> Caption:
    first, second, third = (str(c) for c in rng.choice(list(COLOURS), 3, replace=False))
    shapes = [shape for shape in SHAPE_WORDS if move != "spin" or shape not in ROUND]
    figures = [Figure(str(rng.choice(shapes)), first, move, "", second if move == "recolour" else "")]
    if rng.random() < PAIR_SHARE:
        figures.append(Figure(str(rng.choice(list(SHAPE_WORDS))), third, "hold"))
    return shape_caption(rng, tuple(figures), str(rng.choice(list(GROUNDS))))


def moves_seen(scene: Scene, clip: torch.Tensor) -> list[str]:
    """What each figure of the scene does in a clip `[3, F, H, W]`."""
    figures, side = scene.caption.figures, min(clip.shape[-2:])
    return [
        follow(clip, scene.ground, figure, [o for o in figures if o is not figure]).move(figure.shape, side)
        for figure in figures
    ]


def shape_moves(
    studio: Studio, canvases: torch.Tensor, count: int, kinds: list[str], size: tuple[int, int]
) -> tuple[list[Row], dict[str, Any]]:
    """Share of figures that do what is written, over `count` scenes for every move and kind of sampling."""
    rng = np.random.default_rng(studio.seed)
    right: dict[str, list[bool]] = {move: [] for move in FIGURE_MOVES}
    for kind in kinds:
        for move in (m for m in FIGURE_MOVES if m != "hold"):
            seen = []
            for number in range(count):
                scene = draw_scene(rng, canvases, move, size)
                clip = studio.video(scene.picture, scene.caption.text, kind, name=f"{kind}_shape_{move}_{number}")
                for figure, found in zip(scene.caption.figures, moves_seen(scene, clip), strict=True):
                    right[figure.move].append(found == figure.move)
                    seen.append(found)
            LOG.info("%s shapes %s: seen %s", kind, move, seen)
    moving = [r for move, rows in right.items() if move != "hold" for r in rows]
    figures = {move: round(share(rows), 3) for move, rows in right.items() if rows}
    return [Row("shape moves as written", share(moving), 0.9)], {"as_written": figures, "shapes": len(moving)}
