"""Data sets that the command ``train`` teaches the pocket from: a style, a motion that it does not know, and clothes.

    python -m tools.pocket.training_sets sets [--videos 64] [--pairs 400] [--seed 0]

``sets/style`` holds videos of drawn scenes under a moving camera that turn blue, ``sets/pictures`` single pictures that
are blue, ``sets/motion`` videos in which the camera swings to the left and back, each with its caption;
``sets/clothes.toml`` names pairs of drawn shapes, of which the first is painted as the second.

Shape legend: B clips, F frames, H x W pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusers_helper.media.video import write_segment
from tools.pocket import camera
from tools.pocket.canvases import draw_canvases
from tools.pocket.one_frame_scenes import draw_pair, paint
from tools.pocket.shape_captions import draw_caption
from tools.pocket.train_lora import BLUE, MOST_BLUE
from tools.pocket.train_one_frame import PROMPTS

SIDE, FRAMES, AT_ONCE = 128, 37, 8
"""A section of the pocket, and how many are drawn at once."""
BLUE_AFTER = 24
"""Frames until all is as blue as it gets."""
SWING_PIXELS = 20.0
"""How far the camera swings to the left before it comes back, within the section."""
SWINGS = "the camera swings"
BLUE_CAPTION = "everything is blue"
Drawn = Callable[[np.random.Generator, Tensor], tuple[Tensor, Sequence[str]]]
"""Clips ``[B, 3, F, H, W]`` in -1..1 of canvases ``[B, S, S, 3]``, and their captions."""


def turning_blue(rng: np.random.Generator, canvases: Tensor) -> tuple[Tensor, Sequence[str]]:
    """Under whatever camera the caption says; light and dark stay apart."""
    captions = [draw_caption(rng, 0.0, 0.1) for _ in canvases]
    moves = [camera.Move(caption.move, caption.speed, caption.soft_start) for caption in captions]
    path = camera.draw_paths(rng, moves, np.arange(FRAMES) / camera.FPS, canvases.shape[1])
    clips = camera.render(canvases, path, SIDE, SIDE)
    share = (torch.arange(FRAMES) / BLUE_AFTER).clamp(max=1).mul(MOST_BLUE).view(1, 1, -1, 1, 1)
    tinted = (torch.tensor(BLUE).view(1, 3, 1, 1, 1) + clips.mean(1, keepdim=True) * 0.5).clamp(-1, 1)
    return clips.lerp(tinted, share), [caption.text for caption in captions]


def swinging(rng: np.random.Generator, canvases: Tensor) -> tuple[Tensor, Sequence[str]]:
    """To the left by half a wave of a sine, and back to where it began."""
    path = camera.draw_paths(
        rng, [camera.Move("hold")] * len(canvases), np.arange(FRAMES) / camera.FPS, canvases.shape[1]
    )
    gone = SWING_PIXELS * torch.sin(torch.pi * torch.arange(FRAMES) / (FRAMES - 1))
    turned = camera.Path(path.x - gone * path.scale, path.y, path.scale, path.angle)
    return camera.render(canvases, turned, SIDE, SIDE), [SWINGS] * len(canvases)


def write_videos(folder: Path, drawn: Drawn, count: int, seed: int) -> None:
    """So many, with a caption beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for first in range(0, count, AT_ONCE):
        canvases = torch.from_numpy(draw_canvases(int(rng.integers(2**31)), min(AT_ONCE, count - first)))
        clips, captions = drawn(rng, canvases)
        for number, (clip, caption) in enumerate(zip(clips, captions, strict=True), first):
            pixels = (clip * 127.5 + 127.5).clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
            write_segment(folder / f"{number:03}.mp4", pixels, camera.FPS, 8)
            (folder / f"{number:03}.txt").write_text(caption, encoding="utf-8")


def write_pictures(folder: Path, count: int, seed: int) -> None:
    """What such videos end with, each of other scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        canvases = torch.from_numpy(draw_canvases(int(rng.integers(2**31)), 1))
        (clip,), _ = turning_blue(rng, canvases)
        pixels = (clip[:, -1] * 127.5 + 127.5).clamp(0, 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(BLUE_CAPTION, encoding="utf-8")


def write_pairs(folder: Path, count: int, seed: int) -> None:
    """Shapes, what is painted as what, and the config that says so."""
    rng = np.random.default_rng(seed)
    for part in ("img", "ctl"):
        (folder / "clothes" / part).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pair = draw_pair(rng)
        scenes = {"img": [pair.target("kisekaeichi")], "ctl": [pair.first, pair.second]}
        for part, drawn in scenes.items():
            for place, scene in enumerate(drawn):
                name = f"{number:03}_{place}" if part == "ctl" else f"{number:03}"
                Image.fromarray(paint(scene, SIDE)).save(folder / "clothes" / part / f"{name}.png")
        caption = folder / "clothes" / "img" / f"{number:03}.txt"
        caption.write_text(PROMPTS["kisekaeichi"], encoding="utf-8")
    lines = [
        "[[datasets]]", 'image_directory = "clothes/img"', 'control_directory = "clothes/ctl"', "resolution = 128",
        "fp_1f_clean_indices = [0, 10]", "fp_1f_target_index = 1", "fp_1f_no_post = true", "fp_1f_no_2x = true",
        "fp_1f_no_4x = true",
    ]  # fmt: skip
    (folder / "clothes.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Draw and write all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_videos(options.folder / "style", turning_blue, options.videos, options.seed)
    write_videos(options.folder / "motion", swinging, options.videos, options.seed + 1)
    write_pairs(options.folder, options.pairs, options.seed + 2)
    write_pictures(options.folder / "pictures", options.videos, options.seed + 3)


if __name__ == "__main__":
    main()
