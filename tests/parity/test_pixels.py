"""Previews, picture fitting, bytes and the cross-fade."""

import numpy as np
import pytest
import torch

from diffusers_helper.media.fit import choose_bucket, resize_and_crop
from diffusers_helper.models.table import FRAMEPACK_BUCKETS
from diffusers_helper.vae.codec import to_bytes
from diffusers_helper.vae.preview import LatentToRGB
from diffusers_helper.vae.stitch import soft_append

from . import pack


def numbered(name: str, prefix: str) -> list[str]:
    return sorted({key.split(".")[0] for key in pack.tensors(name) if key.startswith(prefix)})


def test_preview_colours_and_bytes() -> None:
    values = pack.tensors("pixels")
    pack.assert_close(LatentToRGB()(values["latents"]), values["rgb_0_1"], 1e-6)
    assert np.array_equal(LatentToRGB().strip(values["latents"]), values["preview_uint8_hwc"].numpy())


@pytest.mark.parametrize("case", numbered("pixels", "resize"))
def test_pictures_are_fitted_to_the_byte(case: str) -> None:
    values = pack.group(pack.tensors("pixels"), case)
    fitted = resize_and_crop(values["image"].numpy(), *values["target_hw"].tolist())
    assert np.array_equal(fitted, values["result"].numpy())


def test_video_bytes() -> None:
    values = pack.tensors("pixels")
    assert torch.equal(to_bytes(values["u8.input"]), values["u8.result"])


@pytest.mark.parametrize(
    "row", pack.record("tables")["buckets_640"], ids=lambda row: f"{row['image_h']}x{row['image_w']}"
)
def test_buckets(row: dict) -> None:
    assert choose_bucket(row["image_h"], row["image_w"], FRAMEPACK_BUCKETS) == (row["bucket_h"], row["bucket_w"])


@pytest.mark.parametrize("case", numbered("soft_append", "case"))
def test_soft_append(case: str) -> None:
    values = pack.group(pack.tensors("soft_append"), case)
    history, current, overlap = values["history"], values["current"], int(values["overlap"])
    assert torch.equal(soft_append(history, current, overlap), values["result"])
    half = soft_append(history.half(), current.half(), overlap)
    assert half.dtype == torch.float16
    assert torch.equal(half, values["result_fp16"])
