"""What the videos of this process have taught about its memory. Whoever makes one engine after another hands it on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

CLEARLY_MORE_BYTES = 5 * 10**8


@dataclass(frozen=True)
class Lesson:
    """That memory ran out in spite of a plan: as long as no more of the GPU is free than was then, ``vram_free``, no
    video of this process tries again what takes more than this.

    Attributes:
        decode_bytes: the most working memory that decoding gets on the GPU.
        resident_bytes: the most that blocks get which stay there.
        vae_leaves: the VAE is on the GPU only while it works, whatever the plan says.
        take_turns: the transformer leaves the GPU while a clip is decoded, whatever the plan says.
        alone: nothing is sampled while a clip is decoded, whatever the plan says.
        encode_on_demand: the encoders' weights come to the GPU as they are used.
    """

    vram_free: int
    decode_bytes: float = math.inf
    resident_bytes: float = math.inf
    vae_leaves: bool = False
    take_turns: bool = False
    alone: bool = False
    encode_on_demand: bool = False

    def holds(self, vram_free: int) -> bool:
        return vram_free <= self.vram_free + CLEARLY_MORE_BYTES

    def forbids(self, decode_bytes: float, resident_bytes: float, vram_free: int) -> bool:
        too_much = decode_bytes > self.decode_bytes or resident_bytes > self.resident_bytes
        return too_much and self.holds(vram_free)


@dataclass
class Lessons:
    """All of them.

    Attributes:
        learnt: what ran out of memory.
        libraries_loaded: what CUDA's libraries bring is on the GPU, so it is not in what is free there.
    """

    learnt: list[Lesson] = field(default_factory=list)
    libraries_loaded: bool = False
