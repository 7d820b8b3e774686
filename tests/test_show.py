"""What a terminal shows of a video or a training under way."""

import pytest

from diffusers_helper.events import Decoding, Encoded, Event, Finished, Learning, Notice, Step
from diffusers_helper.show import ProgressBars, TrainingBar


def shown(capsys: pytest.CaptureFixture[str], *events: Event, of: type[ProgressBars] = ProgressBars) -> str:
    with of() as bars:
        for event in events:
            bars.event(event)
    return capsys.readouterr().err


def test_a_step_and_a_decode_say_how_far_the_whole_video_is(capsys: pytest.CaptureFixture[str]) -> None:
    place = {"section": 1, "sections": 3}
    step = Step(**place, step=2, steps=2, computed=False, seconds_left=84.2, fraction=0.25)
    text = shown(capsys, step, Decoding(**place, seconds_left=0.0, fraction=0.999))
    assert "reused, 25% of the video, ready in 84 s" in text
    assert "section 1 of 3: making frames, 99% of the video, ready in 1 s\n" in text


def test_no_time_is_made_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, Decoding(section=1, sections=1)) == "section 1 of 1: making frames\n"


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (1.0, "12 steps computed, 13 reused, about 1.9 times faster): v.mp4"),
        (0.0, "12 steps computed, 13 reused): v.mp4"),
    ],
)
def test_the_end_says_what_the_step_cache_was_worth(
    capsys: pytest.CaptureFixture[str], first: float, told: str
) -> None:
    steps = {"steps_computed": 12, "steps_reused": 13, "seconds_sampling": 13.3, "seconds_reused": 1.3}
    assert told in shown(capsys, Finished(path="v.mp4", seconds_first_step=first, **steps))  # type: ignore[arg-type]


def test_a_training_has_a_bar_for_each_data_set_and_one_for_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """What is said between stands in a line of its own, and the bar goes on from where it was."""
    encoded = [Encoded(data_set=name, done=done, files=2) for name in ("img", "vid") for done in (1, 2)]
    numbers = {"smooth": 0.5, "rate": 1e-3, "norm": 1.0, "seconds": 0.1, "seconds_left": 0.1}
    learning = Learning(step=1, steps=1, loss=0.6, **numbers)
    notice = Notice(message="left out: x")
    text = shown(capsys, encoded[0], notice, *encoded[1:], learning, of=TrainingBar)
    bars = [line.rpartition("\r")[2] for line in text.split("\n") if "|" in line]
    expected = [("encoding img", "1/2"), ("encoding img", "2/2"), ("encoding vid", "2/2"), ("training", "1/1")]
    assert [(bar.partition(":")[0], bar.rpartition("| ")[2].partition(" [")[0]) for bar in bars] == expected
    assert "note: left out: x\n" in text
