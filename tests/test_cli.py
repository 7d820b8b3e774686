"""The command line as a user meets it: a photograph becomes a video, and bad input is told apart in plain words."""

import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffusers_helper import cli, preparation, settings
from diffusers_helper.media.metadata import read_metadata
from diffusers_helper.media.video import probe
from diffusers_helper.request import Recipe, Request

from . import program
from .parity.engine import PackEngine


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's folders, for the runs in this process."""
    monkeypatch.setenv("FRAMEPACK_OUTPUT_DIR", str(tmp_path / "outputs"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))


def test_a_photograph_becomes_a_video(photograph: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    arguments = ("generate", "--image", str(photograph), "--prompt", "the camera pans left", "--out", str(out))
    done = program.run(tmp_path, *arguments, "--json", *program.FAST, "--seconds", "1")
    assert done.returncode == 0, done.stderr
    told = program.parsed(done.stdout)
    last = told[-1]
    plan = next(event for event in told if event["event"] == "plan")
    info = probe(out)
    assert (info.frames, info.fps, info.codec) == (plan["frames"], 30, "h264") == (37, 30, "h264")
    assert (info.width, info.height) == (plan["width"], plan["height"]) == (last["width"], last["height"])
    assert last["event"] == "finished"
    assert last["path"] == str(out)
    assert last["seed"] == 5
    assert last["peak_memory_mb"] > 0
    assert 0 < last["seconds_sampling"] + last["seconds_decoding"] <= last["seconds_total"]
    assert read_metadata(out)["request"]["prompts"][0]["text"] == "the camera pans left"
    assert list((tmp_path / "outputs").rglob("*.*")) == []


def test_a_person_sees_plain_sentences(photograph: Path, quick_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("generate", "--image", str(photograph), "--checkpoint", str(quick_checkpoint), "--kind", "framepack")
    done = program.run(tmp_path, *arguments, *program.FAST)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "73 frames, 2.4 s, in 2 sections of 2 steps" in done.stderr
    assert "section 2/2" in done.stderr
    video = Path(done.stderr.strip().splitlines()[-1].split(": ")[-1])
    assert probe(video).frames == 73
    assert video.with_suffix(".png").is_file()


def test_the_environment_is_prepared_and_what_is_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    cli.prepare(settings.resolve({}, {}, Path("none.json")))
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["THP_MEM_ALLOC_ENABLE"]) == ("PASSIVE", "0")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    cli.prepare(settings.resolve({}, {}, Path("none.json")))
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> str:
    """The message of a run that must end with exit code 2 and leave nothing behind."""
    try:
        code = cli.main(["generate", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert not (tmp_path / "outputs").exists()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--image: is missing"),
        (("--image", "nowhere.png"), "nowhere.png"),
        (("--image", "PHOTO", "--steps", "0"), "steps: 0 is not allowed; give a whole number from 1 to 100"),
        (("--image", "PHOTO", "--steps", "many"), "invalid int value: 'many'"),
        (("--image", "PHOTO", "--seconds", "nan"), "seconds: nan"),
        (("--image", "PHOTO", "--seconds", "10000"), "seconds: 10000.0"),
        (("--image", "PHOTO", "--seed", "9223372036854775808"), "seed"),
        (("--image", "PHOTO", "--kind", "f2"), "invalid choice: 'f2'"),
        (("--image", "PHOTO", "--prompt", "x" * 100_000), "(100000 characters)"),
        (("--image", "PHOTO", "--size", "640x640"), "give one of 128x128"),
        (("--image", "PHOTO", "--checkpoint", "no-such"), "the names are pocket, framepack, framepack-f1"),
        (("--image", "PHOTO", "--checkpoint", "framepack"), "`bash start.sh download framepack` fetches them"),
        (("--image", "PHOTO", "--out", "video.avi"), "video.avi is not the name of a .mp4 file"),
        (("--image", "PHOTO", "--out", "nowhere/video.mp4"), "nowhere/video.mp4: its folder does not exist"),
        (("--resume", "nowhere"), "it has no job.json"),
        (("--resume", ".", "--prompt", "x"), "leave out prompt"),
        (("--resume", ".", "--checkpoint", "pocket"), "leave out checkpoint"),
        (("--resume", ".", "--request", "video.json"), "leave out request"),
        (("--request", "video.json", "--image", "PHOTO", "--no-teacache"), "leave out picture, teacache"),
        (("--request", "nowhere.json"), "nowhere.json cannot be used: No such file"),
        (("--request", "PHOTO"), "--request: it is not UTF-8"),
    ],
)
def test_bad_arguments(
    capsys: pytest.CaptureFixture[str], photograph: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    given = [str(photograph) if argument == "PHOTO" else argument for argument in arguments]
    message = refused(capsys, tmp_path, *given)
    assert words in message
    assert len(message) < 3000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "the request is not JSON"),
        ("[]", "the request must be a JSON object"),
        ('{"prompt": "a"}', "picture: is missing"),
        ('{"picture": "a.png", "steps": 0}', "steps: 0 is not allowed"),
        ('{"picture": "a.png", "colour": "red"}', "colour: is not a field of a request"),
    ],
)
@pytest.mark.parametrize("from_file", [True, False], ids=["file", "standard input"])
def test_a_whole_request_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    from_file: bool,
    content: str,
    words: str,
) -> None:
    file = tmp_path / "video.json"
    file.write_text(content)
    monkeypatch.setattr("sys.stdin", io.StringIO(content))
    assert words in refused(capsys, tmp_path, "--request", str(file) if from_file else "-")


@pytest.mark.parametrize("from_file", [True, False], ids=["file", "standard input"])
def test_a_whole_request_is_taken_as_it_is(
    quick_checkpoint: Path, photograph: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, from_file: bool
) -> None:
    """Also where the checkpoint would do better by default."""
    asked = Request.parse({"picture": str(photograph), "prompt": "as – it is", "seconds": 1.0, "steps": 1, "seed": 7})
    file, out = tmp_path / "video.json", tmp_path / "video.mp4"
    file.write_text(asked.to_json())
    monkeypatch.setattr("sys.stdin", io.StringIO(asked.to_json()))
    arguments = ("--request", str(file) if from_file else "-", "--out", str(out))
    assert cli.main(["generate", *arguments, "--checkpoint", str(quick_checkpoint)]) == 0
    assert Recipe.from_data(read_metadata(out)["request"]) == asked.recipe


@pytest.mark.parametrize("picture", ["empty", "truncated", "page", "folder", "huge"])
def test_unusable_pictures(capsys: pytest.CaptureFixture[str], photograph: Path, tmp_path: Path, picture: str) -> None:
    path = tmp_path / f"{picture}.png"
    if picture == "folder":
        path.mkdir()
    elif picture == "huge":
        Image.new("1", (20000, 20000)).save(path)
    else:
        content = {"empty": b"", "truncated": photograph.read_bytes()[:5000], "page": b"<!DOCTYPE html><html></html>"}
        path.write_bytes(content[picture])
    assert path.name in refused(capsys, tmp_path, "--image", str(path))


def test_a_damaged_checkpoint(
    capsys: pytest.CaptureFixture[str], photograph: Path, pocket: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pocket, copy)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    message = refused(capsys, tmp_path, "--image", str(photograph), "--checkpoint", str(copy))
    assert f"the vae in {copy / 'vae'} is damaged" in message


def test_a_refusal_is_an_event_where_events_are_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["generate", "--json", "--image", str(tmp_path / "no.png")]) == 2
    (event,) = program.parsed(capsys.readouterr().out)
    assert (event["event"], event["exit_code"], event["folder"]) == ("failed", 2, None)
    assert "no.png" in event["error"]


@pytest.mark.parametrize("flag", ["--image", "--out", "--save-latents", "--checkpoint", "--models-dir", "--output-dir"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x" * 300, "too long"),
        ("é" * 200, "too long"),
        ("~nosuchuser/a", "no home folder ~nosuchuser"),
        ("", "give the path"),
    ],
    ids=["long", "long in bytes", "nobody's", "empty"],
)
def test_a_name_that_nothing_can_have_is_told_as_an_event(
    capsys: pytest.CaptureFixture[str], photograph: Path, flag: str, name: str, words: str
) -> None:
    others = [] if flag == "--image" else ["--image", str(photograph)]
    assert cli.main(["generate", "--json", *others, flag, name]) == 2
    (event,) = program.parsed(capsys.readouterr().out)
    assert event["error"].startswith(f"{flag}='")
    assert words in event["error"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--image", "PLACE/a.png"), ("--out", "PLACE/a.mp4"), ("--save-latents", "PLACE/a.safetensors"),
        ("--resume", "PLACE"), ("--checkpoint", "PLACE"), ("--checkpoint", "framepack", "--models-dir", "PLACE"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_place_that_nobody_may_look_into_is_told_as_an_event(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    photograph: Path,
    tmp_path: Path,
    flags: tuple[str, ...],
) -> None:
    place, stat = tmp_path / "forbidden", Path.stat

    def refusing(path: Path, **options: Any) -> os.stat_result:
        """As the system answers; but it shows everything to root."""
        if path.is_relative_to(place):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refusing)
    words = [word.replace("PLACE", str(place)) for word in flags]
    others = () if {"--image", "--resume"} & set(flags) else ("--image", str(photograph))
    assert cli.main(["generate", "--json", *others, *words]) == 2
    (event,) = program.parsed(capsys.readouterr().out)
    assert "ermission" in event["error"]


@pytest.mark.parametrize("name", ["x" * 300, "~nosuchuser", ""], ids=["long", "nobody's", "empty"])
def test_a_folder_to_resume_that_nothing_can_be_called(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert cli.main(["generate", "--json", "--resume", name]) == 2
    (event,) = program.parsed(capsys.readouterr().out)
    assert event["error"].startswith("--resume='")


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        (("--image", "~/no.png"), "no.png"), (("--resume", "~/no"), "{home}/no"), (("--checkpoint", "~/no"), "~/no"),
        (("--out", "~/no/a.mp4"), "{home}/no"), (("--save-latents", "~/no/a.safetensors"), "{home}/no"),
        (("--image", "~"), "folder"), (("--out", "~/a.avi"), "{home}/a.avi"),
        (("--checkpoint", "framepack", "--models-dir", "~/no"), "{home}/no/hub"),
        (("--resume", "~"), "{home} is not the folder"), (("--output-dir", "~/file"), "{home}/file"),
    ],
)  # fmt: skip
def test_a_tilde_is_the_home_folder_everywhere(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    photograph: Path,
    tmp_path: Path,
    flags: tuple[str, ...],
    place: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    others = () if {"--image", "--resume"} & set(flags) else ("--image", str(photograph))
    assert cli.main(["generate", *others, *flags]) != 0
    assert place.format(home=tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "prompt"),
    [((1, 1), ""), ((3000, 40), "emoji 🎥, يسار, and a line\nbreak <script>alert(1)</script>")],
)
def test_odd_but_allowed(quick_checkpoint: Path, tmp_path: Path, size: tuple[int, int], prompt: str) -> None:
    picture, out = tmp_path / "odd.png", tmp_path / "odd.mp4"
    Image.new("RGB", size, "teal").save(picture)
    arguments = ("--image", str(picture), "--prompt", prompt, "--out", str(out), "--output-dir", str(tmp_path / "o"))
    short = ("--checkpoint", str(quick_checkpoint), "--seconds", "1", "--steps", "1")
    assert cli.main(["generate", *arguments, *short]) == 0
    assert read_metadata(out)["request"]["prompts"][0]["text"] == prompt
    assert probe(out).frames == 37


def test_offline_downloads_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["download", "framepack", "--offline"]) == 2
    assert "offline" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], photograph: Path, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    code = cli.main(["generate", "--image", str(photograph), "--output-dir", str(in_the_way)])
    assert code == 2
    assert str(in_the_way) in capsys.readouterr().err
    assert in_the_way.read_text() == "not a folder"


def test_a_listener_that_goes_away_ends_the_run_quietly(
    photograph: Path, quick_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ("--image", str(photograph), "--checkpoint", str(quick_checkpoint))
    process = program.start(tmp_path, *arguments, *program.FAST)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 130
    assert "Traceback" not in process.errors()


def test_the_picture_is_decoded_once_on_its_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photograph: Path, tmp_path: Path
) -> None:
    engine, decoded = PackEngine("run_i2v_single"), []
    monkeypatch.setattr("diffusers_helper.models.table.find_checkpoint", lambda *_: engine.checkpoint)
    monkeypatch.setattr("diffusers_helper.engine.Engine.load", lambda *_, **__: engine)
    opened = preparation.open_with_alpha
    monkeypatch.setattr(preparation, "open_with_alpha", lambda path: (decoded.append(path), opened(path))[1])
    out = tmp_path / "video.mp4"
    assert cli.main(["generate", "--image", str(photograph), "--steps", "1", "--seconds", "1", "--out", str(out)]) == 0
    assert probe(out).frames
    assert decoded == [photograph]


@pytest.mark.parametrize(
    ("decoded", "code"),
    [(lambda clip: clip, 0), (RuntimeError("shapes differ"), 1), (KeyboardInterrupt(), 130)],
    ids=["finished", "failed", "interrupted"],
)
def test_the_engine_is_closed_however_the_program_ends(
    decoded: Any, code: int, monkeypatch: pytest.MonkeyPatch, photograph: Path, tmp_path: Path
) -> None:
    closed: list[bool] = []

    class Watched(PackEngine):
        def decode(self, latents: Any) -> Any:
            if isinstance(decoded, BaseException):
                raise decoded
            return super().decode(latents)

        def close(self) -> None:
            closed.append(True)

    engine = Watched("run_i2v_single")
    monkeypatch.setattr("diffusers_helper.models.table.find_checkpoint", lambda *_: engine.checkpoint)
    monkeypatch.setattr("diffusers_helper.engine.Engine.load", lambda *_, **__: engine)
    out = tmp_path / "video.mp4"
    arguments = ["generate", "--image", str(photograph), "--steps", "1", "--seconds", "1", "--out", str(out)]
    assert cli.main(arguments) == code
    assert closed == [True]
