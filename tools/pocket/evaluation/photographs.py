"""Groups that are measured on photographs: camera moves, speed, long videos, one-frame, prompts that say nothing.

Each group takes the studio, photographs (name -> `[3, H, W]` in -1..1) and kinds of sampling, and gives rows for the
table with details for JSON.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tools.pocket.camera import DIAGONALS, FPS, FRAMES_PER_LATENT
from tools.pocket.captions import PROMPTS
from tools.pocket.codec import psnr
from tools.pocket.evaluation import measures, motion
from tools.pocket.evaluation.measures import Row, share
from tools.pocket.evaluation.studio import Studio, as_bytes

LOG = logging.getLogger(__name__)
Photos = dict[str, torch.Tensor]
Group = tuple[list[Row], dict[str, Any]]
PANS = ("left", "right", "up", "down")
MOVING = (*PANS, "in", "out", "clockwise", "counterclockwise")
SOFT_START = "with a soft start"
REAL_CFG = 2.0
LONG_SECONDS = 4.0
SECTION_FRAMES = 36
TARGETS = (1, 4, 9, 16)
EMPTY_OF_MOTION = {
    "German": "Eine alte Frau füttert Tauben vor dem Dom",
    "Chinese": "老人在公园里喂鸽子",
    "Russian": "старик кормит голубей в парке",
    "gibberish": "qwrt plokij zzxv brumf ttk asdfgh",
    "signs": "%%% ### 12345 @@ ~~~",
    "empty": "",
}
WORDS = 1000


def vae(studio: Studio, photos: Photos) -> Group:
    """PSNR of each photograph through encoder (mean) and decoder."""
    found = {}
    for name, photo in photos.items():
        mean = studio.engine.encode(studio.request(""), [as_bytes(photo)]).pictures[0].latent.mean
        found[name] = round(psnr(studio.engine.decode(mean)[:, :, 0], photo[None]), 2)
    return [Row("VAE round trip of photographs, PSNR in dB", float(np.mean(list(found.values()))), 26)], found


def _clips(
    studio: Studio, photos: Photos, kinds: list[str], prompts: dict[str, str], seconds: float = 1.0
) -> Iterator[tuple[str, str, torch.Tensor, torch.Tensor]]:
    """(kind, name of the prompt, photograph, clip) for all of them; `prompts` is name -> text."""
    for kind in kinds:
        for title, prompt in prompts.items():
            LOG.info("%s, %g s: %s", kind, seconds, prompt[:60])
            for name, photo in photos.items():
                strip = f"{kind}_{seconds:g}s_cfg{studio.real_cfg:g}_{title}_{name}".replace(" ", "-")
                clip = studio.video(photo, prompt, kind, seconds, strip)
                yield kind, title, photo, clip


def moves(studio: Studio, photos: Photos, kinds: list[str]) -> Group:
    """The eight moves, diagonal pans and holding still, and the first frame against the picture."""
    cells = _measured(studio, photos, kinds, PROMPTS)
    still = [c["per_frame"] for c in cells if c["move"] == "hold"]
    straight, diagonal = ([c["seen"] == c["move"] for c in cells if c["move"] in m] for m in (MOVING, DIAGONALS))
    rows = [
        Row("first frame against the picture, PSNR in dB", float(np.mean([c["first"] for c in cells])), 24),
        Row("camera direction as written, 8 moves", share(straight), 0.95),
        Row("diagonal pans as written", share(diagonal), 0.9),
        Row("hold still: pixels a frame", float(np.mean(still)), at_most=0.5),
    ]
    return rows, {kind: _by_move([c for c in cells if c["kind"] == kind]) for kind in kinds}


def _measured(studio: Studio, photos: Photos, kinds: list[str], prompts: dict[str, str]) -> list[dict[str, Any]]:
    """What is seen in one-second videos of the prompts (move -> text)."""
    cells = []
    for kind, move, photo, clip in _clips(studio, photos, kinds, prompts):
        seen, side = motion.measure(clip), min(photo.shape[1:])
        facts = {
            "seen": seen.camera_move(side),
            "pixels": seen.distance(side),
            "per_frame": measures.motion_per_frame(clip),
            "first": psnr(clip[None, :, 0], photo[None]),
            "sharpness": measures.gradient_energy(clip[:, -1:]) / measures.gradient_energy(clip[:, :1]),
        }
        cells.append({"kind": kind, "move": move, **facts})
    return cells


def _by_move(cells: list[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for move in dict.fromkeys(c["move"] for c in cells):
        rows = [c for c in cells if c["move"] == move]
        means = {name: round(float(np.mean([c[name] for c in rows])), 2) for name in ("pixels", "first", "sharpness")}
        found[move] = {"as_written": round(share([c["seen"] == move for c in rows]), 3), **means}
    return found


def speed(studio: Studio, photos: Photos, kinds: list[str]) -> Group:
    """Whether "quickly" moves further along the written move than "slowly" from the same seed."""
    went: dict[tuple[str, str], list[float]] = {}
    prompts = {f"{move} {word}": f"{PROMPTS[move]} {word}" for move in MOVING for word in ("slowly", "quickly")}
    for _, title, photo, clip in _clips(studio, photos, kinds, prompts):
        move, word = title.split()
        went.setdefault((move, word), []).append(motion.measure(clip).strengths(min(photo.shape[1:]))[move])
    right = {
        move: [
            quick > max(slow, motion.STILL_PIXELS)
            for slow, quick in zip(went[move, "slowly"], went[move, "quickly"], strict=True)
        ]
        for move in MOVING
    }
    details = {
        move: {
            "quicker": share(right[move]),
            **{word: round(float(np.mean(v)), 1) for (m, word), v in went.items() if m == move},
        }
        for move in MOVING
    }
    return [Row("quickly moves further than slowly", share([r for v in right.values() for r in v]), 0.9)], details


def real_cfg(studio: Studio, photos: Photos, kinds: list[str]) -> Group:
    """The eight moves under classifier-free guidance; the details are those of `moves`, to compare."""
    guided = replace(studio, real_cfg=REAL_CFG)
    cells = _measured(guided, photos, kinds, {move: PROMPTS[move] for move in MOVING})
    right = share([c["seen"] == c["move"] for c in cells])
    return [Row(f"8 moves as written with real CFG {REAL_CFG:g}", right, 0.95)], _by_move(cells)


def soft_starts(studio: Studio, photos: Photos, kinds: list[str]) -> Group:
    """Pans that start from rest where it is written, and at full speed where it is not."""
    right: dict[str, list[bool]] = {}
    for word in ("", SOFT_START):
        prompts = {f"{move} {word}".strip(): f"{PROMPTS[move]} {word}".strip() for move in PANS}
        for _, title, _, clip in _clips(studio, photos, kinds, prompts):
            soft = measures.starts_from_rest(clip, title.split()[0])
            right.setdefault(word or "steady", []).append(soft is bool(word))
    everything = share([v for values in right.values() for v in values])
    return [Row("starts from rest where written", everything, 0.9)], {k: share(v) for k, v in right.items()}


def long_videos(studio: Studio, photos: Photos, kinds: list[str]) -> Group:
    """Four seconds of pans and of holding still: sharpness at the end, and motion through the seams."""
    sharp: dict[tuple[str, str], list[float]] = {}
    seams: dict[tuple[str, str], list[bool]] = {}
    prompts = {move: PROMPTS[move] for move in (*PANS, "hold")}
    for kind, move, _, clip in _clips(studio, photos, kinds, prompts, LONG_SECONDS):
        sharp.setdefault((kind, move), []).append(measures.sharpness_kept(clip))
        if move != "hold":
            seams.setdefault((kind, move), []).extend(measures.seams_passed(clip, move, SECTION_FRAMES))
    rows = [
        Row(
            f"{LONG_SECONDS:g} s, {kind}: sharpness of the last second against the first, median",
            float(np.median([v for (k, _), values in sharp.items() if k == kind for v in values])),
            0.8,
            1.25,
        )
        for kind in kinds
    ]
    rows.append(Row("pans go on through the seams", share([v for values in seams.values() for v in values]), 0.9))
    return rows, {
        "sharpness_median": {" ".join(key): round(float(np.median(v)), 3) for key, v in sharp.items()},
        "sharpness_within": share([0.8 <= v <= 1.25 for values in sharp.values() for v in values]),
        "seams_passed": {" ".join(key): round(share(v), 3) for key, v in seams.items()},
    }


def one_frame(studio: Studio, photos: Photos) -> Group:
    """Single frames at growing target indices: how far along the written move each lies."""
    found = {}
    longest = 2.0 * max(TARGETS) * FRAMES_PER_LATENT / FPS
    for move in MOVING:
        LOG.info("one frame: %s", PROMPTS[move])
        ways = [
            [motion.extent(photo, studio.one_frame(photo, PROMPTS[move], t), move, longest) for t in TARGETS]
            for photo in photos.values()
        ]
        found[move] = {
            "rank_correlation": round(float(np.mean([measures.rank_correlation(TARGETS, way) for way in ways])), 3),
            "seconds_moved": [round(float(v), 2) for v in np.mean(ways, axis=0)],
        }
    mean = float(np.mean([f["rank_correlation"] for f in found.values()]))
    true_seconds = [round(t * FRAMES_PER_LATENT / FPS, 2) for t in TARGETS]
    return [Row("one-frame: rank correlation of distance and target", mean, 0.95)], {"true": true_seconds, **found}


def bad_prompts(studio: Studio, photos: Photos, kinds: list[str]) -> Group:
    """Another language, gibberish, 1,000 words: the video should be calm."""
    rng = np.random.default_rng(studio.seed)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    many = " ".join("".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(WORDS))
    calm: dict[str, list[bool]] = {}
    for _, title, _, clip in _clips(studio, photos, kinds, {**EMPTY_OF_MOTION, f"{WORDS} words": many}):
        calm.setdefault(title, []).append(measures.is_calm(clip))
    everything = share([v for values in calm.values() for v in values])
    return [Row("prompts that say nothing are calm", everything, 0.9)], {k: share(v) for k, v in calm.items()}
