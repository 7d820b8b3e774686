"""The tab that trains, without a browser: its data and captions, what sets its fields, and what is refused where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from diffusers_helper.errors import FramePackError, InvalidCommand
from diffusers_helper.events import Sampled
from diffusers_helper.jobs.job import Job
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.training.goals import GOALS, QUALITIES
from diffusers_helper.training.order import TrainingOrder
from diffusers_helper.ui import fragments, fragments_queue, train_tab
from diffusers_helper.ui.commands import Commands
from diffusers_helper.ui.routes import Media
from diffusers_helper.ui.train_form import ASKED_FIRST, FIELDS, OF_LOGS, TrainForm, fields_of, groups, shown_of
from diffusers_helper.ui.train_tab import Trainings, wished
from diffusers_helper.words import LANGUAGES, Texts

from ..jobs_support import ScriptedExecutor, ended, make_order, make_picture, make_request, working
from .serving import CHECKPOINT, make_video
from .stage import Stage, answer, click, make_stage, tab_of
from .training import ELSEWHERE, HERE, pairs, videos


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Two videos with their captions."""
    folder = videos(tmp_path / "videos")
    (folder / "b.txt").touch()
    return folder


def test_folders_are_for_this_machine_or_for_those_who_have_the_password(stage: Stage, whole: Path) -> None:
    tab = Trainings(stage.context)
    for does in (
        lambda tab: tab.look(ELSEWHERE, "en", str(whole)),
        lambda tab: tab.act(ELSEWHERE, "en", str(whole), click("caption")),
        lambda tab: tab.act(ELSEWHERE, "en", str(whole), click("more", value="48")),
        lambda tab: tab.start(ELSEWHERE, "en", None, str(whole), "mine", *values()),
    ):
        with pytest.raises(InvalidCommand, match="password"):
            does(tab)
    guarded = SimpleNamespace(settings=SimpleNamespace(page=SimpleNamespace(auth=[("me", "secret")])))
    listed, _ = Trainings(guarded).look(ELSEWHERE, "en", str(whole))  # type: ignore[arg-type]
    assert listed.count("<textarea") == 2


# The fields.


def values(**fields: Any) -> list[Any]:
    """What the components hold where these differ from the order's defaults."""
    return [shown_of(name, fields.get(name, FIELDS[name].default)) for name in FIELDS]


OTHER: Mapping[str, Any] = {
    "kind": "framepack", "steps": 7, "learning_rate": 0.5, "network_module": "loha", "network_dim": 8,
    "network_alpha": 8.0, "network_args": ("factor=4", "verbose=true"), "optimizer_type": "SGD",
    "optimizer_args": ("momentum=0.9",), "lr_scheduler": "cosine", "lr_warmup_steps": 3,
    "gradient_accumulation_steps": 4, "max_grad_norm": 0.0, "gradient_checkpointing": True, "guidance_scale": 6.0,
    "dynamo_backend": "eager", "dynamo_mode": "default", "dynamo_fullgraph": True, "dynamo_dynamic": True,
    "timestep_sampling": "sigmoid", "discrete_flow_shift": 6.0, "sigmoid_scale": 2.0, "weighting_scheme": "cosmap",
    "logit_mean": -0.5, "logit_std": 2.0, "mode_scale": 1.0, "min_timestep": 5, "max_timestep": 900,
    "preserve_distribution_shape": True, "save_every_n_steps": 9, "seed": 9, "form": "diffusers",
    "skip_broken_files": True, "max_train_epochs": 3, "save_every_n_epochs": 1, "save_last_n_steps": 50,
    "save_last_n_epochs": 2, "ema_decay": 0.5, "training_comment": "mine", "no_metadata": True,
    "sample_prompts": "samples.txt", "sample_every_n_steps": 5, "sample_every_n_epochs": 1, "sample_at_first": True,
    "validation_split": 0.25, "validate_every_n_steps": 10,
}  # fmt: skip
"""A value of each field that is not its default."""


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_reaches_the_order_and_no_other_does(name: str) -> None:
    def order(**fields: Any) -> dict[str, Any]:
        return TrainingOrder.parse({"data": "a", "out": "b.safetensors", **fields_of(values(**fields))}).model_dump()

    before, after = order(), order(**{name: OTHER[name]})
    assert {key for key in before if before[key] != after[key]} == {name}
    assert after[name] == OTHER[name]


def test_all_that_an_order_says_is_asked_for() -> None:
    grouped = [name for names in groups().values() for name in names]
    assert sorted((*grouped, *ASKED_FIRST, *OF_LOGS)) == sorted(TrainingOrder.model_fields)
    for language in LANGUAGES:
        assert all(f"train.{name}" in Texts(language) for name in grouped)


def test_goals_and_qualities_differ_and_can_be_trained(tmp_path: Path) -> None:
    sets = {(goal, quality): wished(goal, quality, CHECKPOINT) for goal in GOALS for quality in QUALITIES}
    assert len({repr(each) for each in sets.values()}) == len(sets)
    for fields in sets.values():
        order = make_order(tmp_path, **fields)
        assert 0 < order.save_every_n_steps < order.steps
        assert order.network_alpha == order.network_dim


def test_the_pocket_is_told_the_only_guidance_that_it_knows(tmp_path: Path) -> None:
    assert wished("style", "usual", find_checkpoint("pocket", tmp_path))["guidance_scale"] == 10
    assert wished("style", "usual", None)["guidance_scale"] == 1


@pytest.fixture
def built(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> tuple[Stage, TrainForm]:
    """The tab on a page, and its fields."""
    made: list[TrainForm] = []

    def remembered(page: Any, values: Any) -> TrainForm:
        made.append(TrainForm(page, values))
        return made[0]

    monkeypatch.setattr(train_tab, "TrainForm", remembered)
    with stage.page.blocks, gr.Tab() as tab:
        train_tab.build(stage.page, stage.form, tab)
    return stage, made[0]


def component(stage: Stage, name: str) -> Any:
    return next(block for block in stage.page.blocks.blocks.values() if getattr(block, "elem_id", None) == name)


def test_a_goal_and_a_quality_set_the_fields_in_sight(built: tuple[Stage, TrainForm]) -> None:
    stage, _ = built
    goal, quality = component(stage, "train-goal"), component(stage, "train-quality")
    assert answer(stage, goal, "input", {goal: "motion"}) == list(wished("motion", "usual", CHECKPOINT).values())
    assert answer(stage, quality, "input", {quality: "quick"}) == list(wished("style", "quick", CHECKPOINT).values())


def test_the_page_begins_with_a_style_of_usual_quality(built: tuple[Stage, TrainForm]) -> None:
    _, fields = built
    assert {name: fields[name].value for name in wished("style", "usual", None)} == wished("style", "usual", CHECKPOINT)  # type: ignore[attr-defined]


def test_another_checkpoint_brings_its_guidance_and_its_kind(tmp_path: Path) -> None:
    stage = make_stage(
        tmp_path, CHECKPOINT, replace(CHECKPOINT, name="b", source="b", kinds=("framepack",), guidance=7.0)
    )
    with stage.page.blocks, gr.Tab() as tab:
        train_tab.build(stage.page, stage.form, tab)
    line, kind, guidance = answer(stage, stage.form.checkpoint, "change", {stage.form.checkpoint: "b"})
    assert (kind, guidance) == ("framepack", 7.0)
    assert "For the checkpoint b" in line
    assert answer(stage, tab, "select", {stage.form.checkpoint: "b", stage.page.language: "ja"}) != [line]


# Start.


def refused(stage: Stage, data: Any, name: str = "mine", **fields: Any) -> dict[str, str]:
    """What is said at which field."""
    said, told = Trainings(stage.context).start(HERE, "en", None, str(data), name, *values(**fields))
    assert (said, stage.queue.jobs()) == ("", [])
    message = json.loads(told)
    assert (message["form"], bool(message["insist"])) == ("train", True)
    return dict(message["fields"])


def test_a_training_is_queued_into_the_shelf_s_folder(stage: Stage, whole: Path) -> None:
    said, told = Trainings(stage.context).start(HERE, "en", None, str(whole), " mine ", *values(steps=7))
    assert "Job 1 starts now" in said
    assert json.loads(told)["fields"] == {}
    job = stage.queue.job(1)
    assert job.order
    assert (job.order.steps, job.order.data, job.title) == (7, str(whole), "mine")
    assert Path(job.order.out).parent == stage.context.settings.paths.models_dir.resolve() / "lora"


def test_what_is_wrong_is_said_at_its_field(stage: Stage, whole: Path, tmp_path: Path) -> None:
    assert refused(stage, " ", " ") == dict.fromkeys(("train-data", "train-out"), "This is missing.")
    assert refused(stage, whole, steps=0) == {"train-steps": "Give a whole number from 1 to 10000000."}
    assert refused(stage, whole, steps=None).keys() == {"train-steps"}
    assert refused(stage, whole, network_args=("colour=1",)).keys() == {"train-network_args"}
    assert refused(stage, whole, min_timestep=900, max_timestep=100).keys() == {"train-min_timestep"}
    assert "no such folder" in refused(stage, tmp_path / "nowhere")["train-data"]
    (whole / "a.txt").unlink()
    assert "caption is missing" in refused(stage, whole)["train-data"]


def test_pictures_are_taken_by_themselves_and_where_they_are_made_of_others(stage: Stage, tmp_path: Path) -> None:
    sets = pairs(tmp_path)
    whole = sets.read_text(encoding="utf-8")
    sets.write_text(whole.replace('control_directory="ctl"', "fp_1f_target_index=1"), encoding="utf-8")
    assert "there are 0 control pictures for" in refused(stage, sets)["train-data"]
    sets.write_text(whole, encoding="utf-8")
    for data, name in ((sets.parent / "img", "alone"), (sets, "of_others")):
        assert Trainings(stage.context).start(HERE, "en", None, str(data), name, *values())[0]


def test_a_kind_that_the_checkpoint_does_not_make_is_refused_for_videos_alone(tmp_path: Path, whole: Path) -> None:
    stage = make_stage(tmp_path, replace(CHECKPOINT, kinds=("framepack",)))
    assert refused(stage, whole, kind="f1").keys() == {"train-kind"}
    assert Trainings(stage.context).start(HERE, "en", None, str(pairs(tmp_path)), "mine", *values(kind="f1"))[0]


@pytest.mark.parametrize(
    "name", ["a/b", "..", "../a", "a\\b", ".hidden", "a\0b", "a" * 300, "a:b", "a\nb", "\udcff" * 90]
)
def test_no_name_leaves_the_folder(name: str, stage: Stage, whole: Path) -> None:
    assert refused(stage, whole, name).keys() == {"train-out"}


def test_a_name_that_is_taken_is_refused(stage: Stage, whole: Path) -> None:
    folder = stage.context.settings.paths.models_dir / "lora"
    folder.mkdir(parents=True)
    (folder / "old.safetensors").touch()
    assert "already" in refused(stage, whole, "old")["train-out"]
    tab = Trainings(stage.context)
    tab.start(HERE, "en", None, str(whole), "mine", *values())
    _, told = tab.start(HERE, "en", None, str(whole), "mine", *values())
    assert "already" in json.loads(told)["fields"]["train-out"]
    assert len(stage.queue.jobs()) == 1


# What is seen of it.


class Acts(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name == "data-act"]


def trained(stage: Stage, **fields: Any) -> Job:
    job = stage.queue.add_training(make_order(stage.folder, **fields), "pocket")
    with working(stage.queue, ScriptedExecutor(stage.queue.output_dir)):
        return ended(stage.queue, job.id)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_training_is_shown_wherever_jobs_are(language: str, stage: Stage) -> None:
    texts = Texts(language)
    assert texts("train.none") in fragments.render(stage.context, language)["training"]
    waiting = stage.queue.add_training(make_order(stage.folder))
    shown = fragments.render(stage.context, language)
    assert Acts(shown["queue"]).found == ["pause", "up", "down", "next", "remove"]
    assert stage.queue.claim() == stage.queue.job(waiting.id)
    shown = fragments.render(stage.context, language)
    assert Acts(shown["queue"]).found == ["pause", "stop", "stop"]
    assert Acts(shown["training"]).found == Acts(shown["stop"]).found == ["stop", "stop"]
    assert texts("job.phase_loading_training") in shown["training"]
    stage.queue.add(make_request(make_picture(stage.folder)))
    assert "mine" in fragments_queue.render(stage.context, texts)["queue"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_that_is_done_offers_its_lora_and_shows_its_losses(language: str, stage: Stage) -> None:
    trained(stage)
    shown = fragments.render(stage.context, language)
    for place in ("calibration", "training", "history"):
        assert shown[place].count("<polyline") == 2, place
    assert Acts(shown["training"]).found == Acts(shown["stop"]).found == ["use_lora"]
    assert 'data-value="mine.safetensors"' in shown["training"]
    assert Acts(shown["history"]).found == ["use_lora", "trash", "remove"]
    assert shown["video"] == shown["views"] == shown["sections"] == ""


def test_a_lora_that_is_gone_is_not_offered(stage: Stage) -> None:
    Path(trained(stage).progress.lora or "").unlink()
    shown = fragments.render(stage.context, "en")
    assert Acts(shown["training"]).found == []
    assert shown["stop"] == ""


def test_using_it_shows_the_form_and_changes_nothing_else(stage: Stage) -> None:
    job = trained(stage)
    filled = Commands(stage.page, stage.form).carry_out("en", None, click("use_lora", job.id), HERE)
    assert tab_of(filled) == "generate"
    assert stage.filled(filled[1:]) == {}


@pytest.mark.parametrize("act", ["use", "again", "edit", "duplicate", "compare", "last_frame", "open_folder"])
def test_what_is_for_videos_is_refused(act: str, stage: Stage) -> None:
    job = trained(stage)
    with pytest.raises(FramePackError):
        Commands(stage.page, stage.form).carry_out("en", None, click(act, job.id), HERE)
    assert stage.queue.jobs() == [job]


def test_samples_are_shown_and_served_from_beside_the_lora_alone(stage: Stage) -> None:
    job = stage.queue.add_training(make_order(stage.folder))
    folder = Path(make_order(stage.folder).out).parent / "mine_samples"
    folder.mkdir(parents=True)
    stage.queue.claim()
    for path in (make_video(folder / "a b.mp4"), make_video(stage.folder / "outside.mp4")):
        stage.queue.record(job.id, Sampled(step=3, number=1, samples=1, path=str(path)))
    assert f"media/{job.id}/a%20b.mp4" in fragments.render(stage.context, "en")["training"]
    media = Media(stage.context)
    assert media._sample(job.id, "a b.mp4") == (folder / "a b.mp4").resolve()
    assert media._sample(job.id, "outside.mp4") is media._sample(job.id, "other.mp4") is None


def test_a_file_of_samples_is_refused_at_its_field(stage: Stage, whole: Path) -> None:
    assert "cannot be read" in refused(stage, whole, sample_prompts="nowhere.txt")["train-sample_prompts"]
    assert refused(stage, whole, sample_every_n_steps=3).keys() == {"train-sample_prompts"}
