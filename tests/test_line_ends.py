"""A clone is the same whatever its git makes of line ends: the scripts start, and the pocket is the pocket."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT


def git(folder: Path, *words: str) -> str:
    """What git says, asked without this machine's own configuration."""
    alone = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    return subprocess.run(
        ["git", *author, *words], cwd=folder, env=alone, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts, the documents and the pocket's configs of this tree, committed."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    folder = tmp_path_factory.mktemp("repository")
    for file in [ROOT / ".gitattributes", *ROOT.glob("*.sh"), *ROOT.glob("*.md"), *ROOT.glob("*.txt")]:
        shutil.copy(file, folder)
    for tree in (".ci", "checkpoints", "docs"):
        shutil.copytree(ROOT / tree, folder / tree, ignore=shutil.ignore_patterns("*.safetensors"))
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


@pytest.mark.parametrize(
    "configuration",
    [
        ("core.autocrlf=true",), ("core.autocrlf=input",), ("core.autocrlf=false",), ("core.eol=crlf",),
        ("core.autocrlf=true", "core.eol=crlf"), ("core.autocrlf=true", "core.safecrlf=true"),
    ],
)  # fmt: skip
def test_a_clone_starts_and_has_the_very_same_files(
    repository: Path, tmp_path: Path, configuration: tuple[str, ...]
) -> None:
    options = [word for setting in configuration for word in ("-c", setting)]
    git(tmp_path, "clone", "--quiet", *options, str(repository), "clone")
    clone = tmp_path / "clone"
    names = git(clone, "ls-files").splitlines()
    assert [name for name in names if (clone / name).read_bytes() != (ROOT / name).read_bytes()] == []
    assert git(clone, "status", "--porcelain") == ""
    done = subprocess.run(["bash", str(clone / "start.sh"), "help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
