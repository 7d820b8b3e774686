"""Whether two checkouts of the program make the same videos: five fixed requests, compared bit by bit.

    python -m bench.same_bits BEFORE [AFTER]

``BEFORE`` and ``AFTER`` are folders with a checkout each; AFTER is this one by default. Each request is a command
line, which stays valid from version to version, with the pocket and the same picture. Where a checkout knows several
ways to decode, it is asked for that of the original, which the earliest ones have. It passes when no bit of the latents
and of the frames differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from safetensors.numpy import load_file

from bench.machine import ROOT

PICTURE = ROOT / "docs" / "pocket.png"
REQUESTS: dict[str, Sequence[str]] = {
    "framepack, two sections, step cache": ("--kind", "framepack", "--seconds", "2.4", "--steps", "8", "--teacache"),
    "f1, two sections, no step cache": ("--kind", "f1", "--seconds", "2.4", "--steps", "5", "--no-teacache"),
    "real CFG and a negative prompt": (
        *("--kind", "f1", "--steps", "6", "--real-cfg", "2.5", "--cfg-rescale", "0.7"),
        *("--negative-prompt", "a red circle", "--teacache-threshold", "0.25"),
    ),
    "another window and size": (
        *("--kind", "framepack", "--latent-window", "4", "--size", "160x96", "--steps", "4", "--teacache"),
    ),
    "six sections": (
        *("--kind", "framepack", "--latent-window", "2", "--seconds", "1.6", "--steps", "4", "--teacache"),
    ),
}
ALIKE = ("--prompt", "the camera pans left", "--seed", "77")


def main() -> int:
    """Make the five videos in both checkouts; 1 when anything differs."""
    parser = argparse.ArgumentParser(description="Whether two checkouts make the same videos.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=ROOT)
    options = parser.parse_args()
    same = {name: _is_same(flags, options.before, options.after) for name, flags in REQUESTS.items()}
    sys.stdout.write(json.dumps(same, indent=1) + "\n")
    return 0 if all(same.values()) else 1


def _is_same(flags: Sequence[str], *checkouts: Path) -> bool:
    (latents, frames), (other_latents, other_frames) = (_made(flags, checkout) for checkout in checkouts)
    return np.array_equal(latents, other_latents) and np.array_equal(frames, other_frames)


def _made(flags: Sequence[str], checkout: Path) -> tuple[np.ndarray, np.ndarray]:
    """Latents [1, C, T, H, W] and frames [F, height, width, 3] that a checkout makes of a request."""
    with tempfile.TemporaryDirectory() as folder:
        video, latents = Path(folder, "video.mp4"), Path(folder, "latents.safetensors")
        outputs = ("--out", str(video), "--save-latents", str(latents), "--output-dir", folder)
        command = [sys.executable, "-m", "diffusers_helper", "generate", "--image", str(PICTURE), "--seconds", "1"]
        done = [*command, *ALIKE, *flags, *_decoding(checkout), *outputs]
        subprocess.run(done, cwd=checkout, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with av.open(str(video)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return load_file(latents)["latents"], np.stack(frames)


def _decoding(checkout: Path) -> Sequence[str]:
    """The flags that let a checkout decode as the original does."""
    asked = [sys.executable, "-m", "diffusers_helper", "generate", "--help"]
    told = subprocess.run(asked, cwd=checkout, check=True, stdout=subprocess.PIPE, text=True).stdout
    return ("--decoding", "reference") if "--decoding" in told else ()


if __name__ == "__main__":
    sys.exit(main())
