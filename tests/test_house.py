"""The rules of the house: style, format, types, floors, short files, and a command line that answers at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

LONGEST_FILE = 400
NEW_NUMPY = pytest.mark.skipif(sys.version_info < (3, 11), reason="an ndarray's types have no defaults in NumPy 2.2")
SOURCES = ("diffusers_helper", "tools", "bench", "tests")


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("ruff", "check", "."), id="style"),
        pytest.param(("ruff", "format", "--check", "."), id="format"),
        pytest.param(("mypy",), id="types", marks=NEW_NUMPY),
    ],
)
def test_is_clean(arguments: tuple[str, ...]) -> None:
    _run(sys.executable, "-m", *arguments)


def test_rooms_import_only_from_the_floors_below() -> None:
    _run(sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()")


def test_files_are_short() -> None:
    files = (file for folder in SOURCES for file in (ROOT / folder).rglob("*.py"))
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


@pytest.mark.parametrize("command", [["--help"], ["generate", "--help"], ["doctor", "--help"], ["--version"]])
def test_help_needs_no_torch(command: list[str], tmp_path: Path) -> None:
    """Any import of these is refused, so the answer shows that none was wanted."""
    refused = "".join(f"sys.modules[{name!r}] = None; " for name in ("torch", "diffusers", "transformers", "numpy"))
    program = f"import sys; {refused}from diffusers_helper.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_doctors_module_needs_no_torch() -> None:
    _run(sys.executable, "-c", "import sys; sys.modules['torch'] = None; import diffusers_helper.doctor")
