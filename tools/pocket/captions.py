"""Sentences for scenes: many ways to write a camera move, and what each sentence means.

A sentence that names no move (another language, gibberish, a description only, nothing at all) means "hold".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Zooms and turns need most practice: how far a place moves depends on where it is.
MOVE_SHARES = {
    "hold": 0.14,
    **dict.fromkeys(("left", "right", "up", "down"), 0.08),
    **dict.fromkeys(("in", "out", "clockwise", "counterclockwise"), 0.1),
    **dict.fromkeys(("up left", "up right", "down left", "down right"), 0.035),
}
SOFT_START_SHARE = 0.12
# the plainest sentence for each move
PROMPTS = {
    "hold": "the camera holds still",
    "left": "the camera pans left",
    "right": "the camera pans right",
    "up": "the camera pans up",
    "down": "the camera pans down",
    "in": "the camera zooms in",
    "out": "the camera zooms out",
    "clockwise": "the camera rolls clockwise",
    "counterclockwise": "the camera rolls counterclockwise",
    "up left": "the camera pans up and to the left",
    "up right": "the camera pans up and to the right",
    "down left": "the camera pans down and to the left",
    "down right": "the camera pans down and to the right",
}


def listed(text: str) -> tuple[str, ...]:
    """Phrases separated by semicolons."""
    return tuple(part.strip() for part in " ".join(text.split()).split(";"))


SLOW = ("slowly", "gently", "softly", "gradually", "calmly", "at a slow pace", "leisurely")
QUICK = ("quickly", "fast", "rapidly", "swiftly", "briskly", "at high speed", "speedily")
SLOW_ADJECTIVES = ("slow", "gentle", "gradual", "soft", "calm")
QUICK_ADJECTIVES = ("quick", "fast", "rapid", "swift", "brisk")

SIDE_VERBS = listed("""
    pans; turns; moves; swings; looks; goes; travels; slides; drifts; tracks; sweeps; rotates
""")
RISE_VERBS = ("pans", "tilts", "moves", "looks", "goes", "travels", "turns", "drifts")
SIDE_NOUNS = ("pan", "camera pan", "turn", "sweep", "tracking shot", "camera move", "truck", "panning shot")
RISE_NOUNS = ("tilt", "pan", "camera move", "camera tilt", "pedestal")
DIAGONAL_VERBS = ("pans", "moves", "tilts", "goes", "travels", "drifts", "slides")
DIAGONAL_NOUNS = ("pan", "diagonal pan", "camera move", "camera pan", "diagonal camera move")
SOFT_STARTS = listed("""
    with a soft start; with a gentle start; easing into it; starting from rest; gathering speed; picking up speed;
    speeding up gently; accelerating smoothly; starting gently
""")
CAMERAS = ("the camera", "camera", "the view", "our view", "the lens", "the cameraman", "the shot")
ZOOM_PHRASES = {
    "in": listed("""
        zooms in; pushes in; moves closer; dollies in; moves forward; comes closer; gets closer; moves in
    """),
    "out": listed("""
        zooms out; pulls back; pulls out; dollies out; moves back; moves away; backs away; moves backward
    """),
}
ZOOM_SHORT = {
    "in": listed("""
        zoom in; zoom-in; push in; dolly in; close-up zoom; zooming in; pushing in; a zoom in; magnify
    """),
    "out": listed("""
        zoom out; zoom-out; pull back; dolly out; pull out; zooming out; pulling back; a zoom out
    """),
}
TURN_VERBS = ("rolls", "rotates", "turns", "spins", "twists", "revolves")
TURN_NOUNS = ("roll", "rotation", "turn", "spin", "camera roll", "twist")
TURN_ADJECTIVES = {
    "clockwise": ("clockwise",),
    "counterclockwise": ("counterclockwise", "counter-clockwise", "anticlockwise", "anti-clockwise"),
}
CLOCKS = {
    "clockwise": listed("""
        clockwise; clockwise; clockwise; in a clockwise direction; in clockwise direction; with the clock
    """),
    "counterclockwise": listed("""
        counterclockwise; counterclockwise; counter-clockwise; anticlockwise; anti-clockwise; against the clock;
        in a counterclockwise direction; in an anticlockwise direction
    """),
}
SIDES = {
    "left": listed("""
        left; to the left; leftwards; leftward; towards the left; toward the left; to the left side
    """),
    "right": listed("""
        right; to the right; rightwards; rightward; towards the right; toward the right; to the right side
    """),
    "up": listed("""
        up; upwards; upward; to the top; towards the sky; towards the top
    """),
    "down": listed("""
        down; downwards; downward; to the bottom; towards the ground; towards the bottom
    """),
    **{
        f"{rise} {side}": listed(f"""
            {rise} {side}; {rise} and {side}; {rise} and to the {side}; {rise}wards and to the {side};
            {side} and {rise}; to the {edge} {side}; diagonally {rise} and {side}; diagonally {rise} {side};
            diagonally to the {edge} {side}; towards the {corner} {side} corner; {rise}-{side}; to the {corner} {side};
            diagonally {rise} to the {side}
        """)
        for rise, edge, corner in (("up", "upper", "top"), ("down", "lower", "bottom"))
        for side in ("left", "right")
    },
}
HOLD = listed("""
    the camera holds still; hold still; static shot; static camera; the camera does not move; a still picture;
    nothing moves; still; no motion; no movement; the camera stays in place; locked-off camera; a fixed camera; the
    camera is still; the camera remains still; the view stays the same; tripod shot; freeze; hold; no camera
    movement; the camera is fixed; the camera rests; stationary camera; keep the camera still; motionless; do not
    move
""")
SUBJECTS = listed("""
    a cat; a woman; a man; the girl; a boy; an astronaut; a cup of coffee; a rocket; a motorcycle; a temple; a
    flower; the mountains; a city street; a beach at sunset; a forest; a dog; an old house; a portrait; a car; a
    river; the sea; a field of grass; a table; a bird; people; a landscape; a garden; a bridge; the moon; a room; a
    church; a horse; a tree; the sky; clouds; a photo; a painting; a child; snow; a lake
""")
ACTIONS = listed("""
    dances gracefully; smiles; waves; is sitting; stands there; in the rain; in soft light; at night; in winter;
    talks to a friend; with clear movements; full of charm; on a table; by the window; sings; walks; runs; sleeps;
    on the left; on the right; at the top; at the bottom; with a left hand; in the right place; looks up; sits down
""")
STYLES = listed("""
    cinematic; 4k; highly detailed; film grain; realistic; beautiful; wide shot; soft light; masterpiece;
    documentary style; smooth motion; black and white; vivid colours; golden hour; high quality; steady
""")
FOREIGN = listed("""
    ein Hund läuft im Park; la fille danse; el gato duerme en la mesa; una donna sorride; 猫が歩く;
    一个女孩在跳舞; женщина
    улыбается; رجل يمشي; o menino corre; een fiets bij de gracht; kot śpi; 여자가 웃는다; 🙂🎬; köpek koşuyor
""")

WORDS = listed("""
    the; a; and; with; of; in; my; her; his; two; three; some; old; young; small; big; blue; golden; dark; bright;
    happy; quiet; wooden; ancient; wild; brown; fox; wolf; cow; lady; king; queen; soldier; doctor; teacher; kids;
    friends; train; boat; plane; bicycle; kitchen; market; village; castle; desert; island; storm; fire; rain;
    morning; evening; music; dance; book; newspaper; coffee; bread; apple; ice cream; dress; hat; shoes; eating;
    reading; drinking; laughing; crying; playing; working; jumping; howls; cooks; writes; paints; swims; sings;
    thinks; loves; opens
""")
SYLLABLES = listed("""
    ka; lo; mi; tan; ver; sch; el; la; um; der; ge; ei; ou; que; ción; ão; ü; ö; ä; ß; é; è; ñ; sk; jen; ny; ij; oe;
    zy; cz; ł; ş; ğ; ø; å; re; sta; po; li; ne; su; ri; mo; de; les; qu; th; br; en; an; is; os; em; ig; lich; ung;
    ato; ella
""")
# first and last letter of scripts: Cyrillic, Greek, Hebrew, Arabic, Devanagari, Thai, kana, Chinese, Korean
SCRIPTS = (
    (0x430, 0x44F),
    (0x3B1, 0x3C9),
    (0x5D0, 0x5EA),
    (0x627, 0x64A),
    (0x905, 0x939),
    (0xE01, 0xE2E),
    (0x3041, 0x30FA),
    (0x4E00, 0x9FBF),
    (0x4E00, 0x9FBF),
    (0xAC00, 0xD7A3),
)
SIGNS = tuple("0123456789!?%#@*&+-=~()[]<>/.,;:")


@dataclass(frozen=True)
class Figure:
    """A coloured shape, and how it moves; `becomes` is the colour that it changes to."""

    shape: str
    colour: str
    move: str
    speed: str = ""
    becomes: str = ""


@dataclass(frozen=True)
class Caption:
    """A sentence and its meaning: one of `MOVE_SHARES` of the camera, or figures on a ground before a still camera."""

    text: str
    move: str
    speed: str = ""
    soft_start: bool = False
    figures: tuple[Figure, ...] = ()
    ground: str = ""


def one(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """Any of them."""
    return options[rng.integers(len(options))]


def adverb_of(rng: np.random.Generator, speed: str) -> str:
    """ "gently", or nothing for the middle speed."""
    return {"slowly": one(rng, SLOW), "quickly": one(rng, QUICK), "": ""}[speed]


def _adjective(rng: np.random.Generator, speed: str) -> str:
    return {"slowly": one(rng, SLOW_ADJECTIVES), "quickly": one(rng, QUICK_ADJECTIVES), "": ""}[speed]


def _camera_does(rng: np.random.Generator, what: str, adverb: str, adverb_first: bool) -> str:
    """A whole sentence, such as "the view slowly pans left"."""
    words = (adverb, what) if adverb_first else (what, adverb)
    return " ".join((one(rng, CAMERAS), *words))


def _side_sentence(rng: np.random.Generator, move: str, speed: str) -> str:
    verbs, nouns = _PAN_WORDS.get(move, (DIAGONAL_VERBS, DIAGONAL_NOUNS))
    where, adverb, verb = one(rng, SIDES[move]), adverb_of(rng, speed), one(rng, verbs)
    if rng.random() < 0.3:  # the plainest wording is the most frequent
        verb, where = verbs[rng.integers(2) if verbs is RISE_VERBS else 0], move
    kind = rng.integers(0, 7)
    if kind <= 3:
        return _camera_does(rng, f"{verb} {where}", adverb, adverb_first=kind == 3)
    if kind == 4:
        return f"{_adjective(rng, speed)} {one(rng, nouns)} {where}"
    stem = {"pans": "pan", "goes": "go"}.get(verb, verb[:-1])
    if kind == 5:
        return f"{stem} {where} {adverb}"
    return f"{stem.rstrip('e') + 'ing' if stem != 'pan' else 'panning'} {where} {adverb}"


def _zoom_sentence(rng: np.random.Generator, move: str, speed: str) -> str:
    adverb = adverb_of(rng, speed)
    kind = rng.integers(0, 4)
    if kind <= 1:
        return f"{one(rng, CAMERAS)} {one(rng, ZOOM_PHRASES[move])} {adverb}"
    if kind == 2:
        return f"{one(rng, CAMERAS)} {adverb} {one(rng, ZOOM_PHRASES[move])}"
    words = one(rng, ZOOM_SHORT[move])
    if rng.random() < 0.5:
        return f"{_adjective(rng, speed)} {words}" if not words.startswith("a ") else f"{words} {adverb}"
    return f"{words} {adverb}"


def _turn_sentence(rng: np.random.Generator, move: str, speed: str) -> str:
    where, adverb, verb = one(rng, CLOCKS[move]), adverb_of(rng, speed), one(rng, TURN_VERBS)
    if rng.random() < 0.3:
        verb, where = TURN_VERBS[rng.integers(2)], move
    kind = rng.integers(0, 7)
    if kind <= 3:
        return _camera_does(rng, f"{verb} {where}", adverb, adverb_first=kind == 3)
    if kind == 4:
        turn = f"{_adjective(rng, speed)} {one(rng, TURN_ADJECTIVES[move])} {one(rng, TURN_NOUNS)}".strip()
        article = "an" if turn[0] in "aeiou" else "a"
        return f"{one(rng, ('', article, f'the camera makes {article}'))} {turn}"
    stem = verb[:-1]
    if kind == 5:
        return f"{stem}{one(rng, ('', ' the camera'))} {where} {adverb}"
    ing = "spinning" if stem == "spin" else stem.removesuffix("e") + "ing"
    return f"{ing}{one(rng, ('', ' camera'))} {where} {adverb}"


def _made_up(rng: np.random.Generator, letters: tuple[str, ...], longest: int) -> str:
    """One to nine words of random letters (or syllables)."""
    lengths = rng.integers(1, longest + 1, int(rng.integers(1, 10)))
    return " ".join("".join(rng.choice(letters, int(length))) for length in lengths)


def _gibberish(rng: np.random.Generator) -> str:
    """Words that say nothing about a move: other languages, other scripts, keys hit at random, loose words."""
    kind = rng.integers(0, 6)
    if kind == 0:
        return one(rng, FOREIGN)
    if kind == 1:
        first, last = SCRIPTS[rng.integers(len(SCRIPTS))]
        return _made_up(rng, tuple(chr(int(c)) for c in rng.integers(first, last + 1, 12)), 8)
    if kind == 2:
        return " ".join(one(rng, WORDS) for _ in range(int(rng.integers(1, 10))))
    letters, longest = ((SYLLABLES, 4), (tuple("abcdefghijklmnopqrstuvwxyz"), 10), (SIGNS, 8))[kind - 3]
    return _made_up(rng, letters, longest)


def _describe(rng: np.random.Generator) -> str:
    text = one(rng, SUBJECTS)
    if rng.random() < 0.6:
        text += " " + one(rng, ACTIONS)
    return text


def _hold_sentence(rng: np.random.Generator) -> str:
    chance = rng.random()
    if chance < 0.35:
        return one(rng, HOLD)
    if chance < 0.6:
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
        text = f"{text} over {one(rng, SUBJECTS)}"
    elif chance < 0.36:
        text = f"{_describe(rng)}. {text}"
    elif chance < 0.40:
        text = f"{text} {_gibberish(rng)}"  # last: encoders cut long texts, and what is left should name the move
    if rng.random() < 0.15:
        text = f"{text}, {one(rng, STYLES)}"
    return text


def finish(rng: np.random.Generator, text: str) -> str:
    """Tidy spaces, and sometimes capitals and a full stop."""
    text = " ".join(text.split()).replace(" ,", ",")
    chance = rng.random()
    if chance < 0.4:
        text = text[:1].upper() + text[1:]
    elif chance < 0.43:
        text = text.upper()
    return text + ("." if rng.random() < 0.4 else "")


def camera_caption(rng: np.random.Generator, move: str, speed: str, soft_start: bool = False) -> Caption:
    """A sentence for a camera move; "hold" has neither speed nor start."""
    if move == "hold":
        return Caption(finish(rng, _surround(rng, _hold_sentence(rng))), move)
    sentence = _SENTENCES.get(move, _side_sentence)(rng, move, speed)
    if soft_start:
        sentence += one(rng, (" ", ", ")) + one(rng, SOFT_STARTS)
    return Caption(finish(rng, _surround(rng, sentence)), move, speed, soft_start)


_PAN_WORDS = {
    **dict.fromkeys(("left", "right"), (SIDE_VERBS, SIDE_NOUNS)),
    **dict.fromkeys(("up", "down"), (RISE_VERBS, RISE_NOUNS)),
}
_SENTENCES = {
    "in": _zoom_sentence,
    "out": _zoom_sentence,
    "clockwise": _turn_sentence,
    "counterclockwise": _turn_sentence,
}
