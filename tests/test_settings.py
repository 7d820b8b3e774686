"""Where a setting comes from, and what is said about a bad one."""

import argparse
import json
from pathlib import Path

import pytest

from diffusers_helper import settings
from diffusers_helper.errors import InvalidSetting


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"checkpoint": "from-file", "output_dir": "file-out", "log_level": "error"}))
    chosen = settings.resolve(
        {"checkpoint": "from-flag", "output_dir": None},
        {"FRAMEPACK_CHECKPOINT": "from-environment", "FRAMEPACK_OUTPUT_DIR": "environment-out"},
        file,
    )
    assert (chosen.checkpoint, chosen.origin["checkpoint"]) == ("from-flag", "flag")
    assert (chosen.output_dir, chosen.origin["output_dir"]) == (Path("environment-out"), "environment")
    assert (chosen.log_level, chosen.origin["log_level"]) == ("error", "settings file")
    assert (chosen.offline, chosen.origin["offline"]) == (False, "default")
    assert "checkpoint = from-flag (flag)" in chosen.lines()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HF_HUB_OFFLINE": "yes"}, "HF_HUB_OFFLINE='yes': allowed are 1, true, 0 and false"),
        ({"FRAMEPACK_LOG_LEVEL": "loud"}, "FRAMEPACK_LOG_LEVEL='loud': allowed are debug"),
        ({"FRAMEPACK_OUTPUT_DIR": "  "}, "FRAMEPACK_OUTPUT_DIR"),
    ],
)
def test_a_bad_value_names_the_variable_and_what_is_allowed(environment: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidSetting) as refusal:
        settings.resolve({}, environment, Path("nowhere.json"))
    assert words in str(refusal.value)


@pytest.mark.parametrize("content", ["{", "[]", '{"unknown": 1}', '{"offline": "maybe"}'])
def test_a_bad_settings_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "settings.json"
    file.write_text(content)
    with pytest.raises(InvalidSetting, match=r"settings\.json"):
        settings.resolve({}, {}, file)


def test_every_knob_has_a_flag() -> None:
    parser = argparse.ArgumentParser()
    settings.add_flags(parser)
    options = parser.parse_args(["--checkpoint", "x", "--output-dir", "o", "--models-dir", "m", "--offline"])
    chosen = settings.resolve(vars(options), {}, Path("nowhere.json"))
    assert (chosen.checkpoint, chosen.models_dir, chosen.offline) == ("x", Path("m"), True)
