"""A data set that the pocket learns quickly, photographs that turn blue, and trainings of it as commands order them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data as pictures

from diffusers_helper.train_command import add_arguments, order_of
from diffusers_helper.training.training import Training, training_of


def blue_set(folder: Path, names: Sequence[str] = ("coffee", "rocket"), more: Sequence[str] = ()) -> Path:
    """The config of a one-frame set in ``folder``, 128 by 128; ``more``: lines of it."""
    for name in names:
        photograph = Image.fromarray(getattr(pictures, name)()).resize((128, 128))
        blue = (np.asarray(photograph) * np.array([0.2, 0.4, 1.0])).astype(np.uint8)
        for part, picture in (("ctl", photograph), ("img", Image.fromarray(blue))):
            (folder / part).mkdir(exist_ok=True, parents=True)
            picture.save(folder / part / f"{name}.png")
        (folder / "img" / f"{name}.txt").write_text("everything turns blue", encoding="utf-8")
    sets = ['image_directory="img"', 'control_directory="ctl"', "fp_1f_clean_indices=[0]", "fp_1f_target_index=9"]
    switches = ["fp_1f_no_post=true", "fp_1f_no_2x=true", "fp_1f_no_4x=true", "resolution=[128, 128]"]
    (folder / "sets.toml").write_text("\n".join(["[[datasets]]", *sets, *switches, *more]), encoding="utf-8")
    return folder / "sets.toml"


def parsed(*flags: str) -> argparse.Namespace:
    """What the command takes of flags."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(flags)


def training(data_sets: Path, *flags: str) -> Training:
    """As the command orders it."""
    return training_of(order_of(parsed("--data", str(data_sets), "--out", "a.safetensors", *flags)))
