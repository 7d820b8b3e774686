"""The command ``one-frame``: every word and mode changes what it says, and nothing else, of a request."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusers_helper import one_frame_command, settings
from diffusers_helper.errors import InvalidRequest
from diffusers_helper.media.metadata import read_metadata
from diffusers_helper.one_frame_command import add_arguments, asked, laid_out
from diffusers_helper.request import Request
from diffusers_helper.sections.context import ContextPlan
from diffusers_helper.sections.modes import MODES

from . import program
from .conftest import ROOT


def parsed(*flags: str) -> Request:
    """What the command's flags ask for."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return asked(parser.parse_args(flags), settings.resolve({}, {}, Path("none")))


def context(request: Request) -> ContextPlan:
    (section,) = request.plan().sections
    return section.context


def stands(request: Request) -> dict[str, Any]:
    """Time indices of all that the transformer is given, by level; the clean ones with where each comes from."""
    plan = context(request)
    return {
        "target": plan.target,
        "clean": [(frame.index, frame.source.name, frame.n) for frame in plan.clean or ()],
        "2x": plan.clean_2x and [frame.index for frame in plan.clean_2x],
        "4x": plan.clean_4x and [frame.index for frame in plan.clean_4x],
    }


TWO_X, FOUR_X = [11, 12], list(range(13, 29))
EXPECTED = {
    "one_frame": {"target": (9,), "clean": [(0, "PICTURE", 0), (10, "ZERO", 0)], "2x": TWO_X, "4x": FOUR_X},
    "oichi": {
        "target": (4,), "clean": [(0, "PICTURE", 0), (13, "PICTURE", 1), (10, "ZERO", 0)], "2x": TWO_X, "4x": FOUR_X,
    },
    "kisekaeichi": {"target": (1,), "clean": [(0, "PICTURE", 0), (10, "PICTURE", 1)], "2x": None, "4x": None},
    "1f-mc": {
        "target": (9,), "clean": [(0, "PICTURE", 0), (1, "PICTURE", 1), (10, "ZERO", 0)], "2x": None, "4x": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_is_exactly_these_places(mode: str) -> None:
    pictures = ["a.png"] if mode == "one_frame" else ["a.png", "b.png"]
    request = parsed("--mode", mode, *(flag for picture in pictures for flag in ("--image", picture)))
    assert stands(request) == EXPECTED[mode]
    assert [Path(picture.path).name for picture in request.pictures] == pictures
    assert {picture.role for picture in request.pictures} == {"control"}
    assert (request.kind.name, request.output.name) == ("one_frame", "png")


WORDS: dict[str, dict[str, Any]] = {
    "target_index=4": {"target": (4,)},
    "control_index=2;7": {"clean": [(2, "PICTURE", 0), (7, "PICTURE", 1), (10, "ZERO", 0)]},
    "history_index=5": {"clean": [(0, "PICTURE", 0), (5, "PICTURE", 1), (10, "ZERO", 0)]},
    "no_post": {"clean": [(0, "PICTURE", 0), (13, "PICTURE", 1)]},
    "no_2x": {"2x": None},
    "no_4x": {"4x": None},
    "default": {},
    "latent_window_size=12": {
        "clean": [(0, "PICTURE", 0), (13, "PICTURE", 1), (13, "ZERO", 0)],
        "2x": [14, 15],
        "4x": list(range(16, 32)),
    },
}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_changes_what_it_says_and_nothing_else(word: str) -> None:
    flags = ("--image", "a.png,b.png", "--mode", "oichi", "--one-frame", word)
    assert stands(parsed(*flags)) == {**EXPECTED["oichi"], **WORDS[word]}


def test_words_come_in_any_order_and_pictures_in_either_form(tmp_path: Path) -> None:
    words = ["target_index=4", "control_index=0;10", "no_post", "no_2x", "no_4x"]
    one = parsed("--image-path", "a.png,b.png", "--one-frame", ",".join(words))
    other = parsed("--image", "a.png", "--image", "b.png", "--one-frame", " , ".join(reversed(words)))
    assert one == other
    assert stands(one) == {**EXPECTED["kisekaeichi"], "target": (4,)}
    (tmp_path / "a,b.png").touch()
    assert [picture.path for picture in parsed("--image", str(tmp_path / "a,b.png")).pictures] == [
        str(tmp_path / "a,b.png")
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("no_3x", "'no_3x' is not known; known are default, no_post, no_2x, no_4x, target_index=..."),
        ("target_index=x", "target_index takes whole numbers, 0 or more, not 'x'"),
        ("target_index=-1", "whole numbers, 0 or more, not '-1'"),
        ("target_index=1;2", "target_index is one number, not '1;2'"),
        ("target_index=65", "one_frame_target_index: 65 is not allowed"),
        ("control_index=", "whole numbers, 0 or more, not ''"),
        ("control_index=0;1;2", "there are 2 pictures and 3 places for them: 0;1;2"),
        ("control_index=0", "there are 2 pictures and 1 places for them: 0"),
        ("latent_window_size=0", "latent_window: 0 is not allowed"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed("--image", "a.png,b.png", "--mode", "oichi", "--one-frame", words)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--image: is missing"),
        (("--mode", "kisekaeichi", "--image", "a.png"), "kisekaeichi takes 2 pictures or more, and 1 is given"),
        (("--image", "a.png,b.png,c.png"), "there are 3 pictures and 1 places for them"),
    ],
)
def test_too_few_or_too_many_pictures_are_refused(flags: tuple[str, ...], said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(*flags)
    assert said in str(refused.value)


def test_a_mode_with_fewer_pictures_than_places_takes_the_first_places() -> None:
    assert stands(parsed("--image", "a.png", "--mode", "oichi")) == {**EXPECTED["one_frame"], "target": (4,)}
    assert laid_out("", MODES["oichi"]) == (MODES["oichi"], False)


def made(tmp_path: Path, photograph: Path, pocket: Path, *flags: str) -> Any:
    common = ("--image", str(photograph), "--checkpoint", str(pocket), "--prompt", "the camera pans left")
    return program.run(tmp_path, "one-frame", *common, "--steps", "4", "--seed", "5", "--size", "128x128", *flags)


def test_from_the_command_line(tmp_path: Path, photograph: Path, pocket: Path) -> None:
    out = tmp_path / "picture.png"
    done = made(tmp_path, photograph, pocket, "--one-frame", "target_index=5", "--out", str(out))
    assert done.returncode == 0, done.stderr
    with Image.open(out) as image:
        assert image.size == (128, 128)
        assert np.asarray(image).std() > 10
    recipe = read_metadata(out)["request"]
    assert recipe["kind"] == {
        "name": "one_frame", "target_index": 5, "control_index": "0", "post": True, "history_2x": True,
        "history_4x": True, "embedding": "start",
    }  # fmt: skip
    assert not list((tmp_path / "outputs").rglob("*.mp4"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--out", "a.mp4"), "a.mp4 is not the name of a .png file"),
        (("--checkpoint", "framepack-f1"), "framepack-f1"),
        (("--one-frame", "nothing"), "is not known"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(
    flags: tuple[str, ...], said: str, tmp_path: Path, photograph: Path, pocket: Path
) -> None:
    done = made(tmp_path, photograph, pocket, *flags)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_every_flag_of_the_command_has_a_place_in_the_request() -> None:
    """What one picture has no use for is left out, and nothing else."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    dests = {action.dest for action in parser._actions}
    assert not dests & {"seconds", "kind", "output", "decoding", "mp4_crf"}
    assert {"prompt", "steps", "seed", "loras", "rope_scaling_factor", "magcache_threshold", "lora_mode"} <= dests
    assert one_frame_command.NO_FLAGS


def test_the_document_states_the_modes_as_they_are() -> None:
    """Its tables of modes and of defaults."""
    text = (ROOT / "ONE_FRAME.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (\d+ \| [\d;]+ \| \w+ \| \w+) \|", text, re.MULTILINE))
    switch = {True: "on", False: "off"}
    kinds = {name: mode.kind for name, mode in MODES.items()}
    assert rows == {
        name: f"{kind.target_index} | {kind.control_index} | {switch[kind.post]} | {switch[kind.history_2x]}"
        for name, kind in kinds.items()
    }
    assert all(kind.history_2x == kind.history_4x for kind in kinds.values())
    assert all(mode.latent_window == 9 for mode in MODES.values())


@pytest.mark.parametrize("flag", ["--control-mask", "--control-image-mask-path", "--control_image_mask_path"])
def test_masks_belong_to_pictures_in_their_order(flag: str) -> None:
    request = parsed("--mode", "kisekaeichi", "--image", "a.png,b.png", flag.replace("_", "-"), "none,m.png")
    assert [picture.mask and Path(picture.mask).name for picture in request.pictures] == [None, "m.png"]


def test_a_picture_that_the_image_encoder_alone_sees() -> None:
    request = parsed("--image", "s.png", "--control-image", "a.png,b.png", "--mode", "kisekaeichi")
    assert [(picture.role, Path(picture.path).name) for picture in request.pictures] == [
        ("start", "s.png"), ("control", "a.png"), ("control", "b.png"),
    ]  # fmt: skip
    assert request.plan().sections[0].seen == (0,)
    seen = parsed("--image", "a.png,b.png", "--mode", "kisekaeichi", "--one-frame-embedding", "control_2")
    assert seen.plan().sections[0].seen == (1,)


def test_latent_index_is_taken_as_what_it_can_only_be() -> None:
    flags = ("--image", "a.png,b.png", "--mode", "oichi", "--one-frame")
    assert parsed(*flags, "latent_index=0") == parsed(*flags, "default")
    with pytest.raises(InvalidRequest, match="a single picture has one latent, number 0"):
        parsed(*flags, "latent_index=5")
