"""Where a setting comes from, and what is said about a bad one."""

import argparse
import json
import os
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
    assert (chosen.paths.checkpoint, chosen.origin["checkpoint"]) == ("from-flag", "flag")
    assert (chosen.paths.output_dir, chosen.origin["output_dir"]) == (Path("environment-out"), "environment")
    assert (chosen.log.log_level, chosen.origin["log_level"]) == ("error", "settings file")
    assert (chosen.network.offline, chosen.origin["offline"]) == (False, "default")
    assert "checkpoint = from-flag (flag)" in chosen.lines()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HF_HUB_OFFLINE": "maybe"}, "HF_HUB_OFFLINE='maybe': allowed are 1, true, yes, on, 0, false, no, off"),
        ({"FRAMEPACK_LOG_LEVEL": "loud"}, "FRAMEPACK_LOG_LEVEL='loud': allowed are debug"),
        ({"FRAMEPACK_OUTPUT_DIR": "  "}, "FRAMEPACK_OUTPUT_DIR"),
    ],
)
def test_a_bad_value_names_the_variable_and_what_is_allowed(environment: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidSetting) as refusal:
        settings.resolve({}, environment, Path("nowhere.json"))
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "[" * 100_000, '{"unknown": 1}', '{"offline": "maybe"}', '{"checkpoint": ["pocket"]}', '{"port": {}}'],
)
def test_a_bad_settings_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "settings.json"
    file.write_text(content)
    with pytest.raises(InvalidSetting, match=r"settings\.json"):
        settings.resolve({}, {}, file)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"checkpoint": "東京"}', encoding="utf-8-sig")
    assert settings.resolve({}, {}, file).paths.checkpoint == "東京"


def test_null_is_as_if_the_line_were_not_there(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({knob.name: None for knob in settings.PAGE_KNOBS}))
    assert settings.resolve_page({}, {}, file) == settings.resolve_page({}, {}, tmp_path / "none.json")


def test_numbers_and_truths_are_read_as_a_flag_would_be(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"port": 8080, "offline": True, "compile": False, "least_preserved_gb": 7.5}))
    chosen = settings.resolve_page({}, {}, file)
    assert (chosen.page.port, chosen.network.offline) == (8080, True)
    assert (chosen.kernels.compile, chosen.memory.least_preserved_gb) == (False, 7.5)


def test_every_knob_has_a_flag() -> None:
    parser = argparse.ArgumentParser()
    settings.add_flags(parser)
    options = parser.parse_args(["--checkpoint", "x", "--output-dir", "o", "--models-dir", "m", "--offline"])
    chosen = settings.resolve(vars(options), {}, Path("nowhere.json"))
    assert (chosen.paths.checkpoint, chosen.paths.models_dir, chosen.network.offline) == ("x", Path("m"), True)


def page(environment: dict[str, str] | None = None, **flags: str) -> settings.PageSettings:
    return settings.resolve_page(flags, environment or {}, Path("nowhere.json"))


def test_the_page_listens_on_this_machine_alone_unless_told_otherwise() -> None:
    chosen = page().page
    assert (chosen.server, chosen.port, chosen.share, chosen.auth) == ("127.0.0.1", None, False, None)
    assert not chosen.reachable_from_elsewhere


@pytest.mark.parametrize(
    ("words", "server"),
    [
        (["--listen"], settings.EVERY_ADDRESS), (["--listen", "192.168.1.5"], "192.168.1.5"),
        (["--server", "[::1]"], "::1"), (["--server", "localhost", "--listen"], settings.EVERY_ADDRESS),
    ],
)  # fmt: skip
def test_listen_is_another_word_for_server(words: list[str], server: str) -> None:
    parser = argparse.ArgumentParser()
    settings.add_flags(parser, settings.PAGE_KNOBS)
    assert page(**vars(parser.parse_args(words))).page.server == server


def test_gradios_own_variables_set_the_page() -> None:
    environment = {
        "GRADIO_SERVER_NAME": "box.lan", "GRADIO_SERVER_PORT": "8000", "GRADIO_SHARE": "True",
        "GRADIO_ROOT_PATH": "https://example.org/framepack/", "FRAMEPACK_MAX_UPLOAD_SIZE": "2 GB",
    }  # fmt: skip
    chosen = page(environment, port="9000")
    assert (chosen.page.server, chosen.page.port, chosen.page.share) == ("box.lan", 9000, True)
    assert (chosen.page.root_path, chosen.page.max_upload_size) == ("https://example.org/framepack", 2 * 10**9)
    assert (chosen.origin["port"], chosen.origin["server"]) == ("flag", "environment")


@pytest.mark.parametrize(
    ("name", "values", "allowed"),
    [
        ("GRADIO_SERVER_PORT", ("0", "65536", "-1", "80.5", "port", "\u0665"), "from 1 to 65535"),
        ("GRADIO_SERVER_NAME", ("a b", "http://x", "x/y"), "give an address"),
        ("GRADIO_SHARE", ("y", "2"), "allowed are 1, true, yes, on, 0, false, no, off"),
        ("FRAMEPACK_MAX_UPLOAD_SIZE", ("100", "0mb", "-1mb", "1.5gb", "inf", "mb"), "100mb"),
        ("GRADIO_ROOT_PATH", ("framepack", "ftp://x", "/a b", "//x", "/x?y", "https://a@b/"), "/framepack"),
    ],
)
def test_a_bad_value_of_the_page_names_the_variable(name: str, values: tuple[str, ...], allowed: str) -> None:
    for value in values:
        with pytest.raises(InvalidSetting) as refusal:
            page({name: value})
        assert f"{name}={value!r}" in str(refusal.value)
        assert allowed in str(refusal.value)


@pytest.mark.parametrize("secret", ["nocolon", ":nouser", "nopassword:", " :x"])
def test_a_bad_password_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(InvalidSetting, match="user:password") as refusal:
        page({"FRAMEPACK_AUTH": secret})
    assert secret not in str(refusal.value)


def test_a_password_is_never_shown() -> None:
    chosen = page(auth="someone:a:secret")
    assert chosen.page.auth == ("someone", "a:secret")
    assert "auth = set (flag)" in chosen.lines()
    assert "auth = not set (default)" in page().lines()
    assert "secret" not in repr(chosen) + str(chosen.rows())


def test_a_password_in_a_wrong_shape_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"auth": ["someone", "secret"]}))
    with pytest.raises(InvalidSetting, match=r"auth: a list .* is not allowed") as refusal:
        settings.resolve_page({}, {}, file)
    assert "secret" not in str(refusal.value)


def test_a_public_address_needs_the_network() -> None:
    with pytest.raises(InvalidSetting, match="leave one of them out"):
        page(share="1", offline="1")


def test_the_page_has_flags_that_generate_has_not_and_generate_ignores_them(tmp_path: Path) -> None:
    generate = argparse.ArgumentParser()
    settings.add_flags(generate)
    with pytest.raises(SystemExit):
        generate.parse_args(["--port", "8000"])
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"port": 8000, "auth": "someone:secret"}))
    assert not hasattr(settings.resolve({}, {"GRADIO_SERVER_PORT": "not a number"}, file), "page")
    assert settings.resolve_page({}, {}, file).page.port == 8000


@pytest.mark.parametrize("word", ["1", "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"])
def test_words_for_yes(word: str) -> None:
    """Those that the hub's own libraries take."""
    assert settings.resolve({}, {"HF_HUB_OFFLINE": word}, Path("nowhere.json")).network.offline is True


@pytest.mark.parametrize("word", ["0", "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"])
def test_words_for_no(word: str) -> None:
    assert settings.resolve({}, {"HF_HUB_OFFLINE": word}, Path("nowhere.json")).network.offline is False


@pytest.mark.parametrize("word", ["y", "t", "2", "-1", "yes!", "on off", "wahr", "\u0661", "none", "enabled"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(InvalidSetting, match="allowed are"):
        settings.resolve({}, {"HF_HUB_OFFLINE": word}, Path("nowhere.json"))


def alloc_conf(text: str) -> str:
    return settings.resolve({}, {"PYTORCH_CUDA_ALLOC_CONF": text}, Path("nowhere.json")).memory.cuda_alloc_conf


@pytest.mark.parametrize(
    ("text", "passed_on"),
    [
        ("expandable_segments:True", ""), ("expandable_segments=True", "expandable_segments:True"),
        ("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]", ""), ("roundup_power2_divisions:4", ""),
        ("roundup_power2_divisions:[256:1]", ""), ("max_split_size_mb:128,roundup_power2_divisions:[64:8,>:1]", ""),
        ("roundup_power2_divisions:[64:8,>:1],max_split_size_mb:128", ""), ("backend:cudaMallocAsync", ""),
        ("roundup_power2_divisions: [ 256 : 1 , > : 8 ]", "roundup_power2_divisions:[256:1,>:8]"),
        ("max_split_size_mb : 512 , backend : native", "max_split_size_mb:512,backend:native"),
        ("roundup_power2_divisions=[256=1,>=8]", "roundup_power2_divisions:[256:1,>:8]"),
        ("pinned_use_cuda_host_register:True,pinned_num_register_threads:8", ""),
        (",expandable_segments:True,", "expandable_segments:True"), ("garbage_collection_threshold:0.8", ""),
    ],
)  # fmt: skip
def test_what_pytorch_documents_of_its_allocator_is_passed_on(text: str, passed_on: str) -> None:
    assert alloc_conf(text) == (passed_on or text)


@pytest.mark.parametrize(
    "text",
    [
        "expandable_segments", ":True", "a:b:c", "a:[", "a:[]", "a:[1]", "a:[1:2", "a:1:2]", "a:[[1:2]]", "a:[1:2,]",
        "a:[>:1,x:2]", "a:[1:2][3:4]", "a:", "A B", "a:b;c:d",
    ],
)  # fmt: skip
def test_what_pytorch_would_not_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"PYTORCH_CUDA_ALLOC_CONF=.*give name:value"):
        alloc_conf(text)


@pytest.mark.parametrize(
    "name",
    [b"\xff", b"caf\xe9", b"\x83t", b"a/\xff/b", b"\xff/a", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xfe", b"a\x80"],
    ids=ascii,
)  # fmt: skip
def test_the_page_takes_no_output_folder_of_other_bytes_and_the_command_line_does(name: bytes) -> None:
    folder = os.fsdecode(name)
    with pytest.raises(InvalidSetting, match="rename it") as refusal:
        page(output_dir=folder)
    str(refusal.value).encode("utf-8")
    chosen = settings.resolve({"output_dir": folder}, {}, Path("nowhere.json"))
    assert chosen.paths.output_dir == Path(folder)
    "".join(chosen.lines()).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "devices"), [("", ()), ("0", ("0",)), ("0, 1", ("0", "1")), ("CPU,cpu", ("cpu", "cpu")), ("11", ("11",))]
)
def test_executors_are_devices(text: str, devices: tuple[str, ...]) -> None:
    chosen = page({"FRAMEPACK_EXECUTORS": text})
    assert chosen.page.executors == page(executors=text).page.executors == devices
    assert ("executors", ",".join(devices), "environment" if text else "default") in chosen.rows()


@pytest.mark.parametrize("text", ["gpu", "-1", "0;1", "0,,1", "0,", "cuda:0", "100", "\u0660"])
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"--executors=.*: give cpu or the number of a GPU for each"):
        page(executors=text)


def test_a_process_without_flags_has_the_same_settings_by_its_environment(tmp_path: Path) -> None:
    """What flags have set is in its variables; all else it finds as this process did."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"log_level": "error"}))
    environment = {"FRAMEPACK_QUANTISE": "int8", "FRAMEPACK_CHECKPOINT": "from-environment"}
    flags = {"output_dir": "out", "offline": "1", "least_preserved_gb": "7.5", "flash_sdp": "0", "checkpoint": "flag"}
    chosen = settings.resolve_page({**flags, "port": "8000"}, environment, file)
    variables = chosen.from_flags
    assert variables.keys() == {
        "FRAMEPACK_OUTPUT_DIR", "HF_HUB_OFFLINE", "FRAMEPACK_PRESERVED_MEMORY_GB", "PYTORCH_ENABLE_FLASH_SDP",
        "FRAMEPACK_CHECKPOINT",
    }  # fmt: skip
    same = settings.resolve({}, {**environment, **variables}, file)
    for group in ("paths", "network", "log", "kernels", "weights", "memory", "decoders", "sampling"):
        assert getattr(same, group) == getattr(chosen, group)
    assert same.given == {name: chosen.given[name] for name in same.given}
