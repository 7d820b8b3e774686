"""Carries out memory plans: brings each part to the device that needs it, and away again.

All parts but the transformer live in RAM. The device gets a copy for as long as it is needed, and nothing is copied
back. What the transformer does is its placement (placement.py). Where the plan says ``cpu``, nothing moves.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

from torch import nn

from . import vram
from .loan import Loan
from .on_demand import weights_on_demand
from .placement import Placement, Site
from .plan import MemoryPlan
from .tensors import bytes_of

log = logging.getLogger(__name__)

ROOM_TO_WORK_BYTES = 10**9
"""What an encoder needs on the device besides its weights."""


class Residency:
    """Who is on the device when.

    Attributes:
        plan: what is followed. The blocks that stay are counted as they do.
        transformer: where its weights are.
        loans: the other parts.
    """

    def __init__(self, site: Site, others: Mapping[str, nn.Module], plan: MemoryPlan) -> None:
        """``others``: the parts beside the transformer, by name."""
        self._device = site.device
        self.loans = {part: Loan(model) for part, model in others.items()}
        self.transformer = Placement(site)
        self.plan = plan
        self.follow(plan)

    def follow(self, plan: MemoryPlan) -> None:
        """From now on, go by ``plan``. It counts when all of it is carried out."""
        for part, loan in self.loans.items():
            if plan.residency[part] != "gpu":
                loan.leave()
        self.transformer = self.transformer.follow(plan)
        self._count(plan)

    def _count(self, plan: MemoryPlan) -> None:
        stay = self.transformer.resident
        self.plan = replace(plan, resident_blocks=stay.blocks, resident_bytes=stay.bytes)

    @property
    def moves(self) -> bool:
        """Whether the parts compute elsewhere than where they live."""
        return self.plan.residency["transformer"] != "cpu"

    def visit(self, part: str, on_demand: bool = False) -> AbstractContextManager[None]:
        """A part is on the device while this lasts; where it does not fit, its weights come as they are used.

        Args:
            on_demand: let them come so without trying.
        """
        loan = self.loans[part]
        if self.plan.residency[part] == "cpu" or loan.away:
            return nullcontext()
        if on_demand or not self._make_room(loan.model):
            log.info("%s does not fit onto %s: its weights come as they are used", part, self._device)
            return weights_on_demand(loan.model, self._device)
        return self._lent(loan, stays=self.plan.residency[part] == "gpu")

    def bring(self, part: str) -> bool:
        """Let a part come that is on the device for good; returns whether it is where it computes."""
        with self.visit(part):
            pass
        return self.plan.residency[part] == "cpu" or self.loans[part].away

    @contextmanager
    def _lent(self, loan: Loan, stays: bool) -> Iterator[None]:
        loan.go(self._device)
        try:
            yield
        finally:
            if not stays:
                loan.leave()

    def _make_room(self, model: nn.Module) -> bool:
        """Whether ``model`` fits onto the device, after the others have left if they must; not if that is in vain."""
        needed = bytes_of(model) + ROOM_TO_WORK_BYTES
        unused = vram.unused_bytes(self._device)
        if unused >= needed:
            return True
        if unused + self.idle_bytes < needed:
            return False
        self.clear()
        return vram.unused_bytes(self._device) >= needed

    @property
    def idle_bytes(self) -> int:
        """Of the device, what ``clear`` would give back now."""
        return sum(loan.bytes_away for loan in self.loans.values()) + self.transformer.idle_bytes

    def clear(self) -> None:
        """Let everything leave the device that need not be copied back; it comes again when it is needed."""
        for loan in self.loans.values():
            loan.leave()
        self.transformer.leave()
        vram.free_unused()

    def close(self) -> None:
        """All parts are ordinary models in RAM again, or where they are for good, as blocks without a copy in RAM are;
        nothing is locked. No plan can be followed after that."""
        self.release_transformer()

    def release_transformer(self) -> None:
        """Its weights may be changed until a plan is followed again; nothing that can leave is on the device."""
        self.clear()
        self.transformer.close()
        self.transformer = Placement(self.transformer.site)

    def at_home(self, part: str) -> nn.Module:
        """The part, in RAM."""
        self.loans[part].leave()
        return self.loans[part].model

    def before_sampling(self) -> None:
        """It is the transformer's turn."""
        self.transformer.come()

    def before_decoding(self) -> None:
        """Where parts take turns, it is not the transformer's."""
        if self.plan.take_turns:
            self.transformer.leave()

    def vae_leaves(self) -> None:
        """Whatever the plan says, the VAE is on the device only while it works."""
        self.plan = self.plan.with_vae_lent()

    def take_turns(self) -> None:
        """Whatever the plan says, the transformer leaves as far as it can while a clip is decoded."""
        self.plan = self.plan.in_turns()

    def decode_alone(self) -> bool:
        """Whatever the plan says, nothing is sampled while a clip is decoded; returns whether that is new."""
        before, self.plan = self.plan, self.plan.alone()
        return self.plan is not before

    def decode_by(self, decoder: str) -> None:
        """Whatever the plan says, this decoder decodes."""
        self.plan = replace(self.plan, decode=decoder)

    def shrink(self) -> bool:
        """Halve what stays on the device while sampling; False where that cannot be done."""
        smaller = self.transformer.shrink()
        if smaller is None:
            return False
        self.transformer = smaller
        self._count(replace(self.plan, residency={**self.plan.residency, "transformer": "swapped"}))
        return True
