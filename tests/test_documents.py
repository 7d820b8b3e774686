"""The documents keep their word: commands parse, flags exist, files and links are there, tables tell what code does."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterator

import pytest

import demo_gradio
from diffusers_helper import cli
from diffusers_helper.events import Started
from diffusers_helper.models.table import CHECKPOINTS, FRAMEPACK_BUCKETS
from diffusers_helper.settings import KNOBS
from diffusers_helper.show import _sentence
from tests.plans import plan_video

from .conftest import ROOT

PACKAGE = ROOT / "diffusers_helper"
DOCUMENTS = {str(path.relative_to(ROOT)): path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]}
PROMISED = {"README", "QUICKSTART", "INSTALL", "FAQ", "OPTIMIZATIONS", "CHANGELOG", "CONTRIBUTING", "docs/ARCHITECTURE"}
LATER = "## What comes later"
FOLDERS = ("diffusers_helper/", "tests/", "tools/", "bench/", "docs/", "checkpoints/")
SUFFIXES = (".py", ".md", ".sh", ".toml", ".txt")
PRESETS = ("auto", "pocket", "standard", "16gb", "low-ram", "quality", "tensorrt", "share")
MADE_BY_USE = ("outputs/",)
FLAG = r"(?<![\w-])--[a-z][a-z0-9-]*"

each_document = pytest.mark.parametrize("name", sorted(DOCUMENTS))


def text_of(name: str) -> str:
    return DOCUMENTS[name].read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), re.DOTALL | re.MULTILINE)


def in_code(text: str) -> list[str]:
    """What stands between single backticks outside fenced blocks, one word each."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [word for code in re.findall(r"`([^`]+)`", prose) for word in code.split()]


def files_named(text: str) -> set[str]:
    """The words in code that name a file or folder of this repository."""
    return {
        word
        for word in in_code(text)
        if word.startswith(FOLDERS) or word.endswith(SUFFIXES) or (word.endswith("/") and word not in MADE_BY_USE)
    }


def exists(named: str) -> bool:
    """From the root or from the package; a bare file name may stand anywhere in the package."""
    bare = "/" not in named and any(PACKAGE.rglob(named))
    return bare or (ROOT / named).exists() or (PACKAGE / named).exists()


def commands() -> Iterator[tuple[str, str]]:
    """(document, command line) for all fenced bash blocks."""
    for name in sorted(DOCUMENTS):
        for block in blocks(name, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip():
                    yield name, line.strip()


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


def known_flags() -> set[str]:
    """The program's own, and those of the scripts in tools and bench."""
    programs = [*parsers(cli._parser()), demo_gradio._parser()]
    ours = {flag for parser in programs for action in parser._actions for flag in action.option_strings}
    scripts = [path for folder in ("tools", "bench") for path in (ROOT / folder).rglob("*.py")]
    sources = "".join(path.read_text(encoding="utf-8") for path in scripts)
    return ours | set(re.findall(r'"(--[a-z][a-z0-9-]*)"', sources))


def check_program(words: list[str]) -> None:
    """Words for start.sh or `python -m diffusers_helper` are taken by the real parser."""
    to_page = not words or words[0] in ("page", *PRESETS) or words[0].startswith("-")
    try:
        if to_page:
            demo_gradio._parser().parse_args(words[bool(words and words[0] in ("page", *PRESETS)) :])
        else:
            cli._parser().parse_args(words)
    except SystemExit as end:
        if end.code:
            pytest.fail(f"the program would refuse {words}")


def check_tests(words: list[str]) -> None:
    """Words for pytest: paths exist."""
    paths = [word for before, word in zip(["", *words], words, strict=False) if before != "-k" and word[0] != "-"]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def check_module(module: str, words: list[str]) -> None:
    """A script that is run with `python -m` is there and knows the flags."""
    file = ROOT / f"{module.replace('.', '/')}.py"
    assert file.is_file(), f"{module} does not exist"
    source = file.read_text(encoding="utf-8")
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


def test_all_promised_documents_are_there() -> None:
    assert {f"{name}.md" for name in PROMISED} <= set(DOCUMENTS)
    assert (ROOT / "LICENSE").is_file()


@pytest.mark.parametrize(("document", "line"), list(commands()))
def test_commands_are_understood(document: str, line: str) -> None:
    words = shlex.split(line)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    match words:
        case ["bash", "start.sh", "test", *rest]:
            check_tests(rest)
        case ["bash", "start.sh", *rest] | [".venv/bin/python", "-m", "diffusers_helper", *rest]:
            check_program(rest)
        case [".venv/bin/python", "-m", module, *rest]:
            check_module(module, rest)
        case _:
            pytest.fail(f"{document}: nobody checks the command {line!r}")


@each_document
def test_flags_exist(name: str) -> None:
    assert set(re.findall(FLAG, text_of(name))) - known_flags() == set()


@each_document
def test_modules_named_in_prose_exist(name: str) -> None:
    for module, rest in re.findall(r"`python -m ([\w.]+)([^`]*)`", text_of(name)):
        check_program(rest.split()) if module == "diffusers_helper" else check_module(module, rest.split())


@each_document
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(name))
    local = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in local if not (DOCUMENTS[name].parent / link).exists()] == []


@each_document
def test_files_that_are_named_exist(name: str) -> None:
    now = text_of(name).partition(LATER)[0]
    assert {named for named in files_named(now) if not exists(named)} == set()


@each_document
def test_tests_that_are_named_exist(name: str) -> None:
    named = {word for word in in_code(text_of(name)) if re.fullmatch(r"test_\w+", word)}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert {word for word in named if f"def {word}(" not in sources} == set()


def test_what_comes_later_is_not_here_yet() -> None:
    later = text_of("docs/ARCHITECTURE.md").partition(LATER)[2]
    places = re.findall(r"^\| `([^`]+)`", later, re.MULTILINE)
    assert [place for place in places if (ROOT / place).exists()] == []


def rooms() -> set[str]:
    """The modules and packages that lie directly in the package."""
    files = {path.name for path in PACKAGE.glob("[!_]*.py")}
    return files | {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}


def tree() -> list[str]:
    """The paths of the README's tree, from its indentation."""
    (block,) = [block for block in blocks("README.md", "text") if "diffusers_helper/" in block]
    paths, folder = [], ""
    for line in block.splitlines():
        name, indented = line.split()[0], line.startswith("  ")
        paths.append(folder + name if indented else name)
        if not indented:
            folder = name
    return paths


def test_the_readmes_tree_is_the_repository() -> None:
    assert [path for path in tree() if not (ROOT / path).exists()] == []
    assert {f"diffusers_helper/{room}" for room in rooms()} - set(tree()) == set()


def test_the_architecture_names_every_room() -> None:
    assert rooms() - set(in_code(text_of("docs/ARCHITECTURE.md"))) == set()


def test_the_table_of_lengths_is_the_plans() -> None:
    rows = re.findall(r"^\| (\d+) s \| (\d+) \| (\d+) \| ([\d.]+) s \|", text_of("FAQ.md"), re.MULTILINE)
    assert rows
    for asked, sections, frames, seconds in rows:
        for kind in ("framepack", "f1"):
            plan = plan_video(kind, float(asked), 9)
            assert (len(plan.sections), plan.frames) == (int(sections), int(frames))
            assert f"{plan.frames / 30:.1f}" == seconds


def test_the_sizes_are_the_checkpoints() -> None:
    pocket = json.loads((ROOT / "checkpoints" / "pocket" / "framepack.json").read_text(encoding="utf-8"))["buckets"]
    said = re.findall(r"\b(\d+)x(\d+)\b", text_of("FAQ.md"))
    assert sorted((int(height), int(width)) for width, height in said) == sorted(
        (height, width) for height, width in [*FRAMEPACK_BUCKETS, *pocket]
    )


def test_what_is_downloaded_is_named_with_its_size() -> None:
    text = text_of("INSTALL.md")
    for known in CHECKPOINTS.values():
        for source in known.sources.values():
            assert f"`{source.repository}`" in text
            assert f"{source.size_gb} GB" in text
        assert not known.sources or f"{known.size_gb:.1f} GB" in text


@pytest.mark.parametrize("name", ["FAQ.md", "QUICKSTART.md"])
def test_what_tells_folder_and_seed_is_named_by_its_words_not_by_its_place(name: str) -> None:
    told = Started(folder="FOLDER", seed=1, sections_done=0)
    assert _sentence(told).startswith("working in FOLDER (seed 1")
    assert "line `working in`" in text_of(name)
    assert f"event `{json.loads(told.to_json())['event']}`" in text_of(name)
    assert "first line" not in text_of(name), "a checkpoint's note may come before it"


def test_every_setting_is_in_the_table() -> None:
    for knob in KNOBS:
        variables = ", else ".join(f"`{name}`" for name in (knob.newer_variable, knob.variable) if name)
        assert f"| `{knob.flag}` | {variables} |" in text_of("INSTALL.md")
