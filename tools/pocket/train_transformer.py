"""Train the transformer on encoded clips, all three kinds of context plan mixed.

`python -m tools.pocket.train_transformer --minutes 40`, later with `--resume --sizes 128x128 112x144`. Training goes on
from `--work/transformer.pt` (`--resume`) or from exported weights alone (`--from-folder checkpoints/pocket`, which then
also gives the frozen parts). Target: the velocity noise - x0 of x = (1 - sigma) x0 + sigma noise.

Shape legend: B samples, T target frames, h x w latent pixels.
"""

from __future__ import annotations

import argparse
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo
from transformers import SiglipVisionModel

from diffusers_helper.models.transformer import FramePackTransformer
from tools.pocket import codec, data, loop, train_encoders, train_vae, transformer
from tools.pocket.attention import use_small_attention
from tools.pocket.bank import DEFAULT_WORK, HELD_OUT, HELD_OUT_SEED, load_canvases
from tools.pocket.encoders import TextEncoders
from tools.pocket.probe import move_accuracy
from tools.pocket.vae_facts import measure_vae

LOG = logging.getLogger(__name__)
CHANGE_WEIGHT = 10.0


def load_models(args: argparse.Namespace, canvases: torch.Tensor, device: torch.device) -> data.Models:
    """The frozen parts, from an exported folder or from what training left."""
    if args.from_folder:
        vae = AutoencoderKLHunyuanVideo.from_pretrained(args.from_folder / "vae", torch_dtype=torch.float32)
        scale, folder = vae.config.scaling_factor, args.from_folder
    else:
        vae, folder = codec.make_vae(), args.work / train_encoders.FOLDER
        state = loop.load_state(args.work / train_vae.STATE)
        if state is None:
            raise FileNotFoundError(f"no VAE in {args.work}: train it first, or give --from-folder")
        vae.load_state_dict(state["model"])
        scale = measure_vae(vae, canvases).scaling_factor
    codec.use_fast_convolutions(vae)
    text = TextEncoders.load(folder)
    text.llama.to(device)
    text.clip.to(device)
    siglip = SiglipVisionModel.from_pretrained(folder / "image_encoder", dtype=torch.float32).eval()
    return data.Models(vae.eval().to(device), scale, text, siglip.to(device))


def draw_sigma(rng: np.random.Generator, count: int, tokens: int, high_share: float) -> torch.Tensor:
    """Noise levels `[count]`: by the sampler's shifted schedule, a share in 0.9..1, where the motion is decided."""
    slope = (1.15 - 0.5) / (4096 - 256)
    shift = np.exp(min(0.5 + (tokens - 256) * slope, np.log(7)))
    u = rng.uniform(1e-3, 1, count)
    sigma = shift / (shift + 1 / u - 1)
    high = rng.random(count) < high_share
    sigma[high] = 1 - 0.1 * rng.random(int(high.sum())) ** 2
    return torch.from_numpy(sigma).float()


def velocity_loss(model: FramePackTransformer, batch: data.Batch, sigma: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the velocity, `[B]`.

    What changes counts more than what rests: a small shape on a still ground would hardly be seen otherwise.
    """
    noise = torch.randn_like(batch.targets)
    noisy = batch.targets.lerp(noise, sigma.view(-1, 1, 1, 1, 1))
    made = transformer.predict_velocity(model, noisy, sigma, batch)
    error = (made - (noise - batch.targets)).square().mean(1, keepdim=True).flatten(1)
    weight = 1 + CHANGE_WEIGHT * batch.changed.flatten(1)
    return (error * weight).sum(1) / weight.sum(1)


def make_optimizers(model: FramePackTransformer, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = name.startswith(("transformer_blocks", "single_transformer_blocks", "context_embedder.token_refiner"))
        (matrices if inside and parameter.ndim == 2 else others).append(parameter)
    muon = torch.optim.Muon(
        [{"params": matrices, "peak": rate}], lr=rate, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW([{"params": others, "peak": rate}], lr=rate, betas=(0.9, 0.97), weight_decay=0.0)
    return [muon, adam]


def draw_training_batch(
    rng: np.random.Generator, buffers: list[data.Buffer], weights: list[float], args: argparse.Namespace
) -> data.Batch:
    """A batch of one plan; small and single frames have few tokens and come in larger batches."""
    buffer = buffers[int(rng.choice(len(buffers), p=weights))]
    cut = data.draw_cut(rng, buffer.length)
    count = max(2, round(args.batch * 64 * 64 / (buffer.size[0] * buffer.size[1])))
    count = count * 2 if len(cut.targets) == 1 else count
    clips, features = buffer.draw(rng, count)
    noise, blur = rng.uniform(0, (0.25, 0.8)) * (rng.random(2) < args.worn_share)
    return data.make_batch(clips, features, cut, float(noise), float(blur))


class Trainer:
    """The training loop's state: model, average, optimizers, buffers."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, loop.pick_device(args.device)
        self.rng = np.random.default_rng()
        self.canvases = load_canvases(args.work, args.canvases)
        self.held_out = load_canvases(args.work, HELD_OUT, HELD_OUT_SEED)
        self.models = load_models(args, self.canvases, self.device)
        state = loop.load_state(args.work / transformer.STATE) if args.resume else None
        self.model = self._start_model(state)
        self.average = loop.Average(self.model, args.average)
        self.optimizers = make_optimizers(self.model, args.rate)
        self.step, self.clips = 0, 0
        if state is not None:
            self._restore(state)
        # A worker for each plan: threads that share one plan wait for each other. Gradients may be added from several
        # threads at a time; autograd locks each parameter's accumulation.
        share = max(1, args.threads // args.plans)
        self.workers = ThreadPoolExecutor(args.plans, initializer=torch.set_num_threads, initargs=(share,))
        self.buffers, self.weights = [], []
        for height, width in args.sizes:
            for length, share in ((data.SHORT, 1 - args.long_share), (data.LONG, args.long_share)):
                self.buffers.append(data.Buffer(args.capacity, length, (height, width), args.shape_share))
                self.weights.append(share / len(args.sizes))

    def _start_model(self, state: dict[str, Any] | None) -> FramePackTransformer:
        if state is None and self.args.from_folder:
            folder = self.args.from_folder / "transformer"
            return FramePackTransformer.from_pretrained(folder, torch_dtype=torch.float32).to(self.device)
        model = transformer.make_transformer()
        if state is not None:
            model.load_state_dict(state["average" if self.args.restart_from_average else "model"])
        return model.to(self.device)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.clips = state["step"], state["clips"]
        self.average.shadow = {k: v.to(self.device) for k, v in state["average"].items()}
        self.average.steps = 10**6
        if not self.args.restart_from_average:
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
                for group in optimizer.param_groups:
                    group["peak"] = self.args.rate

    def save(self) -> None:
        """Write the resumable state."""
        content = {
            "model": self.model.state_dict(),
            "average": self.average.shadow,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "clips": self.clips,
        }
        loop.save_state(self.args.work / transformer.STATE, content)

    def renew(self, instants: int) -> None:
        """Put new clips into one buffer, drawn as often as it is trained on; `instants` counts 64-pixel frames."""
        buffer = self.buffers[int(self.rng.choice(len(self.buffers), p=self.weights))]
        count = max(1, instants * 64 * 64 // (buffer.length * buffer.size[0] * buffer.size[1]))
        buffer.renew(self.rng, self.models, self.canvases, count)

    def fill(self) -> None:
        """First clips for every buffer."""
        for buffer, weight in zip(self.buffers, self.weights, strict=True):
            while buffer.filled < self.args.first_fill * weight:
                buffer.renew(self.rng, self.models, self.canvases, 16)

    def draw(self, high_share: float) -> tuple[data.Batch, torch.Tensor]:
        """One plan's batch with its noise levels."""
        batch = draw_training_batch(self.rng, self.buffers, self.weights, self.args)
        count, _, frames, height, width = batch.targets.shape
        return batch, draw_sigma(self.rng, count, frames * height * width // 4, high_share).to(self.device)

    def backward(self, drawn: tuple[data.Batch, torch.Tensor]) -> float:
        """Add one plan's gradients; returns its loss."""
        with loop.autocast(self.device):
            loss = velocity_loss(self.model, *drawn).mean()
        (loss / self.args.plans).backward()
        return float(loss.detach())

    def one_step(self, rate: float, high_share: float) -> float:
        """Draw, backpropagate, update; returns the loss."""
        drawn = [self.draw(high_share) for _ in range(self.args.plans)]
        losses = list(self.workers.map(self.backward, drawn))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, error_if_nonfinite=True)
        for optimizer in self.optimizers:
            loop.set_rate(optimizer, rate)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update(self.model)
        self.step, self.clips = self.step + 1, self.clips + sum(len(sigma) for _, sigma in drawn)
        return sum(losses) / len(losses)

    def probe(self) -> str:
        """Move accuracy of a one-step prediction on canvases that are never trained on."""
        size = self.buffers[-1].size
        with loop.autocast(self.device):
            return move_accuracy(self.model, self.models, self.held_out, size)

    def run(self) -> None:
        """Train for the given minutes."""
        args, clock = self.args, loop.Clock(self.args.minutes)
        self.fill()
        LOG.info("buffers filled: %s clips, %.0f s", [b.filled for b in self.buffers], clock.spent)
        saved = probed = clock.spent
        losses: list[float] = []
        while clock.progress < 1:
            progress = args.progress_from + (args.progress_to - args.progress_from) * clock.progress
            high = args.high_share * (1 - clock.progress) + args.high_share_end * clock.progress
            losses.append(self.one_step(loop.warm_cosine(progress), high))
            if self.step % args.renew_every == 0:
                self.renew(320)
            if self.step % 50 == 0:
                LOG.info(
                    "step %d  clips %d  %.1f min  loss %.4f", self.step, self.clips, clock.spent / 60, np.mean(losses)
                )
                losses = []
            if clock.spent - probed > args.probe_seconds:
                LOG.info("probe %s", self.probe())
                probed = clock.spent
            if clock.spent - saved > args.save_seconds:
                self.save()
                saved = clock.spent
        self.save()
        LOG.info("done: %s", self.probe())


def parse_size(text: str) -> tuple[int, int]:
    """`64x96` -> (64, 96)."""
    height, width = text.split("x")
    return int(height), int(width)


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--batch", type=int, default=24, help="clips of 64x64 pixels (fewer of larger ones) a plan")
    parser.add_argument("--plans", type=int, default=2, help="context plans whose gradients make one step")
    parser.add_argument(
        "--sizes", type=parse_size, nargs="+", default=[(64, 64)], help="HEIGHTxWIDTH of training frames"
    )
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--progress-from", type=float, default=0.0, help="where on the rate's cosine this run starts")
    parser.add_argument("--progress-to", type=float, default=1.0, help="where on the rate's cosine this run ends")
    parser.add_argument("--average", type=float, default=0.998)
    parser.add_argument("--high-share", type=float, default=0.5, help="share of noise levels near 1 at the start")
    parser.add_argument("--high-share-end", type=float, default=0.25)
    parser.add_argument("--worn-share", type=float, default=0.3, help="share of grainy histories, and of soft ones")
    parser.add_argument("--long-share", type=float, default=0.3, help="share of batches with history or distance")
    parser.add_argument("--shape-share", type=float, default=0.2, help="share of scenes with coloured shapes")
    parser.add_argument("--capacity", type=int, default=8192)
    parser.add_argument("--first-fill", type=int, default=1024)
    parser.add_argument("--renew-every", type=int, default=6)
    parser.add_argument("--probe-seconds", type=float, default=150)
    parser.add_argument("--save-seconds", type=float, default=120)
    parser.add_argument("--canvases", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--restart-from-average", action="store_true", help="resume from the averaged weights, new optimizer"
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
    if loop.pick_device(args.device).type == "cpu":
        use_small_attention()
    Trainer(args).run()


if __name__ == "__main__":
    main()
