"""Fetching a checkpoint from a hub of our own: whole, broken off, refused, damaged, cancelled, with too little disk."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from diffusers_helper.cli import main
from diffusers_helper.errors import AlreadyRunning, OutputFailed, UnusableCheckpoint, UnusableInput
from diffusers_helper.events import Downloaded, Downloading, Event, Notice
from diffusers_helper.models import download
from diffusers_helper.models.download import download_checkpoint
from diffusers_helper.models.hub import Hub
from diffusers_helper.models.load import choose_compute, load_parts
from diffusers_helper.models.table import CHECKPOINTS, PARTS, KnownCheckpoint, PartSource, find_checkpoint
from diffusers_helper.words import Texts

from .hub_server import COMMIT, Fault, HubServer, key_of

TRANSFORMER, BASE = "someone/transformer", "someone/base"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def _repositories(pocket: Path, longest: int = 60_000) -> dict[str, dict[str, bytes]]:
    """The pocket's files, cut to be quick, as two repositories, and files in them that nothing loads."""
    paths = [file for file in sorted(pocket.rglob("*")) if file.is_file()]
    files = {file.relative_to(pocket): file.read_bytes()[:longest] for file in paths}
    whole = {path.as_posix(): content for path, content in files.items() if path.parts[0] in PARTS}
    transformer = {path: content for path, content in whole.items() if path.startswith("transformer/")}
    return {
        TRANSFORMER: {path.partition("/")[2]: content for path, content in transformer.items()} | {"README.md": b"x"},
        BASE: {path: content for path, content in whole.items() if path not in transformer}
        | {"vae/original.pt": b"x" * 20_000, "other/model.safetensors": b"x" * 20_000},
    }


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a checkpoint whose parts lie in two repositories of the hub."""
    sources = {part: PartSource(BASE, part, 0.01) for part in PARTS} | {
        "transformer": PartSource(TRANSFORMER, "", 0.02)
    }
    monkeypatch.setitem(CHECKPOINTS, "small", KnownCheckpoint("a small one", sources=sources))  # type: ignore[arg-type]
    return "small"


@pytest.fixture
def server(pocket: Path, known: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubServer(_repositories(pocket)).serving() as serving:
        yield serving


class Waits(list[float]):
    """The waiting of a hub, without waiting."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def fetch(server: HubServer, folder: Path, waits: Waits | None = None, verify: bool = False) -> list[Event]:
    return list(download_checkpoint("small", folder, Hub(server.endpoint, Waits() if waits is None else waits), verify))


def notices(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice)]


def blob(folder: Path, content: bytes, repository: str = TRANSFORMER) -> Path:
    return folder / "hub" / f"models--{repository.replace('/', '--')}" / "blobs" / key_of(content)


def is_whole(server: HubServer, folder: Path) -> bool:
    """Every file that is loaded is there, byte for byte, and nothing half."""
    find_checkpoint("small", folder)
    got = {(file.parts[-1], file.read_bytes()) for file in (folder / "hub").rglob("snapshots/**/*") if file.is_file()}
    wanted = {
        (path.rpartition("/")[2], content)
        for files in server.repositories.values()
        for path, content in files.items()
        if not path.endswith((".pt", ".md")) and not path.startswith("other/")
    }
    return got == wanted and not list(folder.rglob("*.incomplete"))


def test_a_whole_checkpoint_can_be_loaded(server: HubServer, pocket: Path, tmp_path: Path) -> None:
    server.repositories = _repositories(pocket, 10**9)
    events = fetch(server, tmp_path)
    assert is_whole(server, tmp_path)
    assert load_parts(find_checkpoint("small", tmp_path), choose_compute()).transformer.config.patch_size
    assert isinstance(events[-1], Downloaded)
    assert not notices(events)


def test_a_large_one_says_what_comes_besides(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHECKPOINTS, "small", replace(CHECKPOINTS["small"], quantised_gb=9.9))  # type: ignore[arg-type]
    assert "the first start adds a file of 8-bit weights, 9.9 GB" in notices(fetch(server, tmp_path))[0]
    assert not notices(fetch(server, tmp_path)), "nothing is to be fetched"


def test_progress_ends_at_all_bytes(server: HubServer, tmp_path: Path) -> None:
    steps = [event for event in fetch(server, tmp_path) if isinstance(event, Downloading)]
    assert [step.bytes_done for step in steps] == sorted(step.bytes_done for step in steps)
    assert steps[-1].bytes_done == steps[-1].bytes_total == server.sent_bytes
    assert json.loads(steps[-1].to_json())["seconds_left"] == 0


def test_what_is_complete_needs_no_hub(server: HubServer, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    asked = len(server.asked)
    assert [type(event) for event in fetch(server, tmp_path)] == [Downloaded]
    assert len(server.asked) == asked


def test_the_layout_is_the_hub_librarys(server: HubServer, tmp_path: Path) -> None:
    from huggingface_hub import try_to_load_from_cache

    fetch(server, tmp_path)
    found = try_to_load_from_cache(TRANSFORMER, WEIGHTS, cache_dir=tmp_path / "hub")
    assert Path(str(found)).read_bytes() == server.repositories[TRANSFORMER][WEIGHTS]


def test_a_file_cut_at_half_goes_on_from_there(server: HubServer, tmp_path: Path) -> None:
    server.faults[WEIGHTS] = ["cut"]
    said = notices(fetch(server, tmp_path))
    assert is_whole(server, tmp_path)
    assert len(said) == 1
    assert "trying again" in said[0]
    ranges = [headers.get("Range") for path, headers in server.asked if path.endswith(WEIGHTS)]
    size = len(server.repositories[TRANSFORMER][WEIGHTS])
    assert f"bytes={size // 2}-" in ranges


@pytest.mark.parametrize("fault", [408, 429, 500, 502, 503, 504, "hang up", "elsewhere"])
def test_a_passing_fault_is_told_and_passes(server: HubServer, tmp_path: Path, fault: Fault) -> None:
    server.faults[WEIGHTS] = ["cut", fault]
    said = notices(fetch(server, tmp_path))
    assert is_whole(server, tmp_path)
    assert len(said) == 2
    assert str(fault) in said[1] or isinstance(fault, str)


@pytest.mark.parametrize(
    ("fault", "language", "sentence"),
    [
        ("short", "en", "{}: {} was broken off"),
        ("short", "ja", "{}: {} が途中で切れました"),
        ("short", "zh", "{}：{} 中途中断"),
        ("long", "en", "{}: {} is longer than it should be"),
        ("long", "ja", "{}: {} が本来より長くなっています"),
        ("long", "zh", "{}：{} 比应有的长"),
        ("elsewhere", "en", "{}: the server sent another piece than it was asked for"),
        ("elsewhere", "ja", "{}: サーバーから、要求したものと違う部分が届きました"),
        ("elsewhere", "zh", "{}：服务器发来的不是所请求的部分"),
    ],
)
def test_what_a_server_does_wrong_is_told_in_one_language(
    server: HubServer, tmp_path: Path, fault: Fault, language: str, sentence: str
) -> None:
    server.faults[WEIGHTS] = ["cut", fault]
    told = [event.said for event in fetch(server, tmp_path) if isinstance(event, Notice) and event.said]
    assert is_whole(server, tmp_path)
    assert Texts(language).said(told[1].values["trouble"]) == sentence.format(server.endpoint, WEIGHTS)


def test_a_server_that_knows_no_ranges_sends_all_again(server: HubServer, tmp_path: Path) -> None:
    server.faults[WEIGHTS] = ["cut", "whole"]
    fetch(server, tmp_path)
    assert is_whole(server, tmp_path)


def test_the_hub_says_how_long_to_wait(server: HubServer, tmp_path: Path) -> None:
    server.faults["list"], server.retry_after = [429], "7"
    waits = Waits()
    said = notices(fetch(server, tmp_path, waits))
    assert sum(waits) == pytest.approx(7, abs=0.3)
    assert "429" in said[0]
    assert "7 s" in said[0]


def test_a_hub_that_stays_broken_is_given_up_and_what_came_is_kept(server: HubServer, tmp_path: Path) -> None:
    server.faults[WEIGHTS] = ["cut", *[503] * 20]
    waits = Waits()
    with pytest.raises(UnusableCheckpoint, match=r"503.*goes on from there"):
        fetch(server, tmp_path, waits)
    assert 10 < sum(waits) < 60
    weights = server.repositories[TRANSFORMER][WEIGHTS]
    partial = blob(tmp_path, weights).with_suffix(".incomplete")
    assert partial.read_bytes() == weights[: len(weights) // 2]
    server.faults.clear()
    server.sent_bytes = 0
    steps = [event for event in fetch(server, tmp_path) if isinstance(event, Downloading)]
    assert is_whole(server, tmp_path)
    assert server.sent_bytes == steps[-1].bytes_total - len(weights) // 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (401, "HF_TOKEN"),
        (403, "HF_TOKEN"),
        (404, "does not exist.*HF_ENDPOINT"),
        ("page", "does not answer like a hub"),
    ],
)
@pytest.mark.parametrize("where", ["list", WEIGHTS])
def test_a_refusal_is_final_and_says_what_to_do(
    server: HubServer, tmp_path: Path, where: str, fault: Fault, message: str
) -> None:
    if (where, fault) == (WEIGHTS, "page"):
        pytest.skip("a page in the place of a file has a wrong hash")
    server.faults[where] = [fault] * 3
    with pytest.raises(UnusableCheckpoint, match=message):
        fetch(server, tmp_path)
    assert len(server.faults[where]) == 2


def test_nobody_answers(known: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableCheckpoint, match=r"could not be downloaded from http://127\.0\.0\.1:9"):
        list(download_checkpoint(known, tmp_path, Hub("http://127.0.0.1:9", Waits())))


def test_the_token_opens_and_is_not_shown(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "hf_" + "secret" * 5
    with pytest.raises(UnusableCheckpoint, match="no token was given"):
        fetch(server, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "wrong" * 5)
    with pytest.raises(UnusableCheckpoint, match="the token was refused") as refusal:
        fetch(server, tmp_path)
    assert "wrongwrong" not in str(refusal.value)
    monkeypatch.setenv("HF_TOKEN", server.token)
    fetch(server, tmp_path)
    assert is_whole(server, tmp_path)


def test_a_wrong_hash_is_fetched_once_more(server: HubServer, tmp_path: Path) -> None:
    server.faults[WEIGHTS] = ["wrong"]
    assert any("arrived damaged" in said for said in notices(fetch(server, tmp_path)))
    assert is_whole(server, tmp_path)


@pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
def test_a_wrong_hash_twice_is_refused(server: HubServer, tmp_path: Path, path: str) -> None:
    server.faults[path] = ["wrong"] * 2
    with pytest.raises(UnusableCheckpoint, match=f"{path}.*wrong hash, twice"):
        fetch(server, tmp_path)
    with pytest.raises(UnusableCheckpoint, match="not complete"):
        find_checkpoint("small", tmp_path)


def test_verify_finds_and_mends_a_damaged_file(server: HubServer, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    weights = server.repositories[TRANSFORMER][WEIGHTS]
    damaged = bytearray(weights)
    damaged[5000] ^= 1
    blob(tmp_path, weights).write_bytes(damaged)
    assert fetch(server, tmp_path)[:-1] == []
    server.asked.clear()
    assert any(
        f"{WEIGHTS} of {TRANSFORMER} is damaged" in said for said in notices(fetch(server, tmp_path, verify=True))
    )
    assert server.files_asked() == [WEIGHTS]
    assert is_whole(server, tmp_path)


def test_a_cancel_keeps_what_has_arrived(server: HubServer, tmp_path: Path) -> None:
    events = download_checkpoint("small", tmp_path, Hub(server.endpoint, Waits()))
    next(event for event in events if isinstance(event, Downloading))
    events.close()  # type: ignore[attr-defined]
    asked = set(server.files_asked())
    server.asked.clear()
    fetch(server, tmp_path)
    assert is_whole(server, tmp_path)
    assert not asked & set(server.files_asked())


def test_too_little_disk_is_said_before_the_first_file(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(OutputFailed, match=r"small needs 0\.00 GB more in .*, 0\.00 GB are free.*HF_HOME"):
        fetch(server, tmp_path)
    assert server.files_asked() == []


def test_a_disk_that_fills_up_meanwhile(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Hub, "_stream", full)
    with pytest.raises(OutputFailed, match="No space left"):
        fetch(server, tmp_path)


def test_one_download_at_a_time(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    with (
        FileLock(tmp_path / "hub" / ".framepack-download.lock", is_singleton=False),
        pytest.raises(AlreadyRunning, match="another download"),
    ):
        fetch(server, tmp_path)


def test_a_commit_that_was_begun_is_gone_on_with(server: HubServer, tmp_path: Path) -> None:
    """An update between two parts would leave parts of two commits."""
    fetch(server, tmp_path)
    shutil.rmtree(next((tmp_path / "hub").rglob("snapshots/*/vae")))
    server.asked.clear()
    fetch(server, tmp_path)
    assert server.asked[0][0].endswith(f"/revision/{COMMIT}")
    assert server.files_asked() == []  # the blobs are still there


def test_a_commit_that_the_hub_has_no_more_is_replaced(server: HubServer, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    shutil.rmtree(next((tmp_path / "hub").rglob("snapshots/*/vae")))
    server.commit = "d" * 40
    server.asked.clear()
    fetch(server, tmp_path)
    assert {path.rpartition("/")[2] for path, _ in server.asked} >= {COMMIT, "main"}


def test_a_download_whose_commit_cannot_be_read_is_begun_anew(server: HubServer, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    for head in tmp_path.rglob("refs/main"):
        head.write_bytes(b"\xff\xfe")
    server.asked.clear()
    fetch(server, tmp_path)
    assert server.files_asked() == []  # they are all there
    assert {head.read_text() for head in tmp_path.rglob("refs/main")} == {COMMIT}


def test_a_hub_cannot_choose_where_files_go(server: HubServer, tmp_path: Path) -> None:
    server.commit = "../../../escaped"
    with pytest.raises(UnusableCheckpoint, match="does not answer like a hub"):
        fetch(server, tmp_path / "models")
    assert not (tmp_path / "escaped").exists()


def test_only_known_names_are_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="unknown checkpoint"):
        list(download_checkpoint("../evil", tmp_path, Hub("http://127.0.0.1:9")))


def test_the_command_tells_events(
    server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint + "/")
    assert main(["download", "small", "--models-dir", str(tmp_path), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["event"] for event in events} == {"downloading", "downloaded"}
    assert main(["download", "small", "--models-dir", str(tmp_path), "--offline"]) == 0
    assert "small is complete" in capsys.readouterr().err


def test_the_command_shows_a_bar(server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "small", "--models-dir", str(tmp_path), "--endpoint", server.endpoint]) == 0
    assert "100%" in capsys.readouterr().err


def test_a_refusal_is_the_last_event(server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults["list"] = [404]
    words = ["download", "small", "--models-dir", str(tmp_path), "--endpoint", server.endpoint, "--json"]
    assert main(words) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "failed"


def test_a_killed_download_goes_on(server: HubServer, tmp_path: Path) -> None:
    """Killed while the third file is under way; the second run asks for no finished one again."""
    program = (
        "import os, sys\n"
        "from diffusers_helper.models.download import download_checkpoint\n"
        "from diffusers_helper.models.hub import Hub\n"
        "from diffusers_helper.models.table import CHECKPOINTS, PARTS, KnownCheckpoint, PartSource\n"
        f"sources = {{part: PartSource({BASE!r}, part, 0.01) for part in PARTS}}\n"
        f"sources['transformer'] = PartSource({TRANSFORMER!r}, '', 0.02)\n"
        "CHECKPOINTS['small'] = KnownCheckpoint('', sources=sources)\n"
        f"for event in download_checkpoint('small', __import__('pathlib').Path({str(tmp_path)!r}), "
        f"Hub({server.endpoint!r})):\n"
        f"    if getattr(event, 'file', '').endswith({WEIGHTS!r}): os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    before = set(server.files_asked())
    server.asked.clear()
    fetch(server, tmp_path)
    assert is_whole(server, tmp_path)
    assert set(server.files_asked()) & before <= {WEIGHTS}
