"""What a kind plans follows from the recipe and the roles of its pictures; a new kind is a class and a line."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from diffusers_helper.cli import main
from diffusers_helper.errors import InvalidRequest
from diffusers_helper.events import Finished, SectionDone
from diffusers_helper.generate import generate
from diffusers_helper.media.video import probe
from diffusers_helper.request import Picture, Request, TimedPrompt
from diffusers_helper.sections.context import ContextFrame, Source, f1_context
from diffusers_helper.sections.kinds import F1, KINDS, Asked, Kind, OneFrame, Placed
from diffusers_helper.sections.plan import SectionPlan, VideoPlan, video_frames
from tests.parity.engine import PackCheckpoint, PackEngine
from tests.plans import Asked as AskedFor

PROMPTS = tuple(TimedPrompt(text=str(second), from_second=second) for second in (0.0, 2.0, 3.0))


@pytest.mark.parametrize(("kind", "prompts"), [("f1", [0, 0, 2, 2]), ("framepack", [2, 2, 0, 0])])
def test_a_section_follows_the_prompt_at_its_middle(kind: str, prompts: list[int]) -> None:
    """Sections of 1.2 s; the second prompt would begin within the second section's last third, and gives way."""
    plan = KINDS[kind]().plan(AskedFor(4.8, prompts=PROMPTS), ())
    assert [section.prompt for section in plan.sections] == prompts


def test_the_start_picture_is_known_by_its_role() -> None:
    class WithOthers(F1):
        takes: ClassVar = frozenset({"start", "control"})

    pictures = [Picture(role="control", path="c"), Picture(path="s")]
    plan = WithOthers().plan(AskedFor(1.2), pictures)
    assert plan.begins_with == 1
    (section,) = plan.sections
    assert section.seen == (1,)
    assert (section.context.clean or ())[0] == ContextFrame(0, Source.PICTURE, 1)


def test_control_pictures_stand_at_their_indices() -> None:
    controls = [Picture(role="control", path=path) for path in ("a", "b")]
    plan = OneFrame(target_index=1, control_index="0;10", post=False, history_2x=False, history_4x=False).plan(
        AskedFor(1), controls
    )
    (section,) = plan.sections
    assert section.context.target == (1,)
    assert [(frame.index, frame.n) for frame in section.context.clean or ()] == [(0, 0), (10, 1)]
    assert (plan.result, plan.frames, section.seen) == ("picture", 1, (0,))


@pytest.mark.parametrize(
    ("embedding", "alone", "with_start"),
    [("start", (0,), (2,)), ("control_1", (0,), (0,)), ("control_2", (1,), (1,)), ("mean", (0, 1), (2, 0, 1))],
)
def test_the_image_encoder_sees_what_is_chosen(
    embedding: str, alone: tuple[int, ...], with_start: tuple[int, ...]
) -> None:
    """And the context is the same."""
    controls = [Picture(role="control", path=path) for path in ("a", "b")]
    kind = OneFrame(control_index="0;10", embedding=embedding)
    for pictures, seen in ((controls, alone), ([*controls, Picture(path="s")], with_start)):
        (section,) = kind.plan(AskedFor(1), pictures).sections
        (by_default,) = OneFrame(control_index="0;10").plan(AskedFor(1), pictures).sections
        assert (section.seen, section.context) == (seen, by_default.context)


def test_a_recipe_alone_has_a_plan_whatever_the_image_encoder_is_to_see() -> None:
    """A form holds it before its pictures fit; the request refuses it."""
    (section,) = OneFrame(embedding="control_2").plan(AskedFor(1), ()).sections
    assert section.seen == (0,)


class Glimpse(Kind):
    """The toy: one short F1 section, however long a video is asked for."""

    name: ClassVar[str] = "glimpse"

    window: int = 3

    def plan(self, asked: Asked, pictures: Sequence[Placed]) -> VideoPlan:
        latents = self.window + 1
        section = SectionPlan(0, f1_context(self.window), latents, latents, video_frames(latents))
        return VideoPlan(self.window, (section,), begins_with=0)


def test_a_new_kind_is_a_class_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    named = {"picture": str(tmp_path / "a.png"), "kind": "glimpse", "glimpse_window": 2, "steps": 2, "seconds": 9.0}
    with pytest.raises(InvalidRequest, match="kind: 'glimpse' is not allowed"):
        Request.parse(named)
    monkeypatch.setitem(KINDS, "glimpse", Glimpse)
    engine = PackEngine("run_f1")
    engine.checkpoint = PackCheckpoint("parity", "parity", ("glimpse",), {}, engine.checkpoint.buckets)
    events = list(generate(Request.parse(named), engine, tmp_path / "outputs"))
    assert isinstance(events[-1], Finished), events[-1]
    assert [event.frames for event in events if isinstance(event, SectionDone)] == [9]
    assert probe(Path(events[-1].path or "")).frames == 9
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert "--glimpse-window" in capsys.readouterr().out
