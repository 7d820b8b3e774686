"""Other names for what a knob says, many from the documents of other versions, and what they come to.

They stay valid as flags, variables and lines of the settings file. Here they are translated, so that a room sees one
value and no other name of it. Which one counts is a rule, and what does not count is said: --default-step-cache goes
before FRAMEPACK_ENABLE_FBCACHE, and that before FRAMEPACK_ENABLE_SIM_CACHE; --quantise before --fp8-scaled, and that
before bitsandbytes; --attention before --xformers-mode; --fast-start before --compile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..errors import InvalidSetting
from ..words import Message
from .groups import Kernels, Sampling, Weights
from .knob import knob
from .parsing import one_of, truth

KERNEL_OF_MODE: Mapping[str, str] = {"off": "sdpa", "standard": "xformers", "aggressive": "cutlass"}
XFORMERS_MODES = tuple(KERNEL_OF_MODE)
NO_ATTENTION_CACHE = (
    "FRAMEPACK_ENABLE_KV_CACHE: there is no cache of attention's keys and values. They change with the noise level, so "
    "those of an earlier step would be wrong, and the program that this switch comes from never reads what it keeps. "
    "Leave it out, or give --disable-kv-cache; FRAMEPACK_STEP_CACHE chooses a cache that saves attention and all else."
)
PACKED = ("bnb8", "bnb4")
"""The quantisations that are bitsandbytes'."""

Notices = Mapping[str, tuple[Message, ...]]
"""By the name of a knob, what is said about settings that do not count beside its value."""


@dataclass(frozen=True)
class OlderNames:
    """The other names. A room never sees them."""

    enable_fbcache: bool = knob(
        "FRAMEPACK_ENABLE_FBCACHE", "0", truth, "the same as --default-step-cache first_block",
        after="default_step_cache",
    )  # fmt: skip
    enable_sim_cache: bool = knob(
        "FRAMEPACK_ENABLE_SIM_CACHE", "0", truth, "the same as --default-step-cache seacache, which reuses the blocks "
        "on steps whose input is similar to that of the step before", after="default_step_cache",
    )  # fmt: skip
    enable_kv_cache: bool = knob(
        "FRAMEPACK_ENABLE_KV_CACHE", "0", truth, "refused: kept keys and values would be of another noise level",
        after="default_step_cache",
    )  # fmt: skip
    disable_fbcache: bool = knob(
        "FRAMEPACK_DISABLE_FBCACHE", "0", truth, "goes before FRAMEPACK_ENABLE_FBCACHE", after="default_step_cache"
    )
    disable_sim_cache: bool = knob(
        "FRAMEPACK_DISABLE_SIM_CACHE", "0", truth, "goes before FRAMEPACK_ENABLE_SIM_CACHE", after="default_step_cache"
    )
    disable_kv_cache: bool = knob(
        "FRAMEPACK_DISABLE_KV_CACHE", "0", truth, "goes before FRAMEPACK_ENABLE_KV_CACHE", after="default_step_cache"
    )
    xformers_mode: str = knob(
        "FRAMEPACK_XFORMERS_MODE", "off", one_of(*XFORMERS_MODES), "off; standard, the xFormers "
        "package; aggressive, its CUTLASS kernel, which comes with PyTorch", after="attention",
    )  # fmt: skip
    fast_start: bool = knob(
        "FRAMEPACK_FAST_START", "0", truth, "leave out what makes the first step wait, as --compile", after="compile"
    )
    fp8_scaled: bool = knob("FRAMEPACK_FP8_SCALED", "0", truth, "the same as --quantise fp8", after="quantise")
    use_bnb: bool = knob(
        "FRAMEPACK_USE_BNB", "0", truth, "8-bit weights by bitsandbytes, on the GPU", after="quantised_matmul"
    )
    bnb_load_in_4bit: bool = knob(
        "FRAMEPACK_BNB_LOAD_IN_4BIT", "0", truth, "4-bit weights by bitsandbytes, on the GPU", after="quantised_matmul"
    )
    use_memory_v2: bool = knob(
        "FRAMEPACK_USE_MEMORY_V2", "0", truth,
        "changes nothing by itself any more: where blocks must be swapped, they always come ahead of their use",
        after="bnb_cpu_offload",
    )  # fmt: skip


@dataclass(frozen=True)
class Groups:
    """Those that have other names for what they say."""

    sampling: Sampling
    weights: Weights
    kernels: Kernels


def translated(groups: Groups, older: OlderNames) -> tuple[Groups, Notices]:
    """The groups with one value for each thing, and what is said about those that do not count.

    Raises InvalidSetting for what cannot be had under any name.
    """
    weights, kernels = groups.weights, groups.kernels
    step_cache, about_step_cache = _step_cache(groups.sampling.default_step_cache, older)
    quantise, about_weights = _quantise(weights, older)
    attention, about_attention = _attention(kernels.attention, older.xformers_mode)
    compiled, about_compiling = _compile(kernels.compile, older.fast_start)
    notices = {
        "default_step_cache": about_step_cache,
        "quantise": about_weights,
        "attention": about_attention,
        "compile": about_compiling,
    }
    sampling = replace(groups.sampling, default_step_cache=step_cache)
    kernels = replace(kernels, attention=attention, compile=compiled)
    return Groups(sampling, replace(weights, quantise=quantise), kernels), notices


def _step_cache(wish: str, older: OlderNames) -> tuple[str, tuple[Message, ...]]:
    """The step cache that all together ask for. What is disabled only has no older name that asks for it."""
    if older.enable_kv_cache and not older.disable_kv_cache:
        raise InvalidSetting(NO_ATTENTION_CACHE)
    asked = [(f"--default-step-cache {wish}", wish)] if wish else []
    if older.enable_fbcache and not older.disable_fbcache:
        asked.append(("FRAMEPACK_ENABLE_FBCACHE", "first_block"))
    if older.enable_sim_cache and not older.disable_sim_cache:
        asked.append(("FRAMEPACK_ENABLE_SIM_CACHE", "seacache"))
    return (asked[0][1] if asked else ""), tuple(_unneeded(tuple(asked)))


def _quantise(weights: Weights, older: OlderNames) -> tuple[str, tuple[Message, ...]]:
    asked = tuple(_asked(weights.quantise, older))
    quantise = asked[0][1] if asked else "auto"
    unneeded = _unneeded(asked)
    packed = _about_packed(quantise, weights.quantise != quantise, older)
    idle = _about_offload(quantise, weights.bnb_cpu_offload)
    return quantise, (*unneeded, *packed, *idle)


def _asked(quantise: str, older: OlderNames) -> Iterator[tuple[str, str]]:
    """Everything that asks for a quantisation, with what it asks for; the first counts."""
    if quantise != "auto":
        yield f"--quantise {quantise}", quantise
    if older.fp8_scaled:
        yield "--fp8-scaled", "fp8"
    if older.bnb_load_in_4bit:
        yield "FRAMEPACK_BNB_LOAD_IN_4BIT", "bnb4"
    elif older.use_bnb:
        yield "FRAMEPACK_USE_BNB", "bnb8"


def _unneeded(asked: tuple[tuple[str, str], ...]) -> Iterator[Message]:
    for name, quantise in asked[1:]:
        if quantise != asked[0][1]:
            yield Message("settings.goes_before", first=asked[0][0], second=name)


def _about_packed(quantise: str, by_older_name: bool, older: OlderNames) -> Iterator[Message]:
    if quantise not in PACKED:
        return
    if by_older_name and not older.use_bnb:
        yield Message("settings.bnb_without_use")
    if older.use_memory_v2:
        yield Message("settings.nothing_to_swap")


def _about_offload(quantise: str, bnb_cpu_offload: bool) -> Iterator[Message]:
    if bnb_cpu_offload and quantise != "bnb4":
        yield Message("settings.offload_without_bnb4")


def _attention(wish: str, xformers_mode: str) -> tuple[str, tuple[Message, ...]]:
    """The kernel that both together ask for."""
    if wish == "auto" or (wish == "xformers" and xformers_mode != "off"):
        return KERNEL_OF_MODE[xformers_mode], ()
    if xformers_mode == "off":
        return wish, ()
    first, second = f"--attention {wish}", f"--xformers-mode {xformers_mode}"
    return wish, (Message("settings.goes_before", first=first, second=second),)


def _compile(wished: bool, fast_start: bool) -> tuple[bool, tuple[Message, ...]]:
    if wished and fast_start:
        return False, (Message("settings.fast_start"),)
    return wished, ()
