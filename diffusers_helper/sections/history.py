"""The latents generated so far, in time order, and how a context plan reads them.

Shapes: B batch, C latent channels, T latent frames, H and W latent rows and columns. Latents are BCTHW, float32, on
the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .context import ContextFrame, ContextPlan, Level, Source
from .plan import SectionPlan, VideoPlan


@dataclass(frozen=True)
class Context:
    """A context plan with its latents: what a transformer call gets. An absent level is None.

    Attributes:
        target_index: [T] int64, time index of each frame to be made.
        latents, latents_2x, latents_4x: [B, C, T, H, W].
        index, index_2x, index_4x: [T] int64.
    """

    target_index: Tensor
    latents: Tensor | None
    index: Tensor | None
    latents_2x: Tensor | None
    index_2x: Tensor | None
    latents_4x: Tensor | None
    index_4x: Tensor | None


def initial_history(plan: VideoPlan, pictures: Sequence[Tensor], video: Tensor | None = None) -> Tensor:
    """The history before the first section.

    Args:
        pictures: [B, C, 1, H, W] each, those of the request.
        video: [B, C, T, H, W], the newest latents of the video that a plan extends.
    """
    if plan.extends_video:
        if video is None:
            raise ValueError("a plan that extends a video needs its latents")
        return video
    return pictures[0][:, :, :0] if plan.begins_with is None else pictures[plan.begins_with]


def extend(
    history: Tensor, result: Tensor, section: SectionPlan, plan: VideoPlan, pictures: Sequence[Tensor]
) -> Tensor:
    """The history with a section's result ([B, C, T, H, W]) put at its place in time."""
    if section.prepends is not None:
        result = torch.cat([pictures[section.prepends], result], dim=2)
    return torch.cat([result, history] if plan.grows_at_front else [history, result], dim=2)


def newest(history: Tensor, section: SectionPlan, plan: VideoPlan) -> Tensor:
    """The part of the history that is decoded after a section: [B, C, decode_frames, H, W]."""
    if plan.grows_at_front:
        return history[:, :, : section.decode_frames]
    return history[:, :, -section.decode_frames :]


def gather_context(plan: ContextPlan, history: Tensor, pictures: Sequence[Tensor]) -> Context:
    """Read the latents of a context plan.

    Args:
        history: [B, C, any, H, W]; frames that a plan asks for beyond its ends are zeros.
        pictures: [B, C, 1, H, W] each, those of the request.
    """

    def level(frames: Level | None) -> tuple[Tensor | None, Tensor | None]:
        if frames is None:
            return None, None
        latents = torch.cat([_latent(frame, history, pictures) for frame in frames], dim=2)
        return latents, torch.tensor([frame.index for frame in frames])

    return Context(torch.tensor(plan.target), *level(plan.clean), *level(plan.clean_2x), *level(plan.clean_4x))


def _latent(frame: ContextFrame, history: Tensor, pictures: Sequence[Tensor]) -> Tensor:
    """[B, C, 1, H, W], the latent of one context frame."""
    length = history.shape[2]
    match frame.source:
        case Source.PICTURE:
            return pictures[frame.n]
        case Source.AFTER if frame.n < length:
            return history[:, :, frame.n : frame.n + 1]
        case Source.BEFORE if frame.n < length:
            return history[:, :, length - 1 - frame.n : length - frame.n]
    return history.new_zeros((*history.shape[:2], 1, *history.shape[3:]))
