"""What a machine has, a checkpoint weighs and a video asks for: the numbers of which memory plans are made. No tensors.

Weights whose files hold the very numbers that they are computed with are mapped, not read: they take no RAM that the
system could not have back, and are read again when they are wanted again. For a part that is used once a video, such as
the text encoder of 15 GB, that costs seconds; so it is not counted as RAM that must be there.

The factors are estimates for the 13B checkpoint, from counting its operations; they err to the safe side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..limits import LEAST_PRESERVED_GB
from ..words import Message
from .lessons import Lesson
from .units import GB

Precision = Literal["as_is", "int8", "fp8", "bnb8", "bnb4"]
Place = Literal["gpu", "cpu", "swapped"]

BYTES_PER_WEIGHT: Mapping[Precision, float] = {"int8": 1.002, "fp8": 1.002, "bnb8": 1.01, "bnb4": 0.57}
"""Of a block's matrices, with their scales; ``as_is`` has what the machine computes in."""
STAY_ON_GPU: tuple[Precision, ...] = ("bnb8", "bnb4")
"""What bitsandbytes has packed cannot be swapped by blocks."""

TEXT_TOKENS = 900
SPARE_RAM = 5 * 10**8
REFERENCE_STEPS, LEAN_STEPS = 1.3, 0.56
"""What decoding a section costs in whole frames, in sampling steps on the GPU: as the original does, 652 TFLOP, and
lean, 278 (``bench/results/decoding.json``)."""


@dataclass(frozen=True)
class Machine:
    """What is there, in bytes. ``vram_*`` are 0 without a GPU; free is what this program may use.

    ``disk_free`` is for quantised weights; those that an earlier start has kept count as free. Where attention is not
    fused, its scores are held, which takes memory by the square of the tokens. ``segments_grow``: PyTorch can put
    memory that is free here and there together. ``lessons``: of earlier videos. ``libraries_loaded``: CUDA's libraries
    are on the GPU and have taken their part of what was free.
    """

    vram_total: int
    vram_free: int
    ram_total: int
    ram_free: int
    disk_free: int
    fused_attention: bool = True
    segments_grow: bool = True
    fused_vae_attention: bool = True
    lessons: tuple[Lesson, ...] = ()
    libraries_loaded: bool = False


@dataclass(frozen=True)
class PartSizes:
    """Numbers of weights, and the bytes of each in the numbers that the machine computes in.

    Attributes:
        blocks: of the transformer, both kinds together.
        block_weights, largest_block_weights: of all blocks and of the largest, without their modulation.
        modulation_weights: matrices that see one vector per step; a table can stand for them.
        other_weights: of the transformer, outside of its blocks.
        width, heads: of the transformer's tokens, and of its attention.
        vae_channels: at the full size of a picture.
        rest: part -> weights, for the parts beside the transformer.
        bytes_per_weight: part -> bytes.
        mapped: the parts whose files hold the numbers that they are computed with.
    """

    blocks: int
    block_weights: int
    largest_block_weights: int
    modulation_weights: int
    other_weights: int
    width: int
    heads: int
    vae_channels: int
    rest: Mapping[str, int]
    bytes_per_weight: Mapping[str, int]
    mapped: frozenset[str]

    def bytes_of(self, part: str) -> int:
        """Of a part beside the transformer."""
        return self.rest[part] * self.bytes_per_weight[part]


@dataclass(frozen=True)
class Cached:
    """How many tensors are kept from step to step: of the size of a call's tokens, and of the target's among them."""

    streams: int = 0
    targets: int = 0


Stored = Literal["kept", "again", "in_ram"]
"""What training does about what the backward pass needs of a block: it is kept; it is made again of the block's inputs;
or so, and the inputs lie in RAM meanwhile."""


@dataclass(frozen=True)
class Learning:
    """That a call is one of training, with a backward pass.

    Attributes:
        ways: that may be taken.
    """

    ways: tuple[Stored, ...] = ("kept", "again", "in_ram")


TEACACHE = Cached(1, 1)
"""Its last input and residual."""


@dataclass(frozen=True)
class Workload:
    """What one section asks for.

    Attributes:
        height, width, frames: of the clip, in pixels and frames.
        tokens, target_tokens: of one transformer call, and the target's among them.
        cached: what the step caches of all CFG branches keep from step to step; the branches run one after the other.
        lora_bytes: what LoRAs have beside the transformer's weights, in training with their gradients and what an
            optimiser keeps of them; it stays while clips are decoded.
        learning: of a step of training; None for a video's.
    """

    height: int
    width: int
    tokens: int
    target_tokens: int
    steps: int = 25
    frames: int = 73
    cached: Cached = TEACACHE
    lora_bytes: int = 0
    learning: Learning | None = None

    @property
    def cached_tokens(self) -> int:
        """Of all tensors that step caches keep."""
        return self.cached.streams * self.tokens + self.cached.targets * self.target_tokens

    @classmethod
    def of(
        cls, height: int, width: int, latent_window: int = 9, steps: int = 25, cached: Cached = TEACACHE
    ) -> Workload:
        """The largest section of a video: 1 clean start frame and 1 clean, 2 2x and 16 4x context frames."""
        rows, columns = height // 16, width // 16
        coarse = -(-rows // 2) * -(-columns // 2) + 4 * -(-rows // 4) * -(-columns // 4)
        tokens = (latent_window + 2) * rows * columns + coarse + TEXT_TOKENS
        frames = 4 * (2 * latent_window + 1) - 3
        return cls(height, width, tokens, latent_window * rows * columns, steps, frames, cached)


class DecoderCosts(Protocol):
    """What plans know of a decoder, a way to decode clips (vae/decoders.py).

    Attributes:
        name: of the decoder, in plans.
        words: for people, such as "in tiles"; None for the usual way.
        remark: for people, what else there is to know where it takes over.
        cost_in_steps: what a section's clip costs, in sampling steps on the GPU.
        uses_device: whether the VAE's weights are on the device while it works.
    """

    @property
    def name(self) -> str: ...
    @property
    def words(self) -> Message | None: ...
    @property
    def remark(self) -> Message | None: ...
    @property
    def cost_in_steps(self) -> float: ...
    @property
    def uses_device(self) -> bool: ...

    def device_bytes(self, sizes: PartSizes, workload: Workload, fused_attention: bool = True) -> int:
        """Working memory of the device for a clip, beside the VAE's weights."""

    def ram_bytes(self, sizes: PartSizes, workload: Workload) -> int:
        """What it takes of RAM beside the parts, where the device is a GPU."""


Beside: TypeAlias = Literal["nothing", "writing", "decoding"]
"""What is done of a clip in a thread of its own while the next section is sampled: nothing, joining it to the video, or
all of it."""


@dataclass(frozen=True)
class Constraints:
    """What settings and request ask for.

    Attributes:
        precision: one of Precision, or "auto".
        modulation_table: whether a table may stand for the modulation weights.
        swap: whether a part of the transformer may be swapped in from RAM.
        bnb_cpu_offload: whether bitsandbytes' 4-bit weights leave the GPU while other parts work.
        small_host_copy: blocks that stay on the GPU have no copy in RAM; so they cannot take turns.
        preserved_bytes: GPU memory that resident blocks leave free; working memory comes out of it. Blocks packed by
            bitsandbytes cannot be anywhere else, so they do not heed it.
        decode: the name of a decoder, or "auto".
        chunk_size: latent frames that are decoded at once at most; None for what is usual.
        beside: whether a clip may be made while the next section is sampled; None where there is a GPU.
    """

    precision: Precision | Literal["auto"] = "auto"
    modulation_table: bool = True
    swap: bool = True
    bnb_cpu_offload: bool = False
    small_host_copy: bool = False
    preserved_bytes: int = LEAST_PRESERVED_GB * GB
    decode: str = "auto"
    chunk_size: int | None = None
    beside: bool | None = None
