"""A quick look at the transformer while it is trained: does the written move win among all moves?

From pure noise (sigma 1) one evaluation predicts the expected frames. They are compared with the true latents of every
move from the same first frame; the nearest one should be the written one. No decoder, no sampling loop.

Shape legend: B samples, M moves, L instants, h x w latent pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.sections.context import f1_context, i2v_context
from tools.pocket import camera, data
from tools.pocket.captions import PROMPTS
from tools.pocket.encoders import picture_pixels
from tools.pocket.transformer import predict_velocity


def true_latents(models: data.Models, canvases: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Latents of every move over the same views, `[M, B, 16, L, h, w]`; all moves share their first frame."""
    all_moves = []
    for move in PROMPTS:
        rng = np.random.default_rng(4)
        seconds = camera.latent_times(data.SHORT)
        path = camera.draw_paths(rng, [camera.Move(move)] * len(canvases), seconds, canvases.shape[1])
        still = [camera.Move("hold")] * len(canvases)
        first = camera.draw_paths(np.random.default_rng(4), still, seconds, canvases.shape[1])
        path = camera.Path(
            path.x - path.x[:, :1] + first.x[:, :1],
            path.y - path.y[:, :1] + first.y[:, :1],
            path.scale / path.scale[:, :1] * first.scale[:, :1],
            path.angle - path.angle[:, :1],
        )
        clips = camera.render(canvases, path, *size).to(models.vae.device)
        all_moves.append(data.encode_clips(models, clips))
    return torch.stack(all_moves)


@torch.no_grad()
def predict(
    model: FramePackTransformer, models: data.Models, first: torch.Tensor, pixels: torch.Tensor, prompt: str, kind: str
) -> torch.Tensor:
    """Expected frames `[B, 16, 9, h, w]` from first latents `[B, 16, h, w]` and pictures `[B, 3, H, W]`."""
    count = len(first)
    states, mask, pooled = data.text_features(models.text, [prompt] * count)
    picture = models.siglip(picture_pixels(pixels)).last_hidden_state
    clips = first[:, :, None].expand(-1, -1, data.SHORT, -1, -1)
    plan = f1_context(data.WINDOW) if kind == "f1" else i2v_context(data.WINDOW, 0)
    cut = data.Cut(plan, tuple(range(1, data.SHORT)), (0,) if kind == "f1" else ())
    features = data.Features(states, mask, pooled, picture).take(torch.arange(count))
    batch = data.make_batch(clips, features, cut)
    noise = torch.randn(batch.targets.shape, generator=torch.Generator().manual_seed(1)).to(first.device)
    ones = torch.ones(count, device=first.device)
    return noise - predict_velocity(model, noise, ones, batch)


@torch.no_grad()
def move_accuracy(
    model: FramePackTransformer, models: data.Models, canvases: torch.Tensor, size: tuple[int, int], count: int = 16
) -> str:
    """Share of right moves and remaining error (relative to the hold-still guess), per kind, as one line."""
    canvases = canvases[:count]
    truth = true_latents(models, canvases, size)
    rng = np.random.default_rng(4)
    path = camera.draw_paths(rng, [camera.Move("hold")] * count, camera.latent_times(data.SHORT), canvases.shape[1])
    pixels = camera.render(canvases, path, *size)[:, :, 0].to(models.vae.device)
    still = truth[0][:, :, 1:]
    lines = []
    for kind in ("framepack", "f1"):
        right, error, base = [], 0.0, 0.0
        for number, prompt in enumerate(PROMPTS.values()):
            made = predict(model, models, truth[0][:, :, 0], pixels, prompt, kind)
            distance = (truth[:, :, :, 1:] - made[None]).square().flatten(2).mean(2)
            right.append(float((distance.argmin(0) == number).float().mean()))
            if number:
                error += float(distance[number].mean())
                base += float((truth[number][:, :, 1:] - still).square().mean())
        each = " ".join(f"{name} {share:.2f}" for name, share in zip(PROMPTS, right, strict=True))
        lines.append(f"{kind}: right {np.mean(right):.2f} error/still {error / base:.3f} ({each})")
    return "  |  ".join(lines)
