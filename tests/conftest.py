"""What every test has: the same arithmetic everywhere, no network, real photographs, and where the pocket lies."""

from __future__ import annotations

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from .installation import bare, empty_venv, once_installed, ready

__all__ = ["bare", "empty_venv", "once_installed", "ready"]

# The same inputs every time, and no test is judged by a clock.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parent.parent
# Sums depend on how they are split, so the number of threads does not depend on the machine. There is one for each
# process, since `start.sh test` runs several beside each other; programs that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As the program does: threads that wait sleep, and decoding is quicker.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
LONGEST = (
    "vae/test_compiled.py", "browser/test_page.py", "browser/test_form.py", "browser/test_stage.py",
    "jobs/test_process_executor.py", "faults/test_page.py", "memory/test_plan.py", "test_one_frame_pocket.py",
)  # fmt: skip
"""Files that take most of a minute or more, the longest first."""
MOST_WORKERS = 8
"""Each takes up to 2 GB, and more would wait for the longest file."""


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: a third of the time, a worker waits for a browser or for a program that it has started."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores + 1, MOST_WORKERS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked ``gpu`` where there is none, and those marked ``slow`` unless asked for.

    The longest files come first: near the end, the other processes would have nothing to do meanwhile.
    """
    order = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))
    for item in items:
        if item.get_closest_marker("slow") and "slow" not in config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason="takes long; run it with -m slow"))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def pytest_collection_finish() -> None:
    """What has been imported by now stays; no garbage collection looks at it again, which takes a second each time."""
    gc.freeze()


@contextmanager
def same_environment() -> Iterator[None]:
    """What is set in the environment meanwhile is gone afterwards."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """What a test, or the program within it, sets in the environment is gone for the next one."""
    with same_environment():
        yield


@pytest.fixture(autouse=True)
def pages_go() -> Iterator[None]:
    """FastAPI remembers thousands of functions, and each of a page's keeps the page: 40,000 objects or more.

    After fifty pages every garbage collection of the process took seconds.
    """
    yield
    models = sys.modules.get("fastapi.dependencies.models")
    for each in vars(models).values() if models else ():
        if hasattr(each, "cache_clear"):
            each.cache_clear()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A connection to anywhere but this machine fails the test that made it, even where the program would catch it."""
    attempts: list[Any] = []

    def guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
        def only_here(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
                attempts.append(address)
                raise OSError(f"a test may not reach the network: {address}")
            return connect(self, address)

        return only_here

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    yield
    assert not attempts, f"the test reached for the network: {attempts}"


def _is_here(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four photographs as PNG files, by name; three of them lie in scikit-image's wheel, one in scikit-learn's."""
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_image

    folder = tmp_path_factory.mktemp("photographs")
    pixels = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee")}
    pixels["china"] = load_sample_image("china.jpg")
    for name, picture in pixels.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in pixels}


@pytest.fixture(scope="session")
def photograph(photographs: dict[str, Path]) -> Path:
    """One photograph, 400 by 600 pixels."""
    return photographs["coffee"]


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The folder of the embedded checkpoint."""
    return ROOT / "checkpoints" / "pocket"


@pytest.fixture(scope="session")
def quick_checkpoint(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint for tests of the road, not of the picture: the pocket, small, with another VAE.

    Its videos have 64 by 64 pixels, and its VAE random weights and so few of them that a decode takes no time. Scaled
    by 4.8, its latents spread as those that the transformer knows.
    """
    import torch
    from diffusers import AutoencoderKLHunyuanVideo

    folder = tmp_path_factory.mktemp("checkpoints") / "quick"
    shutil.copytree(pocket, folder, ignore=shutil.ignore_patterns("vae"))
    described = json.loads((folder / "framepack.json").read_text(encoding="utf-8"))
    (folder / "framepack.json").write_text(json.dumps({**described, "buckets": [[64, 64]]}), encoding="utf-8")
    config = AutoencoderKLHunyuanVideo.load_config(pocket / "vae")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLHunyuanVideo.from_config({**config, "block_out_channels": [4] * 4, "scaling_factor": 4.8})
    vae.half().save_pretrained(folder / "vae")
    return folder


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """``mounted("64k")`` -> the folder of a real file system of that size. Skips where mounting is not allowed."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not mount or not umount:
        pytest.skip("mounting a small file system needs root on Linux")
    folders: list[Path] = []

    def make(size: str) -> Path:
        folder = tmp_path / f"disk_{size}"
        folder.mkdir()
        if subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=False).returncode:
            pytest.skip("mounting is not allowed here")
        folders.append(folder)
        return folder

    yield make
    for folder in folders:
        subprocess.run([umount, str(folder)], check=True)


@pytest.fixture
def small_disk(mounted: Callable[[str], Path]) -> Path:
    """A real file system of 64 kB."""
    return mounted("64k")


@pytest.fixture
def nothing_compiled() -> Iterator[None]:
    """Neither before the test nor after it, and nothing is counted yet."""
    import torch
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured as for the compiler, and then run as they are: the compiler itself takes half a minute."""
    from torch import nn

    compile_module = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda module, **options: compile_module(module, backend="eager", **options)
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """One that costs nothing: of a single colour."""
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "teal").save(path)
    return path
