"""Train the VAE: first whole on single frames, then its decoder on moving clips.

`python -m tools.pocket.train_vae frames --minutes 20`, then
`python -m tools.pocket.train_vae clips --minutes 15 --resume --from-instants --side 48 --batch 4`. The `clips` stage
leaves the encoder alone, unless `--anchor` lets it go on learning near where this run finds it: a transformer that
knows its latents then soon knows the new ones.
State lies in `--work`; `--resume` goes on from it, `--from-folder checkpoints/pocket/vae` from exported weights alone.

Shape legend: B clips, T latent frames, F = 4T-3 video frames, H x W pixels.
"""

from __future__ import annotations

import argparse
import logging
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo

from tools.pocket import camera, codec, loop
from tools.pocket.bank import DEFAULT_WORK, load_canvases

LOG = logging.getLogger(__name__)
STATE = "vae.pt"
LATENT_PENALTY = 1e-4
LATENT_NOISE = 0.08
FINE = 0.4  # ln of canvas pixels per frame pixel: finer detail than the transformer is shown
PERFECT = 3e-4  # squared error, 41 dB: better is not worth striving for
NARROW = 12  # channels; kernels that read or write fewer are left to AdamW


def draw_frames(rng: np.random.Generator, canvases: torch.Tensor, count: int, side: int) -> torch.Tensor:
    """Single views, `[count, 3, side, side]`."""
    chosen = canvases[torch.from_numpy(rng.integers(0, len(canvases), count))]
    times = np.zeros(1, dtype=np.float32)
    path = camera.draw_paths(rng, [camera.Move("hold")] * count, times, canvases.shape[1], distance=FINE)
    return camera.render(chosen, path, side, side)[:, :, 0]


def draw_clips(rng: np.random.Generator, canvases: torch.Tensor, count: int, frames: int, side: int) -> torch.Tensor:
    """Moving views with every move and speed, `[count, 3, frames, side, side]`."""
    chosen = canvases[torch.from_numpy(rng.integers(0, len(canvases), count))]
    names, speeds = rng.choice(list(camera.MOVES), count), rng.choice(list(camera.SPEEDS), count)
    moves = [camera.Move(str(name), str(speed)) for name, speed in zip(names, speeds, strict=True)]
    times = np.arange(frames, dtype=np.float32) / camera.FPS
    path = camera.draw_paths(rng, moves, times, canvases.shape[1], distance=FINE)
    return camera.render(chosen, path, side, side)


def picture_loss(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean log of each sample's squared error, which is what PSNR measures, with some absolute error and error of
    neighbouring-pixel differences for sharp edges. Over `[B, ..., H, W]`.
    """
    made = made.float()
    error = made - wanted
    across = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    squared = error.square().flatten(1).mean(1)
    return 0.05 * (squared + PERFECT).log().mean() + 0.3 * error.abs().mean() + 0.1 * (across + down)


def frame_step(vae: AutoencoderKLHunyuanVideo, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and reconstruction of single frames `[B, 3, H, W]`."""
    latents = codec.encode_frames(vae, frames)
    noise = torch.rand(len(latents), 1, 1, 1, device=latents.device) * LATENT_NOISE
    noisy = latents + torch.randn_like(latents) * noise
    made = codec.decode_latents(vae, noisy.unsqueeze(2))[:, :, 0]
    return picture_loss(made, frames) + LATENT_PENALTY * latents.float().square().mean(), made


class ClipStep:
    """Loss and reconstruction of `[B, 3, F, H, W]` from its instants.

    The encoder is frozen, or held by `anchor`: the weight of the squared distance of its latents to those that it made
    at the start, relative to their own.
    """

    def __init__(self, vae: AutoencoderKLHunyuanVideo, anchor: float) -> None:
        self.anchor = anchor
        self.before = deepcopy(vae).requires_grad_(False) if anchor else vae

    def __call__(self, vae: AutoencoderKLHunyuanVideo, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        instants = clip[:, :, :: camera.FRAMES_PER_LATENT].transpose(1, 2).flatten(0, 1)
        with torch.set_grad_enabled(self.anchor > 0):
            means = codec.encode_frames(vae, instants)
        latents = means.unflatten(0, (len(clip), -1)).transpose(1, 2)
        noise = torch.rand(len(clip), 1, 1, 1, 1, device=clip.device) * LATENT_NOISE
        made = codec.decode_latents(vae, latents + torch.randn_like(latents) * noise)
        loss = picture_loss(made, clip)
        return (loss + self.anchor * self._drift(means, instants) if self.anchor else loss), made

    def _drift(self, means: torch.Tensor, instants: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            before = codec.encode_frames(self.before, instants).float()
        return (means - before).square().mean() / before.square().mean()


def make_start(canvases: torch.Tensor) -> AutoencoderKLHunyuanVideo:
    """A new VAE that begins as the linear codec of the canvases."""
    frames = draw_frames(np.random.default_rng(5), canvases, 512, 64)
    blocks = frames.unfold(2, codec.BLOCK, codec.BLOCK).unfold(3, codec.BLOCK, codec.BLOCK)
    blocks = blocks.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * codec.BLOCK**2)
    vae = codec.make_vae()
    codec.start_as_linear_codec(vae, *codec.principal_components(blocks))
    return vae


def load_vae(
    args: argparse.Namespace, canvases: torch.Tensor, state: dict[str, Any] | None
) -> AutoencoderKLHunyuanVideo:
    """From the state, from an exported folder, or new; instants kept either way."""
    if args.from_folder and state is None:
        vae = AutoencoderKLHunyuanVideo.from_pretrained(args.from_folder, torch_dtype=torch.float32)
    else:
        vae = make_start(canvases)
    if state is not None:
        vae.load_state_dict(state["model"])
    codec.keep_instants(vae)
    if args.from_instants:
        codec.show_instants(vae)
    codec.use_fast_convolutions(vae)
    return vae


def make_optimizers(vae: AutoencoderKLHunyuanVideo, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the kernels between wide features, AdamW for everything else that the stage trains."""
    whole = args.stage == "frames" or args.anchor > 0
    parts = [vae] if whole else [vae.decoder, vae.post_quant_conv]
    trained = [parameter for part in parts for parameter in part.parameters()]
    kernels = [p for p in trained if p.ndim == 5 and min(p.shape[:2]) > NARROW]
    others = [p for p in trained if p.ndim < 5 or min(p.shape[:2]) <= NARROW]
    adam = torch.optim.AdamW([{"params": others, "peak": args.rate}], lr=args.rate, weight_decay=1e-4)
    return [loop.KernelMuon(kernels, args.rate), adam]


def draw_batch(args: argparse.Namespace, rng: np.random.Generator, canvases: torch.Tensor) -> torch.Tensor:
    """One batch of frames or of clips, as the stage asks."""
    if args.stage == "frames":
        return draw_frames(rng, canvases, args.batch, args.side)
    if rng.random() < args.single_share:
        return draw_frames(rng, canvases, args.batch * 9, args.side).unsqueeze(2)
    frames = int(rng.choice([5, 9, 9, 13]))
    return draw_clips(rng, canvases, max(1, round(args.batch * 9 / frames)), frames, args.side)


def train(args: argparse.Namespace) -> None:
    """Run one stage for its minutes, saving every minute."""
    device = loop.pick_device(args.device)
    canvases = load_canvases(args.work, args.canvases)
    state = loop.load_state(args.work / STATE) if args.resume else None
    vae = load_vae(args, canvases, state).to(device, memory_format=torch.channels_last_3d)
    optimizers = make_optimizers(vae, args)
    average, clock = loop.Average(vae, 0.998), loop.Clock(args.minutes)
    rng, step_of = np.random.default_rng(), frame_step if args.stage == "frames" else ClipStep(vae, args.anchor)
    step, saved = 0, 0.0
    while clock.progress < 1:
        batch = draw_batch(args, rng, canvases).to(device)
        with loop.autocast(device):
            loss, made = step_of(vae, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in optimizers:
            loop.set_rate(optimizer, loop.warm_cosine(clock.progress))
            optimizer.step()
        vae.zero_grad(set_to_none=True)
        average.update(vae)
        step += 1
        if step % 20 == 0:
            LOG.info(
                "%s %d  %.1f min  loss %.4f  %.2f dB",
                args.stage,
                step,
                clock.spent / 60,
                loss.detach(),
                codec.psnr(made.detach(), batch),
            )
        if clock.spent - saved > 60 or clock.progress >= 1:
            saved = clock.spent
            loop.save_state(args.work / STATE, {"model": average.shadow, "step": step})


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["frames", "clips"])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--anchor", type=float, default=0.0, help="clips stage: train the encoder too, held by this")
    parser.add_argument("--single-share", type=float, default=0.3, help="share of single frames in the clips stage")
    parser.add_argument("--canvases", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--from-instants", action="store_true", help="first clips stage: undo the smear of single frames"
    )
    parser.add_argument("--from-folder", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Entry."""
    loop.start_logging()
    loop.keep_freed_memory()
    args = parse()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
