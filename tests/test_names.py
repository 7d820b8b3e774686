"""Names of any bytes: what a user writes becomes a path or a refusal in words, and finds its file again."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper import settings, workfolder
from diffusers_helper.errors import (
    FramePackError,
    InvalidRequest,
    InvalidSetting,
    OutputFailed,
    UnusableCheckpoint,
    UnusableResumeFolder,
)
from diffusers_helper.events import Failed, Finished, Started
from diffusers_helper.generate import generate, resume
from diffusers_helper.jobs.checkpoints import Checkpoints
from diffusers_helper.jobs.queue import JobQueue
from diffusers_helper.jobs.store import open_store
from diffusers_helper.media.metadata import strict_object
from diffusers_helper.media.video import probe
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.names import is_text, path_of, quoted, shell_word, shown
from diffusers_helper.presets import PresetStore, checked_values, clean_name
from diffusers_helper.request import Request
from diffusers_helper.request.migrate import as_present
from diffusers_helper.workfolder import WorkFolder

from .jobs_support import ScriptedExecutor, ended, make_picture, make_request, working
from .parity.engine import PackEngine

OTHER_BYTES = (
    b"\xff", b"caf\xe9", b"\xe4\xf6\xfc", b"\x83t\x83@\x83C\x83\x8b", b"\xd6\xd0\xce\xc4", b"a\x80b", b"\xc3",
    b"\xed\xa0\x80",
    b"\xf5\xf5", b"\xc0\xaf", b"\xfe\xfe\xff\xff", b"\xe2\x82 \xac", b"ok-\xc3\xa9-\xe9",
)  # fmt: skip
"""Latin-1, Shift JIS, GBK, cut off, overlong, a surrogate's half in UTF-8, and text beside other bytes."""

each_name = pytest.mark.parametrize("name", [os.fsdecode(name) for name in OTHER_BYTES], ids=ascii)


@each_name
def test_a_video_is_made_and_gone_on_with_in_a_folder_of_other_bytes(tmp_path: Path, name: str) -> None:
    here = tmp_path / name
    here.mkdir()
    asked = make_request(make_picture(here).rename(here / f"{name}.png"), seconds=3.6)
    result, latents = here / f"{name}.mp4", here / f"{name}.safetensors"
    engine = PackEngine("run_i2v")
    told = generate(asked, engine, here / "out", result, latents)
    broken_off = next(event for event in told if event.event == "section_done")
    told.close()  # type: ignore[attr-defined]
    folder = Path(json.loads(broken_off.to_json())["path"]).parent
    started, *_, last = resume(folder, engine)
    assert isinstance(started, Started)
    assert started.sections_done == 1
    assert isinstance(last, Finished)
    assert probe(result).frames == last.frames
    assert latents.is_file()
    assert last.to_json().isascii()


@pytest.mark.parametrize(
    "failure",
    [
        OutputFailed("full"), OSError("disk"), UnicodeEncodeError("utf-8", "\udcff", 0, 1, "x"), ValueError(),
        TypeError(), KeyError(), RuntimeError(), MemoryError(), RecursionError(), KeyboardInterrupt(),
    ],
    ids=repr,
)  # fmt: skip
def test_whatever_keeps_a_work_folder_from_being_made_leaves_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(workfolder, "write_png", fail)
    out = tmp_path / "out"
    with pytest.raises(type(failure)):
        generate(make_request(make_picture(tmp_path)), PackEngine("run_i2v"), out)
    assert [path for path in out.rglob("*") if path.is_file() or path.name.count("_")] == []


@each_name
def test_a_queue_in_a_folder_of_other_bytes_is_the_same_after_a_start(tmp_path: Path, name: str) -> None:
    queue = JobQueue(tmp_path / name)
    asked = make_request(make_picture(tmp_path).rename(tmp_path / f"{name}.png"))
    with working(queue, ScriptedExecutor(tmp_path / name)):
        job = ended(queue, queue.add(asked).id)
    queue.close()
    store, notices = open_store(tmp_path / name / ".framepack")
    assert notices == ()
    (kept,), _ = store.read()
    store.close()
    assert (kept.state, kept.request, kept.progress) == ("done", job.request, job.progress)
    assert Path(kept.request.shown_picture).is_file()
    assert probe(Path(kept.progress.video or "")).frames == kept.progress.frames


@each_name
def test_a_request_keeps_the_name_of_its_picture(name: str) -> None:
    asked = Request.parse({"picture": name})
    assert asked.to_json().isascii()
    assert Request.from_json(asked.to_json()) == asked
    assert os.fsencode(Request.from_json(asked.to_json()).shown_picture) == os.fsencode(name)


@each_name
def test_a_name_is_shown_without_what_no_encoder_takes(name: str) -> None:
    assert not is_text(Path(name))
    shown(name).encode("utf-8")
    assert "\\x" in shown(name)


@pytest.mark.parametrize("name", ["a", "é", "日本", "a b", "🎥", "\\xff", "ä/ö", "'", "\n", "%FF"])
def test_a_name_of_text_is_shown_as_it_is(name: str) -> None:
    assert is_text(Path(name))
    assert shown(Path(name)) == name


@each_name
def test_a_checkpoint_cannot_lie_in_a_folder_of_other_bytes(tmp_path: Path, pocket: Path, name: str) -> None:
    (tmp_path / name).symlink_to(pocket)
    with pytest.raises(UnusableCheckpoint, match="not UTF-8"):
        find_checkpoint("framepack", tmp_path / name)
    (tmp_path / "copy" / name).mkdir(parents=True)
    with pytest.raises(UnusableCheckpoint, match="not UTF-8"):
        find_checkpoint(str(tmp_path / "copy" / name), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *map(os.fsdecode, OTHER_BYTES),
        "a b",
        "it's",
        "$HOME",
        "`x`",
        "a'\udcff",
        "\\\udcff",
        "\udce41",
        "\n\udcff",
        '"\udcff"',
    ],
    ids=ascii,
)
def test_a_shell_reads_the_folder_to_go_on_from(name: str) -> None:
    command = ["bash", "-c", f"printf %s {shell_word(name)}"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == os.fsencode(name)


UNUSABLE = {
    "x" * 256: "too long", "x" * 300 + ".mp4": "too long", "é" * 128: "too long", "a/" * 2100: "too long",
    "x" * 10_000: "too long", "~nosuchuser": "no home folder ~nosuchuser", "~nosuchuser/a.png": "no home folder",
    "~no such/a": "no home folder", "": "give the path", "   ": "give the path", "a\0b": "give the path",
    "日" * 86: "too long", "x" * 255 + "\udcff": "too long",
}  # fmt: skip


@pytest.mark.parametrize("text", UNUSABLE, ids=lambda text: ascii(text[:12]))
def test_what_no_file_can_be_called_is_refused_in_a_short_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=UNUSABLE[text]):
        path_of(text)
    for variable in ("FRAMEPACK_OUTPUT_DIR", "HF_HOME", "FRAMEPACK_CHECKPOINT"):
        if text:
            with pytest.raises(InvalidSetting, match=UNUSABLE[text]) as refusal:
                settings.resolve({}, {variable: text}, Path("nowhere.json"))
            assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "text", ["x" * 255, "é" * 127, "日" * 85, "no/such/folder", "a~b", "./~nosuchuser", "-", ".", "~"]
)
def test_what_a_file_can_be_called_is_taken(text: str) -> None:
    place = Path.home() if text == "~" else Path(text)
    assert path_of(text) == place
    assert settings.resolve({"output_dir": text}, {}, Path("nowhere.json")).paths.output_dir == place


def test_a_long_value_is_quoted_in_part() -> None:
    assert quoted("short") == "'short'"
    assert quoted("x" * 1000).endswith("... (1000 characters)")
    assert len(quoted("\udcff" * 1000)) < 100


LONG = "x" * 1000


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: Request.parse({"picture": "x", "kind": LONG}),
        lambda: settings.resolve({"log_level": LONG}, {}, Path("nowhere.json")),
        lambda: find_checkpoint(LONG, Path()),
        lambda: Checkpoints(partial(find_checkpoint, models_dir=Path()), "pocket", Path("nowhere")).named(LONG),
        lambda: PresetStore(Path("nowhere")).load(LONG),
        lambda: checked_values({LONG: 1}),
        lambda: clean_name(LONG),
        lambda: strict_object(json.dumps({LONG: 1})[:-1] + "," + json.dumps({LONG: 2})[1:]),
        lambda: as_present({"schema_version": LONG}),
    ],
)
def test_so_it_is_in_every_refusal(refuse: Callable[[], Any]) -> None:
    with pytest.raises((FramePackError, ValueError), match=r"'x{56}\.\.\. \(1000 characters\)"):
        refuse()


@pytest.mark.parametrize(
    "content", [b"\xff", b"[" * 100_000, b"[]", b'{"a": "\\udcff"}', b"\xef\xbb\xbf{}", b"null", b""]
)
def test_a_job_file_that_is_none_is_called_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "job.json").write_bytes(content)
    with pytest.raises(UnusableResumeFolder, match="is damaged"):
        WorkFolder.reopen(tmp_path)


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_prompt_of_other_bytes_is_refused_and_says_why(field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{field}: .* give a text in UTF-8"):
        Request.parse({"picture": "x", field: "caf\udce9"})


@pytest.mark.parametrize("text", [*map(os.fsdecode, OTHER_BYTES), "é", "日本", "\n", '"', "\u2028"], ids=ascii)
def test_an_event_is_one_line_of_ascii(text: str) -> None:
    line = Failed(error=text, exit_code=1, folder=text).to_json()
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["folder"] == text
