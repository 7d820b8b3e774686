"""The folder of one generation: what a run needs to go on after a break, and the video so far.

    job.json              the request, the checkpoint's fingerprint, where the result goes
    picture.png, picture_1.png ...  the fitted pictures of the request
    mask.png, mask_1.png ...  what counts of them, white, where that is not all
    section_000.safetensors ...  a section's latents and the noise generator's state after it
    segment_000.mp4 ...   the frames that became final with a section, encoded once
    master_000.mp4 ...    the same without loss, where the result is written of these at the end
    tail.mp4              the frames that the next section will still change
    video.mp4             all of it joined: the playable video so far
    result.png            the picture that is made, where it is no video
    preview.png           the latest look at the latents

Every file is written whole or not at all. A section's latents are its resume point. The folder may be moved, alone or
with the output folder that it lies in.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from . import __version__, faults
from .errors import InvalidRequest, OutputFailed, UnusablePicture, UnusableResumeFolder, told_by
from .media.files import (
    day_folder,
    job_stem,
    make_folder,
    remove_partials,
    require_folder,
    require_space,
    require_writable,
    written_whole,
)
from .media.fit import Fitted
from .media.metadata import write_png
from .media.pictures import open_mask, open_picture
from .media.places import kept, whole
from .models.sizes import header_of
from .models.table import CHECKPOINTS, Checkpoint
from .names import AnyText
from .request import Request
from .words import Message, plain

FORMAT = 3
RESULTS = ("result", "picture_result", "latents_result")


@dataclass(frozen=True)
class Manifest:
    """What job.json holds.

    Attributes:
        folder: where the work folder lies in the output folder; "" where that cannot be told.
        result, picture_result, latents_result: where the finished video, its picture and its latents go, None for
            nowhere; as seen from the output folder where they lie in it.
    """

    request: dict[str, Any]
    checkpoint: str
    checkpoint_source: str
    fingerprint: str
    result: AnyText
    picture_result: AnyText | None
    latents_result: AnyText | None
    folder: AnyText = ""
    format: int = FORMAT

    def results(self) -> dict[str, str]:
        """The results that are wanted, by attribute."""
        return {name: place for name in RESULTS if (place := getattr(self, name)) is not None}

    def as_kept(self, output_dir: Path) -> Manifest:
        """With places as seen from ``output_dir``."""
        places = {"folder": self.folder, **self.results()}
        seen: dict[str, Any] = {name: kept(place, output_dir) for name, place in places.items()}
        return replace(self, **seen)

    def check_targets(self, file: Path, suffix: str) -> None:
        """Raises UnusableResumeFolder where a file would be written that is no result of ours.

        ``suffix``: of the result itself.
        """
        suffixes = {"result": suffix, "picture_result": ".png", "latents_result": ".safetensors"}
        for name, target in self.results().items():
            if Path(target).suffix.lower() != suffixes[name] or "\0" in target:
                reason = Message("resume.no_result", name=target, suffix=suffixes[name])
                raise UnusableResumeFolder(Message("files.damaged", file=str(file), reason=reason))


@dataclass(frozen=True)
class SavedSection:
    """A section's latents [1, C, T, H, W] and the state of the noise generator after it."""

    latents: Tensor
    generator_state: Tensor


class WorkFolder:
    """One generation's folder. Make it with ``create`` or ``reopen``.

    Attributes:
        notices: what to know about its places.
    """

    def __init__(self, path: Path, manifest: Manifest, request: Request, notices: Sequence[Message] = ()) -> None:
        self.path, self.manifest, self.request, self.notices = path, manifest, request, notices
        self.video = path / "video.mp4"
        self.preview = path / "preview.png"

    @classmethod
    def create(
        cls,
        output_dir: Path,
        request: Request,
        checkpoint: Checkpoint,
        fingerprint: str,
        pictures: Sequence[Fitted],
        needed_bytes: int,
        result: Path | None = None,
        latents_result: Path | None = None,
    ) -> WorkFolder:
        """A new folder under today's, or nothing at all and OutputFailed: where ``needed_bytes`` are not free, or a
        result could not be written.

        ``fingerprint``: of the files that ``checkpoint`` was loaded from. ``pictures``: those of the request.
        ``result`` and ``latents_result``: where the result and its latents go; by
        default beside the folder, and nowhere.
        """
        for target in filter(None, (result, latents_result)):
            require_writable(target)
        now, output_dir = datetime.now(), whole(output_dir)
        day = make_folder(day_folder(output_dir, now))
        for place in {day, result.absolute().parent if result else day}:
            require_space(place, needed_bytes)
        path = _new_folder(day, job_stem(now, request.seed))
        manifest = Manifest(
            request=request.model_dump(),
            checkpoint=checkpoint.name,
            checkpoint_source=checkpoint.source,
            fingerprint=fingerprint,
            folder=str(path),
            result=str(whole(result) if result else path.with_suffix(request.output.suffix)),
            picture_result=None if result or request.output.suffix == ".png" else str(path.with_suffix(".png")),
            latents_result=str(whole(latents_result)) if latents_result else None,
        )
        folder = cls(path, manifest, request)
        try:
            folder._write("job.json", json.dumps(asdict(manifest.as_kept(output_dir)), indent=1).encode())
            for number, picture in enumerate(pictures):
                write_png(path / _numbered("picture", number), picture.pixels, folder.metadata())
                if picture.mask is not None:
                    write_png(path / _numbered("mask", number), picture.mask, {})
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return folder

    @classmethod
    def reopen(cls, path: Path) -> WorkFolder:
        """The folder of a generation that was broken off.

        Raises:
            UnusableResumeFolder: not such a folder, damaged, or one that cannot be written.
        """
        path = whole(path)
        manifest, request = _read(path / "job.json")
        try:
            require_folder(path)
            manifest, notices = _placed(manifest, path)
        except OutputFailed as error:
            raise UnusableResumeFolder(error.said) from None
        remove_partials(path)
        return cls(path, manifest, request, notices)

    def metadata(self) -> dict[str, Any]:
        """What video and picture say of their making."""
        recipe = self.request.recipe.model_dump()
        return {"version": __version__, "checkpoint": self.manifest.checkpoint, "request": recipe}

    def load_pictures(self) -> tuple[Fitted, ...]:
        """The fitted pictures; raises UnusableResumeFolder."""
        try:
            return tuple(self._load_picture(number) for number in range(len(self.request.pictures)))
        except UnusablePicture as error:
            raise UnusableResumeFolder(Message("files.damaged", file=str(self.path), reason=error.said)) from None

    def _load_picture(self, number: int) -> Fitted:
        mask = self.path / _numbered("mask", number)
        pixels = open_picture(self.path / _numbered("picture", number))
        return Fitted(pixels, open_mask(mask) if mask.exists() else None)

    def save_preview(self, pixels: np.ndarray) -> None:
        """Overwrite the preview; it need not survive a power cut, so nothing waits for the disk."""
        write_png(self.preview, pixels, {}, durable=False)

    def save_section(self, number: int, latents: Tensor, generator: torch.Generator) -> None:
        """The resume point after section ``number``."""
        tensors = {"latents": latents.contiguous(), "generator_state": generator.get_state()}
        with written_whole(self.path / _section_name(number)) as target:
            target.write_bytes(save(tensors, {"sha256": _hash(tensors)}))
            faults.passing("checkpoint")

    def load_sections(self) -> list[SavedSection]:
        """The finished sections, from the first on. Raises UnusableResumeFolder, naming the damaged file."""
        sections: list[SavedSection] = []
        while (file := self.path / _section_name(len(sections))).is_file():
            sections.append(_load_section(file))
        return sections

    def save_picture(self, pixels: np.ndarray) -> Path:
        """The picture that is made, uint8 [height, width, 3], with what made it."""
        picture = self.path / "result.png"
        write_png(picture, pixels, self.metadata())
        return picture

    def copy_picture(self, target: Path) -> None:
        """The picture that is made, at another place."""
        _copy(self.path / "result.png", target)

    def finish(self, put: Callable[[Path], None]) -> Path:
        """``put`` the result at its place, the start picture beside it where it is wanted, and remove this folder."""
        result = Path(self.manifest.result)
        put(result)
        if self.manifest.picture_result:
            _copy(self.path / "picture.png", Path(self.manifest.picture_result))
        shutil.rmtree(self.path, ignore_errors=True)
        return result

    def save_latents(self, history: Tensor) -> None:
        """All latents in time order, [1, C, T, H, W], where they are wanted."""
        if self.manifest.latents_result:
            with written_whole(Path(self.manifest.latents_result)) as target:
                target.write_bytes(save({"latents": history.contiguous()}))

    def _write(self, name: str, content: bytes) -> None:
        with written_whole(self.path / name) as target:
            target.write_bytes(content)


def _read(file: Path) -> tuple[Manifest, Request]:
    """What a job.json holds, of this format or an older one. Raises UnusableResumeFolder."""
    if not file.is_file():
        raise UnusableResumeFolder(Message("resume.no_manifest", folder=str(file.parent)))
    try:
        manifest = TypeAdapter(Manifest).validate_python(json.loads(file.read_bytes()))
        request = Request.from_data(manifest.request)
    except (OSError, ValueError, RecursionError, InvalidRequest) as error:
        raise UnusableResumeFolder(Message("files.damaged", file=str(file), reason=told_by(error))) from None
    if not 1 <= manifest.format <= FORMAT:
        raise UnusableResumeFolder(Message("resume.format", file=str(file), format=manifest.format, known=FORMAT))
    manifest.check_targets(file, request.output.suffix)
    return _as_format_2(manifest), request


def _as_format_2(manifest: Manifest) -> Manifest:
    """A manifest of format 1, which held whole paths.

    Where the picture is among its results, they were to lie beside the work folder: that tells where the output folder
    was. A checkpoint of ours that is gone has moved with the program.
    """
    if manifest.format > 1:
        return manifest
    if manifest.checkpoint in CHECKPOINTS and not os.path.lexists(manifest.checkpoint_source):
        manifest = replace(manifest, checkpoint_source=manifest.checkpoint)
    if manifest.picture_result is None:
        return manifest
    folder = Path(manifest.result).with_suffix("")
    return replace(manifest, folder=str(folder)).as_kept(folder.parent.parent)


def _placed(manifest: Manifest, folder: Path) -> tuple[Manifest, list[Message]]:
    """The manifest whose work folder is ``folder`` now, with whole paths, and what to know about them.

    A result that cannot go where it was meant to goes beside the work folder, under its name. Raises OutputFailed.
    """
    output_dir = folder.parent.parent if folder.parts[-2:] == Path(manifest.folder).parts else None
    meant = {name: _reachable(place, output_dir) for name, place in manifest.results().items()}
    suffixes = {name: Path(place).suffix for name, place in manifest.results().items()}
    beside = {name: folder.with_name(folder.name + suffixes[name]) for name, place in meant.items() if place is None}
    for place in beside.values():
        require_writable(place)
    places: dict[str, Any] = {name: str(place) for name, place in {**meant, **beside}.items()}
    return replace(manifest, folder=str(folder), **places), [_moved(manifest, beside)] if beside else []


def _moved(manifest: Manifest, beside: Mapping[str, Path]) -> Message:
    """What is said of results that go elsewhere, the video first."""
    name, place = next(iter(beside.items()))
    return Message("notice.result_moved", meant=getattr(manifest, name), place=str(place))


def _reachable(place: str, output_dir: Path | None) -> Path | None:
    """The place of a result, in ``output_dir`` unless it is a whole path; None where it cannot be written."""
    if output_dir is None and not Path(place).is_absolute():
        return None
    found = (output_dir or Path()) / place
    try:
        require_writable(found)
    except OutputFailed:
        return None
    return found


def _copy(file: Path, target: Path) -> None:
    with written_whole(target) as part:
        shutil.copyfile(file, part)


def _numbered(name: str, number: int) -> str:
    """Most requests have one picture; its name is that of all versions."""
    return f"{name}_{number}.png" if number else f"{name}.png"


def _section_name(number: int) -> str:
    return f"section_{number:03}.safetensors"


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _load_section(file: Path) -> SavedSection:
    try:
        found = load(file.read_bytes())  # safe_open takes no name with other bytes
        tensors = {name: found[name] for name in ("latents", "generator_state")}
        intact = header_of(file).get("__metadata__", {}).get("sha256") == _hash(tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _damaged(file, plain(str(error))) from None
    if not intact:
        raise _damaged(file, Message("resume.checksum"))
    return SavedSection(**tensors)


def _damaged(file: Path, reason: Message) -> UnusableResumeFolder:
    return UnusableResumeFolder(Message("resume.section_damaged", file=str(file), reason=reason))


def _new_folder(day: Path, stem: str) -> Path:
    """A folder that did not exist before, under a name that no finished video has."""
    for attempt in range(1000):
        path = day / (stem if attempt == 0 else f"{stem}_{attempt}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputFailed(Message("files.no_folder", folder=str(path), reason=reason)) from None
    raise OutputFailed(Message("files.no_name", folder=str(day)))
