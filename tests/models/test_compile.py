"""Compiled blocks: the same numbers, one compilation for all sizes, and a reason where it is not done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from diffusers_helper import settings
from diffusers_helper.models.compile import why_not
from diffusers_helper.models.modulation import tabulate
from diffusers_helper.models.speed import apply_kernels

from .tiny import tiny_inputs, tiny_transformer

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("nothing_compiled")


def chosen(tmp_path: Path, **flags: str) -> settings.Settings:
    return settings.resolve({"models_dir": str(tmp_path), "compile": "1", **flags}, {}, tmp_path / "none.json")


def kernels(tmp_path: Path) -> settings.Kernels:
    return chosen(tmp_path).kernels


@pytest.mark.usefixtures("tracer")
def test_other_sizes_compile_nothing_again(tmp_path: Path) -> None:
    transformer = tiny_transformer()
    sizes = [tiny_inputs(), tiny_inputs(8, 12, 9), tiny_inputs(12, 8, 3, frames=5)]
    with torch.inference_mode():
        plain = [transformer(**inputs) for inputs in sizes]
        assert apply_kernels(transformer, CPU, torch.float32, kernels(tmp_path)).notices == ()
        torch.testing.assert_close(transformer(**sizes[0]), plain[0], rtol=1e-4, atol=1e-5)
        graphs = counters["stats"]["unique_graphs"]
        assert graphs
        for inputs, expected in zip(sizes, plain, strict=True):
            torch.testing.assert_close(transformer(**inputs), expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
def test_compiled_code_is_right_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if why_not(CPU):
        pytest.skip(str(why_not(CPU)))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    transformer, inputs = tiny_transformer(), tiny_inputs()
    with torch.inference_mode():
        plain = transformer(**inputs)
        apply_kernels(transformer, CPU, torch.float32, kernels(tmp_path))
        torch.testing.assert_close(transformer(**inputs), plain, rtol=1e-4, atol=1e-5)
    assert any(tmp_path.rglob("*.so"))


@pytest.mark.usefixtures("tracer")
def test_steps_of_the_modulation_table_compile_nothing_again(tmp_path: Path) -> None:
    transformer = tiny_transformer()
    steps = [{**tiny_inputs(), "timestep": torch.full((1,), time)} for time in (900.0, 500.0, 100.0)]
    with torch.inference_mode():
        plain = [transformer(**inputs) for inputs in steps]
        tabulate(transformer)
        apply_kernels(transformer, CPU, torch.float32, kernels(tmp_path))
        transformer(**steps[0])
        graphs = counters["stats"]["unique_graphs"]
        for inputs, expected in zip(steps, plain, strict=True):
            torch.testing.assert_close(transformer(**inputs), expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.usefixtures("tracer")
def test_rope_scaling_compiles_nothing_again(tmp_path: Path) -> None:
    """It changes numbers that the blocks are handed, so scaled and plain steps share their graphs."""
    transformer, inputs = tiny_transformer(), tiny_inputs()
    factors = (1.0, 1.5, 1.0, 2.0, 1.5)
    with torch.inference_mode():
        plain = [transformer(**inputs, rope_factor=factor) for factor in factors]
        apply_kernels(transformer, CPU, torch.float32, kernels(tmp_path))
        transformer(**inputs)
        graphs = counters["stats"]["unique_graphs"]
        for factor, expected in zip(factors, plain, strict=True):
            torch.testing.assert_close(transformer(**inputs, rope_factor=factor), expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == graphs


def test_fast_start_goes_before_compile(tmp_path: Path) -> None:
    transformer = tiny_transformer()
    asked = chosen(tmp_path, fast_start="1")
    (notice,) = (*asked.every_notice(), *apply_kernels(transformer, CPU, torch.float32, asked.kernels).notices)
    assert "--fast-start goes before --compile" in str(notice)
    assert all(block._compiled_call_impl is None for block in transformer.blocks)


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (notice,) = apply_kernels(tiny_transformer(), CPU, torch.float32, kernels(tmp_path)).notices
    assert "there is no C++ compiler" in str(notice)
