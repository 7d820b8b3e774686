"""Messages: data until they are read, and every one that the code makes has its words in each language."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from diffusers_helper.errors import FramePackError, OutputFailed
from diffusers_helper.events import Event, Failed, Notice
from diffusers_helper.words import LANGUAGES, AnyMessage, Message, Texts, joined, plain
from diffusers_helper.words.texts import FOLDER

from .reading import places, texts_by_key

PACKAGE = FOLDER.parent.parent
OTHERS_SAY_TOO = {"generate", "job", "presets", "queue", "restore", "words"}
"""Subjects of which the page, or a message, says some."""
BLOCKS = Message("memory.fewer_blocks", blocks=4)
NESTED = Message(
    "memory.plan_gpu",
    how=(Message("memory.weights_int8"), Message("memory.decoding", decoder=Message("decoder.tiled"))),
    vram=9 * 10**9, vram_free=12 * 10**9, ram=10**9, ram_free=2 * 10**9,
)  # fmt: skip


def codes(argument: ast.expr) -> Iterator[re.Pattern[str]]:
    """What the first argument of a message can be."""
    match argument:
        case ast.Constant(value=str(code)):
            yield re.compile(re.escape(code))
        case ast.IfExp(body=body, orelse=orelse):
            yield from codes(body)
            yield from codes(orelse)
        case ast.JoinedStr(values=parts):
            known = [re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in parts]
            yield re.compile("".join(known))
        case _:
            raise AssertionError(f"a message whose code cannot be seen: {ast.unparse(argument)}")


def made() -> Iterator[tuple[str, re.Pattern[str], ast.Call]]:
    """Every message that the package makes: where, what its code can be, the call."""
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.parent == FOLDER.parent:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Message":
                for code in codes(node.args[0]):
                    yield f"{file.relative_to(PACKAGE)}:{node.lineno}", code, node


def test_every_message_has_a_text_with_a_place_for_each_of_its_values() -> None:
    known = texts_by_key()
    for where, code, call in made():
        meant = [key for key in known if code.fullmatch(key)]
        assert meant, f"{where}: no text for {code.pattern}"
        named = {keyword.arg for keyword in call.keywords if keyword.arg}
        for key in meant:
            assert named <= places(known[key]), f"{where}: {key} has no place for {named - places(known[key])}"
            spread = any(keyword.arg is None for keyword in call.keywords)
            assert spread or named == places(known[key]), f"{where}: {key} lacks {places(known[key]) - named}"


def test_every_text_of_a_subject_of_messages_is_said_somewhere() -> None:
    patterns = {code.pattern: code for _, code, _ in made()}
    subjects = {pattern.partition(r"\.")[0] for pattern in patterns} - OTHERS_SAY_TOO
    texts = [key for key in texts_by_key() if key.partition(".")[0] in subjects]
    assert len(texts) > 50
    unsaid = [key for key in texts if not any(code.fullmatch(key) for code in patterns.values())]
    assert unsaid == []


def test_a_message_is_english_as_a_str_and_any_language_where_it_is_read() -> None:
    assert str(BLOCKS) == "The GPU ran out of memory: it keeps only 4 of the transformer's blocks now, which is slower."
    said = {Texts(language).said(BLOCKS) for language in LANGUAGES}
    assert len(said) == 3
    assert all("4" in words for words in said)


def test_messages_within_a_message_are_said_in_its_language() -> None:
    assert str(NESTED).startswith("int8 weights, decoding in tiles, with at most 9.0 of 12.0 GB free VRAM and 1.0 of")
    assert Texts("ja").said(NESTED).startswith("int8 の重み、デコードはタイル分割、")
    assert Texts("zh").said(NESTED).startswith("int8 权重，分块解码，")


def test_several_follow_each_other_as_sentences() -> None:
    both = joined(BLOCKS, plain("cuda says no."))
    assert str(both) == f"{BLOCKS} cuda says no."
    assert Texts("ja").said(both) == f"{Texts('ja').said(BLOCKS)}cuda says no."
    assert joined(BLOCKS) is BLOCKS


@pytest.mark.parametrize("message", [BLOCKS, NESTED, joined(BLOCKS, NESTED), plain("{braces} and \udcff")])
def test_a_message_comes_back_from_json(message: Message) -> None:
    told = json.dumps(asdict(message))
    assert Message.from_dict(json.loads(told)) == message
    event = Event.from_json(Notice.of(message).to_json())
    assert event == Notice.of(message)
    assert isinstance(event, Notice)
    assert event.said == message


def test_braces_in_a_value_are_no_places() -> None:
    assert str(plain("{0} {x.y}")) == "{0} {x.y}"


@pytest.mark.parametrize(
    "given",
    [{}, {"code": "a.b"}, {"code": 1, "values": {}}, {"code": "a.b", "values": []}, {"code": "a", "values": {}, "x": 1},
     {"code": "a", "values": {"x": {"y": 1}}}, 7, "text"],
)  # fmt: skip
def test_what_is_no_message_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AnyMessage).validate_python(given)


def test_a_message_that_only_another_version_can_say_is_said_as_it_was_then() -> None:
    """Of a file that a later version wrote, or of one whose text has other places now."""
    for message in (Message("later.thing", x=1), Message("memory.fewer_blocks"), Message("memory.copies", size="?")):
        assert Texts("ja").said(message, "as it was") == "as it was"
    assert Texts("ja").said(None, "as it was") == "as it was"


def test_an_error_keeps_what_it_says_as_data() -> None:
    error = OutputFailed(Message("failure.broken_numbers", section=2, step=3))
    assert str(error) == str(error.said)
    assert str(error).startswith("section 2, step 3: ")
    assert FramePackError("as it is").said == plain("as it is")
    failed = Failed.of(error.said, exit_code=1, folder=None)
    assert (failed.error, failed.said) == (str(error), error.said)
    assert Event.from_json(failed.to_json()) == failed


def test_an_event_without_data_is_that_of_an_earlier_version() -> None:
    event = Event.from_dict({"event": "notice", "message": "hello"})
    assert event == Notice(message="hello")
    assert Texts("ja").said(event.said, event.message) == "hello"  # type: ignore[attr-defined]
