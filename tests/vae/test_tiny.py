"""The tiny decoder: TAEHV's layers over its file's weights, one latent frame after the other, and looks made by it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusers_helper.errors import UnusableInput
from diffusers_helper.vae.preview import CELL, LatentToRGB, Previews
from diffusers_helper.vae.tiny import TinyDecoder

from ..memory.recording import Recording
from .tiny_support import WIDTHS, layer_by_layer, made, random_weights


def latents_of(frames: int, height: int = 5, width: int = 6) -> Tensor:
    return torch.randn(1, 16, frames, height, width, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("widths", [WIDTHS, (4, 4, 4, 4), (256, 128, 64, 64)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_one_latent_frame_after_the_other_is_the_whole_clip(widths: tuple[int, ...], frames: int) -> None:
    weights, latents = random_weights(widths), latents_of(frames)
    clip, whole = made(weights).clip(latents), layer_by_layer(weights, latents)
    assert clip.shape == whole.shape == (4 * frames - 3, 3, 40, 48)
    assert float(whole.std()) > 0.03, "it shows something"
    torch.testing.assert_close(clip, whole, atol=1e-5, rtol=0)


def test_a_look_is_the_last_video_frame_of_each_latent_frame() -> None:
    decoder, latents = made(), latents_of(4)
    newest = torch.cat(list(decoder.newest(latents)))
    torch.testing.assert_close(newest, decoder.clip(latents)[::4], atol=1e-6, rtol=0)


def test_later_latents_change_no_earlier_frame_and_earlier_ones_do() -> None:
    decoder, latents = made(), latents_of(4)
    other = latents.clone()
    other[:, :, 2] += 1
    before, after = decoder.clip(latents), decoder.clip(other)
    assert torch.equal(before[: 4 * 2 - 3], after[: 4 * 2 - 3])
    assert not torch.equal(before[5], after[5]), "the first of the frames that it stands for"
    assert not torch.equal(before[9], after[9]), "and one of the next latent frame"
    assert torch.equal(decoder.clip(latents), before), "nothing is left of the last clip"


def test_it_makes_no_random_numbers_and_asks_for_no_gradients() -> None:
    weights = random_weights()
    state = torch.get_rng_state()
    decoder = made(weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert not decoder.clip(latents_of(1)).requires_grad


def test_its_weights_are_copies_in_the_numbers_that_are_asked_for() -> None:
    weights = random_weights()
    decoder = TinyDecoder.of(weights, torch.device("cpu"), torch.bfloat16)
    assert {weight.dtype for weight in decoder.parameters()} == {torch.bfloat16}
    assert decoder.clip(latents_of(2)).shape == (5, 3, 40, 48)
    same = made(weights)
    before = same.clip(latents_of(1))
    for weight in weights.values():
        weight.zero_()
    assert torch.equal(same.clip(latents_of(1)), before)


def test_taehvs_own_size_is_what_the_documents_say() -> None:
    numbers = sum(weight.numel() for weight in made(random_weights((256, 128, 64, 64))).parameters())
    assert round(2 * numbers / 1e6) == 20


def test_it_works_in_as_little_memory_as_the_architecture_says() -> None:
    widths = (256, 128, 64, 64)
    with torch.device("meta"):
        decoder, latents = TinyDecoder(widths).half().requires_grad_(False), torch.empty(1, 16, 3, 76, 80)
    with Recording() as recording:
        for _ in decoder.newest(latents):
            pass
    held, most = dict[int, int](), 0
    for storage, size in recording.steps:
        held[storage] = size
        most = max(most, sum(held.values()))
    assert 0.2e9 < most < 0.3e9


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "not those of TAEHV for HunyuanVideo (decoder.1.weight)"),
        ({"decoder.1.weight": torch.tensor(1.0)}, "(decoder.1.weight)"),
        ({**random_weights(), "decoder.23.bias": torch.ones(3)}, "(decoder.23.bias)"),
        ({k: v for k, v in random_weights().items() if k != "decoder.9.conv.2.bias"}, "(decoder.9.conv.2.bias)"),
        (random_weights(channels=32), "decoder.1.weight is [12, 32, 3, 3], where TAEHV for HunyuanVideo has [12, 16,"),
        (random_weights(colours=12), "decoder.22.weight is [12, 5, 3, 3], where"),
        ({**random_weights(), "decoder.19.conv.weight": torch.ones(6, 6, 1, 1)}, "decoder.19.conv.weight is [6, 6,"),
    ],
)
def test_a_decoder_of_another_kind_is_refused_with_the_weight_that_tells(
    weights: dict[str, Tensor], words: str
) -> None:
    with pytest.raises(UnusableInput, match=re.escape(words)):
        made(weights)


class TestPreviews:
    """The strip that the page plays."""

    linear = LatentToRGB()

    def test_a_strip_has_a_cell_for_each_latent_frame(self) -> None:
        decoder, latents = made(), latents_of(9)
        strip = Previews(self.linear, decoder).strip(latents)
        assert (strip.shape, strip.dtype) == ((40, 9 * 48, 3), np.uint8)
        expected = (decoder.clip(latents)[::4] * 255).to(torch.uint8)
        for place, frame in enumerate(expected):
            cell = strip[:, 48 * place : 48 * (place + 1)].astype(int)
            assert np.abs(cell - frame.permute(1, 2, 0).numpy()).max() <= 1

    @pytest.mark.parametrize(("height", "width"), [(64, 32), (32, 80), (1, 64)])
    def test_cells_are_bounded_and_each_pixel_is_the_mean_of_those_it_covers(self, height: int, width: int) -> None:
        decoder, latents = made(), latents_of(2, height, width)
        rows, columns = (max(1, round(side * CELL / max(height, width))) for side in (height, width))
        strip = Previews(self.linear, decoder).strip(latents)
        assert strip.shape == (rows, 2 * columns, 3)
        assert max(rows, columns) == CELL
        means = decoder.clip(latents)[::4].mean(dim=(2, 3)) * 255
        shown = strip.reshape(rows, 2, columns, 3).mean(axis=(0, 2))
        assert np.abs(shown - means.numpy()).max() < 2

    def test_what_fails_is_one_notice_and_the_linear_map_from_then_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        latents, calls = latents_of(3), []

        def out_of_memory(decoder: TinyDecoder, latents: Tensor) -> Tensor:
            calls.append(decoder)
            raise torch.OutOfMemoryError("no memory is left")

        previews = Previews(self.linear, made())
        monkeypatch.setattr(TinyDecoder, "newest", out_of_memory)
        for _ in range(2):
            assert np.array_equal(previews.strip(latents), self.linear.strip(latents))
        (notice,) = map(str, previews.notices())
        assert "no memory is left. From now on they are drawn without it" in notice
        assert previews.notices() == []
        assert len(calls) == 1

    def test_without_a_decoder_it_is_the_linear_map(self) -> None:
        strip = Previews(self.linear).strip(latents_of(3))
        assert strip.shape == (5, 18, 3)
        assert np.array_equal(strip, self.linear.strip(latents_of(3)))
