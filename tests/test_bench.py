"""The measurements can be run where there is nothing to measure."""

import json
import sys

import pytest

from bench import memory


def test_the_dry_run_of_the_memory_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        sys, "argv", ["memory", "--dry-run", "--steps", "1", "--caps", "24", "--rows", "resident", "swap", "skipped"]
    )
    memory.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    table = next(row for row in rows["resident"] if row["row"] == "modulation table")
    assert table["max_difference"] == 0
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
