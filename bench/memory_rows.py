"""The rows of bench.memory that need no swap: what the machine can, and the whole transformer on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from bench.memory_gauge import REFUSALS, Bench, Row, relative, told, weights
from bench.memory_model import described, product_shapes, put_modulation
from diffusers_helper.memory.transport import PROBE_BYTES, best_transport, bytes_per_second
from diffusers_helper.models.attention import SDPA, Attention, choose_attention, use_attention
from diffusers_helper.models.compile import compile_blocks, why_not
from diffusers_helper.models.modulation import modulation_linears, tabulate
from diffusers_helper.models.quantise import Quantisation, QuantisedLinear, can_multiply, quantise
from diffusers_helper.models.transformer import FramePackTransformer

KERNELS = ("flash", "sage", "xformers", "cutlass")
Setting = Callable[[Bench, FramePackTransformer], AbstractContextManager[object]]


class LeftOut(Exception):  # noqa: N818
    """Why something cannot be measured here."""


def roofline(bench: Bench) -> Iterator[Row]:
    """What the machine can: the step's matrix products and attention at their shapes, and the bus."""
    limit = 0.0
    for row in (*_products(bench), _attention(bench)):
        limit += row["times_per_step"] * row["seconds"]
        yield row
    yield {"row": "all products and attention of a step", "seconds": round(limit, 5)}
    yield from _bus(bench)


def _products(bench: Bench) -> Iterator[Row]:
    make = partial(torch.randn, device=bench.device, dtype=bench.dtype)
    for (tokens, inputs, outputs), times in product_shapes(bench.size).items():
        row = bench.timed(partial(functional.linear, make(tokens, inputs), make(outputs, inputs)))
        rate = round(2 * tokens * inputs * outputs / row["seconds"] / 1e12, 3)
        yield {"row": f"product, {tokens} x {inputs} x {outputs}", "times_per_step": times, **row, "tflops": rate}


def _attention(bench: Bench) -> Row:
    config = described(bench.size).config
    heads, width = config.num_attention_heads, config.attention_head_dim
    tokens = bench.size.shown_tokens + bench.size.told_tokens
    q, k, v = torch.randn(3, 1, heads, tokens, width, device=bench.device, dtype=bench.dtype)
    row = bench.timed(partial(functional.scaled_dot_product_attention, q, k, v))
    rate = round(4 * tokens**2 * heads * width / row["seconds"] / 1e12, 3)
    times = config.num_layers + config.num_single_layers
    return {"row": f"attention, {tokens} tokens", "times_per_step": times, **row, "tflops": rate}


def _bus(bench: Bench) -> Iterator[Row]:
    size, transport = 2**20 if bench.dry else PROBE_BYTES, best_transport(bench.device)
    yield {"row": "bus, locked memory", "gb_per_second": round(bytes_per_second(transport, size) / 1e9, 2)}
    transport.close()
    pageable = torch.ones(size, dtype=torch.uint8)
    row = bench.timed(lambda: pageable.to(bench.device, copy=True))
    yield {"row": "bus, ordinary memory", **row, "gb_per_second": round(pageable.nbytes / row["seconds"] / 1e9, 2)}


def resident(bench: Bench) -> Iterator[Row]:
    """The whole transformer on the device: eager, compiled, eager again; then each attention kernel there is."""
    transformer = bench.model()
    plain = bench.output(transformer)
    settings: dict[str, Setting] = {"eager": _as_it_is, "compiled blocks": _compiled, "eager again": _as_it_is}
    settings |= {f"attention: {name}": partial(_with_kernel, name) for name in KERNELS}
    for name, setting in settings.items():
        yield {"row": name, **_set(bench, transformer, setting, plain)}


def _set(bench: Bench, transformer: FramePackTransformer, setting: Setting, plain: Tensor) -> Row:
    """A step in a setting, or why there is none. The first one compiles."""
    outputs: list[Tensor] = []
    try:
        with setting(bench, transformer):
            first = bench.seconds(lambda: outputs.append(bench.output(transformer)))
            row = bench.timed(bench.step(transformer))
    except LeftOut as reason:
        return {"left_out": str(reason)}
    except REFUSALS as error:
        return told(error)
    difference = relative(outputs[0], plain)
    return {**row, **weights(transformer), "first_seconds": first, "relative_difference": difference}


def _as_it_is(bench: Bench, transformer: FramePackTransformer) -> AbstractContextManager[object]:
    return nullcontext()


@contextmanager
def _compiled(bench: Bench, transformer: FramePackTransformer) -> Iterator[None]:
    """The dry run traces the blocks and leaves the compiler out, which takes half a minute."""
    if not bench.dry and (lacking := why_not(bench.device)):
        raise LeftOut(lacking)
    try:
        if bench.dry:
            for block in transformer.blocks:
                block.compile(fullgraph=True, dynamic=True, backend="eager")
        else:
            compile_blocks(transformer)
        yield
    finally:
        for block in transformer.blocks:
            block._compiled_call_impl = None
        torch._dynamo.reset()


@contextmanager
def _with_kernel(name: str, bench: Bench, transformer: FramePackTransformer) -> Iterator[None]:
    width = transformer.config.attention_head_dim
    chosen = choose_attention(name, bench.device, bench.dtype, width)
    if chosen.kernel == SDPA:
        raise LeftOut(chosen.why)
    use_attention(transformer, chosen)
    try:
        yield
    finally:
        use_attention(transformer, Attention(SDPA, "the row is measured"))


def table(bench: Bench) -> Iterator[Row]:
    """The modulation table: off, on, off. It may not change one bit; if it does, the run ends."""
    transformer = bench.model()
    linears = modulation_linears(transformer)
    plain = bench.output(transformer)
    yield {"row": "off", **bench.timed(bench.step(transformer)), **weights(transformer)}
    tabulate(transformer)
    for linear in linears.values():
        linear.to("cpu")
    difference = float((bench.output(transformer) - plain).abs().max())
    row = {**bench.timed(bench.step(transformer)), **weights(transformer)}
    yield {"row": "on", **row, "max_difference": difference}
    if difference:
        raise SystemExit(f"the modulation table changes the velocity by {difference}; it must be 0")
    transformer.modulation = None
    put_modulation(transformer, {name: linear.to(bench.device) for name, linear in linears.items()})
    yield {"row": "off again", **bench.timed(bench.step(transformer)), **weights(transformer)}


def quantised(bench: Bench) -> Iterator[Row]:
    """8-bit weights with 16-bit products, and with 8-bit products where the device has them; 16 bits before each."""
    precision: Quantisation
    for precision in ("int8", "fp8"):
        yield from _quantised(bench, precision)


def _quantised(bench: Bench, precision: Quantisation) -> Iterator[Row]:
    transformer = bench.model()
    tabulate(transformer)
    plain = bench.output(transformer)
    yield {"row": f"16 bits, before {precision}", **bench.timed(bench.step(transformer)), **weights(transformer)}
    quantise(transformer, precision)
    for bits in (16, 8):
        setting = partial(_multiplying, precision, bits)
        yield {"row": f"{precision}, {bits}-bit products", **_set(bench, transformer, setting, plain)}


@contextmanager
def _multiplying(precision: Quantisation, bits: int, bench: Bench, transformer: FramePackTransformer) -> Iterator[None]:
    if bits == 8 and not can_multiply(precision, bench.device):
        raise LeftOut(f"the device has no {precision} products")
    for module in transformer.modules():
        if isinstance(module, QuantisedLinear):
            module.multiply = bits == 8
    yield
