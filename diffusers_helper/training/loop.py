"""The loop: examples in an order that the seed decides, steps, and a file of state to go on from.

Everything that is drawn comes from one generator on the CPU, whose state is kept: a training that goes on after a break
ends in the same weights as one that was not broken off.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import BrokenNumbers, UnusableInput
from ..media.files import written_whole
from ..words import plain
from .batches import Batches
from .examples import Example
from .network import Network
from .noise import NoiseLevels
from .optimisers import make_optimiser, make_scheduler
from .processes import Processes
from .step import loss_of

CPU = torch.device("cpu")


@dataclass(frozen=True)
class LoopOptions:
    """How is trained; the names are musubi's, but for units.

    Attributes:
        accumulate: batches whose gradients are one step.
        most_norm: gradients are made no longer than this; 0 leaves them.
        ema_decay: of the average of the weights, how much stays at a step; 0 is off.
        guidance: distilled guidance that the model is told in training.
    """

    steps: int = 1600
    rate: float = 2e-4
    optimiser: str = "AdamW"
    optimiser_args: tuple[str, ...] = ()
    scheduler: str = "constant"
    warmup_steps: int = 0
    accumulate: int = 1
    most_norm: float = 1.0
    ema_decay: float = 0.0
    guidance: float = 1.0
    seed: int = 0
    levels: NoiseLevels = field(default_factory=NoiseLevels)


@dataclass(frozen=True)
class Done:
    """One step: its number from 1 on, its loss, the rate of the first group, the norm of its gradient, and how long it
    took."""

    step: int
    loss: float
    rate: float
    norm: float
    seconds: float


class Loop:
    """A training under way."""

    def __init__(
        self,
        model: nn.Module,
        network: Network,
        examples: Sequence[Example],
        options: LoopOptions,
        device: torch.device,
        batches: Batches | None = None,
        processes: Processes | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            batches: of the examples; each by itself where none are given.
            processes: that learn together; this one alone where none are given.
            origin: what else has to be the same when a training goes on, by its names.

        Raises InvalidRequest for an optimiser or a scheduler that there is not.
        """
        self.model, self.network, self._examples, self.options = model, network, examples, options
        self.device, self.step, self.processes = device, 0, processes or Processes()
        self._origin = dict(origin or {})
        self._turns = options.accumulate * self.processes.count
        self._optimiser = make_optimiser(options.optimiser, network.groups(options.rate), options.optimiser_args)
        self._scheduler = make_scheduler(options.scheduler, self._optimiser, options.warmup_steps, options.steps)
        self._generator = torch.Generator().manual_seed(options.seed)
        self._batches = batches or Batches.of_one(len(examples))
        self._order: list[list[int]] = []
        parameters = network.parameters().values()
        self._average = EMAModel(parameters, decay=options.ema_decay) if options.ema_decay else None

    def run(self) -> Iterator[Done]:
        """The steps that are left. Raises BrokenNumbers where a loss or a gradient is no number; the weights are those
        before that step."""
        while self.step < self.options.steps:
            yield self._one_step()

    def _one_step(self) -> Done:
        begun = time.monotonic()
        parameters = list(self.network.parameters().values())
        self._optimiser.zero_grad(set_to_none=True)
        losses = [self._backward(turn) for turn in range(self._turns)]
        losses = self.processes.sum_gradients(parameters, losses)
        most = self.options.most_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, most))
        if not all(map(math.isfinite, (norm, *losses))):
            raise BrokenNumbers(
                plain(f"step {self.step + 1}: the loss is no number any more; begin again with a lower learning rate")
            )
        rate = self._optimiser.param_groups[0]["lr"]
        self._optimiser.step()
        self._scheduler.step()
        if self._average:
            self._average.step(parameters)
        self.step += 1
        return Done(self.step, sum(losses) / len(losses), float(rate), norm, time.monotonic() - begun)

    def _backward(self, turn: int) -> float:
        """The mean loss of the next batch, one example after the other; 0 where another process learns it."""
        batch = self._next()
        return sum(self._backward_of(self._examples[number], len(batch), turn) for number in batch) / len(batch)

    def _backward_of(self, example: Example, batch: int, turn: int) -> float:
        """The loss of one of so many. All is drawn in every process."""
        sigma = self.options.levels.draw(1, self._generator)
        noise = torch.randn(example.target.shape, generator=self._generator)
        torch.manual_seed(int(torch.randint(2**62, (), generator=self._generator)))  # dropouts
        if not self.processes.is_mine(turn):
            return 0.0
        loss = loss_of(self.model, example, noise.to(self.device), sigma, self.options.levels, self.options.guidance)
        (loss / self._turns / batch).backward()
        return float(loss.detach())

    def _next(self) -> list[int]:
        """The numbers of the next batch; all examples come once before any comes again."""
        if not self._order:
            drawn = torch.randperm(len(self._examples), generator=self._generator).tolist()
            self._order = self._batches.of(reversed(drawn))[::-1]
        return self._order.pop()

    def epoch(self, step: int | None = None) -> int:
        """How often all examples have been learnt after ``step``, or by now."""
        return (self.step if step is None else step) * self._turns // len(self._batches)

    def ends_epochs(self, every: int) -> bool:
        """Whether the last step has ended another ``every`` epochs; never for 0."""
        return bool(every) and self.epoch() // every > self.epoch(self.step - 1) // every

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights are their average meanwhile, where there is one; then they are again what they were."""
        if not self._average:
            yield
            return
        parameters = list(self.network.parameters().values())
        self._average.store(parameters)
        self._average.copy_to(parameters)
        try:
            yield
        finally:
            self._average.restore(parameters)

    @contextmanager
    def in_ram(self) -> Iterator[None]:
        """The device keeps nothing of the training meanwhile: no weights, no average, no state of the optimiser."""
        self._optimiser.zero_grad(set_to_none=True)
        places = [(each, each.device) for each in self._tensors()]
        for tensor, _ in places:
            _move(tensor, CPU)
        try:
            yield
        finally:
            for tensor, device in places:
                _move(tensor, device)

    def _tensors(self) -> Iterator[Tensor]:
        """All that is kept from step to step."""
        yield from self.network.parameters().values()
        if self._average:
            yield from self._average.shadow_params
        for state in self._optimiser.state.values():
            yield from (value for _, value in _flat(state) if isinstance(value, Tensor))

    def save(self, target: Path) -> None:
        """All that going on needs, in one safetensors file. Raises OutputFailed."""
        states = self._optimiser.state_dict()
        tensors = {f"network.{name}": each.detach() for name, each in self.network.parameters().items()}
        plain_state: dict[str, Any] = {}
        for number, state in states["state"].items():
            for name, value in _flat(state):
                if isinstance(value, Tensor):
                    tensors[f"optimiser.{number}.{name}"] = value
                else:
                    plain_state[f"{number}.{name}"] = value
        if self._average:
            tensors |= {f"average.{n:06}": each for n, each in enumerate(self._average.shadow_params)}
        tensors["generator"] = self._generator.get_state()
        told = {
            "made_by": self._made_by(),
            "step": self.step, "order": self._order, "batches": self._batches.told(), "state": plain_state,
            "groups": states["param_groups"], "scheduler": _plain(self._scheduler.state_dict()),
        }  # fmt: skip
        with written_whole(target) as part:
            whole = {name: each.cpu().contiguous().clone() for name, each in tensors.items()}
            part.write_bytes(save(whole, {"training": json.dumps(told)}))

    def load(self, source: Path) -> None:
        """Go on from a file that ``save`` wrote. Raises UnusableInput."""
        try:
            with safe_open(source, "pt") as file:
                told = json.loads((file.metadata() or {})["training"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            self._take(tensors, told)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise UnusableInput(f"{source}: training cannot go on from it: {error}") from None

    def _made_by(self) -> dict[str, Any]:
        """What has to be the same when a training goes on, by the flags that say it."""
        network, options = self.network.options, self.options
        return {
            "network-module": network.kind,
            "network-dim": network.rank,
            "network-alpha": network.alpha,
            "network-args": network.args.model_dump(mode="json", exclude={"verbose"}, exclude_defaults=True),
            "learning-rate": options.rate,
            "optimizer-type": options.optimiser.lower(),
            "optimizer-args": list(options.optimiser_args),
            "lr-scheduler": options.scheduler,
            "lr-warmup-steps": options.warmup_steps,
            "gradient-accumulation-steps": options.accumulate,
            "max-grad-norm": options.most_norm,
            "guidance-scale": options.guidance,
            "noise levels": asdict(options.levels),
            "processes": self.processes.count,
            "seed": options.seed,
            "ema-decay": options.ema_decay,
            **self._origin,
        }

    def _take(self, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
        now, before = self._made_by(), told["made_by"]
        if other := [name for name in now if now[name] != before.get(name)]:
            raise ValueError(f"it was begun with {other[0]} {before.get(other[0])}; give the same")
        with torch.no_grad():
            for name, parameter in self.network.parameters().items():
                if parameter.shape != tensors[f"network.{name}"].shape:
                    raise ValueError(f"{name} has another shape")
                parameter.copy_(tensors[f"network.{name}"])
        state: dict[int, dict[str, Any]] = {}
        for key, value in {**_of("optimiser.", tensors), **told["state"]}.items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = value
        self._optimiser.load_state_dict({"state": state, "param_groups": told["groups"]})
        self._scheduler.load_state_dict({**self._scheduler.state_dict(), **told["scheduler"]})
        self._generator.set_state(tensors["generator"])
        same_data = told["batches"] == self._batches.told()
        self.step, self._order = int(told["step"]), told["order"] if same_data else []
        if self._average:
            kept = [each.to(self.device) for _, each in sorted(_of("average.", tensors).items())]
            self._average.load_state_dict({"shadow_params": kept, "optimization_step": self.step})


def _move(tensor: Tensor, device: torch.device) -> None:
    """In place, for all that hold it."""
    tensor.data = tensor.data.to(device)


def _of(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def _flat(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What an optimiser keeps of a parameter; bitsandbytes' puts some of it into a dict, and takes it without."""
    for name, value in state.items():
        yield from value.items() if isinstance(value, dict) else [(name, value)]


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """What of a scheduler's state is numbers: the rest is made anew with it."""
    kinds = (int, float, str, bool)
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, kinds) or (isinstance(value, list) and all(isinstance(each, kinds) for each in value))
    }
