"""The folder of one generation: what a run needs to go on after a break, and the video so far.

    job.json              the request, the checkpoint's fingerprint, where the result goes
    picture.png           the fitted start picture
    section_000.safetensors ...  a section's latents and the noise generator's state after it
    segment_000.mp4 ...   the frames that became final with a section, encoded once
    tail.mp4              the frames that the next section will still change
    video.mp4             all of it joined: the playable video so far
    preview.png           the latest look at the latents

Every file is written whole or not at all. A section's latents are its resume point.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
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
from .errors import InvalidRequest, OutputFailed, UnusableInput, UnusablePicture, UnusableResumeFolder
from .media.files import day_folder, job_stem, remove_partials, require_space, written_whole
from .media.metadata import write_png
from .media.pictures import open_picture
from .media.video import join_segments, probe, write_segment
from .models.sizes import header_of
from .models.table import Checkpoint
from .names import AnyText
from .request import Request

FORMAT = 1


@dataclass(frozen=True)
class Job:
    """What job.json holds. ``*result``: where the finished video, its picture and its latents go, None for nowhere."""

    request: dict[str, Any]
    checkpoint: str
    checkpoint_source: str
    fingerprint: str
    result: AnyText
    picture_result: AnyText | None
    latents_result: AnyText | None
    format: int = FORMAT

    def check_targets(self, file: Path) -> None:
        """Raises UnusableResumeFolder where a file would be written that is no result of ours."""
        targets = ((self.result, ".mp4"), (self.picture_result, ".png"), (self.latents_result, ".safetensors"))
        for target, suffix in targets:
            if target is not None and Path(target).suffix.lower() != suffix:
                raise UnusableResumeFolder(f"{file} is damaged: {target} is not the name of a {suffix} file")


@dataclass(frozen=True)
class SavedSection:
    """A section's latents [1, C, T, H, W] and the state of the noise generator after it."""

    latents: Tensor
    generator_state: Tensor


class WorkFolder:
    """One generation's folder. Make it with ``create`` or ``reopen``."""

    def __init__(self, path: Path, job: Job, request: Request) -> None:
        self.path, self.job, self.request = path, job, request
        self.video = path / "video.mp4"
        self.preview = path / "preview.png"

    @classmethod
    def create(
        cls,
        output_dir: Path,
        request: Request,
        checkpoint: Checkpoint,
        picture: np.ndarray,
        needed_bytes: int,
        result: Path | None = None,
        latents_result: Path | None = None,
    ) -> WorkFolder:
        """A new folder under today's, where ``needed_bytes`` must be free, or nothing at all and OutputFailed.

        ``picture``: the fitted start picture, uint8 [height, width, 3]. ``result`` and ``latents_result``: where the
        finished video and its latents go; by default beside the folder, and nowhere.
        """
        now = datetime.now()
        day = day_folder(output_dir, now)
        for place in {day, result.absolute().parent if result else day}:
            require_space(place, needed_bytes)
        path = _new_folder(day, job_stem(now, request.seed))
        job = Job(
            request=request.model_dump(),
            checkpoint=checkpoint.name,
            checkpoint_source=checkpoint.source,
            fingerprint=checkpoint.fingerprint(),
            result=str((result or path.with_suffix(".mp4")).absolute()),
            picture_result=None if result else str(path.with_suffix(".png").absolute()),
            latents_result=str(latents_result.absolute()) if latents_result else None,
        )
        folder = cls(path, job, request)
        try:
            folder._write("job.json", json.dumps(asdict(job), indent=1).encode())
            write_png(path / "picture.png", picture, folder.metadata())
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return folder

    @classmethod
    def reopen(cls, path: Path) -> WorkFolder:
        """The folder of a generation that was broken off.

        Raises:
            UnusableResumeFolder: not such a folder, or damaged.
        """
        file = path / "job.json"
        if not file.is_file():
            raise UnusableResumeFolder(f"{path} is not the folder of an unfinished video: it has no job.json")
        try:
            job = TypeAdapter(Job).validate_python(json.loads(file.read_bytes()))
            folder = cls(path, job, Request.parse(job.request))
        except (OSError, ValueError, RecursionError, InvalidRequest) as error:
            raise UnusableResumeFolder(f"{file} is damaged: {error}") from None
        if job.format != FORMAT:
            raise UnusableResumeFolder(f"{file} has format {job.format}; this program reads format {FORMAT}")
        job.check_targets(file)
        remove_partials(path)
        return folder

    def metadata(self) -> dict[str, Any]:
        """What video and picture say of their making."""
        return {"version": __version__, "checkpoint": self.job.checkpoint, "request": self.request.metadata()}

    def load_picture(self) -> np.ndarray:
        """The fitted picture; raises UnusableResumeFolder."""
        try:
            return open_picture(self.path / "picture.png")
        except UnusablePicture as error:
            raise UnusableResumeFolder(f"{self.path} is damaged: {error}") from None

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

    def has_segment(self, number: int) -> bool:
        """Whether the frames that became final with a section are there, and sound."""
        segment = self._segment(number)
        return segment.is_file() and (segment.stat().st_size == 0 or frames_in(segment) > 0)

    def save_segment(self, number: int, frames: np.ndarray, fps: int, crf: int) -> None:
        """Encode the frames that became final with a section, uint8 [F, height, width, 3]; none leave an empty file."""
        if len(frames):
            write_segment(self._segment(number), frames, fps, crf)
        else:
            self._write(self._segment(number).name, b"")

    def save_video(
        self, sections: int, tail: np.ndarray | None, newest_first: bool, fps: int, crf: int, comment: str
    ) -> Path:
        """Join what ``sections`` sections have finished, and the tail that may still change, to a playable video."""
        segments = self._segments(sections)
        if tail is not None:
            segments.append(self.path / "tail.mp4")
            write_segment(segments[-1], tail, fps, crf)
        join_segments(segments[::-1] if newest_first else segments, self.video, comment, fps)
        return self.video

    def finish(self, sections: int, newest_first: bool, fps: int, comment: str) -> Path:
        """Join the final video at its place, put the picture beside it, and remove this folder."""
        result = Path(self.job.result)
        segments = self._segments(sections)
        join_segments(segments[::-1] if newest_first else segments, result, comment, fps)
        if self.job.picture_result:
            with written_whole(Path(self.job.picture_result)) as target:
                shutil.copyfile(self.path / "picture.png", target)
        shutil.rmtree(self.path, ignore_errors=True)
        return result

    def save_latents(self, history: Tensor) -> None:
        """All latents in time order, [1, C, T, H, W], where the job wants them."""
        if self.job.latents_result:
            with written_whole(Path(self.job.latents_result)) as target:
                target.write_bytes(save({"latents": history.contiguous()}))

    def _segments(self, sections: int) -> list[Path]:
        """The segments of the first ``sections`` sections that have frames, in the order of making."""
        made = [self._segment(number) for number in range(sections)]
        return [segment for segment in made if segment.stat().st_size]

    def _segment(self, number: int) -> Path:
        return self.path / f"segment_{number:03}.mp4"

    def _write(self, name: str, content: bytes) -> None:
        with written_whole(self.path / name) as target:
            target.write_bytes(content)


def frames_in(video: Path) -> int:
    """How many frames a video has; 0 when it is missing or damaged."""
    try:
        return probe(video).frames
    except UnusableInput:
        return 0


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
        raise UnusableResumeFolder(_damaged(file, str(error))) from None
    if not intact:
        raise UnusableResumeFolder(_damaged(file, "its contents do not match its checksum"))
    return SavedSection(**tensors)


def _damaged(file: Path, why: str) -> str:
    return f"{file} is damaged: {why}. Delete it and the later sections' files to go on from before it."


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
            raise OutputFailed(f"the folder {path} cannot be made: {error.strerror or error}") from None
    raise OutputFailed(f"no free name for a new video in {day}")
