"""The measurements can be run where there is nothing to measure."""

import json
import sys
from collections.abc import Iterator

import pytest
import torch

from bench import memory, precision


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny products by threads that wait for each other take long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_dry_run_of_the_memory_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        sys, "argv", ["memory", "--dry-run", "--steps", "1", "--caps", "24", "--rows", "swap", "skipped"]
    )
    memory.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows["skipped"][0]["bytes_moved"] == 0
    ways = {(row["weights"], row["row"]): row for row in rows["swap"]}
    for weights in ("16 bits", "int8"):
        moved = [ways[weights, way]["gb_moved"] for way in ("ours", "blocking", "group offload")]
        assert moved[0] == pytest.approx(moved[1], abs=2e-4)
        assert moved[1] < moved[2]


def test_a_dry_run_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", "--dry-run", "--write"])
    with pytest.raises(SystemExit, match="2"):
        memory.main()


def test_the_pockets_video_under_every_way_that_a_cpu_can_run() -> None:
    """Where nothing may change nothing does; int8 is nearer than fp8."""
    section, ways = precision.Section(steps=1), precision.changes()
    plain = section.latents()
    for name in ("swapped, half stays", "modulation table"):
        assert torch.equal(section.latents(ways[name]), plain)
    errors = [(section.latents(ways[f"{name}, table, swapped"]) - plain).norm() for name in ("int8", "fp8")]
    assert errors[0] < errors[1] < 0.1 * plain.norm()
