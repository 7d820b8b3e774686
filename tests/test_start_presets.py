"""The presets of `start.sh`: what the page's settings come to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from diffusers_helper.settings import PageSettings, resolve_page

from .installation import Installation

TELL_VARIABLES = "import json, os; print(json.dumps(dict(os.environ)))"
GPU = "echo 'GPU 0: NVIDIA Something (UUID: GPU-1)'"
STANDARD = {
    "use_bnb": True, "bnb_load_in_4bit": True, "bnb_cpu_offload": True, "xformers_mode": "standard",
    "use_memory_v2": True, "fast_start": True,
}  # fmt: skip


@pytest.fixture
def telling(ready: Installation) -> Installation:
    """The page tells its variables; there is a GPU, a PyTorch for it, and a downloaded checkpoint."""
    (ready.home / "demo_gradio.py").write_text(TELL_VARIABLES)
    ready.tool("nvidia-smi", GPU)
    stamp = ready.home / ".venv" / "installed-run"
    stamp.write_text(stamp.read_text().replace("cpu", "cuda", 1))
    downloaded = ready.home / "hf_download/hub/models--lllyasviel--FramePackI2V_HY/refs"
    downloaded.mkdir(parents=True)
    (downloaded / "main").write_text("abc")
    return ready


def resolved(here: Installation, *words: str) -> tuple[PageSettings, str]:
    """What the page's settings come to, and what was said."""
    done = here.start(*words)
    assert done.returncode == 0, done.stderr
    return resolve_page({}, json.loads(done.stdout), Path("nowhere.json")), done.stderr


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("auto", {"checkpoint": "framepack", "quantise": "auto", "use_bnb": False, "share": False}),
        ("pocket", {"checkpoint": "pocket", "quantise": "auto", "use_bnb": False}),
        ("standard", {"checkpoint": "framepack", "least_preserved_gb": 6.0, "small_host_copy": False, **STANDARD}),
        ("16gb", {"checkpoint": "framepack", "least_preserved_gb": 8.0, **STANDARD}),
        (
            "low-ram",
            {
                "small_host_copy": True,
                "cuda_alloc_conf": "expandable_segments:True,max_split_size_mb:128",
                **STANDARD,
            },
        ),
        ("share", {"checkpoint": "framepack", "share": True, "use_bnb": False}),
    ],
)
def test_what_every_preset_comes_to(telling: Installation, preset: str, expected: dict[str, object]) -> None:
    chosen, said = resolved(telling, preset)
    assert {name: getattr(chosen, name) for name in expected} == expected
    assert "an NVIDIA GPU and a downloaded framepack" in said or preset == "pocket"


def test_without_a_word_it_is_auto(telling: Installation) -> None:
    assert resolved(telling)[0].checkpoint == "framepack"
    shutil.rmtree(telling.home / "hf_download")
    chosen, said = resolved(telling)
    assert chosen.checkpoint == "pocket"
    assert "download framepack" in said


def test_without_a_gpu_auto_is_the_pocket(ready: Installation) -> None:
    (ready.home / "demo_gradio.py").write_text(TELL_VARIABLES)
    chosen, said = resolved(ready, "auto")
    assert chosen.checkpoint == "pocket"
    assert "no NVIDIA GPU" in said


def test_a_variable_goes_before_a_preset(telling: Installation) -> None:
    telling.variables = {"FRAMEPACK_CHECKPOINT": "framepack-f1", "FRAMEPACK_BNB_LOAD_IN_4BIT": "0"}
    chosen, _ = resolved(telling, "16gb")
    assert (chosen.checkpoint, chosen.bnb_load_in_4bit, chosen.use_bnb) == ("framepack-f1", False, True)


def test_sharing_sets_a_new_password_and_prints_it(telling: Installation) -> None:
    first, said = resolved(telling, "share")
    second, _ = resolved(telling, "share")
    assert first.auth is not None
    assert second.auth is not None
    assert len(first.auth[1]) >= 16
    assert first.auth[1] != second.auth[1]
    assert f"user framepack, password {first.auth[1]}" in said
    telling.variables = {"FRAMEPACK_AUTH": "me:mine"}
    mine, said = resolved(telling, "share")
    assert mine.auth == ("me", "mine")
    assert "mine" not in said


def test_flags_follow_a_preset(ready: Installation) -> None:
    done = ready.start("pocket", "--port", "8000")
    assert done.stdout.strip() == "the page ['--port', '8000'] __main__"
