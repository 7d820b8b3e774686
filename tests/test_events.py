"""Events pass from one process to another as lines of JSON, and come out as they went in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

import pytest

from diffusers_helper.errors import UnreadableEvent
from diffusers_helper.events import EVENTS, Event, Failed, Finished, Notice, Plan, Step
from diffusers_helper.words import Message, plain

VALUES: dict[str, Any] = {
    "int": 3,
    "float": 1.5,
    "bool": True,
    "AnyText": "von Hand\n\udcff/船.png",
    "str": "f1",
    "list[float]": [1.0, 0.98],
    "list[AnyText]": ["img", "\udc80"],
    "dict[str, int]": {"128x128": 2},
    "list[list[float]]": [[1.0, 0.97], [1.0, 0.99]],
    "AnyMessage": Message("memory.decoding", decoder=plain("x\udcff")),
}
STEP = {"event": "step", "section": 1, "sections": 2, "step": 3, "steps": 4, "computed": True}


def full(event: type[Event]) -> Event:
    """An event with a value in every field that is none of the defaults."""
    kinds = {each.name: str(each.type).removesuffix(" | None") for each in fields(event)}
    return event(**{name: VALUES[kind] for name, kind in kinds.items()})


def described(event: type[Event]) -> Iterator[type[Event]]:
    """Every class with a name on the wire, from ``event`` down."""
    for each in event.__subclasses__():
        yield from [each] if "event" in vars(each) else []
        yield from described(each)


def test_every_event_has_its_place_in_the_table() -> None:
    assert {each.event: each for each in described(Event)} == EVENTS


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_an_event_comes_back_from_its_json(event: type[Event]) -> None:
    told = full(event)
    assert told.to_json().isascii()
    read = Event.from_json(told.to_json())
    assert (read, type(read)) == (told, event)
    assert Event.from_dict(told.as_dict()) == told


@pytest.mark.parametrize("told", [Finished(), Failed(error="", exit_code=1, folder=None)], ids=["finished", "failed"])
def test_what_is_left_out_has_its_default(told: Event) -> None:
    required = {each.name for each in fields(told) if each.default is MISSING}
    content = {name: value for name, value in told.as_dict().items() if name in ("event", *required)}
    assert len(content) < len(told.as_dict())
    assert Event.from_dict(content) == told


def test_a_whole_number_is_a_number() -> None:
    plan = full(Plan).as_dict()
    assert Event.from_dict({**plan, "seconds": 5}) == Event.from_dict({**plan, "seconds": 5.0})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "event: None is not known; known are started, merging, plan"),
        ({"event": "leapt"}, "event: 'leapt' is not known"),
        ({"event": ["step"]}, r"event: \['step'\] is not known"),
        ({"event": "notice"}, "notice: message is missing"),
        (
            {**STEP, "colour": "red"},
            "step: colour is not a field of it; the fields are seconds_left, fraction, section",
        ),
        ({**STEP, "section": "1"}, "step: section: '1' is not allowed"),
        ({**STEP, "section": True}, "step: section: True is not allowed"),
        ({**STEP, "computed": 1}, "step: computed: 1 is not allowed"),
        ({**STEP, "seconds_left": float("nan")}, "step: seconds_left: nan is not allowed"),
        ({"event": "notice", "message": ["a"]}, r"notice: message: \['a'\] is not allowed"),
    ],
)
def test_what_is_no_event_is_refused_and_named(content: dict[str, Any], said: str) -> None:
    with pytest.raises(UnreadableEvent, match=said):
        Event.from_dict(content)
    with pytest.raises(UnreadableEvent, match=said):
        Event.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '"step"', "null", "[" * 100_000])
def test_a_line_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(UnreadableEvent, match="an event"):
        Event.from_json(text)


def test_all_that_is_wrong_is_said() -> None:
    with pytest.raises(UnreadableEvent, match=r"step: section is missing; .*step: computed: 'no' is not allowed"):
        Event.from_dict({"event": Step.event, "computed": "no"})
    assert Event.from_dict({"event": "notice", "message": ""}) == Notice(message="")
