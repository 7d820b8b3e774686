"""`start.sh` for real: a copy of it beside a tiny package, real virtual environments, real pip, wheels made here.

Only the neighbours are stand-ins: nvidia-smi and curl are small scripts on PATH, and pip finds packages in a folder.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import ROOT
from .installation import Installation, installed_copy


@pytest.fixture(scope="module")
def once_forgotten(once_installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = installed_copy(once_installed, tmp_path_factory.mktemp("forgotten") / "first")
    python = here.home / ".venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "uninstall", "-qy", "torch", "small"], check=True)
    (here.home / ".venv" / "installed-run").unlink()
    return here.home.parent


@pytest.fixture
def forgotten(once_forgotten: Path, tmp_path: Path) -> Installation:
    """An environment that says nothing of what was installed into it: somebody's own, perhaps."""
    return installed_copy(once_forgotten, tmp_path / "forgotten")


def test_the_scripts_are_bash() -> None:
    for script in ("start.sh", ".ci/run"):
        subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_continuous_integration_runs_the_tests() -> None:
    assert 'start.sh" test' in (ROOT / ".ci" / "run").read_text()


def test_continuous_integration_goes_on_without_a_browser(bare: Installation) -> None:
    """Where Chromium is not there and cannot be installed, the tests are run all the same."""
    (bare.home / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", bare.home / ".ci")
    (bare.home / "start.sh").write_text('printf "%s\\n" "$*"')
    for name, script in (("id", "echo 0"), ("apt-get", "exit 100")):
        bare.tool(name, script)
    bare.tool("dirname", '/usr/bin/dirname "$@"')
    environment = {**bare.environment(), "PATH": str(bare.tools)}
    command = ["/bin/bash", str(bare.home / ".ci" / "run"), "-k", "this one"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "skipped" in done.stderr
    assert done.stdout == "test -k this one\n"


@pytest.mark.parametrize("word", ["help", "-h", "--help"])
def test_it_explains_itself_and_installs_nothing(bare: Installation, word: str) -> None:
    done = bare.start(word)
    assert done.returncode == 0
    assert "bash start.sh generate" in done.stdout
    assert "bash start.sh page --help" in done.stdout
    assert not (bare.home / ".venv").exists()


@pytest.mark.parametrize(
    ("words", "passed"),
    [([], []), (["page"], []), (["--port", "8 0"], ["--port", "8 0"]), (["page", "--help"], ["--help"])],
)
def test_without_a_command_it_opens_the_page(ready: Installation, words: list[str], passed: list[str]) -> None:
    done = ready.start(*words, cwd=ready.tools)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"the page {passed} __main__"


def test_the_page_is_not_taken_from_the_callers_folder(ready: Installation, tmp_path: Path) -> None:
    theirs = tmp_path / "elsewhere"
    (theirs / "diffusers_helper").mkdir(parents=True)
    for name in ("diffusers_helper/__init__.py", "demo_gradio.py"):
        (theirs / name).write_text("raise SystemExit('the wrong one')")
    assert ready.start(cwd=theirs).stdout.startswith("the page []")


def test_the_first_run_installs_then_runs_and_keeps_stdout_for_the_program(bare: Installation) -> None:
    done = bare.start("generate", "--prompt", "two words")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert '"arguments": ["generate", "--prompt", "two words"]' in done.stdout
    assert "GB" in done.stderr
    assert bare.installed("small") == "1.0"


def test_the_second_run_installs_nothing(ready: Installation) -> None:
    assert ready.start("hello").stderr == ""


def test_changed_requirements_are_installed(ready: Installation) -> None:
    ready.wheel("small", "2.0")
    (ready.home / "requirements.txt").write_text("torch==1.0\nsmall==2.0\n")
    assert ready.start("hello").returncode == 0
    assert ready.installed("small") == "2.0"
    assert ready.start("hello").stderr == ""


def test_a_failed_installation_is_an_error_and_is_done_again(ready: Installation) -> None:
    (ready.home / "requirements.txt").write_text("torch==1.0\nsmall==3.0\n")
    failed = ready.start("hello")
    assert failed.returncode != 0
    assert failed.stdout == ""
    ready.wheel("small", "3.0")
    assert ready.start("hello").returncode == 0
    assert ready.installed("small") == "3.0"


def test_an_installation_that_was_killed_is_made_anew(ready: Installation) -> None:
    left_over = ready.home / ".venv" / "half a package"
    left_over.touch()
    (ready.home / ".venv" / "installed-run").unlink()
    (ready.home / ".venv" / "unfinished").touch()
    assert "making .venv" in ready.start("hello").stderr
    assert not left_over.exists()
    assert ready.installed("small") == "1.0"


def test_an_environment_whose_python_is_gone_is_made_anew(ready: Installation) -> None:
    python = ready.home / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert ready.start("hello").returncode == 0


def test_two_first_runs_at_once_install_once(bare: Installation) -> None:
    command = ["bash", str(bare.home / "start.sh"), "hello"]
    runs = [subprocess.Popen(command, env=bare.environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert "".join(said).count("making .venv") == 1
    assert "waiting" in "".join(said)


def test_test_installs_the_test_tools_and_passes_words_on(forgotten: Installation) -> None:
    forgotten.wheel("pytest", "1.0", "import os, sys; print(os.getcwd(), sys.argv[1:])")
    done = forgotten.start("test", "-k", "one or two", cwd=forgotten.tools)
    assert done.returncode == 0, done.stderr
    words = ["--numprocesses", "auto", "--dist", "loadfile", "--no-loadscope-reorder", "-k", "one or two"]
    assert done.stdout.strip() == f"{forgotten.home} {words}"
    assert forgotten.start("hello").stderr == "", "the tests' installation serves the program as well"


def test_without_a_gpu_pytorchs_own_index_is_taken_when_it_answers(forgotten: Installation) -> None:
    forgotten.tool("curl", "exit 0")
    assert "PyTorch for the CPU" in forgotten.start("hello").stderr


def test_an_index_that_lacks_the_version_is_passed_over(forgotten: Installation) -> None:
    forgotten.tool("curl", "exit 0")
    (forgotten.wheels / "torch-1.0-py3-none-any.whl").rename(forgotten.tools / "kept.whl")
    assert "taking what pip finds" in forgotten.start("hello").stderr


def test_a_gpu_that_comes_later_brings_the_cuda_build(forgotten: Installation) -> None:
    shutil.move(forgotten.wheels / "torch-1.0-py3-none-any.whl", forgotten.tools)
    forgotten.wheel("torch", "1.0+cpu")
    assert forgotten.start("hello").returncode == 0
    assert forgotten.installed("torch") == "1.0+cpu"
    (forgotten.wheels / "torch-1.0+cpu-py3-none-any.whl").unlink()
    shutil.move(forgotten.tools / "torch-1.0-py3-none-any.whl", forgotten.wheels)
    forgotten.tool("nvidia-smi", "echo 'GPU 0: NVIDIA Something (UUID: GPU-1)'")
    assert "with CUDA" in forgotten.start("hello").stderr
    assert forgotten.installed("torch") == "1.0"


def test_a_cuda_build_stays_when_the_gpu_is_taken_away(forgotten: Installation) -> None:
    forgotten.tool("nvidia-smi", "echo 'GPU 0: NVIDIA Something (UUID: GPU-1)'")
    forgotten.start("hello")
    forgotten.tool("nvidia-smi", "exit 9")
    assert forgotten.start("hello").stderr == ""


def test_no_python_that_serves_is_said_with_a_remedy(bare: Installation) -> None:
    bare.variables["PYTHON"] = "/nowhere/python"
    for name in ("python3.12", "python3.11", "python3.10", "python3", "python"):
        bare.tool(name, "exit 1")
    done = bare.start("hello")
    assert done.returncode == 1
    assert "needs Python 3.10, 3.11 or 3.12" in done.stderr


def test_the_program_runs_in_the_callers_folder_with_our_package(ready: Installation, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = ready.start("hello", cwd=elsewhere)
    assert f'"folder": "{elsewhere}"' in done.stdout


def test_a_package_of_the_same_name_in_the_callers_folder_is_not_ours(ready: Installation, tmp_path: Path) -> None:
    theirs = tmp_path / "elsewhere" / "diffusers_helper"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("raise SystemExit('the wrong package')")
    assert ready.start("hello", cwd=theirs.parent).returncode == 0


def test_it_may_be_called_through_a_link(ready: Installation, tmp_path: Path) -> None:
    (tmp_path / "framepack").symlink_to(ready.home / "start.sh")
    done = subprocess.run(["bash", str(tmp_path / "framepack"), "hello"], env=ready.environment(), check=False)
    assert done.returncode == 0


def test_the_exit_code_passes(ready: Installation) -> None:
    assert ready.start("fail").returncode == 7


def test_signals_arrive(ready: Installation) -> None:
    command = ["bash", str(ready.home / "start.sh"), "wait"]
    with subprocess.Popen(command, env=ready.environment(), stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "waiting\n"
        begun = time.monotonic()
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=20) == 130
        assert time.monotonic() - begun < 20
