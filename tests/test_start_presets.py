"""The presets of `start.sh`: what the page's settings come to."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from diffusers_helper.errors import InvalidSetting
from diffusers_helper.models.table import CHECKPOINTS, repository_folder
from diffusers_helper.settings import PageSettings, resolve_page

from .conftest import ROOT
from .installation import Installation, installed_copy

TELL_VARIABLES = "import json, os; print(json.dumps(dict(os.environ)))"
GPU = "echo 'GPU 0: NVIDIA Something (UUID: GPU-1)'"
TORCH = "class version: cuda = '13.0'\nclass cuda: is_available = bool(1).__bool__"
STANDARD = {
    "use_bnb": True, "bnb_load_in_4bit": True, "bnb_cpu_offload": True, "xformers_mode": "standard",
    "use_memory_v2": True, "fast_start": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def told_once(once_installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what ``telling`` is; to be copied, with our package compiled."""
    here = installed_copy(once_installed, tmp_path_factory.mktemp("telling") / "first")
    (here.home / "demo_gradio.py").write_text(TELL_VARIABLES)
    here.tool("nvidia-smi", GPU)
    stamp = here.home / ".venv" / "installed-run"
    stamp.write_text(stamp.read_text().replace("cpu", "cuda", 1))
    site = next((here.home / ".venv" / "lib").glob("python*/site-packages"))
    (site / "torch.py").write_text(TORCH)
    for needed in ("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions"):
        place = Path(str(find_spec(needed).origin))  # type: ignore[union-attr]
        place = place.parent if place.name == "__init__.py" else place
        (site / place.name).symlink_to(place)
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "diffusers_helper", here.home / "diffusers_helper", ignore=without, dirs_exist_ok=True)
    (here.home / "requirements-optional.txt").write_text("# why\nbitsandbytes==1.0\nxformers==1.0\nmcp==1.0\n")
    here.wheel("bitsandbytes", "1.0")
    here.wheel("xformers", "1.0", "import sys; sys.modules['xformers.ops'] = sys")
    download(here, "framepack")
    resolved(here)
    return here.home.parent


@pytest.fixture
def telling(told_once: Path, tmp_path: Path) -> Installation:
    """The page tells its variables; there is a GPU, with a PyTorch, packages and a downloaded checkpoint for it."""
    return installed_copy(told_once, tmp_path / "telling")


@pytest.fixture(scope="module")
def equipped_once(told_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = installed_copy(told_once, tmp_path_factory.mktemp("equipped") / "first")
    resolved(here, "standard")
    return here.home.parent


@pytest.fixture
def equipped(equipped_once: Path, tmp_path: Path) -> Installation:
    """The same, after a start that has brought the optional packages."""
    return installed_copy(equipped_once, tmp_path / "equipped")


def download(here: Installation, name: str) -> None:
    """Every file that a part needs, all empty."""
    for part, source in CHECKPOINTS[name].sources.items():
        repository = repository_folder(here.home / "hf_download", source.repository)
        folder = repository / "snapshots" / "abc" / source.subfolder
        for place in (repository / "refs", folder):
            place.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text("abc")
        stem = "diffusion_pytorch_model" if part in ("transformer", "vae") else "model"
        for file in ("config.json", f"{stem}.safetensors", "tokenizer.json", "preprocessor_config.json"):
            (folder / file).touch()


def transformer_of(here: Installation, name: str) -> Path:
    folder = repository_folder(here.home / "hf_download", CHECKPOINTS[name].sources["transformer"].repository)
    return folder / "snapshots" / "abc" / "diffusion_pytorch_model.safetensors"


def resolved(here: Installation, *words: str) -> tuple[PageSettings, str]:
    """What the page's settings come to, and what was said."""
    done = here.start(*words)
    assert done.returncode == 0, done.stderr
    return resolve_page({}, json.loads(done.stdout), Path("nowhere.json")), done.stderr


def on(chosen: PageSettings, name: str) -> bool:
    """Whether a knob or an older name of one was given as true."""
    return chosen.given[name] == "True"


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
        ("quality", {"checkpoint": "framepack", "default_decoding": "quality", "enable_tensorrt": False}),
        ("tensorrt", {"checkpoint": "framepack", "default_decoding": "", "enable_tensorrt": True}),
    ],
)
def test_what_every_preset_comes_to(equipped: Installation, preset: str, expected: dict[str, object]) -> None:
    chosen, said = resolved(equipped, preset)
    assert {name: chosen.given[name] for name in expected} == {name: str(value) for name, value in expected.items()}
    assert "an NVIDIA GPU and a downloaded framepack" in said or preset == "pocket"


def test_a_preset_installs_what_it_uses_once(telling: Installation) -> None:
    """Which presets use it, the test above shows."""
    said = resolved(telling, "standard")[1]
    assert [telling.installed(name) for name in ("bitsandbytes", "xformers", "torch")] == ["1.0", "1.0", "1.0"]
    assert "bitsandbytes==1.0 comes too" in said
    again = resolved(telling, "standard")[1]
    assert "bitsandbytes" not in again
    assert "xformers" not in again


def test_a_changed_pin_is_installed(equipped: Installation) -> None:
    equipped.wheel("bitsandbytes", "2.0")
    pins = equipped.home / "requirements-optional.txt"
    pins.write_text(pins.read_text().replace("bitsandbytes==1.0", "bitsandbytes==2.0"))
    resolved(equipped, "standard")
    assert (equipped.installed("bitsandbytes"), equipped.installed("xformers")) == ("2.0", "1.0")


@pytest.mark.parametrize("package", ["bitsandbytes", "xformers"])
def test_what_cannot_be_installed_is_said_and_tried_again(telling: Installation, package: str) -> None:
    wheel = telling.wheels / f"{package}-1.0-py3-none-any.whl"
    wheel.rename(telling.tools / wheel.name)
    chosen, said = resolved(telling, "standard")
    assert (on(chosen, "use_bnb"), chosen.given["xformers_mode"] == "standard") == (
        package != "bitsandbytes",
        package != "xformers",
    )
    assert ("bitsandbytes cannot be installed now: weights that do not fit are kept in int8" in said) != on(
        chosen, "use_bnb"
    )
    assert ("PyTorch's own attention is used instead" in said) == (package == "xformers")
    (telling.tools / wheel.name).rename(wheel)
    chosen, _ = resolved(telling, "standard")
    assert (on(chosen, "use_bnb"), chosen.given["xformers_mode"]) == (True, "standard")


@pytest.mark.parametrize("package", ["bitsandbytes", "xformers"])
def test_a_package_that_is_broken_does_not_stay(telling: Installation, package: str) -> None:
    """Other packages import it whether it is wanted or not."""
    telling.wheel(package, "1.0", "raise OSError('libcudart.so.12: no such file')")
    chosen, said = resolved(telling, "standard")
    assert (on(chosen, "use_bnb"), chosen.given["xformers_mode"] == "standard") == (
        package != "bitsandbytes",
        package != "xformers",
    )
    assert "libcudart.so.12" in said
    with pytest.raises(subprocess.CalledProcessError):
        telling.installed(package)


@pytest.mark.parametrize("how", ["1", "ON", "flag"])
def test_offline_nothing_is_installed_and_the_page_starts(telling: Installation, how: str) -> None:
    if how != "flag":
        telling.variables = {"HF_HUB_OFFLINE": how}
    chosen, said = resolved(telling, "standard", *(["--offline"] if how == "flag" else []))
    assert (on(chosen, "use_bnb"), on(chosen, "bnb_load_in_4bit"), chosen.given["xformers_mode"]) == (
        False,
        False,
        "off",
    )
    assert "bitsandbytes cannot be installed now" in said


def test_what_is_installed_serves_offline(equipped: Installation) -> None:
    equipped.variables = {"HF_HUB_OFFLINE": "true"}
    assert on(resolved(equipped, "standard")[0], "use_bnb")


def test_xformers_comes_from_the_index_of_pytorchs_cuda(telling: Installation) -> None:
    site = next((telling.home / ".venv" / "lib").glob("python*/site-packages"))
    pip = site / "pip"
    shutil.rmtree(pip)
    pip.mkdir()
    (pip / "__main__.py").write_text("import sys; print('pip', *sys.argv[1:])")
    for name in ("bitsandbytes", "xformers"):
        (site / f"{name}.py").write_text("import sys; sys.modules['xformers.ops'] = sys")
    said = resolved(telling, "standard")[1]
    assert "--index-url https://download.pytorch.org/whl/cu130 xformers==1.0" in said
    assert "--no-deps --retries 1 --timeout 15 bitsandbytes==1.0" in said


def test_a_pytorch_of_unknown_cuda_gets_no_xformers(telling: Installation) -> None:
    site = next((telling.home / ".venv" / "lib").glob("python*/site-packages"))
    (site / "torch.py").write_text(TORCH.replace("'13.0'", "None"))
    chosen, said = resolved(telling, "standard")
    assert (on(chosen, "use_bnb"), chosen.given["xformers_mode"]) == (True, "off")
    assert "or not for this PyTorch" in said


@pytest.mark.parametrize(
    ("preset", "hidden"),
    [
        ("standard", {}), ("16gb", {}), ("low-ram", {}),
        ("standard", {"CUDA_VISIBLE_DEVICES": ""}), ("standard", {"CUDA_VISIBLE_DEVICES": "-1"}),
    ],
)  # fmt: skip
def test_without_a_gpu_the_presets_start_and_say_what_is_left_out(
    telling: Installation, preset: str, hidden: dict[str, str]
) -> None:
    telling.variables = hidden
    if not hidden:
        telling.tool("nvidia-smi", "exit 9")
    chosen, said = resolved(telling, preset)
    assert (chosen.paths.checkpoint, on(chosen, "fast_start")) == ("pocket", True)
    without = ("use_bnb", "bnb_load_in_4bit", "use_memory_v2", "small_host_copy")
    assert not any(on(chosen, name) for name in without)
    assert "max_split_size" not in chosen.memory.cuda_alloc_conf
    assert (chosen.given["xformers_mode"], chosen.memory.least_preserved_gb) == ("off", 6.0)
    assert f"of {preset} only the quick start is left" in said


@pytest.mark.parametrize("preset", ["auto", "standard"])
def test_a_gpu_that_pytorch_cannot_use_is_none(telling: Installation, preset: str) -> None:
    """The driver shows it, and is too old for PyTorch."""
    (torch,) = (telling.home / ".venv").rglob("site-packages/torch.py")
    torch.write_text(TORCH.replace("bool(1)", "bool(0)"))
    chosen, said = resolved(telling, preset)
    assert (chosen.paths.checkpoint, on(chosen, "use_bnb")) == ("pocket", False)
    assert "PyTorch cannot use, so the pocket; most often its driver is older than 580" in said


def test_a_checkpoint_that_is_not_complete_is_not_taken(telling: Installation) -> None:
    transformer_of(telling, "framepack").unlink()
    chosen, said = resolved(telling)
    assert chosen.paths.checkpoint == "pocket"
    assert "framepack is not complete" in said
    assert "'bash start.sh download framepack' fetches the rest" in said
    download(telling, "framepack-f1")
    assert resolved(telling)[0].paths.checkpoint == "framepack-f1"


@pytest.mark.parametrize("how", ["flag", "variable", "file"])
def test_checkpoints_are_looked_for_where_the_program_looks(telling: Installation, how: str, tmp_path: Path) -> None:
    (telling.home / "hf_download").rename(tmp_path / "elsewhere")
    words: list[str] = []
    if how == "flag":
        words = ["--models-dir", str(tmp_path / "elsewhere")]
    elif how == "variable":
        telling.variables = {"HF_HOME": str(tmp_path / "elsewhere")}
    else:
        (telling.home / "settings.json").write_text(json.dumps({"models_dir": str(tmp_path / "elsewhere")}))
    assert resolved(telling, "auto", *words)[0].paths.checkpoint == "framepack"


def test_a_bad_setting_is_left_to_the_program(telling: Installation) -> None:
    telling.variables = {"FRAMEPACK_USE_BNB": "perhaps"}
    done = telling.start("auto")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    with pytest.raises(InvalidSetting, match="FRAMEPACK_USE_BNB='perhaps'"):
        resolve_page({}, json.loads(done.stdout), Path("nowhere.json"))


def test_without_a_word_it_is_auto(telling: Installation) -> None:
    assert resolved(telling)[0].paths.checkpoint == "framepack"
    shutil.rmtree(telling.home / "hf_download")
    chosen, said = resolved(telling)
    assert chosen.paths.checkpoint == "pocket"
    assert "download framepack" in said


def test_without_a_gpu_auto_is_the_pocket(ready: Installation) -> None:
    (ready.home / "demo_gradio.py").write_text(TELL_VARIABLES)
    chosen, said = resolved(ready, "auto")
    assert chosen.paths.checkpoint == "pocket"
    assert "no NVIDIA GPU" in said


def test_a_variable_goes_before_a_preset(equipped: Installation) -> None:
    equipped.variables = {"FRAMEPACK_CHECKPOINT": "framepack-f1", "FRAMEPACK_BNB_LOAD_IN_4BIT": "0"}
    chosen, _ = resolved(equipped, "16gb")
    assert (chosen.paths.checkpoint, on(chosen, "bnb_load_in_4bit"), on(chosen, "use_bnb")) == (
        "framepack-f1",
        False,
        True,
    )


def test_sharing_sets_a_new_password_and_prints_it(telling: Installation) -> None:
    first, said = resolved(telling, "share")
    second, _ = resolved(telling, "share")
    assert first.page.auth is not None
    assert second.page.auth is not None
    assert len(first.page.auth[1]) >= 16
    assert first.page.auth[1] != second.page.auth[1]
    assert f"user framepack, password {first.page.auth[1]}" in said
    telling.variables = {"FRAMEPACK_AUTH": "me:mine"}
    mine, said = resolved(telling, "share")
    assert mine.page.auth == ("me", "mine")
    assert "mine" not in said


def test_flags_follow_a_preset(ready: Installation) -> None:
    done = ready.start("pocket", "--port", "8000")
    assert done.stdout.strip() == "the page ['--port', '8000'] __main__"
