"""The checkpoints this program knows, and where their files lie. No tensors here.

A checkpoint is its parts, each a folder: in one local folder in diffusers' layout, or in hub repositories downloaded
to ``<models folder>/hub``, the place the original FramePack program uses, so that its downloads serve here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..caches.step_cache import NOTHING_MEASURED, Measured
from ..errors import UnusableCheckpoint
from ..memory.costs import LEAN_STEPS
from ..names import is_text, path_of, quoted, shown
from ..settings import ROOT
from ..words import Message, joined, plain
from .about import SIDE_STEP, About, describe_large, read_description
from .calibrations import keep_ratios, kept_ratios

WEIGHTS_PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "image_encoder")
FETCH_AGAIN = Message("checkpoint.fetch_again")
DESCRIPTION_FILE = "framepack.json"
SAMPLES, SAMPLE_BYTES = 64, 2**20
FRAMEPACK_BUCKETS: tuple[tuple[int, int], ...] = (
    (416, 960), (448, 864), (480, 832), (512, 768), (544, 704), (576, 672), (608, 640),
    (640, 608), (672, 576), (704, 544), (768, 512), (832, 480), (864, 448), (960, 416),
)  # fmt: skip
"""(height, width) in pixels of FramePack's resolution key 640, in the order that decides ties."""
EVERY_KIND = ("framepack", "f1")
"""Of a checkpoint that does not say which."""
LARGE_STEPS_PER_FRAME = LEAN_STEPS / 41
"""Of the 13B checkpoints: after a section 11 latent frames are decoded, which are 41 of the video."""


@dataclass(frozen=True)
class PartSource:
    """A part in a hub repository: the folder in it ("" for its root) and its size on disk."""

    repository: str
    subfolder: str
    size_gb: float


@dataclass(frozen=True)
class KnownCheckpoint:
    """A checkpoint by name: a local folder, or hub repositories.

    Attributes:
        quantised_gb: of the file of 8-bit weights that the first start makes where memory is short.
    """

    title: str
    folder: Path | None = None
    sources: Mapping[str, PartSource] = field(default_factory=dict)
    quantised_gb: float = 0.0

    @property
    def size_gb(self) -> float:
        return sum(source.size_gb for source in self.sources.values())


def _large(title: str, transformer_repository: str) -> KnownCheckpoint:
    base, siglip = "hunyuanvideo-community/HunyuanVideo", "lllyasviel/flux_redux_bfl"
    sources = {
        "transformer": PartSource(transformer_repository, "", 25.8),
        "vae": PartSource(base, "vae", 0.5),
        "text_encoder": PartSource(base, "text_encoder", 15.0),
        "tokenizer": PartSource(base, "tokenizer", 0.01),
        "text_encoder_2": PartSource(base, "text_encoder_2", 0.25),
        "tokenizer_2": PartSource(base, "tokenizer_2", 0.01),
        "image_encoder": PartSource(siglip, "image_encoder", 0.9),
        "feature_extractor": PartSource(siglip, "feature_extractor", 0.01),
    }
    return KnownCheckpoint(title, sources=sources, quantised_gb=9.9)


CHECKPOINTS: Mapping[str, KnownCheckpoint] = {
    "pocket": KnownCheckpoint("the small checkpoint that ships with this program", ROOT / "checkpoints" / "pocket"),
    "framepack": _large("FramePack I2V 13B", "lllyasviel/FramePackI2V_HY"),
    "framepack-f1": _large("FramePack F1 13B", "lllyasviel/FramePack_F1_I2V_HY_20250503"),
}
PARTS = (*WEIGHTS_PARTS, "tokenizer", "tokenizer_2", "feature_extractor")


Stamps = tuple[tuple[Path, int, int], ...]
"""Files with their sizes and times of change."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on this machine.

    Attributes:
        name: what people are told; a name of CHECKPOINTS or of a folder.
        source: what ``find_checkpoint`` finds it by from anywhere: the name, or the folder's absolute path.
        kinds: the samplings it was trained for, the one it does best first.
        folders: part -> folder.
        buckets: (height, width) in pixels that it makes.
        latent_rgb: the linear preview map, factors [16, 3] and bias [3]; None for HunyuanVideo's own.
        steps_per_frame: what decoding a video frame takes, in sampling steps of 9 latent frames that are computed. As
            long as this machine has made no video, it tells how much of one the decoding is.
        guidance: the distilled guidance that trainings tell it. The 13B checkpoints are told 1, as musubi does.
        about: what people are told of it.
        shipped: what was measured for its step caches before it came here.
        calibrations: the folder where this machine keeps what it has measured itself; None for none.
    """

    name: str
    source: str
    kinds: tuple[str, ...]
    folders: Mapping[str, Path]
    buckets: tuple[tuple[int, int], ...]
    latent_rgb: tuple[Sequence[Sequence[float]], Sequence[float]] | None = None
    steps_per_frame: float = LARGE_STEPS_PER_FRAME
    guidance: float = 1.0
    _fingerprints: dict[Stamps, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    about: About = field(default_factory=About)
    shipped: Measured = NOTHING_MEASURED
    calibrations: Path | None = None

    def makes(self, height: int, width: int, rope_factor: float = 1.0) -> bool:
        """Whether it makes this size: one of ``buckets``, or under RoPE scaling one between it and so many times it."""
        most = max(rope_factor, 1)
        is_near = any(1 <= height / rows <= most and 1 <= width / columns <= most for rows, columns in self.buckets)
        return is_near and height % SIDE_STEP == 0 == width % SIDE_STEP

    def measured(self) -> Measured:
        """What is known for its step caches; this machine's calibrations are read when they are first asked for."""
        folder = self.calibrations
        if folder is None:
            return self.shipped
        return replace(self.shipped, read_calibrated=cache(lambda: kept_ratios(folder, self.fingerprint())))

    def keep_ratios(self, ratios: Sequence[float]) -> Path | None:
        """Keep what a calibration has measured; the file. Raises OutputFailed."""
        return keep_ratios(self.calibrations, self.fingerprint(), ratios) if self.calibrations else None

    def files(self, parts: Sequence[str] = PARTS) -> list[Path]:
        """What parts consist of. A link that leads nowhere, or a folder, is none of it."""
        return [file for part in parts for file in sorted(self.folders[part].iterdir()) if file.is_file()]

    def fingerprint(self, parts: Sequence[str] = PARTS) -> str:
        """A short hash of the configs but for their line ends, and of every weights file's size and samples of it.

        The files are read again only when one of them has another size or time than before.
        """
        files = self.files(parts)
        stamps = tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        if stamps not in self._fingerprints:
            self._fingerprints[stamps] = _hash_of(files)
        return self._fingerprints[stamps]


def find_checkpoint(name: str, models_dir: Path) -> Checkpoint:
    """The checkpoint of a name of CHECKPOINTS, or in a folder. Touches no network.

    Raises:
        UnusableCheckpoint: unknown, incomplete or damaged; says which files, how large, where they go.
    """
    try:
        return _found(name, models_dir)
    except OSError as error:
        file = {"file": str(error.filename), "reason": error.strerror or ""}
        raise UnusableCheckpoint(Message("checkpoint.not_read", name=quoted(name), **file)) from None


def _found(name: str, models_dir: Path) -> Checkpoint:
    known = CHECKPOINTS.get(name)
    if known is None:
        return _from_folder(name, _folder_named(name), models_dir)
    if known.folder is not None:
        return replace(_from_folder(name, known.folder, models_dir), source=name)
    require_text(models_dir)
    folders = part_folders(known, models_dir)
    missing = [part for part in PARTS if part not in folders or missing_files(part, folders[part])]
    if missing:
        raise UnusableCheckpoint(_how_to_get(name, known, missing, models_dir))
    described = describe_large(name)
    return Checkpoint(
        name,
        name,
        described.kinds or EVERY_KIND,
        folders,
        FRAMEPACK_BUCKETS,
        about=described.about,
        shipped=described.measured,
        calibrations=calibrations_folder(models_dir),
    )


def calibrations_folder(models_dir: Path) -> Path:
    """Where calibrations are kept."""
    return models_dir / "calibrations"


def _folder_named(name: str) -> Path:
    try:
        return path_of(name)
    except ValueError as error:
        raise UnusableCheckpoint(Message("checkpoint.no_folder", name=quoted(name), reason=str(error))) from None


def require_text(folder: Path) -> None:
    """Raises UnusableCheckpoint for a folder that the libraries which read weights could not open."""
    if not is_text(folder):
        raise UnusableCheckpoint(Message("checkpoint.no_text", folder=shown(folder)))


def part_folders(known: KnownCheckpoint, models_dir: Path) -> dict[str, Path]:
    """The folders of the parts that are downloaded, complete or not."""
    found = {}
    for part, source in known.sources.items():
        repository = repository_folder(models_dir, source.repository)
        if commit := commit_of(repository):
            found[part] = repository / "snapshots" / commit / source.subfolder
    return found


def commit_of(repository: Path) -> str:
    """The commit of which a repository is downloaded; empty where there is none, or its file holds something else."""
    head = repository / "refs" / "main"
    text = head.read_bytes().decode("ascii", "replace").strip() if head.is_file() else ""
    return text if text.isalnum() else ""


def repository_folder(models_dir: Path, repository: str) -> Path:
    """Where the hub library keeps a repository."""
    return models_dir / "hub" / f"models--{repository.replace('/', '--')}"


def missing_parts(known: KnownCheckpoint, models_dir: Path) -> list[str]:
    """The parts that are not complete on this machine; a damaged one counts as missing."""
    here = part_folders(known, models_dir)
    return [part for part in known.sources if part not in here or _lacks(part, here[part])]


def _lacks(part: str, folder: Path) -> bool:
    try:
        return bool(missing_files(part, folder))
    except UnusableCheckpoint:  # an index that cannot be read
        return True


def missing_files(part: str, folder: Path) -> list[str]:
    """What a part's folder lacks; empty when it is complete."""
    if part == "feature_extractor":
        return [] if (folder / "preprocessor_config.json").is_file() else ["preprocessor_config.json"]
    if part.startswith("tokenizer"):
        return [] if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")) else ["tokenizer.json"]
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    return missing + _missing_weights(part, folder)


def _missing_weights(part: str, folder: Path) -> list[str]:
    """Weights are one file, or an index that names its shards."""
    stem = "diffusion_pytorch_model" if part in ("transformer", "vae") else "model"
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return [] if (folder / f"{stem}.safetensors").is_file() else [f"{stem}.safetensors"]
    here = {file.name for file in folder.iterdir() if file.is_file()}
    return sorted(_shards_of(index) - here)


def _shards_of(index: Path) -> set[str]:
    """The files that an index names. Raises UnusableCheckpoint."""
    named = _read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(_is_name(file) for file in named.values()):
        raise _damaged(index, Message("checkpoint.weight_map"))
    return set(named.values())


def _is_name(given: Any) -> bool:
    return isinstance(given, str) and given.isprintable()


def _from_folder(name: str, folder: Path, models_dir: Path) -> Checkpoint:
    if not folder.is_dir():
        raise UnusableCheckpoint(Message("checkpoint.neither", name=quoted(name), known=", ".join(CHECKPOINTS)))
    require_text(folder.resolve())
    lacking = [f"{folder / part / file}" for part in PARTS for file in missing_files(part, folder / part)]
    if lacking:
        told = Message("checkpoint.incomplete", name=repr(name), files="\n  ".join(lacking))
        raise UnusableCheckpoint(_with_offer(told, name))
    described = read_description(folder / DESCRIPTION_FILE)
    return Checkpoint(
        name=folder.resolve().name,
        source=str(folder.resolve()),
        kinds=described.kinds or EVERY_KIND,
        folders={part: folder / part for part in PARTS},
        buckets=described.buckets or FRAMEPACK_BUCKETS,
        latent_rgb=described.latent_rgb,
        steps_per_frame=described.steps_per_frame or LARGE_STEPS_PER_FRAME,
        guidance=1.0 if described.guidance is None else described.guidance,
        about=described.about,
        shipped=described.measured,
        calibrations=calibrations_folder(models_dir),
    )


def _how_to_get(name: str, known: KnownCheckpoint, missing: Iterable[str], models_dir: Path) -> Message:
    rows = [
        f"  {part:18} {known.sources[part].size_gb:6.2f} GB  {known.sources[part].repository}"
        + (f"/{known.sources[part].subfolder}" if known.sources[part].subfolder else "")
        for part in missing
    ]
    whole = {"title": known.title, "size_gb": known.size_gb, "parts": "\n".join(rows)}
    return _with_offer(Message("checkpoint.to_be_fetched", name=name, **whole, folder=str(models_dir / "hub")), name)


def _with_offer(told: Message, name: str) -> Message:
    """And what works at once, where that is another checkpoint."""
    return told if name == "pocket" else Message("checkpoint.or_pocket", told=told)


def _damaged(file: Path, reason: Message) -> UnusableCheckpoint:
    told = Message("checkpoint.json_damaged", file=str(file), reason=reason)
    return UnusableCheckpoint(joined(told, FETCH_AGAIN))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, plain(str(error))) from None
    if not isinstance(content, dict):
        raise _damaged(file, Message("checkpoint.no_object"))
    return content


def _with_plain_line_ends(content: bytes) -> bytes:
    """A clone may write others, and in JSON they mean nothing."""
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _hash_of(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        if file.suffix == ".json":
            digest.update(_with_plain_line_ends(file.read_bytes()))
        elif file.suffix == ".safetensors":
            _update_with_samples(digest, file)
    return digest.hexdigest()[:16]


def _update_with_samples(digest: hashlib._Hash, file: Path) -> None:
    """A file's size and SAMPLES pieces spread evenly over it: all of a small file, a little of 10 GB."""
    size = file.stat().st_size
    digest.update(str(size).encode())
    with file.open("rb") as stream:
        for number in range(SAMPLES):
            stream.seek(size * number // SAMPLES)
            digest.update(stream.read(min(SAMPLE_BYTES, size // SAMPLES + 1)))
