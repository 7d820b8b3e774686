"""MagCache's ratios on their way: measured by a video or several, told, kept, used; and what people may call it all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusers_helper import cli
from diffusers_helper.caches.magcache import in_words, mean_of
from diffusers_helper.calibrate import calibrate, pairs
from diffusers_helper.engine import Engine
from diffusers_helper.errors import CancelRequested, InvalidRequest
from diffusers_helper.events import Calibrated, Cancelled, Decoding, Event, Finished, Notice, Step
from diffusers_helper.generate import generate, resume
from diffusers_helper.models.calibrations import kept_ratios
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.preparation import check_offered
from diffusers_helper.request import Recipe, Request

STEPS = 6


@pytest.fixture(scope="module")
def loaded(quick_checkpoint: Path) -> Iterator[Engine]:
    with Engine.load(find_checkpoint(str(quick_checkpoint), quick_checkpoint.parent)) as made:
        yield made


@pytest.fixture
def engine(loaded: Engine, tmp_path: Path) -> Iterator[Engine]:
    """One that keeps what it measures in a folder of the test's own."""
    before = loaded.checkpoint
    loaded.checkpoint = replace(before, calibrations=tmp_path / "calibrations")
    yield loaded
    loaded.checkpoint = before


@pytest.fixture
def asked(photograph: Path) -> Callable[..., Request]:
    def make(**fields: Any) -> Request:
        calibration = {"magcache_calibration": True, "steps": STEPS, "seconds": 2.4}
        return Request.parse({"picture": str(photograph), **calibration, **fields})

    return make


def of_kind(events: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def kept(engine: Engine) -> tuple[tuple[float, ...], ...]:
    assert engine.checkpoint.calibrations
    return kept_ratios(engine.checkpoint.calibrations, engine.fingerprint)


def test_a_calibration_changes_no_bit_and_is_kept(
    engine: Engine, asked: Callable[..., Request], tmp_path: Path
) -> None:
    latents = [tmp_path / f"{name}.safetensors" for name in ("plain", "calibration")]
    list(generate(asked(step_cache="off", magcache_calibration=False), engine, tmp_path, latents_result=latents[0]))
    assert kept(engine) == ()
    events = list(generate(asked(), engine, tmp_path, latents_result=latents[1]))
    plain, calibrated = (load_file(file)["latents"] for file in latents)
    assert torch.equal(plain, calibrated)
    (told,) = of_kind(events, Calibrated)
    assert all(step.computed for step in of_kind(events, Step))
    assert [len(ratios) for ratios in told.sections] == [STEPS, STEPS]
    assert told.sections[0] != told.sections[1]
    assert tuple(told.mean) == mean_of(told.sections) == kept(engine)[0]
    assert isinstance(events[-1], Finished)


def test_later_videos_use_it_and_say_so_and_pasted_back_it_is_the_same(
    engine: Engine, asked: Callable[..., Request], tmp_path: Path
) -> None:
    (told,) = of_kind(list(generate(asked(), engine, tmp_path)), Calibrated)
    fields = {"step_cache": "magcache", "magcache_calibration": False, "magcache_threshold": 0.5}

    def video(name: str, **more: Any) -> tuple[list[bool], torch.Tensor, str]:
        latents = tmp_path / f"{name}.safetensors"
        events = list(generate(asked(**fields, **more), engine, tmp_path, latents_result=latents))
        notices = " ".join(notice.message for notice in of_kind(events, Notice))
        return [step.computed for step in of_kind(events, Step)], load_file(latents)["latents"], notices

    kept_one = video("kept")
    pasted = video("pasted", magcache_mag_ratios=in_words(told.mean))
    assert kept_one[0] == pasted[0]
    assert False in pasted[0]
    assert torch.equal(kept_one[1], pasted[1])
    assert "calibrated on this machine with 6 steps" in kept_one[2]
    assert "calibrated" not in pasted[2]
    assert "measured with 6 steps; for 9 steps the nearest are taken" in video("other", steps=9)[2]
    assert video("again", magcache_mag_ratios="1.0, 5.0, 5.0")[0] != pasted[0], "the list decides"


@pytest.mark.parametrize("after", [3, STEPS + 2])
def test_one_that_is_broken_off_keeps_nothing(
    engine: Engine, asked: Callable[..., Request], tmp_path: Path, after: int
) -> None:
    events = generate(asked(), engine, tmp_path)
    steps = 0
    for event in events:
        steps += isinstance(event, Step)
        if steps == after:
            break
    ended = events.throw(CancelRequested())
    assert isinstance(ended, Cancelled)
    assert kept(engine) == ()
    rest = list(resume(Path(ended.folder), engine))
    whole = after < STEPS  # no section was finished before the break, so all are measured by the second run
    assert len(of_kind(rest, Calibrated)) == whole
    assert len(kept(engine)) == whole
    assert any("broken off" in notice.message for notice in of_kind(rest, Notice)) != whole


def test_several_are_one_calibration(engine: Engine, asked: Callable[..., Request], tmp_path: Path) -> None:
    requests = [asked(prompt=prompt, seconds=1.0) for prompt in ("a", "b")]
    events = list(calibrate(requests, engine, tmp_path))
    *each, all_of_them = of_kind(events, Calibrated)
    assert all_of_them.sections == [section for one in each for section in one.sections]
    assert kept(engine) == (tuple(all_of_them.mean),)
    assert [one.kept for one in (*each, all_of_them)] == [False, False, True]
    assert events[-2:] == [all_of_them, of_kind(events, Finished)[-1]]


def test_a_stop_that_comes_when_all_is_done_changes_nothing(
    engine: Engine, asked: Callable[..., Request], tmp_path: Path
) -> None:
    events = calibrate([asked(seconds=1.0)], engine, tmp_path)
    next(event for event in events if isinstance(event, Calibrated) and event.kept)
    assert isinstance(events.throw(CancelRequested()), Finished)
    assert list(events) == []
    assert kept(engine)


def test_what_cannot_be_kept_is_told_all_the_same(
    engine: Engine, asked: Callable[..., Request], tmp_path: Path
) -> None:
    (tmp_path / "calibrations").write_text("a file in the way")
    events = list(generate(asked(), engine, tmp_path))
    (told,) = of_kind(events, Calibrated)
    assert not told.kept
    assert len(told.sections) == 2
    assert any("could not be kept" in notice.message for notice in of_kind(events, Notice))
    assert isinstance(events[-1], Finished)


def test_one_that_is_resumed_after_its_last_section_says_that_nothing_is_kept(
    engine: Engine, asked: Callable[..., Request], tmp_path: Path
) -> None:
    events = generate(asked(seconds=1.0), engine, tmp_path)
    next(event for event in events if isinstance(event, Decoding))
    ended = events.throw(CancelRequested())
    assert isinstance(ended, Cancelled)
    rest = list(resume(Path(ended.folder), engine))
    assert not of_kind(rest, Calibrated)
    assert any("broken off" in notice.message for notice in of_kind(rest, Notice))


@pytest.mark.parametrize("after", [1, STEPS + 1])
def test_several_that_are_broken_off_end_as_one_does_and_keep_nothing(
    engine: Engine, asked: Callable[..., Request], tmp_path: Path, after: int
) -> None:
    """In the first video and in the second."""
    events = calibrate([asked(seconds=1.0)] * 2, engine, tmp_path)
    for _ in range(after):
        next(event for event in events if isinstance(event, Step))
    assert isinstance(events.throw(CancelRequested()), Cancelled)
    assert list(events) == []
    assert kept(engine) == ()


def test_a_calibration_file_that_cannot_be_used_counts_for_nothing(engine: Engine, tmp_path: Path) -> None:
    engine.checkpoint.keep_ratios((1.0, 0.9))
    engine.checkpoint.keep_ratios((1.0, 0.9, 0.8))
    assert kept(engine) == ((1.0, 0.9), (1.0, 0.9, 0.8))
    engine.checkpoint.keep_ratios((1.0, 0.5))
    assert sorted(kept(engine)) == [(1.0, 0.5), (1.0, 0.9, 0.8)]
    (file,) = (tmp_path / "calibrations").iterdir()
    for damage in ("{", "[]", '{"ratios": {"2": [1.0]}}', '{"ratios": {"1": [NaN]}}', '{"ratios": {"1": [-1]}}'):
        file.write_text(damage)
        assert kept(engine) == ()


def test_without_ratios_magcache_is_refused_before_anything_is_written(
    engine: Engine, asked: Callable[..., Request], tmp_path: Path
) -> None:
    unmeasured = replace(engine.checkpoint, shipped=replace(engine.checkpoint.shipped, ratios=()))
    engine.checkpoint = unmeasured
    with pytest.raises(InvalidRequest, match="knows no ratios of this checkpoint: calibrate it first"):
        generate(asked(magcache_calibration=False, step_cache="magcache"), engine, tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


def test_the_files_of_a_checkpoint_are_looked_at_only_where_ratios_count(
    engine: Engine, asked: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(type(engine.checkpoint), "fingerprint", lambda _: looked.append(1) or "f")
    for fields in ({"step_cache": "auto"}, {"step_cache": "teacache"}, {"magcache_mag_ratios": "1, 1"}):
        check_offered(asked(magcache_calibration=False, **fields), engine.checkpoint)
    assert not looked
    check_offered(asked(magcache_calibration=False, step_cache="magcache"), engine.checkpoint)
    assert looked


def test_each_picture_has_its_prompt() -> None:
    assert pairs(["a", "b"], ["x", "y"]) == [("a", "x"), ("b", "y")]
    assert pairs(["a", "b"], ["x"]) == [("a", "x"), ("b", "x")]
    with pytest.raises(InvalidRequest, match="3 for 2 pictures; give one for each, or one for all"):
        pairs(["a", "b"], ["x", "y", "z"])


# By the command line.


@pytest.fixture
def run(
    quick_checkpoint: Path, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str]]:  # fmt: skip
    monkeypatch.setenv("FRAMEPACK_OUTPUT_DIR", str(tmp_path / "outputs"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))

    def run(command: str, *arguments: str) -> tuple[int, str]:
        usual = ("--checkpoint", str(quick_checkpoint), "--image", str(photograph), "--seconds", "1", "--steps", "3")
        code = cli.main([command, *usual, *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_the_command_prints_the_lists_and_keeps_their_mean(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, told = run("calibrate", "--prompt", "the camera pans left")
    assert code == 0
    lines = told.splitlines()
    place = lines.index("Suggested --magcache_mag_ratios (copy and paste):")
    assert lines[place + 1] == "section 1:"
    (file,) = (tmp_path / "models" / "calibrations").iterdir()
    assert lines[place + 2] == in_words(json.loads(file.read_text())["ratios"]["3"])


@pytest.fixture
def request_of(
    photograph: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Request, str]]:
    """The request that flags mean, without making it, and what is told before."""
    found: list[Request] = []

    def begin(request: Request, *_: Any, **__: Any) -> Iterator[Event]:
        found.append(request)
        yield from ()

    monkeypatch.setattr("diffusers_helper.generate.generate", begin)
    monkeypatch.setattr("diffusers_helper.engine.Engine.load", lambda *_, **__: _Nothing())

    def parse(*arguments: str) -> tuple[Request, str]:
        cli.main(["generate", "--image", str(photograph), *arguments])
        return found[-1], capsys.readouterr().err

    return parse


class _Nothing:
    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), {"name": "auto", "strength": "balanced"}),
        (("--enable-magcache",), {"name": "magcache", "threshold": 0.24, "k": 6, "retention_ratio": 0.2}),
        (("--enable_magcache", "--magcache_threshold", "0.1", "--magcache_k=3"), {"threshold": 0.1, "k": 3}),
        (("--magcache_retention_ratio", "0.5"), {"name": "magcache", "retention_ratio": 0.5}),
        (("--magcache_mag_ratios", "0"), {"name": "magcache", "mag_ratios": "0"}),
        (("--magcache_mag_ratios", "1.0, 0.9,1.1"), {"name": "magcache", "mag_ratios": "1.0, 0.9,1.1"}),
        (("--magcache_calibration",), {"name": "magcache", "calibration": True}),
        (("--magcache_gate", "0.06", "--magcache-forecast"), {"name": "magcache", "gate": 0.06, "forecast": True}),
        (("--first_block_threshold", "0.035"), {"name": "first_block", "threshold": 0.035}),
        (("--auto-strength", "fast"), {"name": "auto", "strength": "fast"}),
        (("--teacache",), {"name": "teacache", "threshold": 0.15}),
        (("--no-teacache", "--magcache-threshold", "0.1"), {"name": "magcache", "threshold": 0.1}),
    ],
)  # fmt: skip
def test_flags_choose_a_step_cache(
    request_of: Callable[..., tuple[Request, str]], flags: tuple[str, ...], expected: dict[str, Any]
) -> None:
    cache = request_of(*flags)[0].model_dump()["step_cache"]
    assert {name: cache[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--teacache", "--enable-magcache"), True),
        (("--teacache-threshold", "0.1", "--magcache-k", "3"), True),
        (("--teacache", "--magcache-threshold", "0.1"), True),
        (("--no-teacache", "--enable-magcache"), False),
        (("--enable-magcache",), False),
    ],
)
def test_where_both_are_asked_for_magcache_is_used_and_that_is_said(
    request_of: Callable[..., tuple[Request, str]], flags: tuple[str, ...], told: bool
) -> None:
    request, err = request_of(*flags)
    assert request.step_cache is not None
    assert request.step_cache.name == "magcache"
    assert ("MagCache is used, and TeaCache is off" in err) == told


@pytest.mark.parametrize(
    ("variables", "flags", "name"),
    [
        ({"FRAMEPACK_ENABLE_FBCACHE": "1"}, (), "first_block"),
        ({"FRAMEPACK_ENABLE_SIM_CACHE": "1"}, (), "seacache"),
        ({"FRAMEPACK_STEP_CACHE": "easycache"}, (), "easycache"),
        ({"FRAMEPACK_ENABLE_FBCACHE": "1"}, ("--disable-fbcache",), "auto"),
        ({"FRAMEPACK_ENABLE_SIM_CACHE": "1"}, ("--disable-sim-cache",), "auto"),
        ({"FRAMEPACK_ENABLE_KV_CACHE": "1"}, ("--disable-kv-cache",), "auto"),
        ({"FRAMEPACK_ENABLE_FBCACHE": "1"}, ("--teacache",), "teacache"),
    ],
)
def test_the_environment_says_what_a_request_gets_that_names_none(
    request_of: Callable[..., tuple[Request, str]],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    flags: tuple[str, ...],
    name: str,
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    request, _ = request_of(*flags)
    assert request.step_cache is not None
    assert request.step_cache.name == name


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"magcache_mag_ratios": "1.0,x"}, "magcache_mag_ratios: '1.0,x' is not allowed; give numbers above 0, with "
         "commas; number 2, 'x', is none"),
        ({"magcache_mag_ratios": "1.0,nan"}, "number 2, 'nan'"),
        ({"magcache_mag_ratios": "1.0,-1"}, "number 2, '-1'"),
        ({"magcache_mag_ratios": "1.0,,1"}, "number 2, ''"),
        ({"magcache_mag_ratios": "1.0, 1_0"}, "number 2, '1_0'"),
        ({"magcache_k": -1}, "magcache_k: -1 is not allowed; give a whole number from 0 to 100"),
        ({"magcache_retention_ratio": 1.5}, "magcache_retention_ratio: 1.5"),
        ({"magcache_retention_ratio": -0.1}, "magcache_retention_ratio: -0.1"),
        ({"magcache_threshold": -0.1}, "magcache_threshold: -0.1"),
        ({"teacache_threshold": -1}, "teacache_threshold: -1"),
        ({"easycache_threshold": -1}, "easycache_threshold: -1"),
        ({"seacache_threshold": -1}, "seacache_threshold: -1"),
        ({"first_block_threshold": -1}, "first_block_threshold: -1"),
        ({"magcache_gate": float("nan")}, "magcache_gate: nan"),
        ({"auto_strength": "best"}, "auto_strength: 'best'"),
        ({"step_cache": "kv_cache"}, "step_cache: 'kv_cache' is not allowed"),
        ({"step_cache": "magcache", "enable_magcache": False}, "enable_magcache: is an older name of step_cache"),
        ({"step_cache": "teacache", "enable_magcache": True}, "enable_magcache: is an older name of step_cache"),
        ({"enable_magcache": 1}, "enable_magcache: 1 is not allowed; give true or false"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Recipe.parse(fields)
    assert words in str(caught.value)


def test_a_name_that_says_off_chooses_nothing() -> None:
    assert Recipe.parse({"enable_magcache": False}) == Recipe()
    assert Recipe.parse({"enable_magcache": False, "magcache_threshold": 0.1}) == Recipe()
    assert Recipe.parse({"teacache": False}).step_cache is None
    both = {"enable_magcache": False, "magcache_k": 3, "teacache_threshold": 0.1}
    assert Recipe.parse(both) == Recipe.parse({"teacache_threshold": 0.1})


def test_a_list_of_numbers_is_a_list_too() -> None:
    assert Recipe.parse({"magcache_mag_ratios": [1.0, 0.5]}) == Recipe.parse({"magcache_mag_ratios": "1.0, 0.5"})
    assert Recipe.parse({"magcache_mag_ratios": 0}) == Recipe.parse({"magcache_mag_ratios": "0"})
