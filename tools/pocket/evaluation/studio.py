"""Where the evaluation's videos are made: by the application's own road, step caches off.

Shape legend: F frames, H x W pixels.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffusers_helper.denoise.sample import sample
from diffusers_helper.denoise.schedule import flow_mu, flow_sigmas, token_count
from diffusers_helper.engine import Engine
from diffusers_helper.events import Finished
from diffusers_helper.generate import generate
from diffusers_helper.media.video import read_frames
from diffusers_helper.request import Request
from diffusers_helper.sections.history import gather_context
from diffusers_helper.sections.kinds import OneFrame


def as_bytes(picture: torch.Tensor) -> np.ndarray:
    """`[3, H, W]` in -1..1 -> `[H, W, 3]` uint8."""
    return ((picture.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def save_strip(folder: Path, name: str, clip: torch.Tensor) -> None:
    """Seven frames of a clip `[3, F, H, W]` side by side, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    places = torch.linspace(0, clip.shape[1] - 1, 7).round().long()
    Image.fromarray(as_bytes(clip[:, places].transpose(1, 2).flatten(2))).save(folder / f"{name}.png")


@dataclass(frozen=True)
class Studio:
    """An engine and what all videos of an evaluation share. Strips are kept in `save`."""

    engine: Engine
    steps: int
    seed: int
    save: Path | None = None
    real_cfg: float = 1.0

    def request(self, prompt: str, kind: str = "framepack", seconds: float = 1.0, picture: str = "-") -> Request:
        """A request with the studio's steps and seed."""
        fields = {"picture": picture, "prompt": prompt, "kind": kind, "seconds": seconds, "teacache": False}
        return Request.parse({**fields, "steps": self.steps, "seed": self.seed, "real_cfg": self.real_cfg})

    def video(
        self, picture: torch.Tensor, prompt: str, kind: str, seconds: float = 1.0, name: str = ""
    ) -> torch.Tensor:
        """The frames of the finished file, `[3, F, H, W]` in -1..1, for a start picture `[3, H, W]`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "picture.png"
            Image.fromarray(as_bytes(picture)).save(path)
            request = self.request(prompt, kind, seconds, str(path))
            *_, last = generate(request, self.engine, Path(folder))
            if not isinstance(last, Finished):
                raise RuntimeError(f"no video of {prompt!r}: {last}")
            frames = read_frames(Path(last.path or ""))
        clip = torch.from_numpy(frames.astype(np.float32) / 127.5 - 1).permute(3, 0, 1, 2)
        if self.save and name:
            save_strip(self.save, name, clip)
        return clip

    def one_frame(self, picture: torch.Tensor, prompt: str, target: int) -> torch.Tensor:
        """The single frame at time index `target` after the picture, `[3, H, W]`."""
        request = self.request(prompt)
        conditioning = self.engine.encode(request, [as_bytes(picture)])
        generator = torch.Generator().manual_seed(self.seed)
        start = conditioning.pictures[0].latent.sample(generator)
        section = OneFrame(target_index=target).plan(request, ()).sections[0]
        context = gather_context(section.context, start, [start])
        noise = torch.randn(start.shape, generator=generator)
        sigmas = flow_sigmas(self.steps, flow_mu(token_count(*noise.shape[2:])))
        denoiser = self.engine.denoiser(request, conditioning, section, context, sigmas[:-1])
        denoiser.begin()
        *_, last = sample(denoiser.denoise, noise, sigmas)
        return self.engine.decode(last.denoised)[0, :, 0].float().clamp(-1, 1)
