"""Measure the exported checkpoint on photographs that were never trained on, through the application's own engine.

`python -m tools.pocket.evaluate --json` prints: VAE PSNR of single frames, PSNR of a video's first frame against the
picture, and how often the written camera move is the one measured in the frames. `--save FOLDER` keeps pictures.

Shape legend: F frames, H x W pixels.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffusers_helper.denoise.sample import sample
from diffusers_helper.denoise.schedule import flow_mu, flow_sigmas, token_count
from diffusers_helper.engine import Engine
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Request
from diffusers_helper.sections.history import empty_history, extend, gather_context
from diffusers_helper.sections.plan import plan_video
from tools.pocket import loop, motion
from tools.pocket.photos import load_photos
from tools.pocket.probe import PROMPTS
from tools.pocket.train_vae import psnr

LOG = logging.getLogger(__name__)


def make_request(prompt: str, kind: str, args: argparse.Namespace) -> Request:
    """One second (or `--seconds`) with step caches off."""
    fields = {
        "picture": "-",
        "prompt": prompt,
        "kind": kind,
        "seconds": args.seconds,
        "steps": args.steps,
        "seed": args.seed,
        "teacache": False,
    }
    return Request.parse(fields)


def sample_latents(engine: Engine, request: Request, picture: np.ndarray) -> torch.Tensor:
    """All latents of the request's video, `[1, 16, L, h, w]`."""
    conditioning = engine.encode(request, picture)
    generator = torch.Generator().manual_seed(request.seed)
    start = conditioning.start.sample(generator)
    plan = plan_video(request.kind, request.seconds, request.latent_window, request.fps)
    history = empty_history(plan, start)
    for section in plan.sections:
        denoiser = engine.denoiser(request, conditioning, gather_context(section.context, history, start))
        noise = torch.randn((*start.shape[:2], len(section.context.target), *start.shape[3:]), generator=generator)
        sigmas = flow_sigmas(request.steps, flow_mu(token_count(*noise.shape[2:])))
        *_, last = sample(denoiser.denoise, noise, sigmas)
        history = extend(history, last.denoised, section, plan, start)
    return history


def as_bytes(photo: torch.Tensor) -> np.ndarray:
    """`[3, H, W]` in -1..1 -> `[H, W, 3]` uint8."""
    return ((photo + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def vae_quality(engine: Engine, photos: dict[str, torch.Tensor]) -> dict[str, float]:
    """PSNR in dB of each photograph through encoder (mean) and decoder."""
    request, result = make_request("", "framepack", argparse.Namespace(seconds=1.0, steps=1, seed=0)), {}
    for name, photo in photos.items():
        mean = engine.encode(request, as_bytes(photo)).start.mean
        result[name] = round(psnr(engine.decode(mean)[:, :, 0], photo[None]), 2)
    return result


def save_strip(folder: Path, name: str, clip: torch.Tensor) -> None:
    """Seven frames of a clip `[3, F, H, W]` side by side, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    places = torch.linspace(0, clip.shape[1] - 1, 7).round().long()
    strip = clip[:, places].permute(2, 1, 3, 0).flatten(1, 2)
    Image.fromarray(((strip.float().clamp(-1, 1) + 1) * 127.5).byte().numpy()).save(folder / f"{name}.png")


def measure_clip(engine: Engine, photo: torch.Tensor, move: str, kind: str, args: argparse.Namespace) -> dict[str, Any]:
    """Sample, decode and measure one video."""
    latents = sample_latents(engine, make_request(PROMPTS[move], kind, args), as_bytes(photo))
    clip = engine.decode(latents)[0].float()
    seen, side = motion.measure(clip), min(photo.shape[1:])
    gradient = [float(clip[:, place].diff(dim=-1).square().mean()) for place in (0, -1)]
    return {
        "clip": clip,
        "seen": seen.camera_move(side),
        "distance": seen.distance(side),
        "first_frame": psnr(clip[None, :, 0], photo[None]),
        "sharpness": gradient[1] / max(gradient[0], 1e-9),
    }


def evaluate_kind(
    engine: Engine, photos: dict[str, torch.Tensor], kind: str, args: argparse.Namespace
) -> dict[str, Any]:
    """Direction accuracy over photographs x moves for one kind of sampling."""
    rows = []
    for move in PROMPTS:
        for name, photo in photos.items():
            row = measure_clip(engine, photo, move, kind, args)
            if args.save:
                save_strip(args.save, f"{kind}_{move}_{name}", row["clip"])
            rows.append({"move": move, **{k: v for k, v in row.items() if k != "clip"}})
        LOG.info("%s %s: seen %s", kind, move, [r["seen"] for r in rows if r["move"] == move])
    share = {m: round(float(np.mean([r["seen"] == m for r in rows if r["move"] == m])), 3) for m in PROMPTS}
    moving = [r for r in rows if r["move"] != "hold"]
    still = [r["distance"] for r in rows if r["move"] == "hold"]
    return {
        "direction_as_written": share,
        "six_directions": round(float(np.mean([r["seen"] == r["move"] for r in moving])), 3),
        "pixels_moved": round(float(np.mean([r["distance"] for r in moving])), 1),
        "pixels_moved_when_holding": round(float(np.mean(still)), 1),
        "first_frame_psnr": round(float(np.mean([r["first_frame"] for r in rows])), 2),
        "last_to_first_sharpness": round(float(np.median([r["sharpness"] for r in rows])), 2),
    }


def main() -> None:
    """Entry."""
    loop.start_logging()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/pocket")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--kinds", nargs="*", default=["framepack", "f1"])
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=31337)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.monotonic()
    engine = Engine.load(find_checkpoint(args.checkpoint, Path("hf_download")))
    photos = dict(list(load_photos(*args.size).items())[: args.photos])
    quality = vae_quality(engine, photos)
    figures: dict[str, Any] = {
        "size": args.size,
        "steps": args.steps,
        "seconds": args.seconds,
        "photos": len(photos),
    }
    figures["vae_psnr"] = {"mean": round(float(np.mean(list(quality.values()))), 2), **quality}
    for kind in args.kinds:
        figures[kind] = evaluate_kind(engine, photos, kind, args)
    figures["minutes"] = round((time.monotonic() - started) / 60, 1)
    sys.stdout.write(json.dumps(figures, indent=None if args.json else 2) + "\n")


if __name__ == "__main__":
    main()
