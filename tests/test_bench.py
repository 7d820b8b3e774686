"""The measurements can be run where there is nothing to measure."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup

from bench import memory, memory_rows, memory_swapped, memory_swaps, precision, time_left
from bench.memory_gauge import Bench
from bench.memory_headline import headline, projection
from bench.memory_model import DRY, FULL, product_shapes, random_transformer, section_inputs, tensors_of
from diffusers_helper.models.modulation import tabulate

from .parity.engine import PackEngine

CPU = torch.device("cpu")
CAPS = (12, 24)
Rows = dict[str, list[dict[str, Any]]]


def run_memory(*words: str) -> Rows:
    """The rows that a dry run prints."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["memory", "--dry-run", "--steps", "1", *words])
        patch.setattr(sys.stdout, "write", lines.append)
        memory.main()
    rows: Rows = {}
    for line in map(json.loads, lines[1:]):
        for name, row in line.items():
            rows.setdefault(name, []).append(row)
    return rows


@pytest.fixture(scope="module")
def dry() -> Rows:
    return run_memory("--rows", *memory.ROWS)


def at(rows: list[dict[str, Any]], way: str, cap: int) -> dict[str, Any]:
    return next(row for row in rows if row["row"] == way and row["cap_gb"] == cap)


def test_the_dry_run_has_every_row_and_nothing_fails(dry: Rows) -> None:
    assert list(dry) == list(memory.ROWS)
    rows = [row for named in dry.values() for row in named]
    assert [row for row in rows if "failed" in row or "does_not_fit" in row] == []
    figures = [value for row in rows for value in row.values() if isinstance(value, (int, float))]
    assert all(math.isfinite(value) and value >= 0 for value in figures)
    assert all(row["seconds"] > 0 for row in rows if "seconds" in row)
    left_out = {row["row"] for row in rows if "left_out" in row}
    assert left_out <= {f"attention: {name}" for name in memory_rows.KERNELS}


def test_what_must_not_change_does_not(dry: Rows) -> None:
    assert [row["max_difference"] for row in dry["table"] if row["row"] == "on"] == [0.0]
    assert {row["max_difference"] for name in ("swap", memory.IN_INT8) for row in dry[name]} == {0.0}
    errors = {row["row"]: row["relative_difference"] for row in dry["quantised"] if "relative_difference" in row}
    assert 0 < errors["int8, 16-bit products"] < errors["fp8, 16-bit products"] < 0.01


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("name", ["swap", memory.IN_INT8])
def test_bytes_of_each_way(dry: Rows, name: str, cap: int) -> None:
    """Ours moves what the original way would with the table; less than without, less than ways that keep nothing."""
    moved = {row["row"]: row["gb_moved"] for row in dry[name] if row["cap_gb"] == cap}
    assert moved["ours"] == pytest.approx(moved["official style, with the table"], abs=2e-5)
    for way in ("official style", "group offload, blocks", "group offload, leaves"):
        assert moved["ours"] < moved[way]


@pytest.mark.parametrize("cap", CAPS)
def test_skipped_steps_move_nothing(dry: Rows, cap: int) -> None:
    for way in ("ours", "official style"):
        assert at(dry["skipped"], way, cap)["bytes_moved"] == 0
        section, step = at(dry["section"], way, cap), at(dry["swap"], way, cap)
        assert section["computed"] == 12
        assert section["gb_moved"] == pytest.approx(12 * step["gb_moved"], abs=2e-5)
        assert at(dry["boundary"], way, cap)["gb_moved"] > 0


def test_the_shapes_are_those_of_a_full_step() -> None:
    products = sum(2 * math.prod(shape) * times for shape, times in product_shapes(FULL).items())
    assert products == pytest.approx(248.5e12, rel=1e-3)
    assert FULL.shown_tokens + FULL.told_tokens == 18_289


def refuse(*_: object) -> None:
    """As a full card does."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")


def test_a_way_that_does_not_fit_is_a_row_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_swaps.BlockingSwap, "_lend", refuse)
    rows = run_memory("--rows", "swap", "section", "headline", "--caps", "12")
    told = [(row["row"], "does_not_fit" in row) for row in rows["swap"]]
    assert told == [(way, way.startswith("official")) for way, _ in memory_swapped.TURNS]
    assert "does_not_fit" in at(rows["section"], "official style", 12)
    assert "headline" not in rows


def test_a_row_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "model", refuse)
    assert run_memory("--rows", "table") == {"table": [{"row": "table", "does_not_fit": str(told_by(refuse))}]}


def told_by(function: Any) -> Exception:
    with pytest.raises(RuntimeError) as caught:
        function()
    return caught.value


def test_a_table_that_changes_one_bit_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(transformer: Any) -> None:
        tabulate(transformer)
        transformer.proj_out.bias[0] += 1e-3

    monkeypatch.setattr(memory_rows, "tabulate", spoilt)
    with pytest.raises(SystemExit, match="must be 0"):
        run_memory("--rows", "table")


def of_a_group(group: ModuleGroup) -> set[torch.Tensor]:
    return {*group.parameters, *group.buffers, *(t for module in group.modules for t in tensors_of(module))}


@pytest.mark.parametrize("way", [memory_swaps.group_blocks, memory_swaps.group_leaves])
def test_group_offload_has_every_weight_there_when_it_is_used(monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    """On the CPU a weight that was not brought would not be missed: so weights that are away are NaN."""
    transformer = random_transformer(DRY, CPU, torch.float32)
    tabulate(transformer)
    inputs, weights = section_inputs(transformer, DRY, CPU), {t: t.data for t in tensors_of(transformer)}
    plain = transformer(**inputs)

    def bring(group: ModuleGroup) -> None:
        for tensor in of_a_group(group):
            tensor.data = weights[tensor]

    def take(group: ModuleGroup) -> None:
        for tensor in of_a_group(group):
            tensor.data = torch.full_like(weights[tensor], math.nan)

    monkeypatch.setattr(ModuleGroup, "onload_", bring)
    monkeypatch.setattr(ModuleGroup, "offload_", take)
    with way(transformer, CPU, 0), torch.inference_mode():
        assert torch.equal(transformer(**inputs), plain)
        assert all(block.attn.to_q.weight.isnan().all() for block in transformer.transformer_blocks)
    assert torch.equal(transformer(**inputs), plain)
    assert not any(
        module._diffusers_hook.hooks for module in transformer.modules() if hasattr(module, "_diffusers_hook")
    )


def test_the_headline_and_the_model_of_other_cards() -> None:
    def of_ways(official: dict[str, float], own: dict[str, float]) -> list[dict[str, Any]]:
        return [{"row": way, "cap_gb": 12, **row} for way, row in (("official style", official), ("ours", own))]

    rows = {
        "roofline": [
            {"row": "all products and attention of a step", "seconds": 0.8},
            {"row": "bus, locked memory", "gb_per_second": 50.0},
        ],
        "resident": [{"row": "eager", "seconds": 1.0}],
        "table": [{"row": "on", "seconds": 0.9}],
        "swap": of_ways({"seconds": 3.0}, {"seconds": 1.0, "gb_moved": 50.0}),
        "section": of_ways({"seconds": 37.0}, {"seconds": 13.0}),
        "boundary": of_ways({"seconds": 5.0}, {"seconds": 1.0}),
    }
    near, swapped, *sections = headline(rows)
    assert (near["share"], swapped["ratio"]) == (0.8, 1.0)
    ratios = {row["row"]: row["official_style_to_ours"] for row in sections}
    assert ratios == {"section, 25 of 25 computed": round(80 / 26, 3), "section, 12 of 25 computed": 3.0}
    model = next(projection(rows, "NVIDIA H100 80GB HBM3"))
    assert (model["row"], model["our_seconds"]) == ("model of an RTX 3060", pytest.approx(990 / 25.5, abs=1e-3))
    assert model["official_style_seconds"] == pytest.approx(990 / 25.5 + 6.25, abs=1e-3)
    assert "not measured" in model["model"]
    assert "left_out" in next(projection(rows, "a card nobody knows"))


@pytest.mark.parametrize(("device", "kept"), [("a card", True), ("another card", False)])
def test_rows_of_other_commands_on_the_same_machine_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, kept: bool
) -> None:
    file = tmp_path / "memory.json"
    for name, row_name in (("a card", "table"), (device, "swap")):
        monkeypatch.setattr(memory, "machine", lambda name=name: {"device": name, "torch": "2"})
        report = memory.Report(False, file)
        report.begin([row_name])
        report.add(row_name, {"row": "on"})
    written = json.loads(file.read_text())
    assert list(written["rows"]) == (["table", "swap"] if kept else ["swap"])
    assert len(written["commands"]) == 1 + kept


def test_a_dry_run_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", "--dry-run", "--write"])
    with pytest.raises(SystemExit, match="2"):
        memory.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("newer", [True, False], ids=["PyTorch 2.13", "PyTorch 2.11"])
def test_the_hosts_locked_memory_is_given_back_by_every_pytorch(newer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    freed, gauge = list[str](), Bench(dry=True, steps=1, caps=[])
    gauge.on_gpu = True
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: freed.append("2.11"), raising=False)
    if newer:
        monkeypatch.setattr(torch.accelerator.memory, "empty_host_cache", lambda: freed.append("2.13"))
    else:
        monkeypatch.delattr(torch.accelerator.memory, "empty_host_cache")
    gauge.free()
    assert freed == ["2.13" if newer else "2.11"]


def test_a_way_that_fails_is_a_row_of_bench_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(section: Any, way: precision.Way) -> Any:
        if way.stays == 0.5:
            raise RuntimeError("no such kernel\nand more")
        return torch.zeros(1), torch.zeros(1)

    monkeypatch.setattr(precision.Section, "make", make)
    rows = {row["way"]: row for row in precision.videos(1)}
    assert rows["int8, half stays"] == {"way": "int8, half stays", "failed": "no such kernel"}
    assert rows["int8"]["equal_latents"]


def test_without_a_gpu_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", "--write"])
    with pytest.raises(SystemExit, match="no CUDA device"):
        memory.main()


def test_a_video_under_every_way_that_a_cpu_can_run(quick_checkpoint: Path, tmp_path: Path) -> None:
    """Where nothing may change nothing does; int8 is nearer than fp8."""
    section, errors = precision.Section(1, tmp_path, str(quick_checkpoint)), dict[str, float]()
    plain, frames = section.make(precision.Way(table=False))
    for name, way in precision.ways().items():
        latents, made = section.make(way)
        errors[name] = float((latents - plain).norm() / plain.norm())
        exact_frames = torch.equal(made, frames)
        assert exact_frames == (errors[name] == 0), name
    exact = [error for name, error in errors.items() if not name.startswith(("int8", "fp8", "bitsandbytes"))]
    assert exact == [0.0] * 6
    assert 0 < errors["int8"] == pytest.approx(errors["int8, half stays"], rel=1e-4)
    assert errors["int8"] < errors["fp8"] < 0.1


def test_the_time_left_is_watched_from_the_queue_to_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """One job of a stand-in for the embedded checkpoint; its numbers say nothing."""
    monkeypatch.setattr(time_left.Engine, "load", lambda checkpoint: PackEngine("run_i2v"))
    (row,) = time_left._measure([], time.time)
    assert (row["seconds"], row["kind"]) == (1.0, "f1")
    assert set(row["told_over_left"]) == set(time_left.POINTS)
