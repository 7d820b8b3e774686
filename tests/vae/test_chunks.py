"""Chunks follow each other as one clip: how many frames there are, what they are, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn

from diffusers_helper.errors import UnusableArgument
from diffusers_helper.memory import vram
from diffusers_helper.models.sizes import FULL_SIZE
from diffusers_helper.vae import chunks, streaming, vae_decode_chunked
from diffusers_helper.vae.chunks import automatic_chunk_size, chunked_values, decode_in_chunks
from diffusers_helper.vae.streaming import StreamingDecoder
from diffusers_helper.vae.tiles import OVERLAP, cuts

ROWS, COLUMNS = 4, 6


def small_vae(*, attention: bool = True, groups: int = 2) -> AutoencoderKLHunyuanVideo:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"block_out_channels": (4, 4, 8, 8), "layers_per_block": 1, "latent_channels": 4}
    vae = AutoencoderKLHunyuanVideo(**sizes, norm_num_groups=groups, mid_block_add_attention=attention)
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=[True, False], ids=["attention", "no attention"])
def vae(request: pytest.FixtureRequest) -> AutoencoderKLHunyuanVideo:
    return small_vae(attention=request.param)


def latents(frames: int, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    return torch.randn(1, 4, frames, rows, columns, generator=torch.Generator().manual_seed(frames))


def whole(vae: AutoencoderKLHunyuanVideo, z: Tensor) -> Tensor:
    """By diffusers' decoder, in one window."""
    vae.use_framewise_decoding = False
    pixels: Tensor = vae.decode(z, return_dict=False)[0]
    return pixels


def streamed(vae: AutoencoderKLHunyuanVideo, z: Tensor, chunk: int) -> Tensor:
    decoder = StreamingDecoder(vae)
    return torch.cat([decoder(part) for part in z.split(chunk, dim=2)], dim=2)


@contextmanager
def statistics_of(vae: AutoencoderKLHunyuanVideo, z: Tensor) -> Iterator[None]:
    """Each group norm takes the mean and variance that it has over all of ``z``, whatever it is given."""
    frozen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    norms = [module for module in vae.decoder.modules() if isinstance(module, nn.GroupNorm)]

    def note(norm: nn.GroupNorm) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            if norm not in frozen:
                var, mean = torch.var_mean(x.reshape(norm.num_groups, -1), dim=1, correction=0)
                frozen[norm] = mean, var
            mean, var = (each.repeat_interleave(norm.num_channels // norm.num_groups) for each in frozen[norm])
            return nn.functional.batch_norm(x, mean, var, norm.weight, norm.bias, eps=norm.eps)

        return forward

    for norm in norms:
        norm.forward = note(norm)  # type: ignore[method-assign]
    try:
        streamed(vae, z, z.shape[2])
        yield
    finally:
        for norm in norms:
            del norm.forward


@pytest.fixture(scope="module")
def tiny() -> AutoencoderKLHunyuanVideo:
    return small_vae()


@pytest.mark.parametrize("chunk", range(1, 9))
@torch.inference_mode()
def test_latent_frames_become_four_times_as_many_less_three(tiny: AutoencoderKLHunyuanVideo, chunk: int) -> None:
    """Whatever is decoded at once. Peers' chunks, each decoded alone, give a frame for a latent: a video too fast."""
    for frames in range(1, 31):
        made = vae_decode_chunked(latents(frames, 2, 2), tiny, chunk)
        assert made.shape == (1, 3, 4 * frames - 3, 16, 16)
        assert made.dtype == torch.float16


@torch.inference_mode()
def test_a_clip_in_one_chunk_is_that_of_diffusers(vae: AutoencoderKLHunyuanVideo) -> None:
    z = latents(6)
    assert (streamed(vae, z, 6) - whole(vae, z)).abs().max() < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5])
def test_chunks_are_the_whole_clip_but_for_the_statistics_of_their_norms(
    vae: AutoencoderKLHunyuanVideo, chunk: int
) -> None:
    """With the whole clip's statistics what is carried from chunk to chunk is exact; with their own it is not."""
    z = latents(7)
    expected = whole(vae, z)
    with statistics_of(vae, z):
        assert (streamed(vae, z, chunk) - expected).abs().max() < 1e-5
    assert (streamed(vae, z, chunk) - expected).abs().max() > 1e-3


@torch.inference_mode()
def test_pieces_of_a_convolution_change_nothing(
    vae: AutoencoderKLHunyuanVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = latents(5)
    at_once = streamed(vae, z, 3)
    for values in (1, 3000):
        monkeypatch.setattr(streaming, "CONVOLVED_AT_ONCE", values)
        assert (streamed(vae, z, 3) - at_once).abs().max() < 1e-5


@pytest.mark.parametrize("tile", [0, 2**14, 2**13])
@torch.inference_mode()
def test_tiles_are_put_together_without_a_gap(tile: int) -> None:
    """Where every tile has the same pixels at the same place, the frame has them too."""
    made = small_vae(attention=False)
    z = latents(3, 20, 18)

    class Positions(StreamingDecoder):
        def __call__(self, chunk: Tensor) -> Tensor:
            frames = 4 * chunk.shape[2] - (3 if self._at_start else 0)
            self._at_start = False
            larger = chunk[:, :3, :1].repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)
            return larger.expand(-1, -1, frames, -1, -1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "StreamingDecoder", Positions)
        pixels = decode_in_chunks(made, z, 3, tile)
    expected = (z / made.config.scaling_factor)[:, :3, :1].repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)
    assert torch.allclose(pixels.float(), expected.expand_as(pixels), atol=0.02)


@pytest.mark.parametrize(
    ("tile", "tiles", "computed"), [(0, 1, 1.01), (2**18, 2, 1.08), (2**17, 4, 1.17), (2**16, 9, 1.4), (2**14, 56, 2.4)]
)
def test_tiles_are_balanced(tile: int, tiles: int, computed: float) -> None:
    """Of 640 x 608. diffusers' own of 256 pixels are 16, some of 32 pixels, and compute 1.64 times the frame."""
    rows, columns = cuts(80, 76, tile)
    assert len(rows.starts) * len(columns.starts) <= tiles
    area = rows.size * columns.size * len(rows.starts) * len(columns.starts)
    assert area / (80 * 76) < computed
    for side in (rows, columns):
        assert side.starts[0] == 0
        assert side.starts[-1] + side.size == side.length
        total = torch.zeros(8 * side.length)
        for number, start in enumerate(side.starts):
            assert number == 0 or start + OVERLAP <= side.starts[number - 1] + side.size
            total[8 * start : 8 * (start + side.size)] += side.weights(number, 8)
        assert torch.allclose(total, torch.ones_like(total))


def test_what_is_free_decides_the_chunk() -> None:
    """At 640 x 608 in float16. Whether that is what it takes, ``tests/memory/test_cards.py`` shows."""
    with torch.device("meta"):
        full = AutoencoderKLHunyuanVideo().to(torch.float16)
    table = {2: 1, 4: 1, 6: 1, 8: 1, 10: 2, 12: 3, 16: 4, 24: 4, 48: 4, 80: 4}
    sizes = {free: automatic_chunk_size(full, (1, 16, 18, 80, 76), free_bytes=free * 10**9) for free in table}
    assert sizes == table
    quality = {
        free: automatic_chunk_size(full, (1, 16, 18, 80, 76), True, free_bytes=free * 10**9) for free in (8, 16, 24, 80)
    }
    assert quality == {8: 1, 16: 5, 24: 8, 80: 8}, "which quality mode raises to 4"
    assert automatic_chunk_size(full, (4, 16, 18, 80, 76), free_bytes=16 * 10**9) == 1
    assert chunked_values(640 * 608, FULL_SIZE.vae_channels, 4) * 2 < 14e9


@torch.inference_mode()
def test_quality_mode_decodes_more_at_once(tiny: AutoencoderKLHunyuanVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()
    monkeypatch.setattr(chunks, "decode_in_chunks", lambda vae, z, chunk: asked.append(chunk))
    for chunk_size, quality in ((None, False), (1, False), (6, False), (2, True), (None, True)):
        vae_decode_chunked(latents(2), tiny, chunk_size, quality)
    assert asked == [4, 1, 6, 4, 8]


@torch.inference_mode()
def test_a_chunk_that_does_not_fit_is_halved(
    tiny: AutoencoderKLHunyuanVideo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decode, asked = decode_in_chunks, list[int]()

    def short(vae: Any, z: Tensor, chunk: int) -> Tensor:
        asked.append(chunk)
        if chunk > 1:
            raise torch.OutOfMemoryError("full")
        return decode(vae, z, chunk)

    monkeypatch.setattr(chunks, "decode_in_chunks", short)
    monkeypatch.setattr(vram, "free_unused", lambda: None)
    assert vae_decode_chunked(latents(3), tiny, 8).shape[2] == 9
    assert asked == [8, 4, 2, 1]
    assert "chunks of 4" in caplog.text
    monkeypatch.setattr(chunks, "decode_in_chunks", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        vae_decode_chunked(latents(3), tiny, 2)


def test_quality_mode_is_not_halved_below_its_least(
    tiny: AutoencoderKLHunyuanVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[int]()

    def short(vae: Any, z: Tensor, chunk: int) -> Tensor:
        asked.append(chunk)
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(chunks, "decode_in_chunks", short)
    monkeypatch.setattr(vram, "free_unused", lambda: None)
    with pytest.raises(torch.OutOfMemoryError):
        vae_decode_chunked(latents(2), tiny, 7, quality_mode=True)
    assert asked == [7, 4]


def test_a_vae_as_it_is_loaded_decodes_batches_and_keeps_no_gradients() -> None:
    """Weights that could be trained, and no inference mode around the call."""
    made = small_vae().requires_grad_(True)
    both = torch.cat([latents(3), latents(3).flip(3)])
    pixels = vae_decode_chunked(both, made, 2)
    assert not pixels.requires_grad
    alone = torch.cat([vae_decode_chunked(each[None], made, 2) for each in both])
    assert (pixels - alone).abs().max() < 0.01


@torch.inference_mode()
def test_tiles_come_near_the_whole_frame(tiny: AutoencoderKLHunyuanVideo) -> None:
    z = latents(3, 32, 30)
    whole_frame, cut = (decode_in_chunks(tiny, z, 3, tile).float() for tile in (0, 2**14))
    error = (whole_frame - cut).square().mean() / whole_frame.var()
    assert 0 < error < 0.1


@pytest.mark.parametrize("shape", [(0, 4, 2, 4, 6), (1, 4, 2, 0, 6), (1, 4, 4, 6)])
def test_an_empty_side_is_no_clip(tiny: AutoencoderKLHunyuanVideo, shape: tuple[int, ...]) -> None:
    with pytest.raises(UnusableArgument, match="must be"):
        vae_decode_chunked(torch.zeros(shape), tiny)


@pytest.mark.parametrize("size", [0, 9, -1, "x", 2.5, True])
def test_what_is_no_chunk_size_is_refused(tiny: AutoencoderKLHunyuanVideo, size: Any) -> None:
    with pytest.raises(UnusableArgument, match="chunk_size must be a whole number from 1 to 8, or None, not"):
        vae_decode_chunked(latents(2), tiny, size)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_does_not_become_black(tiny: AutoencoderKLHunyuanVideo, number: float) -> None:
    z = latents(2)
    z[0, 0, 0, 0, 0] = number
    with pytest.raises(UnusableArgument, match="finite"):
        vae_decode_chunked(z, tiny)


def test_no_frame_is_no_clip(tiny: AutoencoderKLHunyuanVideo) -> None:
    with pytest.raises(UnusableArgument, match="at least one frame"):
        vae_decode_chunked(latents(0), tiny)
