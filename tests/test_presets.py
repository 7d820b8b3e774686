"""Presets: what is saved comes back, any name is a name, and nothing strange gets in or out of the folder."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import OutputFailed, UnusableInput
from diffusers_helper.presets import LONGEST_NAME, PresetStore, file_name
from diffusers_helper.request import Recipe, Request
from diffusers_helper.request.fields import fields

from .conftest import ROOT

VALUES = {"steps": 30, "step_cache": "off", "prompt": 'a "wave" 🌊\nand more', "size": None, "real_cfg": 2}


@pytest.fixture
def store(tmp_path: Path) -> PresetStore:
    return PresetStore(tmp_path / "presets")


def names(store: PresetStore) -> list[str]:
    return [preset.name for preset in store.presets()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_saved_comes_back(store: PresetStore) -> None:
    assert store.presets() == []
    store.save("Slow pan", VALUES)
    again = PresetStore(store.folder).load("Slow pan")
    assert again.name == "Slow pan"
    assert again.values == VALUES
    assert store.problems() == []


CHOSEN = ("framepack", "auto", "mp4")


def test_a_whole_request_but_its_picture_can_be_kept(store: PresetStore) -> None:
    request = Request.parse({"picture": "/home/me/secret.png", "prompt": "p"})
    kept = store.save("all", request.recipe.flat()).values
    unchosen = {name for name, field in fields(Recipe).items() if field.option and field.option.name not in CHOSEN}
    assert set(kept) == set(fields(Recipe)) - unchosen
    assert "secret" not in store.export_text("all")
    assert Request.parse({**kept, "picture": request.shown_picture}) == request


HUMAN_NAMES = [
    "夜の海",
    "慢镜头 (高质量)",
    "Größe & Ähnliches",
    "سريع جداً",
    "👩\u200d🚀 pan",
    "CON",
    "nul.txt",
    "aux",
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\boot.ini",
    "C:\\x",
    "\\\\server\\share",
    "%2e%2e%2fx",
    ".",
    "..",
    ".startup",
    "a" * LONGEST_NAME,
    "夜" * LONGEST_NAME,
    "<script>alert(1)</script>",
    "name.json",
    "~",
    "$HOME `id`",
]


@pytest.mark.parametrize("name", HUMAN_NAMES)
def test_any_name_is_a_name_and_stays_in_the_folder(store: PresetStore, name: str) -> None:
    before = contents(store.folder.parent)
    store.save(name, {"steps": 7})
    assert store.load(name).values == {"steps": 7}
    assert names(store) == [name]
    (made,) = contents(store.folder.parent).keys() - before.keys()
    assert Path(made).parent == Path("presets")
    assert len(Path(made).name) < 60
    assert Path(made).name.isascii()
    store.remove(name)
    assert contents(store.folder.parent) == before


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "a\nb", "\x1b[31m", "a" * (LONGEST_NAME + 1), "\ud800", "\u200b"])
def test_what_nobody_can_read_is_no_name(store: PresetStore, name: str) -> None:
    with pytest.raises(UnusableInput, match="name"):
        store.save(name, {"steps": 7})
    with pytest.raises(UnusableInput, match="no preset"):
        store.load(name)
    assert contents(store.folder.parent) == {}


@pytest.mark.parametrize("name", ["safe\u202egnp.exe", "\u2066x"])
def test_a_name_cannot_turn_the_text_around_it(store: PresetStore, name: str) -> None:
    with pytest.raises(UnusableInput, match="not visible"):
        store.save(name, {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pan", "pAN"),
        ("é", unicodedata.normalize("NFD", "é")),
        ("STRASSE", "straße"),
        ("pan", "  pan "),
        ("pan", "ｐａｎ"),
    ],
)
def test_names_that_read_the_same_are_the_same(store: PresetStore, one: str, other: str) -> None:
    store.save(one, {"steps": 1})
    with pytest.raises(UnusableInput, match="already"):
        store.save(other, {"steps": 2})
    assert store.load(other).values == {"steps": 1}
    store.save(other, {"steps": 2}, replace=True)
    assert [preset.values for preset in store.presets()] == [{"steps": 2}]
    assert file_name(one) == file_name(other)


def test_rename_keeps_the_values_and_the_start_up_choice(store: PresetStore) -> None:
    store.save("one", {"steps": 1})
    store.save("two", {"steps": 2})
    store.choose_startup("one")
    store.rename("one", "夜")
    assert names(store) == ["two", "夜"]
    startup = store.startup()
    assert startup is not None
    assert startup.name == "夜"
    with pytest.raises(UnusableInput, match="already"):
        store.rename("夜", "TWO")
    store.rename("two", "Two")
    assert names(store) == ["Two", "夜"]
    assert len(contents(store.folder)) == 3


def test_the_start_up_preset(store: PresetStore) -> None:
    assert store.startup() is None
    store.save("one", {"steps": 1})
    store.choose_startup("ONE")
    assert PresetStore(store.folder).startup() == store.load("one")
    store.choose_startup(None)
    assert store.startup() is None
    store.choose_startup("one")
    store.remove("one")
    assert store.startup() is None
    store.save("one", {"steps": 3})
    assert store.startup() is None
    with pytest.raises(UnusableInput, match="no preset 'two'"):
        store.choose_startup("two")


def test_a_strange_start_up_file_is_no_choice(store: PresetStore) -> None:
    store.save("one", {})
    for content in (b"", b"\xff\xfe", b"../../etc/passwd", b"\0" * 1000):
        (store.folder / ".startup").write_bytes(content)
        assert store.startup() is None


def test_export_and_import_are_a_round_trip(store: PresetStore, tmp_path: Path) -> None:
    store.save("夜", VALUES)
    other = PresetStore(tmp_path / "other")
    assert other.import_text(store.export_text("夜")).name == "夜"
    assert other.load("夜") == store.load("夜")
    assert json.loads(store.export_text("夜"))["framepack_preset"] == 4


def test_an_import_never_replaces(store: PresetStore) -> None:
    store.save("pan", {"steps": 1})
    text = store.export_text("pan")
    assert [store.import_text(text).name for _ in range(2)] == ["pan (2)", "pan (3)"]
    long = {"framepack_preset": 1, "name": "x" * LONGEST_NAME, "values": {}}
    assert len({store.import_text(json.dumps(long)).name for _ in range(12)}) == 12


def preset(**changes: Any) -> str:
    return json.dumps({"framepack_preset": 1, "name": "x", "values": {"steps": 7}, **changes})


REFUSED = {
    "empty": ("", "not JSON"),
    "truncated": (preset()[:-9], "not JSON"),
    "a list": ("[1]", "no JSON object"),
    "foreign": ('{"prompt": "a cat", "steps": 20}', "another program"),
    "newer": (preset(framepack_preset=5), "newer version"),
    "strange version": (preset(framepack_preset=True), "version"),
    "version as text": (preset(framepack_preset="1"), "version"),
    "more keys": (preset(command="rm -rf /"), "nothing else"),
    "deep": ("[" * 100_000, "deep"),
    "deep values": ('{"framepack_preset": 1, "name": "x", "values": ' + '{"a":' * 50_000, "deep"),
    "huge": (preset(values={"prompt": "x" * 2_000_000}), "prompt"),
    "long number": ('{"framepack_preset": 1, "name": "x", "values": {"seed": ' + "9" * 5_000 + "}}", "preset"),
    "NaN": (preset(values={"seconds": float("nan")}), "nan is not allowed"),
    "infinity": (preset(values={"seconds": float("inf")}), "inf is not allowed"),
    "1e308": ('{"framepack_preset": 1, "name": "x", "values": {"seconds": 1e308}}', "seconds"),
    "1e999": ('{"framepack_preset": 1, "name": "x", "values": {"seconds": 1e999}}', "seconds"),
    "twice": ('{"framepack_preset": 1, "name": "x", "values": {"steps": 7, "steps": 8}}', "'steps' twice"),
    "name is a number": (preset(name=3), "name"),
    "name is nothing": (preset(name=None), "name"),
    "values are a list": (preset(values=[1, 2]), "object of fields"),
    "unknown field": (preset(values={"lora": "x"}), "'lora'"),
    "a picture": (preset(values={"picture": "/etc/passwd"}), "'pictures'"),
    "a schema": (preset(values={"schema_version": 1}), "'schema_version'"),
    "out of range": (preset(values={"steps": 1000}), "steps: 1000 is not allowed"),
    "wrong type": (preset(values={"teacache": "yes"}), "teacache"),
    "seed too large": (preset(values={"seed": 2**63}), "seed"),
    "text for a number": (preset(values={"seconds": "5"}), "seconds"),
    "truth for a number": (preset(values={"steps": True}), "steps"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_import_is_refused_whole_with_a_reason(store: PresetStore, case: str) -> None:
    text, reason = REFUSED[case]
    store.save("kept", {"steps": 1})
    before = contents(store.folder)
    with pytest.raises(UnusableInput, match=reason):
        store.import_text(text)
    assert contents(store.folder) == before


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_in_the_folder_is_told_and_hides_no_other(store: PresetStore, case: str) -> None:
    store.save("kept", {"steps": 1})
    (store.folder / "bad.json").write_text(REFUSED[case][0], encoding="utf-8")
    assert names(store) == ["kept"]
    (problem,) = store.problems()
    assert str(problem).startswith("bad.json: ")
    assert len(str(problem)) < 1000


def test_other_things_in_the_folder_are_not_followed(store: PresetStore, tmp_path: Path) -> None:
    store.save("kept", {"steps": 1})
    (tmp_path / "secret.json").write_text(preset(name="secret"), encoding="utf-8")
    (store.folder / "link.json").symlink_to(tmp_path / "secret.json")
    (store.folder / "folder.json").mkdir()
    (store.folder / "binary.json").write_bytes(b"\xff\xfe\0\0")
    (store.folder / "double.json").write_text(preset(name="KEPT"), encoding="utf-8")
    assert len(store.problems()) == 4
    assert len(names(store)) == 1


def test_a_file_that_cannot_be_read_is_not_written_over(store: PresetStore) -> None:
    store.folder.mkdir()
    newer = preset(framepack_preset=5, name="pan")
    (store.folder / file_name("pan")).write_text(newer, encoding="utf-8")
    with pytest.raises(UnusableInput, match="already"):
        store.save("pan", {"steps": 1})
    assert (store.folder / file_name("pan")).read_text(encoding="utf-8") == newer


def test_a_refused_value_leaves_the_older_preset(store: PresetStore) -> None:
    store.save("pan", {"steps": 1})
    with pytest.raises(UnusableInput, match=r"seconds: 999 .*\nsteps: 0 "):
        store.save("pan", {"steps": 0, "seconds": 999}, replace=True)
    assert store.load("pan").values == {"steps": 1}


def test_a_full_disk_leaves_the_older_preset(small_disk: Path) -> None:
    store = PresetStore(small_disk)
    store.save("pan", {"steps": 1})
    (small_disk / "filler").write_bytes(b"x" * 56_000)
    with pytest.raises(OutputFailed, match="the disk is full"):
        store.save("pan", {"prompt": "x" * 9_000}, replace=True)
    assert store.load("pan").values == {"steps": 1}


def test_an_output_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "outputs").touch()
    with pytest.raises(OutputFailed, match=r"^Could not make .+: Not a directory\. Choose another output folder\.$"):
        PresetStore(tmp_path / "outputs" / "presets").save("pan", {"steps": 1})


def test_needs_no_torch_and_no_gradio() -> None:
    refused = "".join(f"sys.modules[{name!r}] = None; " for name in ("torch", "diffusers", "transformers", "gradio"))
    program = f"import sys; {refused}import diffusers_helper.presets, diffusers_helper.recall"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_odd_file_among_the_presets_costs_the_others_nothing(store: PresetStore) -> None:
    store.save("Slow pan", VALUES)
    odd = json.dumps({"framepack_preset": 2, "name": "odd", "values": {"kind": {"name": "\ud800"}}})
    (store.folder / "odd.json").write_text(odd)
    assert [preset.name for preset in store.presets()] == ["Slow pan"]
    assert len(store.problems()) == 1
