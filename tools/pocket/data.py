"""Training samples for the transformer: a buffer of encoded clips that is slowly renewed, and batches cut from it.

A clip is `[16, L, h, w]` scaled latents of instants 4 video frames apart, with the features of its caption and of its
first picture. A batch shares one context plan (`diffusers_helper.sections`), because the transformer takes one vector
of time indices for all its samples.

Shape legend: B samples, L instants of a clip, T target frames, N text tokens, D feature width, h x w latent pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch.nn.functional import avg_pool2d
from transformers import SiglipVisionModel

from diffusers_helper.sections.context import (
    ContextPlan,
    Level,
    Source,
    f1_context,
    i2v_context,
    one_frame_context,
)
from tools.pocket import camera, codec
from tools.pocket.captions import Caption
from tools.pocket.encoders import TextEncoders, picture_pixels
from tools.pocket.shape_captions import draw_caption
from tools.pocket.shapes import paint_shapes

WINDOW = 9
SHORT, LONG = 1 + WINDOW, 1 + 4 * WINDOW  # paddings 0 to 3, as long videos have them
TEXT_TOKENS = 40
CHANGED = 0.05  # mean square of scaled latents, whose variance is 1
EMPTY_SHARE = 0.08  # of captions, for real CFG


@dataclass
class Models:
    """The frozen models that make latents and features."""

    vae: AutoencoderKLHunyuanVideo
    scale: float
    text: TextEncoders
    siglip: SiglipVisionModel


@dataclass
class Features:
    """What the transformer is told: `[B, N, D]`, `[B, N]` bool, `[B, D]`, `[B, 16, D']`."""

    prompt: torch.Tensor
    mask: torch.Tensor
    pooled: torch.Tensor
    picture: torch.Tensor

    def take(self, rows: torch.Tensor) -> Features:
        """Some rows, cropped to their longest prompt."""
        longest = int(self.mask[rows].sum(1).max())
        return Features(self.prompt[rows, :longest], self.mask[rows, :longest], self.pooled[rows], self.picture[rows])

    def put(self, rows: torch.Tensor, other: Features) -> None:
        """Overwrite some rows."""
        for name in ("prompt", "mask", "pooled", "picture"):
            getattr(self, name)[rows] = getattr(other, name)


@torch.no_grad()
def text_features(text: TextEncoders, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prompt features padded with zeros to `TEXT_TOKENS`, mask, pooled features."""
    states, mask = text.prompt_features(prompts, TEXT_TOKENS)
    states = states * mask[..., None]
    missing = TEXT_TOKENS - states.shape[1]
    states = torch.nn.functional.pad(states, (0, 0, 0, missing))
    return states, torch.nn.functional.pad(mask, (0, missing)), text.pooled_features(prompts)


def render_clips(
    rng: np.random.Generator, canvases: torch.Tensor, captions: list[Caption], length: int, size: tuple[int, int]
) -> torch.Tensor:
    """Instants of the captioned scenes, `[B, 3, L, H, W]` in -1..1."""
    chosen = canvases[torch.from_numpy(rng.integers(0, len(canvases), len(captions)))]
    seconds = camera.latent_times(length)
    moves = [camera.Move(c.move, c.speed, c.soft_start) for c in captions]
    path = camera.draw_paths(rng, moves, seconds, canvases.shape[1])
    clips = camera.render(chosen, path, *size)
    for row, caption in enumerate(captions):
        if caption.figures:
            clips[row] = paint_shapes(rng, clips[row], caption, seconds)
    return clips


@torch.no_grad()
def encode_clips(models: Models, clips: torch.Tensor) -> torch.Tensor:
    """`[B, 3, L, H, W]` -> scaled latents `[B, 16, L, h, w]`, frame by frame."""
    latents = codec.encode_frames(models.vae, clips.transpose(1, 2).flatten(0, 1)) * models.scale
    return latents.unflatten(0, (len(clips), -1)).transpose(1, 2).float()


@torch.no_grad()
def describe(models: Models, captions: list[Caption], first: torch.Tensor) -> Features:
    """Features of captions and first pictures `[B, 3, H, W]`."""
    states, mask, pooled = text_features(models.text, [c.text for c in captions])
    picture = models.siglip(picture_pixels(first)).last_hidden_state
    return Features(states.float(), mask, pooled.float(), picture.float())


class Buffer:
    """Encoded clips of one length and size. `renew` replaces the oldest ones."""

    def __init__(self, capacity: int, length: int, size: tuple[int, int], shape_share: float) -> None:
        self.capacity, self.length, self.size = capacity, length, size
        self.shape_share = shape_share
        self.filled, self.next = 0, 0
        self.latents: torch.Tensor
        self.features: Features

    def renew(self, rng: np.random.Generator, models: Models, canvases: torch.Tensor, count: int) -> None:
        """Draw, encode and store `count` new clips."""
        captions = [draw_caption(rng, self.shape_share, EMPTY_SHARE) for _ in range(count)]
        clips = render_clips(rng, canvases, captions, self.length, self.size).to(models.vae.device)
        with torch.autocast(clips.device.type, dtype=torch.bfloat16):
            latents, features = encode_clips(models, clips), describe(models, captions, clips[:, :, 0])
        if self.filled == 0:
            self._allocate(latents, features)
        rows = (torch.arange(count, device=clips.device) + self.next) % self.capacity
        self.latents[rows] = latents.to(self.latents.dtype)
        self.features.put(rows, features)
        self.next = (self.next + count) % self.capacity
        self.filled = min(self.filled + count, self.capacity)

    def _allocate(self, latents: torch.Tensor, features: Features) -> None:
        self.latents = latents.new_zeros((self.capacity, *latents.shape[1:]), dtype=torch.bfloat16)
        empty = [t.new_zeros((self.capacity, *t.shape[1:])) for t in vars(features).values()]
        self.features = Features(*empty)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, Features]:
        """Random clips, `[count, 16, L, h, w]` float32, with their features."""
        rows = torch.from_numpy(rng.integers(0, self.filled, count)).to(self.latents.device)
        return self.latents[rows].float(), self.features.take(rows)


@dataclass(frozen=True)
class Cut:
    """Where a training sample lies in a clip: its plan, the instants that are to be made, and those that the history
    holds (`known`), in time order."""

    plan: ContextPlan
    targets: tuple[int, ...]
    known: tuple[int, ...]
    pictures: tuple[int, ...] = (0,)


def draw_cut(rng: np.random.Generator, length: int) -> Cut:
    """A section of a video as the application would make it, for a clip of `length` instants."""
    chance = rng.random()
    if chance < 0.1:
        return _one_frame_cut(rng, length)
    return _f1_cut(rng, length) if chance < 0.45 else _i2v_cut(rng, length)


def _one_frame_cut(rng: np.random.Generator, length: int) -> Cut:
    target = int(rng.integers(1, min(length, 17)))
    controls: tuple[int, ...] = (0,)
    if rng.random() < 0.3 and length > SHORT:
        controls = (0, int(rng.integers(1, length)))
    post, two, four = (bool(b) for b in rng.random(3) < 0.5)
    plan = one_frame_context(target, dict(enumerate(controls)), WINDOW, post=post, history_2x=two, history_4x=four)
    return Cut(plan, (target,), (), controls)


def _f1_cut(rng: np.random.Generator, length: int) -> Cut:
    done = WINDOW * int(rng.integers(0 if length == SHORT else 1, (length - 1) // WINDOW))
    return Cut(f1_context(WINDOW), tuple(range(1 + done, 1 + done + WINDOW)), tuple(range(done + 1)))


def _i2v_cut(rng: np.random.Generator, length: int) -> Cut:
    sections = int(rng.integers(1 if length == SHORT else 2, (length - 1) // WINDOW + 1))
    padding = int(rng.integers(0, sections))
    first, end = 1 + padding * WINDOW, 1 + sections * WINDOW
    return Cut(i2v_context(WINDOW, padding), tuple(range(first, first + WINDOW)), tuple(range(first + WINDOW, end)))


def _level(clips: torch.Tensor, cut: Cut, level: Level | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Latents `[B, 16, n, h, w]` and indices `[n]` of one context level."""
    if level is None:
        return None, None
    frames = [_context_frame(clips, cut, frame.source, frame.n) for frame in level]
    return torch.stack(frames, dim=2), torch.tensor([frame.index for frame in level], device=clips.device)


def _context_frame(clips: torch.Tensor, cut: Cut, source: Source, n: int) -> torch.Tensor:
    if source is Source.PICTURE:
        return clips[:, :, cut.pictures[n]]
    if source is Source.ZERO or n >= len(cut.known):
        return torch.zeros_like(clips[:, :, 0])
    return clips[:, :, cut.known[n] if source is Source.AFTER else cut.known[-1 - n]]


@dataclass
class Batch:
    """Everything for one training step; `context` are keyword arguments of the transformer."""

    targets: torch.Tensor  # [B, 16, T, h, w]
    changed: torch.Tensor  # [B, 1, T, h, w] bool: places that differ from the first picture
    indices: torch.Tensor  # [T]
    features: Features
    context: dict[str, torch.Tensor | None]


def worn(clips: torch.Tensor, noise: float, blur: float) -> torch.Tensor:
    """Clips `[B, 16, L, h, w]` as the sampler's own history would show them: grainy and soft, but for the picture."""
    soft = avg_pool2d(clips.flatten(1, 2), 3, stride=1, padding=1, count_include_pad=False).view_as(clips)
    seen = clips.lerp(soft, blur) + torch.randn_like(clips) * noise
    seen[:, :, 0] = clips[:, :, 0]
    return seen


def make_batch(clips: torch.Tensor, features: Features, cut: Cut, noise: float = 0.0, blur: float = 0.0) -> Batch:
    """Cut a section out of clips `[B, 16, L, h, w]`, its history `worn`."""
    seen = worn(clips, noise, blur) if noise or blur else clips
    context: dict[str, torch.Tensor | None] = {}
    names = (("latents_clean", "clean"), ("latents_history_2x", "clean_2x"), ("latents_history_4x", "clean_4x"))
    for name, level in names:
        context[name], context[f"indices_{name}"] = _level(seen, cut, getattr(cut.plan, level))
    targets = clips[:, :, list(cut.targets)]
    changed = (targets - clips[:, :, :1]).square().mean(1, keepdim=True) > CHANGED
    return Batch(targets, changed, torch.tensor(cut.plan.target, device=clips.device), features, context)
