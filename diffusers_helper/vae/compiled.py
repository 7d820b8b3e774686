"""Compiled decoders: from memory, from disk, or compiled in a process of their own while the plain decoder serves.

A clip that has begun plain stays so; the next one uses what has become ready. Whatever goes wrong, the plain decoder
serves on, and it is said once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from ..errors import OutputFailed
from ..media.compiled_files import SUFFIX, CompiledFiles, Key
from ..words import Message, plain
from .back_ends import BackEnd, Compiled
from .compile_one import Task
from .streaming import Following
from .upper import Given, Shape, expected, weights_of, without_weights

log = logging.getLogger(__name__)

PROGRAM = Path(__file__).resolve().parent.parent.parent
GIVE_UP_SECONDS = 5.0
"""What a process has to end after it was told."""
OF_OTHER_PARTS = ("mid_block_add_attention", "scaling_factor")
"""What a VAE's config says of other parts than the upper one."""
LOADED = 8
"""How many are kept in memory. They hold no weights, so they are small; another one comes from disk again."""
Compile: TypeAlias = Callable[[Task, Path], None]
"""Makes the file of a task. Raises CompilingError."""


class CompilingError(Exception):
    """No file was made; says why."""


class CompiledDecoders:
    """Those of one device and one back end. Whoever makes one closes it.

    Attributes:
        files: what is kept on disk.
    """

    def __init__(self, back_end: BackEnd, files: CompiledFiles, compile: Compile | None = None) -> None:
        """``compile``: instead of a process."""
        self.files, self._back_end = files, back_end
        self._beside = Beside()
        self._compile = compile or self._beside
        self._lock = threading.Lock()
        self._loaded: dict[Key, _Loaded | None] = {}
        self._threads: dict[Key, threading.Thread] = {}
        self._notices: list[Message] = []

    def following(self, vae: AutoencoderKLHunyuanVideo, shape: Shape) -> Following | None:
        """What decodes chunks of latents of this shape that follow others; None while there is none.

        One that is on disk is loaded here, so that it serves from the first clip on.
        """
        key = key_of(vae, shape, self._back_end)
        with self._lock:
            if key not in self._loaded and key not in self._threads:
                self._begin(key, Task(key.back_end, shape, key.dtype, str(vae.device), config_of(vae)))
            loaded = self._loaded.get(key)
        return None if loaded is None else _Following(loaded, vae, lambda reason: self._give_up(key, reason))

    def wait(self) -> None:
        """Until nothing is being compiled."""
        with self._lock:
            threads = list(self._threads.values())
        for thread in threads:
            thread.join()

    def notices(self) -> list[Message]:
        """What there is to say, since the last time."""
        with self._lock:
            said, self._notices = self._notices, []
        return said

    def close(self) -> None:
        """Stop what is being compiled."""
        self._beside.close()

    def _begin(self, key: Key, task: Task) -> None:
        """Load what is on disk, else let a thread compile it."""
        if file := self.files.find(key):
            return self._load(key, task, file)
        self._notices.append(Message("compiled.begins", shape=_shape_in_words(task.shape)))
        thread = threading.Thread(target=self._prepare, args=(key, task), daemon=True, name="compiling")
        self._threads[key] = thread
        return thread.start()

    def _prepare(self, key: Key, task: Task) -> None:
        """In a thread: whoever has the lock compiles; the others find what it has made."""
        try:
            with tempfile.TemporaryDirectory(prefix="framepack_compiled_") as scratch, self.files.one_at_a_time():
                self._load(key, task, self.files.find(key) or self._made(key, task, Path(scratch)))
        except (CompilingError, OSError) as error:
            if not self._beside.closed:
                self._give_up(key, str(error))
        finally:
            self._threads.pop(key)

    def _made(self, key: Key, task: Task, scratch: Path) -> Path:
        made = scratch / f"{key.name}{SUFFIX}"
        self._compile(task, made)
        try:
            return self.files.keep(key, made)
        except OutputFailed as error:
            self._tell(Message("compiled.not_kept", reason=error.said))
            return made

    def _load(self, key: Key, task: Task, file: Path) -> None:
        try:
            like = expected(without_weights(task.config, getattr(torch, task.dtype)), task.shape)
            self._loaded[key] = _Loaded(self._back_end.load(file), like, task.shape)
            for oldest in list(self._loaded)[:-LOADED]:
                del self._loaded[oldest]
        except (RuntimeError, OSError, ImportError, ValueError) as error:
            self._give_up(key, str(error))

    def _give_up(self, key: Key, reason: str) -> None:
        """The plain decoder serves for as long as this lasts."""
        log.warning("%s: %s", key.name, reason)
        if self._loaded.get(key, reason) is not None:
            lines = reason.strip().splitlines() or ["?"]
            self._tell(Message("compiled.gave_up", reason=plain(lines[-1])))
        self._loaded[key] = None

    def _tell(self, notice: Message) -> None:
        self._notices.append(notice)


@dataclass(frozen=True)
class _Loaded:
    """A compiled function, and the sizes and types of what it may be given, for chunks of a shape."""

    function: Compiled
    like: Given
    shape: Shape

    @property
    def pixels(self) -> tuple[int, ...]:
        """The size of what it makes."""
        batch, latents, height, width = self.shape
        return batch, 3, 4 * latents, 8 * height, 8 * width


class _Following:
    """A compiled function for one clip, see ``streaming.Following``. It answers only to what it was compiled for."""

    def __init__(self, loaded: _Loaded, vae: AutoencoderKLHunyuanVideo, give_up: Callable[[str], None]) -> None:
        self._loaded, self._usable = loaded, True
        self._weights, self._device, self._give_up = weights_of(vae), vae.device, give_up

    def __call__(self, x: Tensor, before: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]] | None:
        """See ``streaming.Following``."""
        given = Given(self._weights, x, list(before))
        if not self._usable or not self._fits(given):
            return None
        try:
            pixels, *kept = self._loaded.function(*(_in_order(part) for part in given))
        except RuntimeError as error:
            self._drop(str(error))
            return None
        if pixels.shape == self._loaded.pixels and _sizes(kept) == _sizes(self._loaded.like.kept):
            return pixels, kept
        self._drop(f"it made {list(pixels.shape)} of pixels, not {list(self._loaded.pixels)}")
        return None

    def _fits(self, given: Given) -> bool:
        on_device = all(tensor.device == self._device for tensor in given.all)
        return on_device and _sizes(given.all) == _sizes(self._loaded.like.all)

    def _drop(self, reason: str) -> None:
        self._usable = False
        self._give_up(reason)


def _sizes(tensors: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors]


def _in_order(part: Any) -> Any:
    """With the strides that it was compiled for."""
    return part.contiguous() if isinstance(part, Tensor) else [tensor.contiguous() for tensor in part]


class Beside:
    """Compiles in a process of its own, one for each task, see ``compile_one.py``.

    Attributes:
        closed: whether it compiles nothing any more.
    """

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []
        self.closed = False

    def __call__(self, task: Task, file: Path) -> None:
        """See ``Compile``. It works in the folder of ``file``, where no package of another program is found."""
        if self.closed:
            raise CompilingError("the program ends")
        words = [sys.executable, "-m", f"{__package__}.compile_one", str(file), task.to_json()]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        paths = os.pathsep.join(filter(None, (str(PROGRAM), os.environ.get("PYTHONPATH"))))
        own = {"cwd": file.parent, "env": {**os.environ, "PYTHONPATH": paths}, "start_new_session": True}
        process = subprocess.Popen(words, text=True, errors="replace", **pipes, **own)  # type: ignore[call-overload]
        self._running.append(process)
        said = process.stderr.read()
        if process.wait() or not file.is_file():
            raise CompilingError(said.strip() or f"the compiler ended with {process.returncode}")
        log.info("compiled %s", task)

    def close(self) -> None:
        """Let those that run end: each does when its standard input does."""
        self.closed = True
        for process in self._running:
            if process.stdin and process.poll() is None:
                process.stdin.close()
                try:
                    process.wait(GIVE_UP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def key_of(vae: AutoencoderKLHunyuanVideo, shape: Shape, back_end: BackEnd) -> Key:
    """All that the compiled function depends on."""
    seen = {name: value for name, value in config_of(vae).items() if name not in OF_OTHER_PARTS}
    config = hashlib.sha256(json.dumps(seen, sort_keys=True, default=str).encode()).hexdigest()
    dtype = str(vae.dtype).removeprefix("torch.")
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, {metadata.version('diffusers')}"
    versions = f"{versions} {back_end.version()}".strip()
    return Key(back_end.name, *shape, dtype, device_kind(vae.device), config, versions)


def config_of(vae: AutoencoderKLHunyuanVideo) -> dict[str, Any]:
    """What makes a VAE of the same build."""
    config: Mapping[str, Any] = vae.config
    return {name: value for name, value in config.items() if not name.startswith("_")}


def device_kind(device: torch.device) -> str:
    """What code for ``device`` runs on: compilers use all that it has."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {_processor()}".strip()


def _processor() -> str:
    """The name of this machine's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _shape_in_words(shape: Shape) -> str:
    batch, latents, height, width = shape
    frames = f"{4 * latents} frames of {8 * width}x{8 * height}"
    return frames if batch == 1 else f"{batch} x {frames}"
