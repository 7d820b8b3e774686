"""What other programs write about their videos: taken as far as a request has it, noted where it has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest

from diffusers_helper.errors import UnusableInput
from diffusers_helper.media.video import write_segment
from diffusers_helper.recall import recall

from .recall_files import EICHI, PIXELS, STUDIO, STUDIO_FIELDS, json_file, png_with


def test_studios_sidecar(tmp_path: Path) -> None:
    found = recall(json_file(tmp_path, STUDIO))
    assert found.source == "studio"
    assert found.fields == STUDIO_FIELDS
    assert "input_image_path" in found.ignored
    assert "latent_type" in found.ignored
    assert not set(found.ignored) & {"prompt", "gs", "model_type"}
    assert (found.not_taken, found.notes) == ((), ("size",))


def test_studios_png(tmp_path: Path) -> None:
    found = recall(png_with(tmp_path, {key: str(value) for key, value in STUDIO.items() if key != "loras"}))
    assert (found.source, found.fields) == ("studio", STUDIO_FIELDS)
    numbers = {**STUDIO, "prompt": "123", "negative_prompt": "None"}
    found = recall(png_with(tmp_path, {key: str(value) for key, value in numbers.items()}))
    assert (found.fields["prompt"], found.fields["negative_prompt"]) == ("123", "None")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"use_magcache": True}, "magcache"),
        ({"end_frame_used": "True"}, "end_frame"),
        ({"loras": {"style": 0.8}}, "loras"),
        ({"model_type": "Video F1"}, "other_model"),
        ({"has_input_image": False}, "no_picture"),
        ({"prompt": "[1s-3s: she waves] [3s: she sits]"}, "timed_prompt"),
        ({"prompt": "A cat. [2s-4s: it jumps]"}, "timed_prompt"),
        ({"prompt": "A cat.\n[ 2.5s - 4.0s : it jumps ]"}, "timed_prompt"),
    ],
)
def test_what_studio_has_and_we_have_not_is_noted(tmp_path: Path, change: dict[str, Any], note: str) -> None:
    assert note not in recall(json_file(tmp_path, STUDIO)).notes
    assert note in recall(json_file(tmp_path, {**STUDIO, **change})).notes


@pytest.mark.parametrize(
    "prompt", ["[masterpiece, best] a cat", "[s] a cat", "a [cat:dog:0.5]", "she says [2 s later] yes: no", "[2: a]"]
)
def test_other_brackets_raise_no_alarm(tmp_path: Path, prompt: str) -> None:
    assert "timed_prompt" not in recall(json_file(tmp_path, {**STUDIO, "prompt": prompt})).notes


def test_studios_older_json_tells_compression_and_memory(tmp_path: Path) -> None:
    older = {**STUDIO, "mp4_crf": 20.0, "gpu_memory_preservation": 8}
    for path in (json_file(tmp_path, older), png_with(tmp_path, {key: str(value) for key, value in older.items()})):
        found = recall(path)
        assert found.fields == {**STUDIO_FIELDS, "mp4_crf": 20, "preserved_memory_gb": 8.0}
        assert not {"mp4_crf", "gpu_memory_preservation"} & set(found.ignored)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_harms_nothing_but_its_own_field(tmp_path: Path, number: float) -> None:
    found = recall(json_file(tmp_path, {**STUDIO, "end_frame_strength": number, "x_values": [number]}))
    assert (found.fields, found.not_taken) == (STUDIO_FIELDS, ())
    found = recall(json_file(tmp_path, {**STUDIO, "gs": number, "seed": number}))
    assert {problem.field for problem in found.not_taken} == {"distilled_guidance", "seed"}
    assert found.fields.keys() == STUDIO_FIELDS.keys() - {"distilled_guidance", "seed"}


def test_studios_older_and_looser_values(tmp_path: Path) -> None:
    off = {"use_teacache": False, "teacache_rel_l1_thresh": 0.0}
    found = recall(json_file(tmp_path, {**STUDIO, **off, "steps": 25.0, "model_type": "Original"}))
    assert found.fields["step_cache"] == "off"
    assert "teacache_threshold" not in found.fields
    assert found.fields["steps"] == 25
    assert found.fields["kind"] == "framepack"


SDNEXT = "variant:forward-only seed:77 steps:30 scale:1.5 distilled:9 rescale:0.5 shift:3 start:1 end:0 vision:1"


def sdnext_video(folder: Path, description: str, title: str = "sdnext framepack") -> Path:
    """What SD.Next leaves in a video, beside pictures that do not matter."""
    write_segment(folder / "segment.mp4", PIXELS[None], 30, 30)
    with av.open(folder / "segment.mp4") as given, av.open(folder / "found.mp4", "w") as found:
        found.metadata.update({"title": title, "description": description, "comment": "a wave: it breaks"})
        stream = found.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                found.mux(packet)
    return folder / "found.mp4"


def test_sdnexts_video(tmp_path: Path) -> None:
    found = recall(sdnext_video(tmp_path, SDNEXT))
    assert found.source == "sdnext"
    assert found.fields == {
        "prompt": "a wave: it breaks",
        "seed": 77,
        "steps": 30,
        "real_cfg": 1.5,
        "distilled_guidance": 9.0,
        "cfg_rescale": 0.5,
        "kind": "f1",
    }
    assert (found.ignored, found.notes, found.not_taken) == (("end", "shift", "start", "vision"), (), ())


def test_sdnexts_other_variants_and_strange_values(tmp_path: Path) -> None:
    assert recall(sdnext_video(tmp_path, "variant:bi-directional")).fields["kind"] == "framepack"
    found = recall(sdnext_video(tmp_path, "variant:None seed:many steps: scale:nan words :9"))
    assert found.fields == {"prompt": "a wave: it breaks"}
    assert found.notes == ("other_model",)
    assert {problem.field for problem in found.not_taken} == {"seed", "steps", "real_cfg"}
    with pytest.raises(UnusableInput, match="no FramePack settings"):
        recall(sdnext_video(tmp_path, SDNEXT, title="sdnext"))


def test_eichis_lines(tmp_path: Path) -> None:
    found = recall(png_with(tmp_path, {"parameters": EICHI}))
    assert found.source == "eichi"
    assert found.fields == {"prompt": "A girl dances.\nShe laughs", "seed": 31337}
    assert found.ignored == ("section_number", "section_prompt")
    assert found.notes == ("section_prompt",)


def test_eichis_older_separate_texts(tmp_path: Path) -> None:
    texts = {
        "prompt": "少女が踊る\nゆっくり",
        "seed": "5",
        "parameters": "少女が踊る\nゆっくり\nSeed: 5",
        "Software": "x",
    }
    found = recall(png_with(tmp_path, texts))
    assert (found.source, found.fields) == ("eichi", {"prompt": "少女が踊る\nゆっくり", "seed": 5})
    assert found.ignored == ("Software",)


def test_eichis_seed_alone(tmp_path: Path) -> None:
    assert recall(png_with(tmp_path, {"parameters": "Seed: 7"})).fields == {"seed": 7}
    found = recall(png_with(tmp_path, {"parameters": "p\nSeed: many"}))
    assert found.fields == {"prompt": "p"}
    assert [problem.field for problem in found.not_taken] == ["seed"]


@pytest.mark.parametrize(
    "text", ["a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler, Seed: 5", "", "just words", '{"seed": 1}']
)
def test_other_programs_parameters_are_not_taken_for_eichis(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnusableInput, match=r"found\.png"):
        recall(png_with(tmp_path, {"parameters": text}))


@pytest.mark.parametrize("value", [1, "yes", [], "\ud800"])
def test_a_switch_that_is_none_harms_nothing_but_its_own_field(tmp_path: Path, value: Any) -> None:
    found = recall(json_file(tmp_path, {**STUDIO, "use_teacache": value}))
    assert [problem.field for problem in found.not_taken] == ["step_cache"]
    assert found.fields["prompt"] == STUDIO_FIELDS["prompt"]
