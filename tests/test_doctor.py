"""`doctor`: says what is there, names a remedy for what is not, and comes to an end on a broken machine."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_helper import doctor, settings
from diffusers_helper.doctor import Fact, Report
from diffusers_helper.memory.costs import Machine
from diffusers_helper.memory.host import Ram
from diffusers_helper.memory.units import GB
from diffusers_helper.models import attention, load
from diffusers_helper.models.load import Compute

from . import program
from .memory.support import as_if_on


@pytest.fixture
def chosen(tmp_path: Path) -> settings.Settings:
    places = {"output_dir": tmp_path / "outputs", "models_dir": tmp_path / "models"}
    return settings.resolve(places, environment={}, file=tmp_path / "none.json")


def with_checkpoint(chosen: settings.Settings, name: str) -> settings.Settings:
    return dataclasses.replace(chosen, paths=dataclasses.replace(chosen.paths, checkpoint=name))


def _fact(report: Report, name: str) -> Fact:
    return next(fact for fact in report.facts if fact.name == name)


def _fix(report: Report, name: str) -> str:
    fix = _fact(report, name).fix
    assert fix is not None
    return fix


def test_the_command_prints_json_and_succeeds(tmp_path: Path) -> None:
    done = program.run(tmp_path, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "device", "ram", "output_dir", "models_dir", "optional_packages", "attention"} <= set(report)


def test_the_text_has_a_line_per_fact_and_every_fix(chosen: settings.Settings) -> None:
    report = doctor.examine(chosen)
    text = doctor.render(report)
    for fact in report.facts:
        assert fact.text in text
        assert fact.fix is None or fact.fix in text


def test_attention_is_really_run(chosen: settings.Settings) -> None:
    attention = _fact(doctor.examine(chosen), "attention").value
    assert attention["works"]["math"]
    assert attention["works"][attention["kernel"]]


def test_the_attention_in_use_is_named_and_why_it_is_not_another(tmp_path: Path) -> None:
    environment = {"FRAMEPACK_ATTENTION": "sage"}
    report = doctor.examine(settings.resolve({"models_dir": str(tmp_path)}, environment, tmp_path / "none.json"))
    attention = _fact(report, "attention")
    if attention.value["in_use"] == "native":
        assert "SageAttention" in _fix(report, "attention")
    assert attention.value["why"]


def test_a_missing_checkpoint_names_the_command_that_fetches_it(chosen: settings.Settings) -> None:
    report = doctor.examine(chosen)
    assert "bash start.sh download framepack" in _fix(report, "checkpoint framepack")
    assert "adds 9.9 GB of 8-bit weights" in _fix(report, "checkpoint framepack")
    assert report.as_dict()["checkpoint framepack"]["present"] is False
    assert "13 billion" in report.as_dict()["checkpoint framepack"]["about"]


def test_an_unknown_checkpoint_in_the_settings_is_a_gap(chosen: settings.Settings) -> None:
    report = doctor.examine(with_checkpoint(chosen, "nowhere"))
    assert "nowhere" in _fix(report, "checkpoint nowhere")


def test_a_link_that_leads_nowhere_in_a_checkpoint_does_not_end_the_report(
    chosen: settings.Settings, pocket: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(pocket, tmp_path / "copy"))
    (copy / "vae" / "README.md").symlink_to("nowhere")
    report = doctor.examine(with_checkpoint(chosen, str(copy)))
    found, same = _fact(report, f"checkpoint {copy}"), _fact(report, "checkpoint pocket")
    assert found.value["present"]
    assert found.value["size_gb"] == same.value["size_gb"]


def test_no_room_for_a_checkpoint_is_said_before_the_download(
    chosen: settings.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: _usage(free=500_000_000))
    report = doctor.examine(chosen)
    assert "Only 0.5 GB are free" in _fix(report, "checkpoint framepack")
    assert "FRAMEPACK_OUTPUT_DIR" in _fix(report, "output_dir")


def test_an_output_folder_that_is_a_file_is_a_gap(chosen: settings.Settings) -> None:
    chosen.paths.output_dir.touch()
    assert str(chosen.paths.output_dir) in _fix(doctor.examine(chosen), "output_dir")


def test_a_torch_that_cannot_be_imported_is_a_fact(chosen: settings.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    report = doctor.examine(chosen)
    assert "start.sh" in _fix(report, "torch")
    assert _fact(report, "ram").value["total_gb"] > 0


def test_a_gpu_that_answers_with_an_error_is_a_fact(chosen: settings.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Fact:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(doctor, "_attention", broken)
    assert "launch failure" in _fact(doctor.examine(chosen), "attention").text


def test_a_gpu_beside_a_cpu_build_is_a_gap(
    chosen: settings.Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA Something (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "built for the CPU" in _fix(doctor.examine(chosen), "torch")


def test_a_driver_too_old_is_said_by_doctor_and_to_the_engine(
    chosen: settings.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_available() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old {12020}", stacklevel=1)
        return False

    monkeypatch.setattr(load, "_driver_shows_gpu", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    fix = _fix(doctor.examine(chosen), "torch")
    assert "for CUDA 13 that is 580 or newer" in fix
    assert str(load.choose_compute().unused_gpu) == fix


def test_attention_that_is_not_fused_is_a_gap(chosen: settings.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "attention_is_fused", lambda device, dtype: False)
    fact = doctor._attention(chosen.kernels, ())
    assert not fact.value["fused"]
    assert "RTX 20xx" in (fact.fix or "")
    assert "small latent window" in (fact.fix or "")


@pytest.mark.parametrize(("capability", "kind"), [((6, 1), "cpu"), ((7, 5), "cuda"), ((15, 0), "cuda")])
def test_a_gpu_that_pytorch_has_no_code_for_is_not_used(
    capability: tuple[int, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "is_available": True, "device_count": 1, "get_device_name": "GTX 1080", "mem_get_info": (7 * GB, 8 * GB),
        "get_device_capability": capability, "get_arch_list": ["sm_75", "sm_90a", "compute_120"],
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    compute = load.choose_compute()
    assert compute.device.type == kind
    fix = doctor._gpus().fix or ""
    assert ("cu126" in fix, "as old as GTX 1080" in compute.reason) == (kind == "cpu", kind == "cpu")


def test_what_a_13b_checkpoint_would_need_is_foretold(
    chosen: settings.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = torch.float16
    compute = Compute(torch.device("cuda"), torch.bfloat16, half, half, "a GPU")
    monkeypatch.setattr(load, "choose_compute", lambda: compute)
    as_if_on(Machine(12 * GB, 11 * GB, 34 * GB, 17 * GB, 99 * GB), monkeypatch)
    plan = _fact(doctor.examine(chosen), "memory plan 13B")
    assert (plan.value["fits"], plan.value["precision"]) == (True, "int8")
    assert plan.value["ram_gb"] <= 17
    as_if_on(Machine(12 * GB, 11 * GB, 17 * GB, 9 * GB, 99 * GB), monkeypatch)
    refused = _fact(doctor.examine(chosen), "memory plan 13B")
    assert not refused.value["fits"]
    assert "GB of RAM" in refused.text


def test_settings_that_do_not_count_are_named_where_they_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {"attention": "sdpa", "xformers_mode": "standard", "quantise": "int8", "fp8_scaled": "1"}
    chosen = settings.resolve({"models_dir": str(tmp_path), **given}, {}, tmp_path / "none.json")
    as_if_on(Machine(12 * GB, 11 * GB, 34 * GB, 17 * GB, 99 * GB), monkeypatch)
    report = doctor.examine(chosen)
    assert "--attention sdpa goes before --xformers-mode standard" in _fix(report, "attention")
    assert "--quantise int8 goes before --fp8-scaled" in _fix(report, doctor.FORECAST)


def test_ram_is_what_the_plan_counts_with(chosen: settings.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "read_ram", lambda: Ram(total=2 * GB, free=GB // 2))
    assert _fact(doctor.examine(chosen), "ram").value == {"total_gb": 2.0, "free_gb": 0.5}


def _usage(free: int) -> Any:
    import types

    return types.SimpleNamespace(free=free)
