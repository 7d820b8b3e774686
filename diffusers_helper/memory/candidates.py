"""The candidates for a memory plan: every way to run a checkpoint, and what each needs of memory and costs. No tensors.

A candidate is the numbers that the weights are kept in, how many blocks stay on the GPU, whether the parts take turns
there, how clips are decoded. It needs a fixed amount of memory and has a fixed cost.

The factors are estimates for the 13B checkpoint, from counting its operations; they err to the safe side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import get_args

from .costs import (
    BYTES_PER_WEIGHT,
    SPARE_RAM,
    STAY_ON_GPU,
    Constraints,
    DecoderCosts,
    Machine,
    PartSizes,
    Precision,
    Stored,
    Workload,
)
from .units import GB

ENOUGH_VRAM, ENOUGH_RAM = 24 * GB, 48 * GB
"""Below either, a transformer that must be swapped is swapped in int8."""
SWAP_BUFFERS = 3
ACTIVATIONS_PER_TOKEN = 23
"""Values of the transformer's width that a block holds at once for each token."""
TRAINED_PER_TOKEN: Mapping[Stored, tuple[int, int]] = {"kept": (17, 19), "again": (36, 1), "in_ram": (38, 0)}
"""The same in a step of training: at once while one block runs backwards, and of each block from its forward pass to
its backward pass (``bench/results/training_memory.json``)."""
PASSES: Mapping[Stored, int] = {"kept": 2, "again": 3, "in_ram": 3}
"""How often a block computes in a step of training; its backward pass costs as much as a forward pass, its weights
being frozen."""
KEPT_STEPS = 2
"""Of what a step cache keeps: the last step's, and the one's before, to which a step returns that is tried again."""
BYTES_PER_SCORE = 8
"""Of attention that is not fused: a score and its softmax, in float32."""
FRAGMENTED_STEP, FRAGMENTED_CLIP = 1.15, 1.5
"""Where the GPU's segments cannot grow, what working memory takes of it: holes between tensors are lost."""
LIBRARIES_BYTES = 4 * 10**8
"""Code and handles that CUDA's libraries bring to the GPU with their first use, beside PyTorch's allocator."""
PASSING, UNPACKING = 0.05, 0.02
"""Shares of a step: what it takes longer when all blocks pass through, however well their copies are hidden; and what
making 16 bits of fewer takes."""
CPU_SLOWNESS = 50
OPERATIONS_PER_BYTE = 10_000
"""What a fast card computes while its bus carries a byte; slower cards hide more of the swapping."""


@dataclass(frozen=True)
class Candidate:
    """One way to run: what it needs and costs."""

    sizes: PartSizes
    workload: Workload
    constraints: Constraints
    on_gpu: bool
    precision: Precision
    decoder: DecoderCosts
    take_turns: bool
    resident_blocks: int
    fused_attention: bool = True
    segments_grow: bool = True
    fused_vae_attention: bool = True
    libraries_loaded: bool = False
    stored: Stored = "kept"

    @property
    def all_resident(self) -> bool:
        return self.resident_blocks == self.sizes.blocks

    @property
    def stays(self) -> bool:  # the whole transformer, on the GPU, for good
        return self.on_gpu and self.all_resident and not self.take_turns

    def block_bytes(self) -> int:
        as_is = self.sizes.bytes_per_weight["transformer"]
        modulation = 0 if self.constraints.modulation_table else self.sizes.modulation_weights * as_is
        return int(self.sizes.block_weights * BYTES_PER_WEIGHT.get(self.precision, as_is)) + modulation

    def _largest_block_bytes(self) -> int:
        share = self.sizes.largest_block_weights / max(self.sizes.block_weights, 1)
        return int(share * self.block_bytes())

    def resident_bytes(self) -> int:
        """Of the blocks that stay; spread evenly over both kinds, so at most one large one too many."""
        if not self.resident_blocks:
            return 0
        share = self.block_bytes() * self.resident_blocks // self.sizes.blocks
        return min(share + self._largest_block_bytes(), self.block_bytes())

    def other_bytes(self) -> int:
        """Of the transformer outside of its blocks, and of the modulation table."""
        table = self.constraints.modulation_table * 2 * self.workload.steps * 12 * self.sizes.blocks * self.sizes.width
        return (self.sizes.other_weights + table) * self.sizes.bytes_per_weight["transformer"]

    @property
    def learns(self) -> bool:
        """Whether it is a way to train."""
        return self.workload.learning is not None

    def activation_bytes(self) -> int:
        values = (self._values_at_work() + KEPT_STEPS * self.workload.cached_tokens) * self.sizes.width
        scores = 0 if self.fused_attention else self._blocks_at_once() * self.sizes.heads * self.workload.tokens**2
        return values * self.sizes.bytes_per_weight["transformer"] + scores * BYTES_PER_SCORE

    def _values_at_work(self) -> int:
        """Of the transformer's width, at once."""
        if not self.learns:
            return ACTIVATIONS_PER_TOKEN * self.workload.tokens
        at_once, of_each_block = TRAINED_PER_TOKEN[self.stored]
        return (at_once + of_each_block * self.sizes.blocks) * self.workload.tokens

    def _blocks_at_once(self) -> int:
        """Whose scores are held."""
        return self.sizes.blocks if self.learns and self.stored == "kept" else 1

    def _stored_ram(self) -> int:
        """What of a step of training lies in RAM beside the device; locked memory comes in powers of two."""
        if self.stored != "in_ram":
            return 0
        of_a_block = self.workload.tokens * self.sizes.width * self.sizes.bytes_per_weight["transformer"]
        return self.sizes.blocks * (1 << (of_a_block - 1).bit_length())

    def step_bytes(self) -> int:
        """What the GPU gives a step to work with."""
        return int(self.activation_bytes() * (1 if self.segments_grow else FRAGMENTED_STEP))

    def clip_bytes(self) -> int:
        """What it gives the decoding of a clip."""
        return int(self.decode_bytes() * (1 if self.segments_grow else FRAGMENTED_CLIP))

    def vram(self) -> int:
        """The most that is needed at once on the GPU."""
        return self._with_libraries(max(self._sampling_vram(), self._decoding_vram()))

    def vram_beside(self) -> int:
        """The same, where a clip is decoded while the next section is sampled."""
        return self._with_libraries(self._sampling_vram(self.clip_bytes()))

    def _with_libraries(self, needed: int) -> int:
        """Of the GPU; nothing where there is none."""
        return needed + (0 if self.libraries_loaded else LIBRARIES_BYTES) if self.on_gpu else 0

    def _sampling_vram(self, beside: int = 0) -> int:
        """``beside``: bytes that something else works with meanwhile."""
        at_work = self.step_bytes() + beside
        chosen = self.resident_blocks and self.precision not in STAY_ON_GPU
        free = max(self.constraints.preserved_bytes, at_work) if chosen else at_work
        return self.weights_vram() + free + (self.sizes.bytes_of("vae") if self.vae_stays() else 0)

    def weights_vram(self) -> int:
        """Of the transformer, while it samples, and of LoRAs beside it."""
        buffers = 0 if self.all_resident else SWAP_BUFFERS * self._largest_block_bytes()
        return self.other_bytes() + self.resident_bytes() + buffers + self.workload.lora_bytes

    def vae_stays(self) -> bool:
        return not self.take_turns and self.decoder.uses_device and not self.learns

    def _decoding_vram(self) -> int:
        if self.learns:
            return 0
        vae = self.sizes.bytes_of("vae") if self.decoder.uses_device else 0
        return self._held_while_decoding() + vae + self.clip_bytes()

    def _held_while_decoding(self) -> int:
        """Of the transformer: what is packed leaves as a whole, else what is no block stays; so do LoRAs."""
        if not self.take_turns:
            return self.weights_vram()
        return self.workload.lora_bytes + (0 if self.precision in STAY_ON_GPU else self.other_bytes())

    def decode_bytes(self) -> int:
        """Of the GPU, to work with; nothing is decoded in training."""
        return 0 if self.learns else self.decoder.device_bytes(self.sizes, self.workload, self.fused_vae_attention)

    def ram(self) -> int:
        """The most that is needed at once in RAM. The transformer is loaded first, and may leave at once."""
        return SPARE_RAM + max(self._loading_ram(), self._working_ram())

    def _loading_ram(self) -> int:
        """int8 and fp8 are made tensor by tensor; all else is read whole, or mapped."""
        if self.precision in ("int8", "fp8"):
            return self.block_bytes() + self.other_bytes()
        weights = self.sizes.block_weights + self.sizes.modulation_weights + self.sizes.other_weights
        return 0 if self._is_mapped("transformer") else weights * self.sizes.bytes_per_weight["transformer"]

    def _working_ram(self) -> int:
        parts = sum(self.sizes.bytes_of(part) for part in self.sizes.rest if not self._is_mapped(part))
        if self.stays:
            return parts + self._stored_ram()
        transformer = self.block_bytes() + self.other_bytes()
        if self.constraints.small_host_copy:
            transformer -= min(self.resident_bytes(), self.block_bytes())
        if self.on_gpu:
            decoding = 0 if self.learns else self.decoder.ram_bytes(self.sizes, self.workload)
            return parts + transformer + self._stored_ram() + decoding
        at_work = max(self.activation_bytes(), self.decode_bytes())
        return parts + transformer + self.workload.lora_bytes + at_work

    def ram_beside(self) -> int:
        """The same, where a clip is decoded while the next section is sampled."""
        return self.ram() if self.on_gpu else self.ram() + self.decoder.device_bytes(self.sizes, self.workload)

    def _is_mapped(self, part: str) -> bool:
        """What the CPU computes with it reads all the time: there it must fit."""
        return self.on_gpu and part in self.sizes.mapped

    def read_again_bytes(self) -> int:
        """Of the mapped parts beside the transformer, which want RAM above ``ram()`` to be there at once."""
        return sum(self.sizes.bytes_of(part) for part in self.sizes.rest if self._is_mapped(part))

    def kept_bytes(self) -> int:
        """What quantised weights take on the disk, so that they need not be made again at every start."""
        matrices = int(self.sizes.block_weights * BYTES_PER_WEIGHT.get(self.precision, 0))
        others = self.sizes.other_weights * self.sizes.bytes_per_weight["transformer"]
        return matrices + others if self.precision in ("int8", "fp8") else 0

    def cost(self) -> float:
        """Of a section, in operations: sampling, or the bus where it takes longer; and decoding."""
        operations = 2.0 * self.workload.tokens * (self.sizes.block_weights + self.sizes.other_weights)
        if self.learns:
            return self._cost_to_learn(operations)
        if not self.on_gpu:
            return CPU_SLOWNESS * operations * (self.workload.steps + self.decoder.cost_in_steps)
        unpacked = operations if self.precision == "as_is" else operations * (1 + UNPACKING)
        passing = 1 + PASSING * (1 - self.resident_blocks / self.sizes.blocks)
        step = passing * max(unpacked, float(self._streamed_bytes() * OPERATIONS_PER_BYTE))
        decoding = self.decoder.cost_in_steps * operations + self._turn_bytes() * OPERATIONS_PER_BYTE
        return step * self.workload.steps + decoding

    def _cost_to_learn(self, operations: float) -> float:
        """Of a step of training. Blocks that pass through come twice; inputs that lie in RAM wait for the bus."""
        unpacked = operations if self.precision == "as_is" else operations * (1 + UNPACKING)
        streamed = 2.0 * self._streamed_bytes() * OPERATIONS_PER_BYTE
        return max(unpacked * PASSES[self.stored], streamed) + 2.0 * self._stored_ram() * OPERATIONS_PER_BYTE

    def _streamed_bytes(self) -> int:
        """What the bus carries in a step."""
        return self.block_bytes() * (self.sizes.blocks - self.resident_blocks) // self.sizes.blocks

    def _section_bytes(self) -> int:
        """What the bus carries in a section."""
        return self._streamed_bytes() * self.workload.steps + self._turn_bytes()

    def _turn_bytes(self) -> int:
        """What of it comes again after a clip."""
        return self.resident_bytes() + self.other_bytes() if self.take_turns else 0

    def order(self) -> tuple[float, float, int]:
        """Cheapest first; of the same cost, the most exact weights, then the least on the bus. In training the weights
        are what is learnt for, so the most exact ones that fit come first."""
        exactness = get_args(Precision).index(self.precision)
        first, second = (exactness, self.cost()) if self.learns else (self.cost(), exactness)
        return (first, second, self._section_bytes())


@dataclass(frozen=True)
class Situation:
    """What there is, and what it is wanted for.

    Attributes:
        decoders: without a GPU those that compute where all else does.
    """

    machine: Machine
    parts: PartSizes
    workload: Workload
    constraints: Constraints
    decoders: Sequence[DecoderCosts]

    def candidates(self) -> Iterator[Candidate]:
        """Every one that the constraints and the rules allow; with more memory there is never one less."""
        if self.machine.vram_total == 0:
            of_the_device = [each for each in self.decoders if each.uses_device]
            for precision, decoder, stored in product(self._precisions(), of_the_device, self._ways()):
                if stored != "in_ram":
                    yield self._candidate(False, precision, decoder, False, 0, stored)
            return
        decoders = [each for each in self.decoders if self.constraints.decode in ("auto", each.name)]
        counts = range(self.parts.blocks + 1) if self.constraints.swap else (self.parts.blocks,)
        turns = (False,) if self.workload.learning else (False, True)
        for way in product(self._precisions(), decoders, turns, counts, self._ways()):
            candidate = self._candidate(True, *way)
            if _allowed(candidate, self.machine):
                yield candidate

    def _precisions(self) -> tuple[Precision, ...]:
        asked = self.constraints.precision
        return ("as_is", "int8") if asked == "auto" else (asked,)

    def _ways(self) -> tuple[Stored, ...]:
        return self.workload.learning.ways if self.workload.learning else ("kept",)

    def _candidate(
        self,
        on_gpu: bool,
        precision: Precision,
        decoder: DecoderCosts,
        take_turns: bool,
        resident_blocks: int,
        stored: Stored,
    ) -> Candidate:
        machine = self.machine
        return Candidate(
            self.parts,
            self.workload,
            self.constraints,
            on_gpu,
            precision,
            decoder,
            take_turns,
            resident_blocks,
            machine.fused_attention,
            machine.segments_grow,
            machine.fused_vae_attention,
            machine.libraries_loaded,
            stored,
        )


def _allowed(candidate: Candidate, machine: Machine) -> bool:
    wanted = (candidate.decode_bytes(), candidate.resident_bytes())
    if any(lesson.forbids(*wanted, machine.vram_free) for lesson in machine.lessons):
        return False
    if candidate.learns and candidate.stored == "kept" and not candidate.all_resident:
        return False
    if candidate.constraints.small_host_copy and candidate.take_turns and candidate.resident_blocks:
        return False
    if candidate.precision in STAY_ON_GPU:
        leaves = candidate.precision == "bnb4" and candidate.constraints.bnb_cpu_offload
        return candidate.all_resident and (leaves or not candidate.take_turns)
    if candidate.constraints.precision == "auto" and candidate.precision == "as_is" and not candidate.stays:
        return machine.vram_total >= ENOUGH_VRAM and machine.ram_total >= ENOUGH_RAM
    return True
