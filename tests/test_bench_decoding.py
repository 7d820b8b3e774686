"""The benches of decoding: what they measure is what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import decoding, decoding_on_gpu
from bench.decoding_on_gpu import DRY, Place, rows
from diffusers_helper.vae.decoders import decoders


def clip(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, -1, 1, 1).expand(1, 3, -1, 2, 2)


def test_a_seam_is_a_change_that_the_whole_clip_does_not_have() -> None:
    whole = clip(0.0, 0.1, 0.2, 0.3, 0.4)
    assert decoding.seam(whole, whole, [2]) == pytest.approx(1.0)
    assert decoding.seam(clip(0.0, 0.1, 0.3, 0.4, 0.5), whole, [2]) == pytest.approx(2.0, rel=1e-4)
    assert decoding.seam(whole, whole, []) == 1.0


def test_the_worst_frame_is_worse_than_all_of_them() -> None:
    whole, off = clip(0.0, 0.0), clip(0.0, 0.2)
    assert decoding.psnr(off, whole) == pytest.approx(23.01, abs=0.01)
    assert decoding.worst(off, whole) == pytest.approx(20.0, abs=0.01)


@pytest.mark.parametrize(
    ("length", "chunk", "ends"), [(11, 4, [4, 8]), (18, 4, [4, 8, 12, 15]), (9, 8, [5]), (4, 4, [])]
)
def test_chunks_end_where_they_are_decoded_to(length: int, chunk: int, ends: list[int]) -> None:
    assert decoding._ends(length, chunk) == [end for end in ends if end]


def test_every_way_is_measured_on_a_gpu() -> None:
    """The dry run of it: each with what the plan counts, and with its time."""
    found = rows(Place(torch.device("cpu"), DRY), repeats=1)
    names = {name.split(",")[1].strip() for name in found if name.startswith("lean")}
    assert names == {name for name, decoder in decoders().items() if decoder.uses_device}
    assert all(row["planned_gb"] >= 0 and row["seconds"] > 0 for row in found.values())


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["decoding_on_gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="not run"):
        decoding_on_gpu.main()


def test_what_is_kept_stands_beside_the_other_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "RESULTS", tmp_path)
    decoding._keep({"section": {"a": 1}})
    decoding._keep({"videos": {"b": 2}})
    assert json.loads((tmp_path / "decoding.json").read_text()) == {"section": {"a": 1}, "videos": {"b": 2}}
