"""The evaluation's entry."""

import argparse
import sys
from pathlib import Path

import pytest

from tools.pocket import evaluate


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, pocket: Path) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["evaluate", "--checkpoint", str(pocket), "--only", "size"])
    return evaluate.parse()


def test_only_what_is_asked_for_is_measured(options: argparse.Namespace) -> None:
    report = evaluate.evaluate(options)
    (row,) = report["table"]
    assert row["reached"]
    assert 1 < row["value"] < 40
    assert list(report["details"]) == ["size"]
