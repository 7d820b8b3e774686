"""UniPC as FramePack samples with it (Zhao et al. 2023, "UniPC", arXiv:2302.04867), driven through diffusers.

diffusers' scheduler solves the variance-exploding form of a flow (alpha fixed to 1, lambda = -ln sigma) once its
conversion of sigma says so. Three more things differ from the stock configuration: the order never falls at the end,
the sigmas are ours to the last bit, and the last evaluation is the result itself.
"""

from __future__ import annotations

import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

ORDER = 3


class FlowUniPC(UniPCMultistepScheduler):
    """Predictor-corrector of order up to 3 on clean predictions; one instance serves one sampling."""

    def _sigma_to_alpha_sigma_t(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(sigma), sigma

    @classmethod
    def for_sigmas(cls, sigmas: Tensor, solver_type: str = "bh1") -> FlowUniPC:
        """A solver for ``sigmas``, [steps + 1] float32 descending to 0."""
        steps = len(sigmas) - 1
        solver: FlowUniPC = cls(
            solver_order=max(1, min(ORDER, steps - 1)),
            solver_type=solver_type,
            predict_x0=True,
            prediction_type="sample",
            use_flow_sigmas=True,
            lower_order_final=False,
        )
        solver.set_timesteps(steps)
        solver.set_begin_index(0)
        solver.sigmas = sigmas.cpu()
        return solver

    def advance(self, step: int, denoised: Tensor, x: Tensor) -> Tensor:
        """The state at the next noise level, from the clean prediction ``denoised`` at state ``x`` of ``step``."""
        return self.step(denoised, self.timesteps[step], x, return_dict=False)[0]
