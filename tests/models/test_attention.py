"""Attention kernels: which one two settings come to, and that none is used before it has proved itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend

from diffusers_helper import settings
from diffusers_helper.models import attention
from diffusers_helper.models.attention import (
    HEADS,
    KERNELS,
    SDPA,
    Kernel,
    attention_is_fused,
    choose_attention,
    use_attention,
)
from diffusers_helper.models.speed import apply_kernels, attention_of
from diffusers_helper.models.transformer import FramePackTransformer

from .tiny import tiny_inputs, tiny_transformer

CPU = torch.device("cpu")
NATIVE = _AttentionBackendRegistry._backends[AttentionBackendName.NATIVE]


def exact(**inputs: Any) -> Tensor:
    return NATIVE(**{name: inputs[name] for name in ("query", "key", "value")})


def noisy(**inputs: Any) -> Tensor:
    found = exact(**inputs)
    return found + 0.2 * found.std() * torch.randn(found.shape, generator=torch.Generator().manual_seed(1))


def broken(**inputs: Any) -> Tensor:
    return exact(**inputs) * torch.nan


def misshapen(**inputs: Any) -> Tensor:
    return exact(**inputs)[:, :-1]


def raising(**inputs: Any) -> Tensor:
    raise AssertionError("no kernel for sm_61")


@pytest.fixture
def sage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Tensor]], None]:
    """Let the dispatcher's SageAttention be this function, as if the package were installed."""

    def install(function: Callable[..., Tensor]) -> None:
        monkeypatch.setattr(attention, "find_spec", lambda name: object())
        monkeypatch.setattr(attention_dispatch, "_CAN_USE_SAGE_ATTN", True)
        monkeypatch.setitem(_AttentionBackendRegistry._backends, AttentionBackendName.SAGE, function)

    return install


@pytest.fixture
def kernels_as_before() -> Iterator[None]:
    yield
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)


def kernels(tmp_path: Path, **flags: str) -> settings.Kernels:
    return settings.resolve({"models_dir": str(tmp_path), **flags}, {}, tmp_path / "none.json").kernels


def asked(wish: str, mode: str) -> settings.Settings:
    return settings.resolve({"attention": wish, "xformers_mode": mode}, {}, Path("none.json"))


@pytest.mark.parametrize(
    ("wish", "mode", "kernel", "told"),
    [
        ("auto", "off", "sdpa", ""), ("auto", "standard", "xformers", ""), ("auto", "aggressive", "cutlass", ""),
        ("sdpa", "off", "sdpa", ""), ("sage", "off", "sage", ""), ("xformers", "off", "xformers", ""),
        ("xformers", "aggressive", "cutlass", ""), ("sdpa", "standard", "sdpa", "has no effect"),
        ("flash", "aggressive", "flash", "--attention flash goes before --xformers-mode aggressive"),
    ],
)  # fmt: skip
def test_two_settings_come_to_one_kernel(wish: str, mode: str, kernel: str, told: str) -> None:
    chosen = asked(wish, mode)
    notices = chosen.every_notice()
    assert chosen.kernels.attention == kernel
    assert told in " ".join(map(str, notices))
    assert bool(told) == bool(notices)


def test_every_wish_has_kernels() -> None:
    for wish in settings.ATTENTIONS:
        for mode in settings.XFORMERS_MODES:
            assert KERNELS[asked(wish, mode).kernels.attention]


@pytest.mark.parametrize(
    ("wish", "package"), [("flash", "flash-attn"), ("sage", "sageattention"), ("xformers", "xformers")]
)
def test_a_missing_package_is_named_and_pytorchs_is_used(
    wish: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    found = choose_attention(wish, CPU, torch.float32)
    assert found.kernel == SDPA
    assert f"the package {package} is not installed" in str(found.notices[0])
    assert "is used instead" in str(found.notices[0])


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (noisy, "differs from PyTorch's by 2"),
        (broken, "broken numbers"),
        (misshapen, "wrong shape"),
        (raising, "sm_61"),
    ],
)
def test_a_kernel_that_fails_its_test_is_not_used(
    function: Callable[..., Tensor], reason: str, sage: Callable[[Callable[..., Tensor]], None]
) -> None:
    sage(function)
    found = choose_attention("sage", CPU, torch.float32)
    assert found.kernel == SDPA
    assert reason in str(found.notices[0])


def test_the_test_takes_less_than_a_second(sage: Callable[[Callable[..., Tensor]], None]) -> None:
    sage(exact)
    choose_attention("sage", CPU, torch.float32)
    began = time.thread_time()
    assert choose_attention("sage", CPU, torch.float32).kernel.backend == "sage"
    assert time.thread_time() - began < 1


def test_the_blocks_use_a_proved_kernel_and_nothing_else_does(
    tmp_path: Path, sage: Callable[[Callable[..., Tensor]], None]
) -> None:
    calls = []

    def counted(**inputs: Any) -> Tensor:
        calls.append(inputs["query"].shape)
        return exact(**inputs)

    sage(counted)
    transformer, inputs, before = tiny_transformer(), tiny_inputs(), functional.scaled_dot_product_attention
    with torch.inference_mode():
        plain = transformer(**inputs)
        assert apply_kernels(transformer, CPU, torch.float32, kernels(tmp_path, attention="sage")).notices == ()
        calls.clear()
        assert torch.equal(transformer(**inputs), plain)
    assert len(calls) == len(transformer.blocks)
    assert functional.scaled_dot_product_attention is before
    assert _AttentionBackendRegistry.get_active_backend()[0] == "native"


def test_the_default_changes_no_bit(tmp_path: Path) -> None:
    transformer, inputs = tiny_transformer(), tiny_inputs()
    with torch.inference_mode():
        plain = transformer(**inputs)
        assert apply_kernels(transformer, CPU, torch.float32, kernels(tmp_path)).notices == ()
        assert torch.equal(transformer(**inputs), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_that_rounds_otherwise_passes(dtype: torch.dtype) -> None:
    kernel = Kernel(AttentionBackendName._NATIVE_MATH, "PyTorch's plain kernel", 0.02)
    assert attention.self_test(kernel, CPU, dtype, 128)[0] is None


@pytest.mark.usefixtures("kernels_as_before")
def test_pytorchs_kernels_can_be_forbidden(tmp_path: Path) -> None:
    environment = {"PYTORCH_ENABLE_FLASH_SDP": "0", "PYTORCH_ENABLE_MEM_EFFICIENT_SDP": "0"}
    attention_of(settings.resolve({}, environment, tmp_path / "none.json").kernels, CPU, torch.float32)
    assert not torch.backends.cuda.flash_sdp_enabled()
    assert not torch.backends.cuda.mem_efficient_sdp_enabled()


@pytest.mark.parametrize("serves", ["none", "flash", "efficient", "cudnn"])
def test_attention_is_fused_where_one_of_pytorchs_kernels_takes_the_numbers(
    serves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU of 2018 has none for bfloat16."""
    asked = set[tuple[torch.dtype, int, bool]]()

    def answer(kernel: str) -> Callable[[Any], bool]:
        def can(given: Any) -> bool:
            asked.add((given.query.dtype, given.query.shape[-1], given.attn_mask is not None))
            return kernel == serves

        return can

    monkeypatch.setattr(attention, "_zeros", lambda device, dtype, *shape: torch.zeros(shape, dtype=dtype))
    for kernel in ("flash", "efficient", "cudnn"):
        monkeypatch.setattr(attention.cuda, f"can_use_{kernel}_attention", answer(kernel))
    assert attention_is_fused(torch.device("cuda"), torch.bfloat16) == (serves != "none")
    assert attention_is_fused(torch.device("cuda"), torch.float16, 512, masked=True) == (serves != "none")
    assert asked == {(torch.bfloat16, 128, False), (torch.float16, 512, True)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cpu_has_a_fused_kernel_of_its_own(dtype: torch.dtype) -> None:
    tokens = torch.zeros(1, 2, 64, 128, dtype=dtype)
    assert torch._fused_sdp_choice(tokens, tokens, tokens) == SDPBackend.FLASH_ATTENTION.value
    assert attention_is_fused(CPU, dtype)


@pytest.mark.gpu
def test_on_a_gpu_fused_attention_needs_no_room_for_scores() -> None:
    device, tokens = torch.device("cuda"), 8192
    given = [torch.randn(1, HEADS, tokens, 128, device=device, dtype=torch.bfloat16) for _ in range(3)]
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    functional.scaled_dot_product_attention(*given)
    scores_bytes = torch.cuda.max_memory_allocated() - before
    assert attention_is_fused(device, torch.bfloat16) == (scores_bytes < HEADS * tokens**2 * 4)


def test_a_transformer_of_its_own_is_not_touched() -> None:
    one, other = tiny_transformer(), tiny_transformer()
    use_attention(one, attention.Attention(KERNELS["sage"][0], ""))
    assert {backends(one), backends(other)} == {frozenset({"sage"}), frozenset({None})}


def backends(transformer: FramePackTransformer) -> frozenset[str | None]:
    return frozenset(block.attn.processor._attention_backend for block in transformer.blocks)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("wish", "mode"), [("flash", "off"), ("sage", "off"), ("auto", "standard"), ("auto", "aggressive")]
)
def test_on_a_gpu_each_is_used_or_says_why_not(wish: str, mode: str) -> None:
    found = choose_attention(asked(wish, mode).kernels.attention, torch.device("cuda"), torch.bfloat16)
    assert (found.kernel == SDPA) == bool(found.notices)
    if mode == "aggressive":
        assert found.kernel == KERNELS["cutlass"][0]
