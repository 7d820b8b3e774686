"""A copy of the repository's start beside a tiny package, the tools it sees, and what pip may find. As fixtures."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

VENV_OR_PYTHON = """
case "$*" in
    *_base_executable*) printf '%s\\n' "$0" ;;
    "-I -m venv "*) mkdir -p "$4" && cp -a {empty}/. "$4" ;;
    *) exec {python} "$@" ;;
esac
"""
"""Python, which makes a virtual environment within a moment: by a copy of an empty one."""

PROGRAM = """
import json, os, signal, sys, time
if sys.argv[1:] == ["wait"]:
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    print("waiting", flush=True)
    time.sleep(60)
print(json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd()}))
sys.exit(7 if "fail" in sys.argv else 0)
"""
PAGE = """
import sys, diffusers_helper
print("the page", sys.argv[1:], __name__)
"""
HOME = "home with a space"
PIP = f"{os.sep}site-packages{os.sep}pip{os.sep}"


@dataclass
class Installation:
    """A copy of the repository's start, the tools it sees, and what pip may find."""

    home: Path
    tools: Path
    wheels: Path
    variables: dict[str, str] = field(default_factory=dict)

    def environment(self) -> Mapping[str, str]:
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        paths = os.pathsep.join([str(self.tools), "/usr/bin", "/bin"])
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull}
        return {**kept, "PATH": paths, "PYTHON": str(self.tools / "quick-python"), **pip, **self.variables}

    def start(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(self.home / "start.sh"), *words]
        return subprocess.run(
            command, cwd=cwd or self.home, env=self.environment(), capture_output=True, text=True, check=False
        )

    def tool(self, name: str, script: str) -> None:
        (self.tools / name).write_text(f"#!/bin/bash\n{script}\n")
        (self.tools / name).chmod(0o755)

    def wheel(self, name: str, version: str, module: str = "") -> None:
        """A wheel that holds one module of the same name."""
        info = f"{name}-{version}.dist-info"
        files = {
            f"{name}.py": module,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
        with zipfile.ZipFile(self.wheels / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            for path, text in {**files, f"{info}/RECORD": record}.items():
                archive.writestr(path, text)

    def installed(self, name: str) -> str:
        """The version of ``name`` in the virtual environment."""
        ask = f"import importlib.metadata as m; print(m.version({name!r}))"
        python = self.home / ".venv" / "bin" / "python"
        return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def _bare(folder: Path, empty_venv: Path) -> Installation:
    """Nothing installed yet: no GPU, and PyTorch's index does not answer."""
    here = Installation(folder / HOME, folder / "tools", folder / "wheels")
    for place in (here.home / "diffusers_helper", here.tools, here.wheels):
        place.mkdir(parents=True)
    shutil.copy(ROOT / "start.sh", here.home)
    (here.home / "diffusers_helper" / "__init__.py").touch()
    (here.home / "diffusers_helper" / "__main__.py").write_text(PROGRAM)
    (here.home / "demo_gradio.py").write_text(PAGE)
    (here.home / "requirements.txt").write_text("torch==1.0\nsmall==1.0\n")
    (here.home / "requirements-test.txt").write_text("pytest==1.0\n")
    for name in ("torch", "small", "pytest"):
        here.wheel(name, "1.0")
    here.tool("nvidia-smi", "exit 9")
    here.tool("curl", "exit 7")
    here.tool(
        "quick-python", VENV_OR_PYTHON.format(empty=shlex.quote(str(empty_venv)), python=shlex.quote(sys.executable))
    )
    return here


@pytest.fixture(scope="session")
def empty_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment in which nothing is installed yet."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-I", "-m", "venv", str(folder)], check=True)
    return folder


@pytest.fixture
def bare(tmp_path: Path, empty_venv: Path) -> Installation:
    return _bare(tmp_path, empty_venv)


@pytest.fixture(scope="session")
def once_installed(tmp_path_factory: pytest.TempPathFactory, empty_venv: Path) -> Path:
    """The folder of an installation that is done; to be copied, since making one takes seconds."""
    folder = tmp_path_factory.mktemp("installed")
    done = _bare(folder, empty_venv).start("hello")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def ready(tmp_path: Path, once_installed: Path) -> Installation:
    """Installed; nothing is to be done before the program starts."""
    return installed_copy(once_installed, tmp_path / "ready")


def installed_copy(done: Path, folder: Path) -> Installation:
    """What is in ``done``, at another place. Of pip, which no test writes into, the files are the same ones."""
    shutil.copytree(done, folder, symlinks=True, copy_function=_copy)
    return Installation(folder / HOME, folder / "tools", folder / "wheels")


def _copy(source: str, target: str) -> None:
    if PIP in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)
