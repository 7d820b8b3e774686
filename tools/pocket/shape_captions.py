"""Sentences for scenes of coloured shapes, and any sentence at all (`draw_caption`)."""

from __future__ import annotations

import numpy as np

from tools.pocket.camera import SPEEDS
from tools.pocket.captions import (
    MOVE_SHARES,
    SIDES,
    SOFT_START_SHARE,
    Caption,
    Figure,
    adverb_of,
    camera_caption,
    finish,
    listed,
    one,
)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 70, 220),
    "yellow": (240, 220, 50),
    "orange": (245, 140, 30),
    "purple": (140, 50, 180),
    "pink": (245, 140, 190),
    "cyan": (50, 210, 220),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
    "grey": (128, 128, 128),
    "brown": (130, 80, 40),
}
SHAPE_WORDS = {
    "circle": ("circle", "disc", "ball", "dot"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "arrowhead"),
    "star": ("star",),
    "ring": ("ring", "hoop", "loop"),
}
ROUND = ("circle", "ring")  # nobody sees these spin
# what moves -> how often; "hold" is a shape that stays where it is
FIGURE_MOVES = {
    **dict.fromkeys(("left", "right", "up", "down"), 0.07),
    "grow": 0.08,
    "shrink": 0.12,
    **dict.fromkeys(("spin", "bounce", "recolour"), 0.16),
    "hold": 0.04,
}
FIGURE_VERBS = {
    "grow": ("grows", "gets bigger", "becomes larger", "expands"),
    "shrink": ("shrinks", "gets smaller", "becomes smaller", "contracts"),
    "spin": ("spins", "rotates", "spins around", "turns round and round", "revolves", "twirls", "spins on the spot"),
    "bounce": ("bounces", "bounces up and down", "jumps up and down", "hops", "is bouncing"),
    "hold": ("stays still", "does not move", "rests", "holds still", "stays in place"),
}
GLIDES = ("moves", "slides", "travels", "flies", "floats", "goes", "drifts")
GROUNDS = {
    "plain": listed("on a plain background; on a plain ground; on a single colour; on an empty background"),
    "gradient": listed("on a gradient; on a soft gradient; over a smooth background; before a gradient background"),
    "textured": listed("on a textured background; over a picture; before a painting; on a busy background"),
}


def _verb(rng: np.random.Generator, figure: Figure) -> str:
    if figure.move == "recolour":
        ways = (
            f"turns {figure.becomes}",
            f"becomes {figure.becomes}",
            f"changes colour to {figure.becomes}",
            f"changes color to {figure.becomes}",
            f"changes from {figure.colour} to {figure.becomes}",
            f"fades to {figure.becomes}",
        )
        return one(rng, ways)
    if figure.move in SIDES:
        return f"{one(rng, GLIDES)} {one(rng, SIDES[figure.move][:3])}"
    return one(rng, FIGURE_VERBS[figure.move])


def _clause(rng: np.random.Generator, figure: Figure) -> str:
    article = one(rng, ("an" if figure.colour[0] in "aeiou" else "a", "the", "one"))
    subject = f"{article} {figure.colour} {one(rng, SHAPE_WORDS[figure.shape])}"
    return f"{subject} {_verb(rng, figure)} {adverb_of(rng, figure.speed)}"


def shape_caption(rng: np.random.Generator, figures: tuple[Figure, ...], ground: str) -> Caption:
    """A sentence for one or two coloured shapes that move while the camera holds still."""
    text = one(rng, (" and ", " while ", ", ", ", and ")).join(_clause(rng, figure) for figure in figures)
    if rng.random() < 0.2:
        text += " " + one(rng, GROUNDS[ground])
    return Caption(finish(rng, text), "hold", figures=figures, ground=ground)


def draw_figure(rng: np.random.Generator, colour: str, becomes: str, hold_share: float = 0.0) -> Figure:
    """A shape of a colour with any move; `becomes` counts when its colour changes."""
    moves = list(FIGURE_MOVES)
    move = "hold" if rng.random() < hold_share else str(rng.choice(moves, p=list(FIGURE_MOVES.values())))
    shapes = [shape for shape in SHAPE_WORDS if move != "spin" or shape not in ROUND]
    speed = "" if move == "hold" else str(rng.choice(list(SPEEDS), p=[0.2, 0.6, 0.2]))
    return Figure(str(rng.choice(shapes)), colour, move, speed, becomes if move == "recolour" else "")


def draw_shape_caption(rng: np.random.Generator, pair_share: float = 0.35) -> Caption:
    """Any scene of one shape or, as often as `pair_share`, two."""
    colours = [str(c) for c in rng.choice(list(COLOURS), 3, replace=False)]
    figures = [draw_figure(rng, colours[0], colours[2])]
    if rng.random() < pair_share:
        figures.append(draw_figure(rng, colours[1], colours[2], hold_share=0.4))
        figures = figures[:: rng.choice([-1, 1])]
    return shape_caption(rng, tuple(figures), str(rng.choice(list(GROUNDS))))


def draw_caption(rng: np.random.Generator, shape_share: float = 0.1, empty_share: float = 0.05) -> Caption:
    """Any caption: camera moves, some shapes, some empty ones (which hold still)."""
    if rng.random() < empty_share:
        return Caption("", "hold")
    if rng.random() < shape_share:
        return draw_shape_caption(rng)
    speed = str(rng.choice(list(SPEEDS), p=[0.2, 0.6, 0.2]))
    move = str(rng.choice(list(MOVE_SHARES), p=list(MOVE_SHARES.values())))
    return camera_caption(rng, move, speed, soft_start=rng.random() < SOFT_START_SHARE)
