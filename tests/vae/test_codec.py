"""The pocket's VAE: lengths, the picture that comes back, and what half precision costs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from diffusers_helper.media.fit import resize_and_crop
from diffusers_helper.media.pictures import open_picture
from diffusers_helper.models.load import choose_compute
from diffusers_helper.vae.codec import decode_clip, encode_picture, to_frames


@pytest.fixture(scope="module")
def vae(pocket: Path) -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo.from_pretrained(pocket / "vae", torch_dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def picture(photograph: Path) -> np.ndarray:
    return resize_and_crop(open_picture(photograph), 112, 144)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / (one.astype(np.float64) - other).__pow__(2).mean()))


@torch.inference_mode()
def decoded(vae: AutoencoderKLHunyuanVideo, latents: Tensor) -> np.ndarray:
    return to_frames(decode_clip(vae, latents))


@pytest.mark.parametrize("latent_frames", [1, 2, 4, 5, 9])
def test_latent_frames_become_four_times_as_many_less_three(vae: AutoencoderKLHunyuanVideo, latent_frames: int) -> None:
    frames = decoded(vae, torch.zeros(1, 16, latent_frames, 4, 6))
    assert frames.shape == (4 * latent_frames - 3, 32, 48, 3)
    assert frames.dtype == np.uint8


@torch.inference_mode()
def test_a_photograph_comes_back(vae: AutoencoderKLHunyuanVideo, picture: np.ndarray) -> None:
    latent = encode_picture(vae, picture).sample(torch.Generator().manual_seed(0))
    assert latent.shape == (1, 16, 1, 14, 18)
    assert 0.5 < latent.std() < 2
    assert psnr(decoded(vae, latent)[0], picture) > 24


@torch.inference_mode()
def test_the_generator_decides_the_sample(vae: AutoencoderKLHunyuanVideo, picture: np.ndarray) -> None:
    posterior = encode_picture(vae, picture)
    one, again, other = (posterior.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@torch.inference_mode()
def test_tiles_give_nearly_the_same_pixels(vae: AutoencoderKLHunyuanVideo, picture: np.ndarray) -> None:
    """And the next clip is decoded whole again."""
    latents = encode_picture(vae, picture).mean
    whole = decoded(vae, latents)
    for tile in (64, 96):
        in_tiles = to_frames(decode_clip(vae, latents, tile))
        assert not np.array_equal(in_tiles, whole)
        assert psnr(in_tiles, whole) > 30
    assert np.array_equal(decoded(vae, latents), whole)


@pytest.mark.skipif(choose_compute().vae_dtype != torch.bfloat16, reason="bfloat16 is not used here: it takes minutes")
def test_bfloat16_decodes_almost_the_same(vae: AutoencoderKLHunyuanVideo, picture: np.ndarray, pocket: Path) -> None:
    half = AutoencoderKLHunyuanVideo.from_pretrained(pocket / "vae", torch_dtype=torch.bfloat16).eval()
    latents = encode_picture(vae, picture).mean.detach().expand(-1, -1, 6, -1, -1)
    assert psnr(decoded(half, latents), decoded(vae, latents)) > 45
