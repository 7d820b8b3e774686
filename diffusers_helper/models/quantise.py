"""The blocks' linears in 8 bits, or in what bitsandbytes makes of them.

int8 and fp8 keep codes [O, I] and one scale per output row, and multiply in the model's own dtype: codes and scales are
exact in bfloat16, so a weight is rounded once more and no further. Norms, embedders, biases and the modulation linears
stay as they are. ``multiply`` lets the device multiply the codes themselves, with inputs that are rounded to 8 bits per
token: faster where the device has it, and another error.

Shapes: O outputs, I inputs, N tokens of all samples.
"""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UnusableCheckpoint, UnusableInput
from ..memory.shortage import is_out_of_memory
from ..words import Message
from .attention import first_line
from .transformer import FramePackTransformer

log = logging.getLogger(__name__)

Quantisation = Literal["int8", "fp8", "bnb8", "bnb4"]

FP8 = torch.float8_e4m3fn
CAPABILITIES = {"int8": (8, 0), "fp8": (8, 9)}
"""Of GPUs that multiply such numbers."""
MOST_ERROR = 0.1
"""Of the self-test, as a share of the result's norm; rounding inputs to 8 bits is 0.01 to 0.04."""
TOKENS_AT_ONCE, TOKENS_MIN, MULTIPLE = 4096, 17, 16
"""Of products in 8 bits: tokens in one call, the fewest that kernels take, and what O and I must be a multiple of."""


class QuantisedLinear(nn.Module):
    """A linear whose weights are 8-bit codes, times a scale per row.

    Attributes:
        codes: [O, I]; a buffer of integers, so that casting the model to another dtype leaves it alone.
        scale: [O, 1] float32, of values that are exact in bfloat16.
    """

    largest: ClassVar[float]
    codes: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear, multiply: bool = False) -> None:
        """On the meta device only the shapes are taken over."""
        super().__init__()
        self.in_features, self.out_features, self.multiply = linear.in_features, linear.out_features, multiply
        codes, scale = self.encode(linear.weight.detach())
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    @classmethod
    def encode(cls, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [O, I] and scales [O, 1] of a weight [O, I].

        Raises:
            UnusableCheckpoint: it has 8 bits already.
        """
        if weight.dtype.itemsize < 2:
            raise UnusableCheckpoint(Message("checkpoint.quantised", dtype=str(weight.dtype)))
        scale = _scale(weight, cls.largest)
        return cls._codes(torch.div(weight, scale)), scale

    @classmethod
    def _codes(cls, values: Tensor) -> Tensor:
        """Of float32 ``values``, which may be spoilt."""
        raise NotImplementedError

    def _values(self, dtype: torch.dtype) -> Tensor:
        """The codes as numbers."""
        raise NotImplementedError

    def _product(self, tokens: Tensor) -> Tensor:
        """[N, I] to [N, O], by the device's 8-bit product."""
        raise NotImplementedError

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weight [O, I] that the codes stand for."""
        return self._values(dtype) * self.scale.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        if torch.is_grad_enabled() and x.requires_grad:
            return frozen_product(x, self)
        if self.multiply and self._suits(x):
            pieces = [self._product(piece) for piece in x.reshape(-1, self.in_features).split(TOKENS_AT_ONCE)]
            outputs = torch.cat(pieces).reshape(*x.shape[:-1], self.out_features)
            return outputs if self.bias is None else outputs + self.bias
        return functional.linear(x, self.weight_in(x.dtype), self.bias)

    def _suits(self, x: Tensor) -> bool:
        tokens = x.numel() // self.in_features
        enough = tokens >= TOKENS_MIN and not 0 < tokens % TOKENS_AT_ONCE < TOKENS_MIN
        return enough and self.in_features % MULTIPLE == 0 and self.out_features % MULTIPLE == 0


class _FrozenProduct(torch.autograd.Function):
    """The linear of codes, whose gradient is that of its inputs. The weight is made of the codes again in the backward
    pass, so that no weight in 16 bits is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: QuantisedLinear) -> Tensor:
        ctx.linear = linear
        return functional.linear(x, linear.weight_in(x.dtype), linear.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.linear.weight_in(gradient.dtype), None


def frozen_product(x: Tensor, linear: QuantisedLinear) -> Tensor:
    """[..., I] to [..., O], for training what comes before."""
    made: Tensor = _FrozenProduct.apply(x, linear)
    return made


class Int8Linear(QuantisedLinear):
    """Whole numbers from -127 to 127."""

    largest = 127.0

    @classmethod
    def _codes(cls, values: Tensor) -> Tensor:
        return values.round_().to(torch.int8)

    def _values(self, dtype: torch.dtype) -> Tensor:
        return self.codes.to(dtype)

    def _product(self, tokens: Tensor) -> Tensor:
        scale = _scale(tokens, self.largest)
        codes = self._codes(torch.div(tokens, scale))
        sums = torch._int_mm(codes, self.codes.t()).float()
        return sums.mul_(scale).mul_(self.scale.t()).to(tokens.dtype)


class Fp8Linear(QuantisedLinear):
    """Numbers of e4m3: 4 significant bits at any size between 2**-6 and 448."""

    largest = 448.0

    @classmethod
    def _codes(cls, values: Tensor) -> Tensor:
        return values.to(FP8).view(torch.uint8)

    def _values(self, dtype: torch.dtype) -> Tensor:
        return self.codes.view(FP8).to(dtype)

    def _product(self, tokens: Tensor) -> Tensor:
        scale = _scale(tokens, self.largest)
        codes = torch.div(tokens, scale).to(FP8)
        sums = torch._scaled_mm(
            codes, self.codes.view(FP8).t(), scale_a=scale, scale_b=self.scale.float().t(), out_dtype=torch.bfloat16
        )
        return sums.to(tokens.dtype)


KINDS: dict[str, type[QuantisedLinear]] = {"int8": Int8Linear, "fp8": Fp8Linear}


def _scale(values: Tensor, largest: float) -> Tensor:
    """[rows, 1], above 0, so that no row of ``values`` exceeds ``largest``; rounded up to bfloat16."""
    low, high = torch.aminmax(values, dim=1, keepdim=True)
    peak = torch.maximum(high, -low).float().clamp_min(1e-12)
    return (peak / largest * (1 + 2**-8)).to(torch.bfloat16).float()


def quantisable(transformer: FramePackTransformer) -> dict[str, nn.Linear]:
    """Name -> linear: all within the blocks but the modulation's."""
    return {
        name: module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and "transformer_blocks." in name and "norm" not in name
    }


def can_multiply(precision: Quantisation, device: torch.device) -> bool:
    """Whether the device multiplies codes of this kind."""
    return not why_not_multiply(precision, device)


def why_not_multiply(precision: Quantisation, device: torch.device) -> Message | None:
    """Why the device cannot multiply codes of this kind: too old, or its product fails beside one in 16 bits, for not
    every build of PyTorch has code for every GPU. None where it can."""
    if precision not in KINDS:
        return Message("products.none", precision=precision)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITIES[precision]:
        return Message("products.not_on_gpu", precision=precision)
    return _self_test(KINDS[precision], device)


@torch.inference_mode()
def _self_test(kind: type[QuantisedLinear], device: torch.device) -> Message | None:
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    linear = nn.Linear(512, 384, bias=False)
    linear.weight.copy_(torch.randn(384, 512, generator=generator))
    tokens = torch.randn(96, 512, generator=generator).to(device, dtype)
    made = kind(linear, multiply=True).to(device)
    expected = functional.linear(tokens, made.weight_in(dtype)).float()
    try:
        difference = float((made(tokens).float() - expected).norm() / expected.norm())
    except Exception as error:
        log.info("the self-test of 8-bit products failed", exc_info=True)
        return Message("products.failed", reason=first_line(error))
    log.info("8-bit products differ by %.2g in their self-test", difference)
    return None if difference <= MOST_ERROR else Message("products.differ", difference=difference)


def quantise(
    transformer: FramePackTransformer,
    precision: Quantisation,
    device: torch.device | str = "cpu",
    multiply: bool = False,
) -> None:
    """Put quantised linears in the place of the blocks' own, one after the other; before the blocks are swapped.

    Args:
        device: where the linears of bitsandbytes are packed, and stay; they cannot be swapped. Of no effect on others.
        multiply: by the device's 8-bit products; see ``can_multiply``.

    Raises:
        UnusableCheckpoint: the weights have 8 bits already.
        UnusableInput: bitsandbytes is asked for and not installed, or broken.
    """
    library = bitsandbytes() if precision not in KINDS else None
    for name, linear in quantisable(transformer).items():
        kind = KINDS.get(precision)
        made = kind(linear, multiply) if kind else _packed(library, linear, precision, torch.device(device))
        transformer.set_submodule(name, made.requires_grad_(False))


def unpack(transformer: FramePackTransformer, dtype: torch.dtype) -> None:
    """Put empty linears in the place of those that bitsandbytes has packed."""
    for name, linear in quantisable(transformer).items():
        if type(linear) is not nn.Linear:
            shape, has_bias = (linear.in_features, linear.out_features), linear.bias is not None
            empty = nn.Linear(*shape, bias=has_bias, device="meta", dtype=dtype).requires_grad_(False)
            transformer.set_submodule(name, empty)


def bitsandbytes() -> ModuleType:
    """The library; raises UnusableInput when it is missing or broken."""
    if find_spec("bitsandbytes") is None:
        raise UnusableInput(Message("bitsandbytes.missing"))
    try:
        return import_module("bitsandbytes")
    except (ImportError, OSError, RuntimeError) as error:
        raise _broken(error) from error


def _broken(error: Exception) -> UnusableInput:
    first_line = (str(error).strip().splitlines() or [repr(error)])[0]
    return UnusableInput(Message("bitsandbytes.broken", reason=first_line))


def _packed(library: Any, linear: nn.Linear, precision: str, device: torch.device) -> nn.Module:
    """A linear of bitsandbytes; it packs its weights on the way to the device."""
    shape, dtype, weight = (linear.in_features, linear.out_features), linear.weight.dtype, linear.weight.detach()
    if precision == "bnb4":
        made = library.nn.Linear4bit(*shape, bias=linear.bias is not None, compute_dtype=dtype, quant_type="nf4")
        made.weight = library.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=made)
    else:
        made = library.nn.Linear8bitLt(*shape, bias=linear.bias is not None, has_fp16_weights=False, threshold=6.0)
        made.weight = library.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    if linear.bias is not None:
        made.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    try:
        packed: nn.Module = made.to(device)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise _broken(error) from error  # it comes without code for this CUDA, and says so only now
    return packed
