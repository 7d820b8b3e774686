"""Classifier-free guidance on velocities.

Shapes: any [B, ...]; the standard deviation is taken over all but the batch.
"""

from __future__ import annotations

from torch import Tensor


def guide(positive: Tensor, negative: Tensor, scale: float, rescale: float) -> Tensor:
    """Guided velocity, its spread pulled back towards the positive one (Lin et al. 2023, arXiv:2305.08891, 3.4).

    Args:
        positive, negative: velocities [B, ...] with the prompt and with the negative prompt.
        scale: 1 gives the positive velocity.
        rescale: 0 leaves the guided velocity alone, 1 gives it the standard deviation of the positive one.
    """
    guided = negative + scale * (positive - negative)
    if rescale == 0:
        return guided
    dims = list(range(1, guided.ndim))
    spread = positive.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
    return rescale * (guided * spread) + (1 - rescale) * guided
