"""What is trained on: data sets as musubi's TOML states them, or a folder of pictures or videos with captions beside.

Nothing is opened here but the config, the lists and the captions; what is missing is told by its place before anything
runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from ..errors import InvalidRequest
from ..names import quoted
from ..options import STRICT
from ..sections.kinds import CONTROL as CONTROL_NUMBER
from ..sections.kinds import MEAN, START
from .toml import parsed_toml

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp")
VIDEOS = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v")
SOURCES = ("image_directory", "image_jsonl_file", "video_directory", "video_jsonl_file")
IGNORED = ("control_resolution",)
"""Of musubi's names, those without effect, which is said: FramePack places the tokens of a control picture on the grid
of the picture that is made, so both have one size."""
DEFAULT_TARGET = 9
OF_PICTURES = (
    "control_directory", "fp_1f_clean_indices", "fp_1f_target_index", "fp_1f_no_post", "fp_1f_no_2x", "fp_1f_no_4x",
    "fp_1f_image_embedding_source",
)  # fmt: skip
OF_VIDEOS = ("target_frames", "source_fps", "frame_extraction", "frame_stride", "frame_sample", "max_frames")
CONTROL = re.compile(r"control_path(?:_(\d+))?")
Result = Literal["picture", "one_frame", "video"]
Extraction = Literal["head", "chunk", "slide", "uniform", "full"]


@dataclass(frozen=True)
class Entry:
    """One file to learn from.

    Attributes:
        controls: of a single picture that is made of others these, in their order.
    """

    path: Path
    caption: str
    controls: tuple[Path, ...] = ()


class DataSet(BaseModel):
    """One data set of a config, by musubi's names.

    Attributes:
        cache_directory: where what was encoded is kept; None takes the usual place.
        resolution: (width, height) that all is cropped to; None takes the checkpoint's size that is nearest in shape.
        batch_size: examples of one size whose mean loss is learnt at once.
        enable_bucket, bucket_no_upscale: pictures keep their shape, see sizes.py.
        target_frames: how long excerpts of a video are; None takes all of it.
        source_fps: of the videos, of which frames are left out above 30.
        frame_extraction, frame_stride, frame_sample: where excerpts begin, see excerpts.py.
        max_frames: how many are taken of a whole video at most; None takes all.
        fp_1f_clean_indices, fp_1f_target_index, fp_1f_no_post: as in one-frame inference; with any of them pictures are
            learnt as single frames made of their control pictures.
        fp_1f_image_embedding_source: which picture the image encoder sees: start, the mean, or control_2.
    """

    model_config = STRICT

    image_directory: str | None = None
    image_jsonl_file: str | None = None
    video_directory: str | None = None
    video_jsonl_file: str | None = None
    control_directory: str | None = None
    cache_directory: str | None = None
    caption_extension: str = Field(".txt", pattern=r"^\.[\w.-]{1,20}$")
    resolution: tuple[int, int] | None = Field(None, strict=False)
    num_repeats: int = Field(1, ge=1)
    batch_size: int = Field(1, ge=1, le=10_000)
    enable_bucket: bool = False
    bucket_no_upscale: bool = False
    target_frames: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(None, strict=False, min_length=1)
    source_fps: float | None = Field(None, gt=0, le=1000)
    frame_extraction: Extraction = "head"
    frame_stride: int = Field(1, ge=1)
    frame_sample: int = Field(1, ge=1)
    max_frames: int | None = Field(None, ge=1)
    fp_latent_window_size: int = Field(9, ge=1, le=64)
    fp_1f_clean_indices: tuple[Annotated[int, Field(ge=0, le=999)], ...] | None = Field(None, strict=False)
    fp_1f_target_index: int | None = Field(None, ge=0, le=64)
    fp_1f_no_post: bool = False
    fp_1f_no_2x: bool = False
    fp_1f_no_4x: bool = False
    fp_1f_image_embedding_source: str = Field("start", pattern=rf"^({START}|{MEAN}|{CONTROL_NUMBER}[1-9][0-9]?)$")

    @field_validator("resolution", mode="before")
    @classmethod
    def _square(cls, given: Any) -> Any:
        """One number is both sides."""
        return (given, given) if isinstance(given, int) and not isinstance(given, bool) else given

    @field_validator("target_frames", mode="before")
    @classmethod
    def _one_length(cls, given: Any) -> Any:
        """One number is a list of it."""
        return (given,) if isinstance(given, int) and not isinstance(given, bool) else given

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.frame_extraction in ("chunk", "slide", "uniform") and self.target_frames is None:
            raise ValueError(
                f"frame_extraction {self.frame_extraction} takes excerpts; give target_frames, their length"
            )
        if self.enable_bucket and not self.resolution:
            raise ValueError("enable_bucket needs a resolution, whose area the sizes have")
        return self

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(SOURCES)}, and not {' and '.join(given) or 'none'}")
        if self.result == "video" and (extra := [name for name in OF_PICTURES if name in self.model_fields_set]):
            raise ValueError(f"{extra[0]} is of pictures, and these are videos")
        if self.result != "video" and (extra := [name for name in OF_VIDEOS if name in self.model_fields_set]):
            raise ValueError(f"{extra[0]} is of videos, and these are pictures")
        if self.result == "one_frame" and not self.indices:
            raise ValueError("fp_1f_clean_indices is empty; give a time index for each control picture")
        if self.resolution and min(self.resolution) < 16:
            raise ValueError(f"resolution {self.resolution} is too small")
        return self

    @property
    def result(self) -> Result:
        """What is learnt: pictures by themselves, pictures that are made of others, or videos."""
        if self.video_directory or self.video_jsonl_file:
            return "video"
        return "one_frame" if self.names_controls or self.image_jsonl_file else "picture"

    @property
    def names_controls(self) -> bool:
        """Whether it says that its pictures are made of others."""
        places = (self.fp_1f_target_index, self.fp_1f_clean_indices)
        return bool(self.control_directory) or any(each is not None for each in places)

    @property
    def size(self) -> str | None:
        """The resolution as a request says it."""
        return self.resolution and "{}x{}".format(*self.resolution)

    @property
    def indices(self) -> tuple[int, ...]:
        """Where control pictures stand in time."""
        return (0,) if self.fp_1f_clean_indices is None else self.fp_1f_clean_indices

    def told(self) -> dict[str, Any]:
        """What a LoRA's file says of it: no path; of pictures where in time everything stands, said or not."""
        values = self.model_dump(exclude_none=True, exclude={*SOURCES, "control_directory", "cache_directory"})
        if self.result != "one_frame":
            return values
        target = DEFAULT_TARGET if self.fp_1f_target_index is None else self.fp_1f_target_index
        return {**values, "fp_1f_target_index": target, "fp_1f_clean_indices": list(self.indices)}

    def entries(self, folder: Path) -> list[Entry]:
        """All files, in the order of their names, those of a list in its own.

        Args:
            folder: of the config, from which relative paths count.

        Raises:
            InvalidRequest: a folder, a list, a caption or a control picture is missing, or there is nothing.
        """
        suffixes = VIDEOS if self.result == "video" else PICTURES
        if listed := self.image_jsonl_file or self.video_jsonl_file:
            found = list(_of_list(folder / listed, self))
        else:
            found = list(self._of_folder(folder / str(self.image_directory or self.video_directory), folder, suffixes))
        if not found:
            raise InvalidRequest(f"{self.place}: there is no file; known are {', '.join(suffixes)}")
        are_made_of_others = self.names_controls or any(entry.controls for entry in found)
        return [self._with_controls(entry) for entry in found] if are_made_of_others else found

    @property
    def place(self) -> str:
        """What it is called where something is wrong with it."""
        return next(str(getattr(self, name)) for name in SOURCES if getattr(self, name) is not None)

    def _of_folder(self, folder: Path, root: Path, suffixes: Sequence[str]) -> Iterator[Entry]:
        controls = _by_stem(root / self.control_directory) if self.control_directory else {}
        for path in files_in(folder, suffixes):
            yield Entry(path, _caption(path.with_suffix(self.caption_extension)), controls.get(path.stem, ()))

    def _with_controls(self, entry: Entry) -> Entry:
        """Those that have a place in time; more are not looked at, and fewer are refused."""
        if len(entry.controls) < len(self.indices):
            told = f"{len(entry.controls)} control pictures for {len(self.indices)} places in fp_1f_clean_indices"
            raise InvalidRequest(f"{entry.path}: there are {told}")
        return Entry(entry.path, entry.caption, entry.controls[: len(self.indices)])


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """What can be learnt of a folder, by name. Raises InvalidRequest where there is no such folder."""
    if not folder.is_dir():
        raise InvalidRequest(f"{folder}: there is no such folder")
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes and path.is_file()]


def _caption(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise InvalidRequest(
            f"{path}: the caption is missing; an empty file says that there is nothing to say"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: the caption cannot be read: {error}") from None


def _by_stem(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Control pictures by the name of their picture; ``name_0``, ``name_1`` ... are several of one, in that order."""
    if not folder.is_dir():
        raise InvalidRequest(f"{folder}: there is no such folder")
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in PICTURES:
            continue
        numbered = re.fullmatch(r"(.+)_(\d+)", path.stem)
        found.setdefault(path.stem, []).append((-1, path))
        if numbered:
            found.setdefault(numbered[1], []).append((int(numbered[2]), path))
    return {stem: tuple(path for _, path in sorted(paths)) for stem, paths in found.items()}


def _of_list(file: Path, data_set: DataSet) -> Iterator[Entry]:
    """A JSON object in each line: ``image_path`` or ``video_path``, ``caption``, and ``control_path``, which may be
    several with commas between, or ``control_path_0``, ``control_path_1`` and so on."""
    key = "video_path" if data_set.video_jsonl_file else "image_path"
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file}: the list cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _listed(line, key, file, number)


def _listed(line: str, key: str, file: Path, number: int) -> Entry:
    try:
        found = json.loads(line)
        path, caption = found[key], found["caption"]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise InvalidRequest(
            f"{file}, line {number}: it has to be an object with {key} and caption: {error!r}"
        ) from None
    if not (isinstance(path, str) and isinstance(caption, str)):
        raise InvalidRequest(f"{file}, line {number}: {key} and caption have to be texts")
    return Entry(_existing(path, file, number), caption, tuple(_controls(found, file, number)))


def _controls(found: Mapping[str, Any], file: Path, number: int) -> Iterator[Path]:
    named = sorted((int(match[1] or -1), name) for name in found if (match := CONTROL.fullmatch(name)))
    for _, name in named:
        text = found[name]
        if not isinstance(text, str):
            raise InvalidRequest(f"{file}, line {number}: {name} has to be a text")
        whole = (file.parent / text).exists()
        for part in [text] if whole else text.split(","):
            yield _existing(part.strip(), file, number)


def _existing(path: str, file: Path, number: int) -> Path:
    found = file.parent / path
    if not found.is_file():
        raise InvalidRequest(f"{file}, line {number}: {quoted(path)} is no file")
    return found


@dataclass(frozen=True)
class Config:
    """Data sets, and which names of a config have no effect here."""

    data_sets: tuple[DataSet, ...]
    ignored: tuple[str, ...] = ()


def read_config(file: Path) -> Config:
    """That of a TOML file; ``[general]`` says what each data set has unless it says otherwise.

    Raises InvalidRequest.
    """
    try:
        content = parsed_toml(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{file}: it cannot be read: {error}") from None
    if extra := content.keys() - {"general", "datasets"}:
        raise InvalidRequest(f"{file}: {quoted(sorted(extra)[0])} is not known; it holds [general] and [[datasets]]")
    general, listed = content.get("general", {}), content.get("datasets", [])
    if not (isinstance(general, dict) and isinstance(listed, list) and all(isinstance(each, dict) for each in listed)):
        raise InvalidRequest(f"{file}: it has to hold [general] and [[datasets]]")
    if not listed:
        raise InvalidRequest(f"{file}: there is no [[datasets]] in it")
    whole = [{**general, **each} for each in listed]
    data_sets = tuple(_data_set(each, f"{file}, data set {n}") for n, each in enumerate(whole, 1))
    return Config(data_sets, tuple(name for name in IGNORED if any(name in each for each in whole)))


def _data_set(given: Mapping[str, Any], place: str) -> DataSet:
    try:
        return DataSet.model_validate({name: value for name, value in given.items() if name not in IGNORED})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = f"; known are {', '.join(DataSet.model_fields)}" if first["type"] == "extra_forbidden" else ""
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidRequest(f"{place}: {name + ': ' if name else ''}{message}{known}") from None


def of_folder(folder: Path) -> Config:
    """A folder by itself: of videos where it has one, else of pictures."""
    if not folder.is_dir():
        raise InvalidRequest(f"{folder}: there is no such folder")
    has_video = any(path.suffix.lower() in VIDEOS for path in folder.iterdir())
    source = {"video_directory" if has_video else "image_directory": str(folder.absolute())}
    return Config((DataSet.model_validate(source),))


def data_at(path: Path) -> tuple[Config, Path]:
    """The data sets of a file or a folder, and from where their paths count. Raises InvalidRequest."""
    if path.is_file():
        return read_config(path), path.parent
    return of_folder(path), Path()
