"""diffusers' FramePack transformer with a forward pass that can skip its blocks and leave out context levels.

The parameters, their names and the config are diffusers' own, so the reference's checkpoints load key by key. Only
``forward`` is written here, because four things must happen in the middle of it and no hook reaches there: a context
level may be absent, a step cache may skip blocks, rows and columns may be scaled, and the output projection runs in
float32.

Shapes: B batch, C latent channels, T latent frames, H and W latent rows and columns, N tokens, D width, L text tokens.
The image stream is packed as [4x context, 2x context, clean context, target]; the text stream as [image, text].
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import ExitStack, closing, nullcontext
from typing import Any, Protocol

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ..caches.step_cache import BlockPass, StepCache
from ..memory.swap import BlockSource, BlockSwap
from ..memory.transport import Transport
from .rotary import Rotary, rotary_table

log = logging.getLogger(__name__)

KERNEL_2X = (2, 2, 2)
KERNEL_4X = (4, 4, 4)


class Modulation(Protocol):
    """What stands in the place of the modulation linears; told the vector [B, D] of every call."""

    def select(self, temb: Tensor) -> None: ...


class FramePackTransformer(HunyuanVideoFramepackTransformer3DModel):
    """Velocity of the noisy target frames, given text, picture and context.

    Attributes:
        block_source: called for each pass over the blocks; the blocks themselves when None.
        modulation: the table of modulation.py; the linears themselves when None.
    """

    block_source: BlockSource | None = None
    modulation: Modulation | None = None

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """All double and single stream blocks, in the order in which they run."""
        return (*self.transformer_blocks, *self.single_transformer_blocks)

    def weights_bytes(self) -> int:
        """Of everything that a step reads: parameters, and the buffers of quantised linears."""
        return sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers()))

    def swap_blocks(self, transport: Transport, resident_bytes: int = 0, **options: Any) -> BlockSwap:
        """From now on the blocks pass through the device, and all else is on it. Closing the swap ends that.

        Args:
            transport, resident_bytes, options: see ``BlockSwap``. The norm that step caches read stays on the device.
        """
        swap = BlockSwap(self.blocks, transport, resident_bytes, stays=[self.transformer_blocks[0].norm1], **options)
        for name, module in self.named_children():
            if not name.endswith("transformer_blocks"):
                module.to(transport.device)
        self.block_source = swap
        log.info(
            "%d of %d blocks stay on %s, %s",
            len(swap.resident),
            len(self.blocks),
            transport.device,
            _pace(swap),
        )
        return swap

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        pooled_projections: Tensor,
        image_embeds: Tensor,
        indices_latents: Tensor,
        guidance: Tensor | None = None,
        latents_clean: Tensor | None = None,
        indices_latents_clean: Tensor | None = None,
        latents_history_2x: Tensor | None = None,
        indices_latents_history_2x: Tensor | None = None,
        latents_history_4x: Tensor | None = None,
        indices_latents_history_4x: Tensor | None = None,
        step_cache: StepCache | None = None,
        rope_factor: float = 1.0,
    ) -> Tensor:
        """Predict the velocity, [B, C, T, H, W] in float32.

        Args:
            hidden_states: [B, C, T, H, W], noisy target latents; H and W even.
            timestep: [B], sigma * 1000.
            encoder_hidden_states: [B, L, text width], valid tokens first.
            encoder_attention_mask: [B, L] bool, True on valid tokens.
            pooled_projections: [B, pooled width].
            image_embeds: [B, image tokens, image width].
            indices_latents: [T] int64, time index of each target frame.
            guidance: [B], distilled guidance * 1000.
            latents_clean, latents_history_2x, latents_history_4x: [B, C, any, H, W], or None for no such tokens.
            indices_*: [any] int64, their time indices.
            step_cache: called with the pass over the blocks, in their place.
            rope_factor: the rows and columns of all image tokens are divided by it, see rotary.py.
        """
        target = self.x_embedder(hidden_states)
        context = self.clean_x_embedder(latents_clean, latents_history_2x, latents_history_4x)
        tokens = torch.cat([part for part in (*reversed(context), target) if part is not None], dim=1)
        rotary = self._packed_rotary(
            hidden_states,
            rope_factor,
            (indices_latents_history_4x, KERNEL_4X),
            (indices_latents_history_2x, KERNEL_2X),
            (indices_latents_clean, None),
            (indices_latents, None),
        )
        temb, _ = self.time_text_embed(timestep, pooled_projections, guidance)
        if self.modulation is not None:
            self.modulation.select(temb)
        text, mask = self._text_stream(encoder_hidden_states, encoder_attention_mask, image_embeds, timestep)
        attention_mask = _attention_mask(tokens, mask)
        if attention_mask is None:
            text = text[:, : int(mask.sum())]

        with ExitStack() as begun:
            blocks = BlockPass(
                hidden_states,
                tokens,
                targets=target.shape[1],
                modulated=lambda: self.transformer_blocks[0].norm1(tokens, emb=temb)[0],
                run=lambda: begun.enter_context(closing(self._run_blocks(tokens, text, temb, attention_mask, rotary))),
            )
            output = blocks.run_all() if step_cache is None else step_cache(blocks)
        return self._project(output, temb, hidden_states.shape)

    def _text_stream(self, text: Tensor, mask: Tensor, image_embeds: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens, then refined text tokens, [B, L', D], with their mask [B, L']."""
        text = self.context_embedder(text, timestep, mask)
        image = self.image_projection(image_embeds)
        return torch.cat([image, text], dim=1), torch.cat([mask.new_ones(image.shape[:2]), mask], dim=1)

    def _packed_rotary(
        self, latents: Tensor, factor: float, *levels: tuple[Tensor | None, tuple[int, int, int] | None]
    ) -> Rotary:
        """cos and sin of all image tokens, [N, head width] each, in the order of ``levels``.

        Rows and columns are divided by ``factor`` on every level. A level is its time indices and the kernel by which
        its tokens are coarser than the target's.
        """
        height, width = latents.shape[-2:]
        grid = (height // self.config.patch_size, width // self.config.patch_size)
        tables = []
        for indices, kernel in levels:
            if indices is None:
                continue
            table = rotary_table(self.rope, indices, grid, latents.device, factor)
            tables.append(table if kernel is None else tuple(_pool_rotary(part, grid, kernel) for part in table))
        cos, sin = zip(*tables, strict=True)
        return torch.cat(cos), torch.cat(sin)

    def _run_blocks(
        self, tokens: Tensor, text: Tensor, temb: Tensor, attention_mask: Tensor | None, rotary: Rotary
    ) -> Generator[Tensor, None, None]:
        """All double and single stream blocks; [B, N, D] image tokens in, and out after each."""
        checkpointing = torch.is_grad_enabled() and self.gradient_checkpointing
        with closing(self.block_source()) if self.block_source else nullcontext(self.blocks) as blocks:
            for block in blocks:
                run: Any = (
                    (lambda *inputs, b=block: self._gradient_checkpointing_func(b, *inputs)) if checkpointing else block
                )
                tokens, text = run(tokens, text, temb, attention_mask, rotary)
                yield tokens

    def _project(self, tokens: Tensor, temb: Tensor, shape: torch.Size) -> Tensor:
        """Final norm in the model's dtype, projection in float32, tokens [B, N, D] back to latents [B, C, T, H, W].

        The projection is called as a module, so that what is hooked to it acts.
        """
        tokens = self.norm_out(tokens, temb)
        weights = {name: weight.float() for name, weight in self.proj_out.named_parameters()}
        patches = functional_call(self.proj_out, weights, (tokens.float(),))
        batch, _, frames, height, width = shape
        p = self.config.patch_size
        patches = patches.reshape(batch, frames, height // p, width // p, -1, p, p)
        return patches.permute(0, 4, 1, 2, 5, 3, 6).reshape(batch, -1, frames, height, width)


def _pace(swap: BlockSwap) -> str:
    """What passes through, and how fast the bus is today."""
    if not swap.bytes_per_pass:
        return "none pass through"
    return f"{swap.bytes_per_pass / 1e9:.2f} GB pass through in a step, by a bus of {swap.bus_speed / 1e9:.1f} GB/s"


def _attention_mask(tokens: Tensor, text_mask: Tensor) -> Tensor | None:
    """None for one sample, whose text is cropped instead; else [B, 1, 1, N + L] bool."""
    if tokens.shape[0] == 1:
        return None
    return torch.cat([text_mask.new_ones(tokens.shape[:2]), text_mask], dim=1)[:, None, None]


def _pool_rotary(table: Tensor, grid: tuple[int, int], kernel: tuple[int, int, int]) -> Tensor:
    """A rotary table [frames * rows * columns, D] averaged over ``kernel``, its ends replicated to whole kernels."""
    volume = table.unflatten(0, (-1, *grid)).permute(3, 0, 1, 2)[None]
    missing = [(-size) % k for size, k in zip(volume.shape[2:], kernel, strict=True)]
    padding = (0, missing[2], 0, missing[1], 0, missing[0])
    pooled = functional.avg_pool3d(functional.pad(volume, padding, mode="replicate"), kernel)
    return pooled[0].flatten(1).T
