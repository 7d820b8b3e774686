"""The settings of this installation: every knob once, with its flag, environment variable, default and help.

A flag beats the environment, the environment beats ``settings.json``, that beats the default. ``Settings.origin``
remembers where each value came from, so that it can be shown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from . import faults
from .errors import InvalidSetting
from .names import is_text, path_of, quoted, shown

ROOT = Path(__file__).resolve().parent.parent
SETTINGS_FILE = ROOT / "settings.json"

THIS_MACHINE = "127.0.0.1"
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104  # only ever used when somebody asks for it

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Where PyTorch reads how it manages GPU memory; the first goes before the second, and is known from 2.9 on."""
EXPANDABLE = "expandable_segments:True"

LEVELS = ("debug", "info", "warning", "error")
ATTENTIONS = ("auto", "sdpa", "flash", "sage", "xformers")
XFORMERS_MODES = ("off", "standard", "aggressive")
QUANTISATIONS = ("auto", "off", "int8", "fp8", "bnb8", "bnb4")


def _truth(text: str) -> bool:
    """The words that the hub's own libraries know, and their opposites."""
    yes, no = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
    if text.lower() not in (*yes, *no):
        raise ValueError(f"allowed are {', '.join((*yes, *no))}")
    return text.lower() in yes


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"allowed are {', '.join(words)}")
        return text.lower()

    return parse


def _checkpoint(text: str) -> str:
    """A name, or the path of a folder."""
    path_of(text)
    return text


def _endpoint(text: str) -> str:
    if not re.fullmatch(r"https?://[0-9A-Za-z.:_\[\]-]+(/[0-9A-Za-z._~-]+)*/?", text):
        raise ValueError("give the address of a hub, such as https://huggingface.co")
    return text.rstrip("/")


def _host(text: str) -> str:
    if not re.fullmatch(r"\[?[0-9A-Za-z._:-]+\]?", text):
        raise ValueError("give an address or a name of this machine, such as 127.0.0.1, or 0.0.0.0 for all")
    return text.strip("[]")


def _port(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        raise ValueError("allowed is a whole number from 1 to 65535")
    return int(text)


def _devices(text: str) -> tuple[str, ...]:
    devices = tuple(part.strip().lower() for part in text.split(",")) if text.strip() else ()
    if not all(re.fullmatch(r"cpu|\d{1,2}", device, re.ASCII) for device in devices):
        raise ValueError("give cpu or the number of a GPU for each, with commas between: 0,1")
    return devices


def _login(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    user, colon, password = text.partition(":")
    if not (colon and user.strip() and password):
        raise ValueError("give a user and a password with a colon between them, user:password")
    return user.strip(), password


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d{1,6})\s*(kb|mb|gb)", text.strip().lower(), re.ASCII)
    if not match or not int(match[1]):
        raise ValueError("give a size such as 500kb, 100mb or 2gb")
    return int(match[1]) * {"kb": 10**3, "mb": 10**6, "gb": 10**9}[match[2]]


def _gb(text: str) -> float:
    if not re.fullmatch(r"\d{1,3}(\.\d{1,3})?", text, re.ASCII) or not 6 <= float(text) <= 128:
        raise ValueError("allowed is a number of GB from 6 to 128")
    return float(text)


_ALLOC_PAIR = r"[a-z0-9_]+:([A-Za-z0-9_.-]+|\[(\d+|>):\d+(,(\d+|>):\d+)*\])"


def _alloc_conf(text: str) -> str:
    """Documents of other versions write ``name=value``; PyTorch wants a colon. A value may be a list in brackets."""
    plain = re.sub(r"\s", "", text).replace("=", ":")
    pairs = [pair for pair in re.split(r",(?![^\[]*\])", plain) if pair]
    if not all(re.fullmatch(_ALLOC_PAIR, pair) for pair in pairs):
        raise ValueError("give name:value, with commas between them, such as expandable_segments:True")
    return ",".join(pairs)


def _root_path(text: str) -> str:
    if text and not re.fullmatch(r"(https?://[0-9A-Za-z.:_\[\]-]+)?(/[0-9A-Za-z._~-]+)*/?", text):
        raise ValueError("give a path such as /framepack, or the whole address, https://example.org/framepack")
    return text.rstrip("/")


@dataclass(frozen=True)
class Knob:
    """One setting. ``parse`` turns its text into its value and raises ValueError saying what is allowed.

    The value of a ``secret`` one is never shown. ``newer_variable`` goes before ``variable``.
    """

    name: str
    variable: str
    default: str
    parse: Callable[[str], Any]
    help: str
    secret: bool = False
    newer_variable: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def shown(self, value: Any) -> str:
        """The value as text for people."""
        if self.secret:
            return "set" if value else "not set"
        return "" if value is None else shown(",".join(value) if isinstance(value, tuple) else value)


KNOBS: tuple[Knob, ...] = (
    Knob("checkpoint", "FRAMEPACK_CHECKPOINT", "pocket", _checkpoint, "name or folder of the checkpoint"),
    Knob("output_dir", "FRAMEPACK_OUTPUT_DIR", str(ROOT / "outputs"), path_of, "where videos go, in a folder per day"),
    Knob("models_dir", "HF_HOME", str(ROOT / "hf_download"), path_of, "where downloaded checkpoints are kept"),
    Knob("endpoint", "HF_ENDPOINT", "https://huggingface.co", _endpoint, "the hub that `download` asks, or a mirror"),
    Knob("offline", "HF_HUB_OFFLINE", "0", _truth, "never touch the network"),
    Knob("log_level", "FRAMEPACK_LOG_LEVEL", "warning", _one_of(*LEVELS), "debug, info, warning or error"),
    Knob(
        "attention", "FRAMEPACK_ATTENTION", "auto", _one_of(*ATTENTIONS), "kernel of the transformer's attention: "
        f"{', '.join(ATTENTIONS)}; auto is sdpa, PyTorch's own, unless --xformers-mode says otherwise",
    ),
    Knob(
        "xformers_mode", "FRAMEPACK_XFORMERS_MODE", "off", _one_of(*XFORMERS_MODES), "off; standard, the xFormers "
        "package; aggressive, its CUTLASS kernel, which comes with PyTorch",
    ),
    Knob("flash_sdp", "PYTORCH_ENABLE_FLASH_SDP", "1", _truth, "0 keeps PyTorch's attention from its flash kernel"),
    Knob(
        "mem_efficient_sdp", "PYTORCH_ENABLE_MEM_EFFICIENT_SDP", "1", _truth,
        "0 keeps PyTorch's attention from its memory-efficient kernel",
    ),
    Knob("compile", "FRAMEPACK_COMPILE", "0", _truth, "compile the transformer's blocks before the first step"),
    Knob("fast_start", "FRAMEPACK_FAST_START", "0", _truth, "leave out what makes the first step wait, as --compile"),
    Knob(
        "quantise", "FRAMEPACK_QUANTISE", "auto", _one_of(*QUANTISATIONS), "numbers of the transformer's weights: "
        f"{', '.join(QUANTISATIONS)}; auto is off where they fit, else int8",
    ),
    Knob("fp8_scaled", "FRAMEPACK_FP8_SCALED", "0", _truth, "the same as --quantise fp8"),
    Knob(
        "quantised_matmul", "FRAMEPACK_QUANTISED_MATMUL", "0", _truth,
        "multiply int8 or fp8 weights as they are, where the GPU can: faster, less exact",
    ),
    Knob("use_bnb", "FRAMEPACK_USE_BNB", "0", _truth, "8-bit weights by bitsandbytes, on the GPU"),
    Knob("bnb_load_in_4bit", "FRAMEPACK_BNB_LOAD_IN_4BIT", "0", _truth, "4-bit weights by bitsandbytes, on the GPU"),
    Knob("bnb_cpu_offload", "FRAMEPACK_BNB_CPU_OFFLOAD", "0", _truth, "4-bit weights leave the GPU for decoding"),
    Knob(
        "use_memory_v2", "FRAMEPACK_USE_MEMORY_V2", "0", _truth,
        "changes nothing by itself any more: where blocks must be swapped, they always come ahead of their use",
    ),
    Knob("small_host_copy", "FRAMEPACK_SMALL_HOST_COPY", "0", _truth, "blocks that stay on the GPU are not in RAM too"),
    Knob(
        "least_preserved_gb", "FRAMEPACK_PRESERVED_MEMORY_GB", "6", _gb,
        "GPU memory in GB that the weights leave free in every video, 6 to 128; a video may ask for more",
    ),
    Knob(
        "cuda_alloc_conf", ALLOCATOR_VARIABLES[1], EXPANDABLE if sys.platform == "linux" else "", _alloc_conf,
        "how PyTorch manages GPU memory: name:value, with commas between", newer_variable=ALLOCATOR_VARIABLES[0],
    ),
)  # fmt: skip

PAGE_KNOBS: tuple[Knob, ...] = (
    *KNOBS,
    Knob("server", "GRADIO_SERVER_NAME", THIS_MACHINE, _host, "address the page listens on; 0.0.0.0 is every one"),
    Knob("port", "GRADIO_SERVER_PORT", "", _port, "port of the page; by default the first free one from 7860 on"),
    Knob("share", "GRADIO_SHARE", "0", _truth, "also a public address, through Gradio's servers"),
    Knob(
        "auth", "FRAMEPACK_AUTH", "", _login, "user:password that the page asks for; other users of the machine can "
        "read flags, so better through the environment", secret=True,
    ),
    Knob("executors", "FRAMEPACK_EXECUTORS", "", _devices, "devices, a process for each: 0,1 are two GPUs; or cpu"),
    Knob("inbrowser", "FRAMEPACK_INBROWSER", "0", _truth, "open the page in a browser"),
    Knob("preset", "FRAMEPACK_PRESET", "", str, "name of the preset that the page starts with"),
    Knob("max_upload_size", "FRAMEPACK_MAX_UPLOAD_SIZE", "100mb", _bytes, "the largest file that the page takes"),
    Knob(
        "root_path", "GRADIO_ROOT_PATH", "", _root_path, "where a proxy in front shows the page: /path, or the whole "
        "address when the proxy passes its own name on",
    ),
    Knob("mcp", "FRAMEPACK_MCP", "0", _truth, "also serve the public endpoints as tools over MCP"),
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The effective values. ``origin`` maps a name to 'flag', 'environment', 'settings file' or 'default'."""

    checkpoint: str
    output_dir: Path
    models_dir: Path
    endpoint: str
    offline: bool
    log_level: str
    attention: str
    xformers_mode: str
    flash_sdp: bool
    mem_efficient_sdp: bool
    compile: bool
    fast_start: bool
    quantise: str
    fp8_scaled: bool
    quantised_matmul: bool
    use_bnb: bool
    bnb_load_in_4bit: bool
    bnb_cpu_offload: bool
    use_memory_v2: bool
    small_host_copy: bool
    least_preserved_gb: float
    cuda_alloc_conf: str
    origin: Mapping[str, str]

    knobs: ClassVar[tuple[Knob, ...]] = KNOBS

    def lines(self) -> list[str]:
        """One line per setting: name, value, where it came from."""
        return [f"{name} = {value} ({origin})" for name, value, origin in self.rows()]

    def as_variables(self) -> dict[str, str]:
        """What flags have set, for the environment of a process that has no flags but all else as this one."""
        return {knob.variable: str(getattr(self, knob.name)) for knob in KNOBS if self.origin[knob.name] == "flag"}

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, value as text and origin of every setting. Secrets are not in them."""
        return [(knob.name, knob.shown(getattr(self, knob.name)), self.origin[knob.name]) for knob in self.knobs]


@dataclass(frozen=True)
class PageSettings(Settings):
    """The settings of the page."""

    server: str
    port: int | None
    share: bool
    auth: tuple[str, str] | None = field(repr=False)
    executors: tuple[str, ...]
    inbrowser: bool
    preset: str
    max_upload_size: int
    root_path: str
    mcp: bool

    knobs: ClassVar[tuple[Knob, ...]] = PAGE_KNOBS

    @property
    def reachable_from_elsewhere(self) -> bool:
        """Whether other machines can open the page."""
        return self.share or not (self.server in ("localhost", "::1") or self.server.startswith("127."))


def add_flags(parser: argparse.ArgumentParser, knobs: tuple[Knob, ...] = KNOBS) -> None:
    """A flag per knob, absent by default so that the lower layers show through."""
    group = parser.add_argument_group("settings")
    for knob in knobs:
        default = f"default {knob.default}; " if knob.default else ""
        text = f"{knob.help} ({default}environment {knob.variable})"
        if knob.parse is _truth and knob.default == "0":
            group.add_argument(knob.flag, action="store_const", const="1", default=None, help=text)
        else:
            group.add_argument(knob.flag, default=None, metavar=knob.name.upper(), help=text)
        if knob.name == "server":
            group.add_argument(
                "--listen", dest="server", nargs="?", const=EVERY_ADDRESS, default=None, metavar="SERVER",
                help=f"the same as --server; without a value {EVERY_ADDRESS}",
            )  # fmt: skip


def resolve(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
    file: Path = SETTINGS_FILE,
) -> Settings:
    """The effective settings of the command line.

    Raises:
        InvalidSetting: naming the flag, variable or line, its value and what is allowed.
    """
    return Settings(**_values(KNOBS, flags or {}, environment, file))


def resolve_page(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
    file: Path = SETTINGS_FILE,
) -> PageSettings:
    """The effective settings of the page. Raises InvalidSetting as ``resolve``, also for those that exclude others."""
    chosen = PageSettings(**_values(PAGE_KNOBS, flags or {}, environment, file))
    if chosen.share and chosen.offline:
        raise InvalidSetting("share and offline: a public address needs the network; leave one of them out")
    if not is_text(chosen.output_dir.absolute()):
        raise InvalidSetting(
            f"output_dir={shown(chosen.output_dir.absolute())}: its name is not UTF-8, and what the page and a browser "
            "tell each other of its files is; rename it, or choose another folder. Without the page it can be used."
        )
    return chosen


def _values(
    knobs: tuple[Knob, ...], flags: Mapping[str, Any], environment: Mapping[str, str], file: Path
) -> dict[str, Any]:
    """Every knob's value by its name, and ``origin``."""
    stored = _read(file)
    values: dict[str, Any] = {}
    origin = {}
    for knob in knobs:
        text, source, place = _first_given(knob, flags, environment, stored)
        try:
            values[knob.name] = knob.parse(text)
        except ValueError as error:
            value = "" if knob.secret else f"={quoted(text)}"
            raise InvalidSetting(f"{place}{value}: {error}") from None
        origin[knob.name] = source
    _check_faults(environment.get(faults.VARIABLE))
    return {**values, "origin": origin}


def _check_faults(text: str | None) -> None:
    """A test's wish that cannot be read is told at the start, not in the middle of a job."""
    try:
        faults.Faults(text) if text else None
    except ValueError as error:
        raise InvalidSetting(str(error)) from None


def _first_given(
    knob: Knob, flags: Mapping[str, Any], environment: Mapping[str, str], stored: Mapping[str, str]
) -> tuple[str, str, str]:
    if flags.get(knob.name) is not None:
        return str(flags[knob.name]), "flag", knob.flag
    for variable in (knob.newer_variable, knob.variable):
        if environment.get(variable):
            return environment[variable], "environment", variable
    if knob.name in stored:
        return stored[knob.name], "settings file", f"{SETTINGS_FILE}: {knob.name}"
    return knob.default, "default", knob.name


def _read(file: Path) -> Mapping[str, str]:
    """What the settings file says, by name; null says nothing, as if the line were not there."""
    if not file.is_file():
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidSetting(f"{file} cannot be read as JSON: {error}. Mend it or delete it.") from None
    if not isinstance(stored, dict):
        raise InvalidSetting(f"{file} must hold a JSON object of settings")
    known = [knob.name for knob in PAGE_KNOBS]
    unknown = sorted(set(stored) - set(known))
    if unknown:
        raise InvalidSetting(f"{file}: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    return {name: _as_text(value, f"{file}: {name}") for name, value in stored.items() if value is not None}


def _as_text(value: Any, place: str) -> str:
    """A value of the settings file, as a flag would say it. Raises InvalidSetting for others, without showing them."""
    if not isinstance(value, str | int | float):
        raise InvalidSetting(f"{place}: a list or an object is not allowed; give a text, a number, true, false or null")
    return str(value)
