"""Settings come back out of our files and three peers'; what does not fit is told, and nothing hostile gets through."""

from __future__ import annotations

import builtins
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import UnusableInput
from diffusers_helper.media.metadata import as_comment, write_png
from diffusers_helper.media.video import join_segments, write_segment
from diffusers_helper.presets import PresetStore
from diffusers_helper.recall import differences, recall
from diffusers_helper.request import Request

from .recall_files import EICHI, PIXELS, STUDIO, json_file, png_with

REQUEST = Request.parse(
    {"picture": "/home/me/in.png", "prompt": 'the wave 🌊 "breaks" <b>\nslowly', "seed": 2**63 - 1, "seconds": 7.5}
)
RECIPE = {"version": "0.1.0", "checkpoint": "pocket", "request": REQUEST.recipe.model_dump()}
OURS = REQUEST.recipe.flat()


def mp4_with(folder: Path, comment: str) -> Path:
    write_segment(folder / "segment.mp4", PIXELS[None], 30, 30)
    join_segments([folder / "segment.mp4"], folder / "found.mp4", comment, 30)
    return folder / "found.mp4"


def test_our_video_and_picture_tell_all_but_the_picture(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PIXELS, RECIPE)
    for path in (tmp_path / "a.png", mp4_with(tmp_path, as_comment(RECIPE))):
        found = recall(path)
        assert (found.source, found.checkpoint) == ("framepack", "pocket")
        assert found.fields == OURS
        assert (found.ignored, found.not_taken, found.notes) == ((), (), ())
        assert Request.parse({**found.fields, "picture": REQUEST.shown_picture}) == REQUEST


def test_a_request_and_a_recipe_as_json(tmp_path: Path) -> None:
    assert recall(json_file(tmp_path, REQUEST.to_json())).fields == OURS
    assert recall(json_file(tmp_path, REQUEST.to_json())).ignored == ("pictures", "video")
    assert recall(json_file(tmp_path, as_comment(RECIPE))).fields == OURS
    assert recall(json_file(tmp_path, "\ufeff" + as_comment(RECIPE))).fields == OURS


def test_a_preset_file(tmp_path: Path) -> None:
    store = PresetStore(tmp_path / "presets")
    store.save("夜", {"steps": 30, "prompt": "p"})
    found = recall(json_file(tmp_path, store.export_text("夜")))
    assert (found.source, found.fields) == ("preset", {"prompt": "p", "steps": 30})


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PIXELS, RECIPE)
    assert recall((tmp_path / "a.png").rename(tmp_path / "a.json")).fields == OURS


def test_a_value_out_of_range_is_told_and_never_bent(tmp_path: Path) -> None:
    found = recall(json_file(tmp_path, {**STUDIO, "total_second_length": 300, "seed": 2**63, "gs": "high"}))
    assert not found.fields.keys() & {"seconds", "seed", "distilled_guidance"}
    told = {problem.field: problem for problem in found.not_taken}
    assert told["seconds"].value == "300"
    assert str(told["seconds"].refusal) == "seconds: 300 is not allowed; give a number from 1 to 120"
    assert set(told) == {"seconds", "seed", "distilled_guidance"}
    assert found.fields["prompt"] == STUDIO["prompt"]


@pytest.mark.parametrize("value", [None, True, [], {}, "5", -2, 1.5, "x" * 100_000])
def test_a_wrong_type_of_ours_is_told(tmp_path: Path, value: Any) -> None:
    found = recall(json_file(tmp_path, {**json.loads(REQUEST.to_json()), "seed": value}))
    (problem,) = found.not_taken
    assert problem.field == "seed"
    assert len(problem.value) < 100
    assert len(str(problem.refusal)) < 300


@pytest.mark.parametrize("prompt", ["<img src=x onerror=alert(1)>", "a\0b", "x" * 10_001, "\ud800"])
def test_a_hostile_prompt_is_text_or_told(tmp_path: Path, prompt: str) -> None:
    found = recall(json_file(tmp_path, {**STUDIO, "prompt": prompt}))
    assert found.fields.get("prompt") == prompt or [problem.field for problem in found.not_taken] == ["prompt"]


def versions(version: Any) -> list[Any]:
    newer = {**REQUEST.recipe.model_dump(), "schema_version": version}
    return [newer, {"framepack": {**RECIPE, "request": newer}}, {"framepack_preset": version, "values": {}}]


@pytest.mark.parametrize("data", versions(5) + versions(10**9))
def test_a_newer_version_is_refused_whole(tmp_path: Path, data: Any) -> None:
    with pytest.raises(UnusableInput, match="newer version"):
        recall(json_file(tmp_path, data))


@pytest.mark.parametrize("data", [*versions(True), *versions("1"), *versions(None), *versions(0), *versions([])])
def test_a_strange_version_is_refused(tmp_path: Path, data: Any) -> None:
    with pytest.raises(UnusableInput, match="not a version"):
        recall(json_file(tmp_path, data))


def test_a_newer_picture_is_refused_even_with_other_texts(tmp_path: Path) -> None:
    newer = as_comment({**RECIPE, "request": {"schema_version": 5}})
    with pytest.raises(UnusableInput, match="newer version"):
        recall(png_with(tmp_path, {"Comment": newer, "parameters": EICHI}))


def test_anothers_comment_hides_no_settings(tmp_path: Path) -> None:
    found = recall(png_with(tmp_path, {"Comment": "edited by hand", "parameters": EICHI}))
    assert found.fields["seed"] == 31337


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        (json.dumps(STUDIO)[:-20], "cut off"),
        ("[" * 100_000, "deep"),
        ('{"a":' * 100_000, "deep"),
        ("[1, 2]", "no JSON object"),
        ("{}", "something else"),
        ('{"prompt": {"3": {"class_type": "KSampler"}}}', "something else"),
        ('{"prompt": "a", "prompt": "b", "seed": 1}', "'prompt' twice"),
        ('{"prompt": "a", "seed": ' + "9" * 5_000 + "}", "found.json"),
        ('{"framepack": [1]}', "not an object"),
        ('{"framepack": {"request": "x"}}', "'request' is missing"),
        ('{"framepack_preset": 1, "values": [1]}', "'values'"),
        ("x" * 1_000_001, "never that long"),
    ],
)
def test_a_bad_json_file_is_refused_with_a_reason(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(UnusableInput, match=reason):
        recall(json_file(tmp_path, text))


def test_one_of_very_many_keys_that_stands_twice_is_named(tmp_path: Path) -> None:
    """At once: to count each of them among all takes minutes."""
    keys = [*range(90_000), 89_999]
    with pytest.raises(UnusableInput, match="'89999' twice"):
        recall(json_file(tmp_path, "{" + ",".join(f'"{key}":0' for key in keys) + "}"))


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\0\0\0\x18ftypisom", b"PK\3\4", b"\xff\xd8"]
)
def test_other_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "strange.png").write_bytes(content)
    with pytest.raises(UnusableInput, match=r"strange\.png"):
        recall(tmp_path / "strange.png")
    with pytest.raises(UnusableInput, match=r"gone\.png"):
        recall(tmp_path / "gone.png")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BOMB = zlib.compress(b"a" * 80_000_000, 9)
BOMBS = {
    "iTXt": chunk(b"iTXt", b"parameters\0\1\0\0\0" + BOMB),
    "zTXt": chunk(b"zTXt", b"parameters\0\0" + BOMB),
    "tEXt": chunk(b"tEXt", b"parameters\0" + b"a" * 80_000_000),
    "many": b"".join(chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(b"a" * 900_000, 9)) for n in range(3)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_text_bomb_is_refused(tmp_path: Path, kind: str) -> None:
    whole = png_with(tmp_path, {"parameters": EICHI}).read_bytes()
    (tmp_path / "bomb.png").write_bytes(whole[:33] + BOMBS[kind] + whole[33:])
    with pytest.raises(UnusableInput, match=r"bomb\.png"):
        recall(tmp_path / "bomb.png")


def test_a_polyglot_is_read_as_what_it_begins_with(tmp_path: Path) -> None:
    path = png_with(tmp_path, {"parameters": EICHI})
    path.write_bytes(path.read_bytes() + json.dumps(STUDIO).encode() + b"PK\3\4<script>")
    assert recall(path).source == "eichi"


def test_a_path_in_a_file_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.png"
    path = json_file(
        tmp_path, {**STUDIO, "input_image_path": str(secret), "picture": str(secret), "prompt": str(secret)}
    )
    opened: list[str] = []
    really_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *rest: opened.append(self.name) or really_open(self, *rest))
    monkeypatch.setattr(builtins, "open", None)
    found = recall(path)
    assert set(opened) == {path.name}
    assert found.fields["prompt"] == str(secret)
    assert not {"picture", "input_image_path"} & found.fields.keys()


def test_thousands_of_unknown_keys(tmp_path: Path) -> None:
    found = recall(json_file(tmp_path, {**STUDIO, **{f"{'k' * 200}{n}": n for n in range(3_000)}}))
    assert all(len(key) < 70 for key in found.ignored)


def test_differences_are_in_the_requests_order() -> None:
    current = {"prompt": "a", "seed": 1, "seconds": 5, "step_cache": "teacache"}
    found = {"step_cache": "off", "prompt": "b", "seconds": 5.0, "seed": 1, "steps": 30}
    told = [("prompt", "a", "b"), ("steps", None, 30), ("step_cache", "teacache", "off")]
    assert differences(current, found) == told


def test_prompts_with_times_are_told_as_what_the_form_cannot_take(tmp_path: Path) -> None:
    prompts = [{"text": "a", "from_second": 0}, {"text": "b", "from_second": 2}]
    found = recall(json_file(tmp_path, {"schema_version": 2, "prompts": prompts}))
    assert (found.fields, found.ignored, found.notes) == ({"prompt": "a"}, ("prompts",), ("several_prompts",))


def test_loras_come_with_their_contents_and_weights(tmp_path: Path) -> None:
    loras = [{"name": "style", "sha256": "a" * 64, "weight": 0.5}]
    found = recall(json_file(tmp_path, {"schema_version": 3, "prompts": [{"text": "a"}], "loras": loras}))
    assert (found.fields, found.ignored, found.notes) == ({"prompt": "a", "loras": tuple(loras)}, (), ())


def test_a_lora_that_is_none_is_not_taken(tmp_path: Path) -> None:
    loras = [{"name": "style", "sha256": "/etc/passwd", "weight": 0.5}]
    found = recall(json_file(tmp_path, {"schema_version": 3, "prompts": [{"text": "a"}], "loras": loras}))
    assert (found.fields, [each.field for each in found.not_taken]) == ({"prompt": "a"}, ["loras"])
