"""What is said arrives: in any encoding, on a closed stream, and with nobody at the other end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper import cli
from diffusers_helper.doctor import Fact, Report, render
from diffusers_helper.events import Notice
from diffusers_helper.show import JsonLines, ProgressBars
from diffusers_helper.streams import flush_streams, prepare_streams

from . import program

ENCODINGS = (
    "ascii", "latin-1", "cp932", "cp1252", "cp437", "gbk", "big5", "koi8-r", "euc_kr", "utf-8", "utf-16", "shift_jis",
    "iso8859-15",
)  # fmt: skip
TEXT = "π 日本 🎥 é caf\udce9 ½ ✓ \u2028 ي"

each_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


def spoken(monkeypatch: pytest.MonkeyPatch, encoding: str) -> dict[str, io.BytesIO]:
    """From now on, the bytes of stdout and stderr in that encoding."""
    written = {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
    for name, raw in written.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True))
    prepare_streams()
    return written


@each_encoding
def test_json_is_the_same_in_every_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    told = spoken(monkeypatch, encoding)
    JsonLines().event(Notice(message=TEXT))
    line = told["stdout"].getvalue().decode(encoding)
    assert line.isascii()
    assert json.loads(line) == Notice(message=TEXT).as_dict()


@each_encoding
def test_sentences_and_reports_are_told_in_every_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    told = spoken(monkeypatch, encoding)
    ProgressBars().event(Notice(message=TEXT))
    print(render(Report((Fact("folder", TEXT, TEXT, fix=TEXT),))))  # noqa: T201
    flush_streams()
    for stream in told.values():
        assert "caf\\udce9" in stream.getvalue().decode(encoding)


@pytest.mark.parametrize("name", ["é", "日本", "🎥", "π", "Ω", "я", "ي", "한", "½", "caf\udce9"], ids=ascii)
def test_where_python_takes_names_for_ascii_every_name_and_prompt_is_taken(tmp_path: Path, name: str) -> None:
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(program.ROOT), "PATH": os.environ["PATH"]}
    prompt = name if name.isprintable() else "a cat"
    words = ("generate", "--json", "--image", "x", "--prompt", prompt, "--out", f"{name}.avi")
    done = subprocess.run(program.command(*words), env=variables, cwd=tmp_path, capture_output=True, check=False)
    (event,) = program.parsed(done.stdout.decode("ascii"))
    assert done.returncode == 2
    assert event["error"].startswith(f"--out: {name}.avi is not the name of a .mp4 file")


def unheard(*arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
    """The program, whose output goes into a pipe that nobody reads; ``streams`` as Popen takes them."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.Popen(
            arguments, cwd=program.ROOT, **{"stdout": writing, "stderr": subprocess.PIPE, **streams}
        )
    finally:
        os.close(writing)


PAGE = (sys.executable, "demo_gradio.py")
SHORT = {
    "a refusal": program.command("generate", "--json"),
    "a refusal of other bytes": program.command("generate", "--json", "--image", "\udcff.png", "--out", "\udcff.avi"),
    "a refused setting": program.command("generate", "--json", "--log-level", "loud"),
    "a refused download": program.command("download", "--json", "nothing"),
    "help": program.command("--help"),
    "help on a command": program.command("generate", "--help"),
    "the version": program.command("--version"),
    "the page's help": [*PAGE, "--help"],
    "the page's version": [*PAGE, "--version"],
}


@pytest.mark.parametrize("what", SHORT)
def test_nobody_reads_what_is_said_and_it_ends_quietly(what: str) -> None:
    process = unheard(*SHORT[what])
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, cli.INTERRUPTED)
    assert said == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("what", SHORT)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_told_in_a_sentence(what: str, unbuffered: str) -> None:
    variables = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        told = {"stdout": full, "stderr": subprocess.PIPE}
        done = subprocess.run(SHORT[what], cwd=program.ROOT, env=variables, **told, check=False, timeout=60, text=True)
        deaf = subprocess.run(SHORT[what], cwd=program.ROOT, env=variables, stdout=full, stderr=full, check=False)
    assert (done.returncode, deaf.returncode) == (1, 1)
    assert done.stderr == "error: stdout, stderr or a file cannot be written or read: No space left on device\n"


@pytest.mark.parametrize("what", ["a refusal", "a refusal of other bytes", "the version", "the page's help"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_code(what: str, closed: str) -> None:
    command = ["bash", "-c", f'"$@" {closed}', "-", *SHORT[what]]
    done = subprocess.run(command, cwd=program.ROOT, capture_output=True, check=False, timeout=60)
    assert done.returncode == (2 if "refus" in what else 0)
    assert b"Traceback" not in done.stdout + done.stderr
