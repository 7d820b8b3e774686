"""What is trained: adapters beside the transformer's linears, by peft, and the file that they become.

Shapes: R rank; a linear's weight is [O, I].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import InvalidRequest
from ..lora.adapters import Adapter, Dora, LoHa, LoKr, LowRank
from ..lora.layers import LinearShapes
from ..lora.reading import read_lora
from ..lora.writing import FORMS, FormName, write_lora
from ..media.files import written_whole
from ..models.quantise import QuantisedLinear
from .factor import Added, Factor
from .modules import trainable
from .network_args import NetworkArgs
from .order import NetworkKind

ADAPTER = "default"
FORM_NAMES: tuple[FormName, ...] = ("musubi", "diffusers")
"""The first that has names for a kind is the usual one."""


@dataclass(frozen=True)
class NetworkOptions:
    """The network's kind and size.

    Attributes:
        alpha: what the change is multiplied with, over the rank.
    """

    kind: NetworkKind = "lora"
    rank: int = 4
    alpha: float = 1.0
    args: NetworkArgs = field(default_factory=NetworkArgs)

    def config(self, modules: Sequence[str]) -> Any:
        """peft's."""
        common: dict[str, Any] = {"r": self.rank, "target_modules": list(modules)}
        of_args = self.args
        dropouts: dict[str, Any] = {"rank_dropout": of_args.rank_dropout, "module_dropout": of_args.module_dropout}
        alpha: Any = self.alpha  # peft counts with whatever number it is
        match self.kind:
            case "loha":
                return LoHaConfig(**common, alpha=alpha, **dropouts)
            case "lokr":
                return LoKrConfig(**common, alpha=alpha, decompose_factor=of_args.factor, **dropouts)
        return LoraConfig(**common, lora_alpha=alpha, use_dora=self.kind == "dora")


class Network:
    """The adapters of a transformer, in training.

    Attributes:
        modules: the names of the linears that have one.
        left_out: those that DoRA cannot train: a row of zeros has no direction.
    """

    def __init__(self, transformer: nn.Module, options: NetworkOptions, device: torch.device | None = None) -> None:
        """``device``: where the adapters are; by default where their linears are.

        Raises:
            InvalidRequest: see ``trainable``; and for a DoRA of weights that are quantised.
        """
        self.options, self._transformer = options, transformer
        found = trainable(transformer, options.args.exclude_patterns, options.args.include_patterns)
        _check_packed(options.kind, found)
        self.left_out = tuple(_without_direction(found)) if options.kind == "dora" else ()
        self.modules = tuple(name for name in found if name not in self.left_out)
        transformer.requires_grad_(False)
        for name in self.modules:
            if isinstance(linear := found[name], QuantisedLinear):
                transformer.set_submodule(name, _Facade(linear))
        inject_adapter_in_model(options.config(self.modules), transformer, adapter_name=ADAPTER)
        self._layers: dict[str, Any] = {name: transformer.get_submodule(name) for name in self.modules}
        if options.kind == "lora":
            self._follow_inputs()
        if options.kind in ("lora", "dora"):
            self._add_dropouts()
        for parameter in self.parameters().values():
            parameter.data = parameter.data.to(device or parameter.device, torch.float32)

    @property
    def numbers(self) -> int:
        """How many are trained."""
        return sum(each.numel() for each in self.parameters().values())

    def leave(self) -> None:
        """The transformer's linears are its own again; it learns nothing any more."""
        for name, layer in self._layers.items():
            self._transformer.set_submodule(name, _of(layer.base_layer))
        self._transformer.eval()

    @contextmanager
    def away(self) -> Iterator[None]:
        """The transformer is as it was before, and not compiled, for whoever uses it meanwhile."""
        learns = self._transformer.training
        compiled = {each: each._compiled_call_impl for each in self._transformer.modules() if each._compiled_call_impl}
        for module in compiled:
            module._compiled_call_impl = None
        self.leave()
        try:
            yield
        finally:
            for name, layer in self._layers.items():
                self._transformer.set_submodule(name, layer)
            for module, implementation in compiled.items():
                module._compiled_call_impl = implementation
            self._transformer.train(learns)

    def _follow_inputs(self) -> None:
        """The factors multiply in the numbers of their inputs, with nothing of these copied; peft would widen every
        input to float32, in which the factors are kept."""
        for layer in self._layers.values():
            layer.cast_input_dtype_enabled = False
            layer.lora_variant[ADAPTER] = Added()
            for factors in (layer.lora_A, layer.lora_B):
                factors[ADAPTER] = Factor(factors[ADAPTER], self._keeps)

    def _keeps(self) -> bool:
        return not self._transformer.gradient_checkpointing

    def parameters(self) -> dict[str, nn.Parameter]:
        """Those that are trained, by name."""
        return {name: each for name, each in self._transformer.named_parameters() if each.requires_grad}

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """For an optimiser: the up factors by themselves where they learn faster (LoRA+)."""
        ratio, named = self.options.args.loraplus_lr_ratio, self.parameters()
        if ratio is None:
            return [{"params": list(named.values()), "lr": rate}]
        up = [each for name, each in named.items() if ".lora_B." in name]
        rest = [each for name, each in named.items() if ".lora_B." not in name]
        return [{"params": rest, "lr": rate}, {"params": up, "lr": rate * ratio}]

    def _add_dropouts(self) -> None:
        """peft has them for LoHa and LoKr alone. They act in training, as musubi's: of ranks with what is left made as
        much larger, of modules without that."""
        ranks, whole = self.options.args.rank_dropout, self.options.args.module_dropout

        def drop(module: nn.Module, given: Any, made: Tensor) -> Tensor:
            if not module.training:
                return made
            if ranks:
                kept = torch.rand(made.shape[-1], device=made.device) >= ranks
                made = made * kept / (1 - ranks)
            return made * float(torch.rand(()) >= whole) if whole else made

        for name, module in self._transformer.named_modules():
            if name.endswith(f"lora_A.{ADAPTER}") and (ranks or whole):
                module.register_forward_hook(drop)

    def tensors(self) -> dict[str, Tensor]:
        """The trained tensors by the names that diffusers and peft give them, on the CPU."""
        return {
            "transformer." + name.replace(f".{ADAPTER}", ""): each.detach().cpu()
            for name, each in self.parameters().items()
        }

    def save(self, target: Path, form: FormName, metadata: Mapping[str, str], shapes: LinearShapes) -> None:
        """The file, in bfloat16. Raises OutputFailed, and UnusableLora for a kind that the form has no names for."""
        with written_whole(target) as part:
            plain = part.with_suffix(".plain.safetensors")
            try:
                plain.write_bytes(save(self._with_alphas(), dict(metadata)))
                write_lora(read_lora(plain, shapes), part, form)
            finally:
                plain.unlink(missing_ok=True)

    def _with_alphas(self) -> dict[str, Tensor]:
        halves = {name: each.to(torch.bfloat16).contiguous() for name, each in self.tensors().items()}
        alphas = {f"transformer.{module}.alpha": torch.tensor(self.options.alpha) for module in self.modules}
        return {**halves, **alphas}


class _Facade(nn.Linear):
    """A quantised linear that looks like one of peft's. Its weight has the shape and takes no memory: peft asks for no
    more of what it adds its layers to."""

    def __init__(self, of: QuantisedLinear) -> None:
        nn.Module.__init__(self)
        self.of, self.in_features, self.out_features = of, of.in_features, of.out_features
        numbers = torch.empty((1, 1), device=of.codes.device)
        self.weight = nn.Parameter(numbers.expand(of.out_features, of.in_features), requires_grad=False)
        self.register_parameter("bias", None)

    def forward(self, input: Tensor) -> Tensor:
        made: Tensor = self.of(input)
        return made


def _of(linear: nn.Module) -> nn.Module:
    """What is behind a facade; anything else is itself."""
    return linear.of if isinstance(linear, _Facade) else linear


def _check_packed(kind: NetworkKind, linears: Mapping[str, nn.Module]) -> None:
    """Raises InvalidRequest for kinds that need the shape of a weight which bitsandbytes has packed."""
    packed = any(isinstance(each, nn.Linear) and type(each) is not nn.Linear for each in linears.values())
    if kind in ("loha", "lokr") and packed:
        raise InvalidRequest(f"network_module: a {kind} cannot stand beside weights that bitsandbytes has packed")


def _without_direction(linears: Mapping[str, nn.Module]) -> Iterator[str]:
    """Those with a row of zeros. Raises InvalidRequest where rows cannot be looked at."""
    for name, linear in linears.items():
        if isinstance(linear, QuantisedLinear) or type(linear) is not nn.Linear:
            raise InvalidRequest("network_module: a DoRA needs weights in 16 bits, and these are quantised")
        if bool((linear.weight.detach().abs().sum(dim=1) == 0).any()):
            yield name


def form_of(kind: NetworkKind, wished: FormName | None) -> FormName:
    """Whose names a file of a kind has. Raises InvalidRequest for a form that has no names for it."""
    adapters: Mapping[NetworkKind, type[Adapter]] = {"lora": LowRank, "dora": Dora, "loha": LoHa, "lokr": LoKr}
    known = [form for form in FORM_NAMES if adapters[kind] in FORMS[form].names]
    if wished and wished not in known:
        raise InvalidRequest(f"--form: {wished} has no names for {kind}; give {' or '.join(known)}")
    return wished or known[0]
