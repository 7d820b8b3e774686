"""The data of a training on the page: what lies in a folder or in the data sets of a file, with captions to be edited.

Of what a browser names nothing is a path but the folder or file itself. What is written is the text file beside one of
the pictures or videos that were found there, and nothing else.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import FramePackError, InvalidRequest
from ..media.files import written_whole
from ..media.pictures import open_picture
from ..media.video import middle_frame
from ..settings import given_path
from ..training.dataset import PICTURES, VIDEOS, DataSet, data_at, files_in
from ..words import Message, Texts
from .phrases import say

STEP, MOST = 24, 1200
"""So many files are shown at first and more at a time; and at most."""
THUMBNAIL_PIXELS = 160
LONGEST_CAPTION = 10_000
TEXT = ".txt"


@dataclass(frozen=True)
class Found:
    """One picture or video.

    Attributes:
        caption: what stands beside it; None where there is no text yet.
        is_editable: whether its caption is a text file beside it.
    """

    path: Path
    caption: str | None
    is_editable: bool

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS


def found_in(data: str) -> list[Found]:
    """All files of all data sets. Raises InvalidRequest."""
    config, root = data_at(given_path(data.strip()))
    return [found for data_set in config.data_sets for found in _of(data_set, root)]


def _of(data_set: DataSet, root: Path) -> Iterator[Found]:
    folder = data_set.image_directory or data_set.video_directory
    if folder is None:
        for entry in data_set.entries(root):
            yield Found(entry.path, entry.caption, is_editable=False)
        return
    suffix = data_set.caption_extension
    for path in files_in(root / folder, VIDEOS if data_set.result == "video" else PICTURES):
        beside = path.with_suffix(suffix)
        yield Found(path, _text_of(beside), is_editable=suffix == TEXT and _can_be_edited(beside))


def _text_of(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _can_be_edited(file: Path) -> bool:
    """Not one that cannot be shown as it is: of another encoding, or too long for a field."""
    text = _text_of(file)
    return not file.exists() if text is None else len(text) <= LONGEST_CAPTION


def refuse_unusable(data: str) -> None:
    """Raises InvalidRequest for what a training would refuse: no file, a missing caption or control picture."""
    config, root = data_at(given_path(data.strip()))
    for data_set in config.data_sets:
        data_set.entries(root)


def has_videos(data: str) -> bool:
    """Whether any of it is videos. Raises InvalidRequest."""
    config, _ = data_at(given_path(data.strip()))
    return any(data_set.result == "video" for data_set in config.data_sets)


def save_caption(data: str, wish: str) -> Path:
    """Write the caption that ``wish`` says, as the page's script does. Raises InvalidRequest, OutputFailed."""
    name, text = _read(wish)
    found = next((one for one in found_in(data) if one.is_editable and str(one.path) == name), None)
    if found is None:
        raise InvalidRequest(Message("training.not_of_data", name=name[:LONGEST_CAPTION]))
    target = found.path.with_suffix(TEXT)
    with written_whole(target) as part:
        part.write_text(text.strip() + "\n", encoding="utf-8")
    return target


def _read(wish: str) -> tuple[str, str]:
    """Which file is meant, and what it should say."""
    with suppress(ValueError, RecursionError):
        told = json.loads(wish)
        if isinstance(told, dict) and isinstance(told.get("name"), str) and isinstance(told.get("text"), str):
            return told["name"], told["text"][:LONGEST_CAPTION]
    raise InvalidRequest(Message("training.not_of_data", name=""))


def counts_html(found: Sequence[Found], texts: Texts) -> str:
    """How many files there are, and how many captions are missing."""
    videos = sum(one.is_video for one in found)
    missing = sum(one.caption is None for one in found)
    told = say(texts, "train.data_counts", pictures=len(found) - videos, videos=videos)
    lacks = f' <span class="q-error">{say(texts, "train.data_missing", count=missing)}</span>' if missing else ""
    return f"{told}{lacks}"


def data_html(found: Sequence[Found], shown: int, texts: Texts) -> str:
    """So many of the files, each with its caption."""
    if not found:
        return f'<p class="q-empty">{say(texts, "train.data_empty")}</p>'
    rows = "".join(_row(one, texts) for one in found[:shown])
    return f'<ul class="t-list">{rows}</ul>{_more(len(found), shown, texts)}'


def _row(one: Found, texts: Texts) -> str:
    name = escape(str(one.path))
    label = say(texts, "train.caption_of", name=one.path.name)
    marks = f'data-caption="{name}" aria-label="{label}"'
    off = "" if one.is_editable else f' readonly title="{say(texts, "train.caption_elsewhere")}"'
    hint = say(texts, "train.caption_missing") if one.caption is None else ""
    area = f'<textarea rows="2" {marks} placeholder="{hint}"{off}>{escape(one.caption or "")}</textarea>'
    return f'<li>{_picture(one)}<div><bdi title="{name}">{escape(one.path.name)}</bdi>{area}</div></li>'


def _picture(one: Found) -> str:
    """A small picture in the page itself; nothing where the file cannot be decoded, which the training will tell."""
    try:
        pixels = middle_frame(one.path) if one.is_video else open_picture(one.path)
    except FramePackError:
        return '<span class="l-thumb"></span>'
    picture, content = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    picture.save(content, "JPEG", quality=80)
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img class="l-thumb" src="data:image/jpeg;base64,{data}" alt="">'


def _more(count: int, shown: int, texts: Texts) -> str:
    if shown >= min(count, MOST):
        return ""
    told = say(texts, "queue.history_counts", shown=shown, count=count)
    words = say(texts, "queue.more", count=min(count - shown, STEP))
    button = f'<button type="button" class="q-button" data-act="more" data-value="{shown + STEP}">{words}</button>'
    return f'<p class="q-more"><span>{told}</span>{button}</p>'


def shown_count(wish: Any) -> int:
    """How many files a browser asks for."""
    text = str(wish)
    return min(int(text), MOST) if text.isascii() and text.isdecimal() and len(text) < 6 else STEP
