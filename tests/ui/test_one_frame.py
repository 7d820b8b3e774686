"""One picture on the form: its slots there and back, what a mode sets, what is refused where, and several at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from diffusers_helper.events import Finished
from diffusers_helper.jobs.job import Job
from diffusers_helper.media.metadata import write_png
from diffusers_helper.request import Recipe, Request
from diffusers_helper.request.fields import PICTURES, fields
from diffusers_helper.sections.modes import MODES
from diffusers_helper.ui.commands import Commands
from diffusers_helper.ui.controls import as_text, from_text
from diffusers_helper.ui.draft import restored
from diffusers_helper.ui.form import NAMES
from diffusers_helper.ui.look_ahead import look_ahead, problems_of
from diffusers_helper.ui.one_frame_section import (
    CUSTOM,
    DRAWN,
    SCRIPTS_SAY,
    SET_BY_MODE,
    embedding_update,
    fields_of_mode,
    mode_of,
    said_html,
)
from diffusers_helper.ui.restore_tab import Restore
from diffusers_helper.ui.starting import NOTHING_WRONG, Starting
from diffusers_helper.ui.upload_names import name_among
from diffusers_helper.words import LANGUAGES, Texts

from .serving import CHECKPOINT
from .stage import Stage, click, make_stage
from .test_form import draft_of, opened, upload
from .test_fragments_queue import Seen
from .test_queue_tab import asked_from


def picture(stage: Stage, name: str, size: tuple[int, int] = (64, 64), colour: str = "teal") -> Path:
    """An upload."""
    file = stage.folder / "made.png"
    Image.new("RGB", size, colour).save(file)
    return upload(stage, name, file.read_bytes())


def slot(path: Path, mask: Path | None = None) -> dict[str, str]:
    """As the browser keeps it."""
    return {"picture": called(path), "mask": called(mask) if mask else ""}


def called(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def shown(stage: Stage, *slots: Mapping[str, str], **changes: Any) -> list[Any]:
    """What the components hold while one picture is asked for."""
    values = dict(zip(NAMES, stage.values(kind="one_frame", **changes), strict=True))
    return [*{**values, PICTURES: json.dumps(slots)}.values()]


def start(stage: Stage, values: Sequence[Any], *swept: str) -> tuple[str, dict[str, str]]:
    """Press Start; returns what was said, and what is wrong by field."""
    said, refused = Starting(stage.context, stage.form).add("en", "scripted", *values, *swept)
    return said, json.loads(refused)["fields"]


def quietly(stage: Stage, values: Sequence[Any], *swept: str) -> dict[str, str]:
    """What is wrong while somebody fills in the form."""
    told = json.loads(look_ahead(stage.form, stage.context, "en", [*values, *swept])[0])
    return dict(told["fields"])


def two(stage: Stage) -> tuple[Path, Path, Path]:
    return picture(stage, "a.png"), picture(stage, "b.png", colour="gold"), picture(stage, "m.png", colour="white")


def test_a_mode_sets_exactly_its_fields_and_is_recognised_by_them(stage: Stage) -> None:
    of_kind = {name for name, field in fields(Recipe).items() if field.decided_by == "kind"}
    assert set(SET_BY_MODE) == {*of_kind, "latent_window"}
    for name, mode in MODES.items():
        sets = dict(zip(SET_BY_MODE, fields_of_mode(name), strict=True))
        assert sets == mode.flat()
        assert mode_of({**stage.form.defaults, **sets}) == name
        assert mode_of({**stage.form.defaults, **sets, "latent_window": 11}) == CUSTOM
    assert fields_of_mode(CUSTOM) == [gr.skip()] * len(SET_BY_MODE)
    assert mode_of(stage.form.defaults) == "one_frame"


def test_one_picture_is_asked_for_with_what_stands_in_the_slots_and_a_picture_as_its_file(stage: Stage) -> None:
    first, second, mask = two(stage)
    values = shown(stage, slot(first), slot(second, mask), picture="/elsewhere/start.png", output="gif",
                   one_frame_control_index="0;10", seconds=None, one_frame_embedding="control_2")  # fmt: skip
    said, wrong = start(stage, values)
    assert (wrong, "Job 1 starts now" in said) == ({}, True)
    request = stage.queue.job(1).request
    assert (request.kind.name, request.output.name, len(request.pictures)) == ("one_frame", "png", 2)
    assert [each.role for each in request.pictures] == ["control", "control"]
    kept = [Path(each.path).read_bytes() for each in request.pictures]
    assert kept == [first.read_bytes(), second.read_bytes()]
    assert Path(str(request.pictures[1].mask)).read_bytes() == mask.read_bytes()


def test_slots_beyond_the_places_are_kept_and_not_sent(stage: Stage) -> None:
    first, second, _ = two(stage)
    values = shown(stage, slot(first), slot(second), one_frame_control_index="0")
    assert start(stage, values)[1] == {}
    assert len(stage.queue.job(1).request.pictures) == 1
    assert len(stage.form.meant({PICTURES: values[NAMES.index(PICTURES)]})[PICTURES]) == 2


def test_a_video_has_nothing_of_the_slots(stage: Stage) -> None:
    first, second, _ = two(stage)
    values = dict(zip(NAMES, shown(stage, slot(second)), strict=True))
    values |= {"kind": "f1", "picture": str(first), "one_frame_target_index": None}
    request = stage.form.request_of([*values.values()])
    assert [each.role for each in request.pictures] == ["start"]


@pytest.mark.parametrize("act", ["edit", "use"])
def test_a_job_comes_back_into_the_form_as_it_was(stage: Stage, act: str) -> None:
    """Its pictures are not uploads; the form gets copies that are, as browsers call them."""
    first, second, mask = two(stage)
    values = shown(stage, slot(first), slot(second, mask), one_frame_control_index="0;10", one_frame_post=False)
    start(stage, values)
    for file in (first, second, mask):
        file.unlink()
    answer = Commands(stage.page, stage.form).carry_out("en", None, click(act, 1), asked_from())
    filled = stage.filled(answer[1:])
    again = {**dict(zip(NAMES, values, strict=True)), **filled}
    request = stage.queue.job(1).request
    assert [(each["picture"] > "", each["mask"] > "") for each in json.loads(filled[PICTURES])] == [
        (True, False), (True, True),
    ]  # fmt: skip
    sent = stage.form.request_of([*again.values()])
    assert sent.recipe == request.recipe
    assert list(map(content_of, sent.picture_paths)) == list(map(content_of, request.picture_paths))


def content_of(path: str) -> bytes:
    return Path(path).read_bytes()


def test_slots_come_back_with_a_draft_and_no_other_file_does(stage: Stage, tmp_path: Path) -> None:
    first, second, mask = two(stage)
    outside = tmp_path / "secret.png"
    outside.write_bytes(first.read_bytes())
    slots = [slot(first), slot(second, mask), {"picture": str(outside)}, {"picture": f"{first.parent.name}/../x"}, 7]
    draft = json.loads(draft_of(stage.form, stage.context.run, kind="one_frame"))
    draft["values"][PICTURES] = json.dumps(slots)
    back = opened(stage, json.dumps(draft))
    assert json.loads(back[PICTURES]) == [*slots[:2], *[{"picture": "", "mask": ""}] * 3]
    assert back["kind"] == "one_frame"


@pytest.mark.parametrize("text", [None, 7, "", "{}", "null", "[" * 100_000, "x" * 200_000, '{"picture": "a"}'])
def test_what_makes_no_sense_are_no_slots(stage: Stage, text: Any) -> None:
    assert from_text(text, stage.form.uploads) == ()
    assert stage.form.usable({PICTURES: ()}) == {PICTURES: ()}


def test_pictures_of_jobs_become_uploads_once_and_what_is_none_does_not(stage: Stage, tmp_path: Path) -> None:
    first, _, _ = two(stage)
    (kept := tmp_path / "kept.picture").write_bytes(first.read_bytes())
    (text := tmp_path / "text.png").write_text("no picture")
    uploads = stage.form.uploads
    name = name_among(str(kept), uploads)
    assert name == f"{first.parent.name}/picture.png"
    assert name_among(str(kept), uploads) == name
    assert name_among(str(first), uploads) == called(first)
    assert [name_among(path, uploads) for path in (str(text), str(tmp_path / "gone.png"), None, "")] == [""] * 4
    assert json.loads(as_text([{"role": "start", "path": str(kept)}], uploads)) == []


def test_an_empty_slot_is_refused_at_the_slots_once_start_is_pressed(stage: Stage) -> None:
    first, _, _ = two(stage)
    values = shown(stage, slot(first), one_frame_control_index="0;10")
    assert quietly(stage, values) == {}
    assert start(stage, values) == ("", {PICTURES: Texts("en")("one_frame.empty_slot", number=2)})
    assert stage.queue.jobs() == []


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_with_empty_slots_has_nothing_wrong_before_the_start(stage: Stage, mode: str) -> None:
    values = shown(stage, **MODES[mode].flat())
    assert quietly(stage, values) == {}
    assert list(start(stage, values)[1]) == [PICTURES]


def test_a_damaged_picture_and_a_mask_of_another_shape_are_told_at_the_slots(stage: Stage) -> None:
    first, wide = picture(stage, "a.png"), picture(stage, "m.png", (128, 64))
    damaged = upload(stage, "bad.png", first.read_bytes()[:60])
    values = shown(stage, slot(damaged))
    assert quietly(stage, values) == start(stage, values)[1]
    assert list(quietly(stage, values)) == [PICTURES]
    told = quietly(stage, shown(stage, slot(first, wide)))
    assert "m.png is 128x64, and its picture 64x64" in told[PICTURES]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"one_frame_target_index": 65}, "one_frame_target_index"),
        ({"one_frame_control_index": "0;;1"}, "one_frame_control_index"),
        ({"one_frame_embedding": "all"}, "one_frame_embedding"),
        ({"steps": 0}, "steps"),
    ],
)
def test_a_wrong_value_is_refused_at_its_field(stage: Stage, changes: dict[str, Any], field: str) -> None:
    assert list(quietly(stage, shown(stage, **changes))) == [field]


def test_a_picture_for_the_encoder_that_there_is_not_is_refused(stage: Stage) -> None:
    first, _, _ = two(stage)
    values = shown(stage, slot(first), one_frame_embedding="control_2")
    assert list(start(stage, values)[1]) == ["one_frame_embedding"]
    choices = embedding_update({"one_frame_control_index": "0;1;2"}, Texts("ja"))["choices"]
    assert [value for _, value in choices] == ["start", "control_2", "control_3", "mean"]


def test_a_checkpoint_that_makes_videos_alone_offers_no_picture(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, replace(CHECKPOINT, kinds=("f1",)))
    assert "one_frame" not in [value for _, value in stage.form["kind"].choices]
    assert stage.filled(stage.form.values_of({"kind": "one_frame"})) == {}
    assert list(start(stage, shown(stage, slot(picture(stage, "a.png"))))[1]) == ["kind"]


def done(stage: Stage) -> Job:
    """A picture that is finished, of two."""
    first, second, mask = two(stage)
    start(stage, shown(stage, slot(first), slot(second, mask), one_frame_control_index="0;10"))
    assert stage.queue.claim()
    made = stage.folder / "outputs" / "made.png"
    job = stage.queue.job(1)
    metadata = {"version": "0", "checkpoint": "scripted", "request": job.request.recipe.model_dump()}
    write_png(made, np.full((64, 64, 3), 90, np.uint8), metadata)
    ended = Finished(path=str(made), frames=1, seconds_total=1.0)
    return stage.queue.end(1, ended, "done")


def test_a_finished_picture_is_changed_further_in_the_place_of_the_first(stage: Stage) -> None:
    job = done(stage)
    answer = Commands(stage.page, stage.form).carry_out("en", None, click("last_frame", job.id), asked_from())
    filled = stage.filled(answer[1:])
    first, second = stage.form.meant(filled)[PICTURES]
    assert np.asarray(Image.open(first["path"])).max() == 90
    assert content_of(second["path"]) == content_of(job.request.pictures[1].path)
    assert (second["mask"] > "", set(filled)) == (True, {"picture", PICTURES})


def test_a_picture_brings_back_how_it_was_made_and_of_what(stage: Stage) -> None:
    job = done(stage)
    restore = Restore(stage.page, stage.form)
    values = stage.values()
    found, told = restore.read(str(job.progress.video), "en", "scripted", *values)
    assert found is not None
    rows = {one["data-field"] for one in Seen(told).all("input")}
    assert {"kind", PICTURES, "one_frame_control_index"} <= rows
    assert not rows & {"picture", "output"}
    assert "2 pictures" in told
    taken = restore.take(found, "en", "scripted", click("some", value=" ".join(rows)))
    again = {**dict(zip(NAMES, values, strict=True)), **stage.filled(taken)}
    assert stage.form.request_of([*again.values()]).recipe == job.request.recipe


# Several pictures.


class Batches:
    """Takes the place of the queue's own command."""

    def __init__(self, stage: Stage) -> None:
        self.asked: list[Request] = []
        self._queue = stage.queue

    def __call__(self, requests: list[Request], source: str) -> list[Job]:
        self.asked = requests
        return [self._queue.add(request, source) for request in requests]


@pytest.fixture
def batches(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Batches:
    made = Batches(stage)
    monkeypatch.setattr(stage.queue, "add_batch", made, raising=False)
    return made


def test_a_sweep_adds_a_job_for_each_picture_with_one_seed(stage: Stage, batches: Batches) -> None:
    values = shown(stage, slot(picture(stage, "a.png")), seed=-1)
    said, wrong = start(stage, values, "target_index", "1..3", "control_index", "0,5")
    assert (wrong, "6 pictures are in the queue: jobs 1 to 6" in said) == ({}, True)
    kinds = [request.kind.model_dump() for request in batches.asked]
    assert [(kind["target_index"], kind["control_index"]) for kind in kinds] == [
        (1, "0"), (1, "5"), (2, "0"), (2, "5"), (3, "0"), (3, "5"),
    ]  # fmt: skip
    assert len({request.seed for request in batches.asked}) == 1
    assert batches.asked[0].seed >= 0


def test_the_plan_says_how_many_pictures(stage: Stage) -> None:
    values = shown(stage, slot(picture(stage, "a.png")))
    plans = [
        look_ahead(stage.form, stage.context, "en", [*values, *swept])[3]
        for swept in ((), ("none", "", "none", ""), ("target_index", "", "none", ""), ("seed", "1..8", "none", ""))
    ]
    assert ["1 picture<" in plan for plan in plans] == [True, True, True, False]
    assert "8 pictures<" in plans[3]


@pytest.mark.parametrize(
    ("swept", "says"),
    [
        (("target_index", "", "none", ""), "has no values"),
        (("target_index", "a", "none", ""), "is no number"),
        (("target_index", "60..70", "none", ""), "from 0 to 64"),
        (("target_index", "1..60", "seed", "1..60"), "100 pictures at most"),
        (("lora_weight", "0..1", "none", ""), "there are 0 LoRAs"),
        (("control_index", "0;10", "none", ""), "such as 0;10 for two"),
        (("latent_window", "9..12", "none", ""), "changes nothing"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_told_there(
    stage: Stage, batches: Batches, swept: tuple[str, ...], says: str
) -> None:
    off = dict.fromkeys(("one_frame_post", "one_frame_history_2x", "one_frame_history_4x"), False)
    said, wrong = start(stage, shown(stage, slot(picture(stage, "a.png")), **off), *swept)
    assert (said, list(wrong), batches.asked) == ("", ["sweep"], [])
    assert says in wrong["sweep"]


def test_a_sweep_of_videos_is_none(stage: Stage, batches: Batches) -> None:
    values = stage.values(kind="f1", picture=str(picture(stage, "a.png")))
    assert start(stage, values, "seed", "1..3", "none", "")[1] == {}
    assert (len(stage.queue.jobs()), batches.asked) == (1, [])


# Presets, restoring, words.


def test_a_preset_holds_how_one_picture_is_made_and_no_picture(stage: Stage) -> None:
    from .test_presets_tab import EVERYTHING, Presets, press

    presets = Presets(stage.context, stage.form)
    values = shown(stage, slot(picture(stage, "a.png")), **MODES["kisekaeichi"].flat())
    presets.save("Mine", EVERYTHING, False, "en", *values)
    kept = stage.context.presets.load("Mine").values
    assert mode_of(kept) == "kisekaeichi"
    assert kept["kind"] == "one_frame"
    assert not kept.keys() & {"picture", PICTURES}
    filled = stage.filled(press(presets, "load", "Mine")[1:])
    assert (filled["kind"], filled["one_frame_control_index"]) == ("one_frame", "0;10")


def test_problems_are_judged_without_a_file(stage: Stage) -> None:
    fields_now = stage.form.fields_of(shown(stage, slot(picture(stage, "a.png"))))
    assert problems_of(fields_now, CHECKPOINT, stage.context.loras) == ()
    assert json.loads(NOTHING_WRONG)["fields"] == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_scripts_are_told_their_words_and_where_uploads_are(stage: Stage, language: str) -> None:
    (span,) = Seen(said_html(stage.form.uploads, Texts(language))).all("span")
    told = json.loads(span["data-one-frame"])
    assert set(told["words"]) == {*SCRIPTS_SAY, "not_sent"}
    assert told["address"].startswith("gradio_api/file=")
    assert set(DRAWN) == {PICTURES, "latent_window", *SET_BY_MODE} - {"one_frame_embedding"}
    assert np.all([isinstance(word, str) and word for word in told["words"].values()])
    assert restored("", stage.form, stage.page)
