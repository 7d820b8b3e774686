"""Sentences for scenes: many ways to write a camera move or a moving shape, and what each sentence means.

A sentence that names no move (another language, gibberish, a description only, nothing at all) means "hold".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.pocket.camera import SPEEDS

# Zooms need most practice: how far a place moves depends on where it is.
MOVE_SHARES = {"hold": 0.1, "left": 0.12, "right": 0.12, "up": 0.12, "down": 0.12, "in": 0.21, "out": 0.21}


def _list(text: str) -> tuple[str, ...]:
    """Phrases separated by semicolons."""
    return tuple(part.strip() for part in " ".join(text.split()).split(";"))


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
SHAPES = ("circle", "square", "triangle")
SHAPE_WORDS = {
    "circle": _list("""
        circle; disc; ball; dot
    """),
    "square": _list("""
        square; box; block
    """),
    "triangle": _list("""
        triangle; arrowhead
    """),
}
SHAPE_MOVES: dict[str, tuple[float, float, float]] = {  # direction of the shape in the frame, growth
    "left": (-1, 0, 0),
    "right": (1, 0, 0),
    "up": (0, -1, 0),
    "down": (0, 1, 0),
    "grow": (0, 0, 1),
    "shrink": (0, 0, -1),
}
SLOW = ("slowly", "gently", "softly", "gradually", "calmly", "at a slow pace", "leisurely")
QUICK = ("quickly", "fast", "rapidly", "swiftly", "briskly", "at high speed", "speedily")
SLOW_ADJECTIVES = ("slow", "gentle", "gradual", "soft", "calm")
QUICK_ADJECTIVES = ("quick", "fast", "rapid", "swift", "brisk")

SIDE_VERBS = _list("""
    pans; turns; moves; swings; looks; goes; travels; slides; drifts; tracks; sweeps; rotates
""")
RISE_VERBS = ("pans", "tilts", "moves", "looks", "goes", "travels", "turns", "drifts")
SIDE_NOUNS = ("pan", "camera pan", "turn", "sweep", "tracking shot", "camera move", "truck", "panning shot")
RISE_NOUNS = ("tilt", "pan", "camera move", "camera tilt", "pedestal")
CAMERAS = ("the camera", "camera", "the view", "our view", "the lens", "the cameraman", "the shot")
ZOOM_PHRASES = {
    "in": _list("""
        zooms in; pushes in; moves closer; dollies in; moves forward; comes closer; gets closer; moves in
    """),
    "out": _list("""
        zooms out; pulls back; pulls out; dollies out; moves back; moves away; backs away; moves backward
    """),
}
ZOOM_SHORT = {
    "in": _list("""
        zoom in; zoom-in; push in; dolly in; close-up zoom; zooming in; pushing in; a zoom in; magnify
    """),
    "out": _list("""
        zoom out; zoom-out; pull back; dolly out; pull out; zooming out; pulling back; a zoom out
    """),
}
SIDES = {
    "left": _list("""
        left; to the left; leftwards; leftward; towards the left; toward the left; to the left side
    """),
    "right": _list("""
        right; to the right; rightwards; rightward; towards the right; toward the right; to the right side
    """),
    "up": _list("""
        up; upwards; upward; to the top; towards the sky; towards the top
    """),
    "down": _list("""
        down; downwards; downward; to the bottom; towards the ground; towards the bottom
    """),
}
HOLD = _list("""
    the camera holds still; hold still; static shot; static camera; the camera does not move; a still picture;
    nothing moves; still; no motion; no movement; the camera stays in place; locked-off camera; a fixed camera; the
    camera is still; the camera remains still; the view stays the same; tripod shot; freeze; hold; no camera
    movement; the camera is fixed; the camera rests; stationary camera; keep the camera still; motionless; do not
    move
""")
SUBJECTS = _list("""
    a cat; a woman; a man; the girl; a boy; an astronaut; a cup of coffee; a rocket; a motorcycle; a temple; a
    flower; the mountains; a city street; a beach at sunset; a forest; a dog; an old house; a portrait; a car; a
    river; the sea; a field of grass; a table; a bird; people; a landscape; a garden; a bridge; the moon; a room; a
    church; a horse; a tree; the sky; clouds; a photo; a painting; a child; snow; a lake
""")
ACTIONS = _list("""
    dances gracefully; smiles; waves; is sitting; stands there; in the rain; in soft light; at night; in winter;
    talks to a friend; with clear movements; full of charm; on a table; by the window; sings; walks; runs; sleeps;
    on the left; on the right; at the top; at the bottom; with a left hand; in the right place; looks up; sits down
""")
STYLES = _list("""
    cinematic; 4k; highly detailed; film grain; realistic; beautiful; wide shot; soft light; masterpiece;
    documentary style; smooth motion; black and white; vivid colours; golden hour; high quality; steady
""")
FOREIGN = _list("""
    ein Hund läuft im Park; la fille danse; el gato duerme en la mesa; una donna sorride; 猫が歩く;
    一个女孩在跳舞; женщина
    улыбается; رجل يمشي; o menino corre; een fiets bij de gracht; kot śpi; 여자가 웃는다; 🙂🎬; köpek koşuyor
""")


@dataclass(frozen=True)
class Caption:
    """A sentence and its meaning. `shape` is empty for camera scenes, whose `move` is one of `MOVE_SHARES`."""

    text: str
    move: str
    speed: str = ""
    shape: str = ""
    colour: str = ""


def _one(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _adverb(rng: np.random.Generator, speed: str) -> str:
    return {"slowly": _one(rng, SLOW), "quickly": _one(rng, QUICK), "": ""}[speed]


def _adjective(rng: np.random.Generator, speed: str) -> str:
    return {"slowly": _one(rng, SLOW_ADJECTIVES), "quickly": _one(rng, QUICK_ADJECTIVES), "": ""}[speed]


def _side_sentence(rng: np.random.Generator, move: str, speed: str) -> str:
    sideways = move in ("left", "right")
    verbs, nouns = (SIDE_VERBS, SIDE_NOUNS) if sideways else (RISE_VERBS, RISE_NOUNS)
    where, adverb, verb = _one(rng, SIDES[move]), _adverb(rng, speed), _one(rng, verbs)
    if rng.random() < 0.3:  # the plainest wording is the most frequent
        verb, where = verbs[0 if sideways else rng.integers(2)], move
    kind = rng.integers(0, 7)
    if kind <= 2:
        return f"{_one(rng, CAMERAS)} {verb} {where} {adverb}"
    if kind == 3:
        return f"{_one(rng, CAMERAS)} {adverb} {verb} {where}"
    if kind == 4:
        return f"{_adjective(rng, speed)} {_one(rng, nouns)} {where}"
    stem = {"pans": "pan", "goes": "go"}.get(verb, verb[:-1])
    if kind == 5:
        return f"{stem} {where} {adverb}"
    return f"{stem.rstrip('e') + 'ing' if stem != 'pan' else 'panning'} {where} {adverb}"


def _zoom_sentence(rng: np.random.Generator, move: str, speed: str) -> str:
    adverb = _adverb(rng, speed)
    kind = rng.integers(0, 4)
    if kind <= 1:
        return f"{_one(rng, CAMERAS)} {_one(rng, ZOOM_PHRASES[move])} {adverb}"
    if kind == 2:
        return f"{_one(rng, CAMERAS)} {adverb} {_one(rng, ZOOM_PHRASES[move])}"
    words = _one(rng, ZOOM_SHORT[move])
    if rng.random() < 0.5:
        return f"{_adjective(rng, speed)} {words}" if not words.startswith("a ") else f"{words} {adverb}"
    return f"{words} {adverb}"


def _gibberish(rng: np.random.Generator) -> str:
    if rng.random() < 0.4:
        return _one(rng, FOREIGN)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choice(list(letters), int(rng.integers(2, 10)))) for _ in range(int(rng.integers(1, 9)))]
    if rng.random() < 0.3:
        words = ["".join(chr(int(c)) for c in rng.integers(33, 0x2FFF, len(w))) for w in words]
    return " ".join(words)


def _describe(rng: np.random.Generator) -> str:
    text = _one(rng, SUBJECTS)
    if rng.random() < 0.6:
        text += " " + _one(rng, ACTIONS)
    return text


def _hold_sentence(rng: np.random.Generator) -> str:
    chance = rng.random()
    if chance < 0.45:
        return _one(rng, HOLD)
    if chance < 0.75:
        return _describe(rng)
    return _gibberish(rng)


def _surround(rng: np.random.Generator, text: str) -> str:
    """Sometimes put words around a sentence that say nothing about the move."""
    chance = rng.random()
    if chance < 0.12:
        text = f"{_describe(rng)}, {text}"
    elif chance < 0.24:
        text = f"{text}, {_describe(rng)}"
    elif chance < 0.30:
        text = f"{text} over {_one(rng, SUBJECTS)}"
    elif chance < 0.36:
        text = f"{_describe(rng)}. {text}"
    elif chance < 0.40:
        text = f"{_gibberish(rng)} {text}"
    if rng.random() < 0.15:
        text = f"{text}, {_one(rng, STYLES)}"
    return text


def _finish(rng: np.random.Generator, text: str) -> str:
    text = " ".join(text.split()).replace(" ,", ",")
    chance = rng.random()
    if chance < 0.4:
        text = text[:1].upper() + text[1:]
    elif chance < 0.43:
        text = text.upper()
    return text + ("." if rng.random() < 0.4 else "")


def camera_caption(rng: np.random.Generator, move: str, speed: str) -> Caption:
    """A sentence for a camera move; "hold" has no speed."""
    if move == "hold":
        return Caption(_finish(rng, _surround(rng, _hold_sentence(rng))), move)
    sentence = _zoom_sentence if move in ("in", "out") else _side_sentence
    return Caption(_finish(rng, _surround(rng, sentence(rng, move, speed))), move, speed)


def _shape_verb(rng: np.random.Generator, move: str) -> str:
    if move == "grow":
        return _one(rng, ("grows", "gets bigger", "becomes larger", "expands"))
    if move == "shrink":
        return _one(rng, ("shrinks", "gets smaller", "becomes smaller", "contracts"))
    return (
        f"{_one(rng, ('moves', 'slides', 'travels', 'flies', 'floats', 'goes', 'drifts'))} {_one(rng, SIDES[move][:3])}"
    )


def shape_caption(rng: np.random.Generator, shape: str, colour: str, move: str, speed: str) -> Caption:
    """A sentence for one coloured shape that moves while the camera holds still."""
    subject = f"{_one(rng, ('a', 'the', 'one'))} {colour} {_one(rng, SHAPE_WORDS[shape])}"
    words = f"{subject} {_shape_verb(rng, move)} {_adverb(rng, speed)}"
    return Caption(_finish(rng, words), move, speed, shape, colour)


def draw_caption(rng: np.random.Generator, shape_share: float = 0.1, empty_share: float = 0.05) -> Caption:
    """Any caption: camera moves, some shapes, some empty ones (which hold still)."""
    if rng.random() < empty_share:
        return Caption("", "hold")
    speed = str(rng.choice(list(SPEEDS), p=[0.2, 0.6, 0.2]))
    if rng.random() < shape_share:
        return shape_caption(
            rng, str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), str(rng.choice(list(SHAPE_MOVES))), speed
        )
    return camera_caption(rng, str(rng.choice(list(MOVE_SHARES), p=list(MOVE_SHARES.values()))), speed)
