"""What encoders made, kept on the disk by what it was made of.

A file's name is a hash of the encoder's own files, its numbers, and the text or the pixels that it was given. So a
change of a caption makes one text anew and no latents, another size makes latents anew and no texts, and a change of
any other option nothing. Tensors are mapped, not read: they take no RAM that the system could not have back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..conditioning.cache import content_key
from ..errors import OutputFailed
from ..media.files import make_folder, written_whole
from ..models.load import Compute
from ..models.table import Checkpoint
from ..vae.codec import LatentPosterior
from ..words import Message

log = logging.getLogger(__name__)

T = TypeVar("T")
FORMAT = "1"


@dataclass(frozen=True)
class Form:
    """How what a part makes stands in a file.

    Attributes:
        parts: of a checkpoint, whose files decide what comes out.
        tensors: all there is of it, by name.
        made: the same from tensors and plain values.
        plain: what is no tensor.
    """

    parts: tuple[str, ...]
    tensors: Callable[[Any], dict[str, Tensor]]
    made: Callable[[Mapping[str, Tensor], Any], Any]
    plain: Callable[[Any], Any] = lambda value: None


FORMS: Mapping[str, Form] = {
    "text_encoder": Form(
        ("text_encoder", "tokenizer"),
        lambda value: {"tokens": value[0]},
        lambda tensors, cut: (tensors["tokens"], int(cut)),
        lambda value: value[1],
    ),
    "text_encoder_2": Form(
        ("text_encoder_2", "tokenizer_2"), lambda value: {"pooled": value}, lambda tensors, _: tensors["pooled"]
    ),
    "image_encoder": Form(
        ("image_encoder", "feature_extractor"), lambda value: {"tokens": value}, lambda tensors, _: tensors["tokens"]
    ),
    "vae": Form(
        ("vae",),
        lambda value: {"mean": value.mean, "std": value.std},
        lambda tensors, _: LatentPosterior(tensors["mean"], tensors["std"]),
    ),
}
"""By the part that makes it."""


def encodings_folder(models_dir: Path) -> Path:
    """Where they are kept unless a data set says where."""
    return models_dir / "encoded"


class KeptEncodings:
    """A folder of what the encoders of a checkpoint made.

    Attributes:
        made, found: how often something was made, and was there.
        trouble: why nothing more can be kept, once that is so.
    """

    def __init__(self, folder: Path, checkpoint: Checkpoint, compute: Compute) -> None:
        self._folder, self.made, self.found = folder, 0, 0
        self.trouble: Message | None = None
        numbers = {"vae": compute.vae_dtype}
        self._makers = {
            part: content_key(FORMAT, checkpoint.fingerprint(form.parts), str(numbers.get(part, compute.encoder_dtype)))
            for part, form in FORMS.items()
        }

    def __call__(self, part: str, key: str, make: Callable[[], T]) -> T:
        """What ``part`` makes of the content with this key; kept, or made now and kept where that can be."""
        file = self._folder / part / f"{content_key(self._makers[part], key)[:40]}.safetensors"
        kept = _read(file, FORMS[part])
        if kept is not None:
            self.found += 1
            return kept
        value, self.made = make(), self.made + 1
        if not self.trouble:
            self._keep(file, FORMS[part], value)
        again = None if self.trouble else _read(file, FORMS[part])
        return value if again is None else again

    def _keep(self, file: Path, form: Form, value: Any) -> None:
        tensors = {name: tensor.contiguous().clone() for name, tensor in form.tensors(value).items()}
        try:
            make_folder(file.parent)
            with written_whole(file) as part:
                part.write_bytes(save(tensors, {"plain": json.dumps(form.plain(value))}))
        except OutputFailed as error:
            self.trouble = error.said
            log.warning("what was encoded is not kept: %s", error)


def _read(file: Path, form: Form) -> Any:
    """None where there is nothing, or nothing that can be used: then it is made again."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            plain = json.loads((opened.metadata() or {})["plain"])
        return form.made(tensors, plain)
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        log.warning("%s is damaged (%s); it is made again", file, error)
        return None
