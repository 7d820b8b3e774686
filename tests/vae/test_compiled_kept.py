"""What is kept of compiled decoders, who compiles, and that the plain decoder serves where something is wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from diffusers_helper.media.compiled_files import SUFFIX
from diffusers_helper.settings import resolve
from diffusers_helper.tensorrt_runtime import TensorRTLatentDecoder, compiled_decoders
from diffusers_helper.vae.chunks import chunk_sizes, decode_in_chunks, vae_decode_chunked
from diffusers_helper.vae.compiled import CompiledDecoders, CompilingError, key_of

from .compiled_support import (
    CHUNK,
    HEIGHT,
    PLENTY,
    SHAPE,
    WIDTH,
    Uncompiled,
    decoded,
    decoders_in,
    latents_of,
    made,
    tiny_vae,
)

VAE = tiny_vae()
LATENTS = latents_of(5)


def following_of(decoders: CompiledDecoders) -> torch.Tensor:
    """The clip of ``LATENTS`` by what serves now."""
    return decoded(VAE, LATENTS, decoders.following(VAE, SHAPE))


def said(decoders: CompiledDecoders) -> list[str]:
    """All notices but that something begins."""
    return [str(notice) for notice in decoders.notices() if "is compiled in the background" not in str(notice)]


def test_it_is_compiled_once_and_serves_from_the_next_clip_on(tmp_path: Path) -> None:
    back_end = Uncompiled()
    decoders = made(tmp_path, back_end, VAE)
    clip = following_of(decoders)
    assert (len(back_end.compiled), back_end.calls) == (1, 2), "the first chunk is plain"
    assert float((clip - decoded(VAE, LATENTS)).abs().max()) < 1e-3
    assert said(decoders) == []


def test_after_a_restart_it_is_loaded_and_serves_the_first_clip(tmp_path: Path) -> None:
    made(tmp_path, Uncompiled(), VAE)
    back_end = Uncompiled()
    assert decoders_in(tmp_path, back_end).following(VAE, SHAPE) is not None
    assert (back_end.compiled, back_end.loads) == ([], 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(b"x" + file.read_bytes()[1:]),
        lambda file: file.unlink(),
        lambda file: file.with_suffix(".json").unlink(),
        lambda file: file.with_suffix(".json").write_text("{"),
        lambda file: file.with_suffix(".json").write_text("[]"),
    ],
)
def test_what_is_damaged_is_made_again(tmp_path: Path, change: Callable[[Path], object]) -> None:
    made(tmp_path, Uncompiled(), VAE)
    (file,) = tmp_path.glob(f"*{SUFFIX}")
    change(file)
    back_end = Uncompiled()
    decoders = made(tmp_path, back_end, VAE)
    assert len(back_end.compiled) == 1
    assert following_of(decoders) is not None
    assert back_end.calls == 2
    assert decoders_in(tmp_path, Uncompiled()).following(VAE, SHAPE) is not None, "what was made again is whole"


@pytest.mark.parametrize("latents", [latents_of(5, height=HEIGHT + 2), latents_of(5).double()])
def test_another_size_or_type_is_decoded_plain(tmp_path: Path, latents: torch.Tensor) -> None:
    """What was compiled is not even called; it would answer with something."""
    back_end = Uncompiled()
    following = made(tmp_path, back_end, VAE).following(VAE, SHAPE)
    vae = tiny_vae().to(latents.dtype)
    assert torch.equal(decoded(vae, latents, following), decoded(vae, latents))
    assert back_end.calls == 0


def test_another_build_size_or_type_has_another_key() -> None:
    back_end = Uncompiled()
    usual = key_of(VAE, SHAPE, back_end)
    assert usual.name == key_of(tiny_vae(attention=False, seed=3), SHAPE, back_end).name
    others = [
        key_of(VAE, (1, CHUNK + 1, HEIGHT, WIDTH), back_end),
        key_of(VAE, (2, CHUNK, HEIGHT, WIDTH), back_end),
        key_of(tiny_vae().half(), SHAPE, back_end),
        key_of(VAE, SHAPE, Uncompiled(name="other")),
        key_of(type(VAE).from_config({**VAE.config, "norm_num_groups": 2}), SHAPE, back_end),
    ]
    assert len({usual.name, *(key.name for key in others)}) == 6
    assert torch.__version__ in usual.versions


@pytest.mark.parametrize("fault", ["raises", "wrong"])
def test_one_that_fails_is_dropped_with_one_notice_and_the_clip_is_whole(tmp_path: Path, fault: str) -> None:
    back_end = Uncompiled()
    decoders = made(tmp_path, back_end, VAE)
    back_end.failure, back_end.wrong = (RuntimeError("it broke") if fault == "raises" else None), fault == "wrong"
    assert torch.equal(following_of(decoders), decoded(VAE, LATENTS))
    assert back_end.calls == 1
    (notice,) = said(decoders)
    assert "cannot be used: it " in notice
    assert decoders.following(VAE, SHAPE) is None
    assert said(decoders) == []


def test_what_cannot_be_compiled_is_said_once(tmp_path: Path) -> None:
    back_end = Uncompiled(failure=CompilingError("warning: one\nRuntimeError: no such kernel"))
    decoders = made(tmp_path, back_end, VAE)
    assert said(decoders) == [
        "The compiled decoder cannot be used: RuntimeError: no such kernel. Videos are decoded without it."
    ]
    assert decoders.following(VAE, SHAPE) is None
    decoders.wait()
    assert (len(back_end.compiled), said(decoders)) == (1, [])


def test_two_threads_compile_once(tmp_path: Path) -> None:
    """Of two providers, as of two processes: the lock is a file's."""
    back_end = Uncompiled()
    both = [decoders_in(tmp_path, back_end) for _ in range(2)]
    begun = threading.Barrier(2)

    def ask(decoders: CompiledDecoders) -> None:
        begun.wait()
        for _ in range(3):
            decoders.following(VAE, SHAPE)
        decoders.wait()

    threads = [threading.Thread(target=ask, args=(decoders,)) for decoders in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(back_end.compiled), back_end.loads) == (1, 2)
    assert all(decoders.following(VAE, SHAPE) for decoders in both)


def test_a_folder_that_cannot_be_made_is_said_and_memory_serves(tmp_path: Path) -> None:
    (tmp_path / "in the way").write_text("")
    back_end = Uncompiled()
    decoders = made(tmp_path / "in the way", back_end, VAE)
    (notice,) = said(decoders)
    assert "is not kept for the next start" in notice
    assert following_of(decoders) is not None
    assert back_end.calls == 2


def test_a_full_disk_is_said_and_memory_serves(small_disk: Path) -> None:
    with suppress(OSError), (small_disk / "full").open("wb", buffering=0) as filler:
        while filler.write(b"0" * 1000):
            pass
    back_end = Uncompiled()
    decoders = made(small_disk, back_end, VAE)
    (notice,) = said(decoders)
    assert "is not kept for the next start" in notice
    assert following_of(decoders) is not None
    assert (back_end.calls, list(small_disk.glob("*.pt2"))) == (2, [])


def test_the_limit_lets_go_of_the_one_used_last_of_all(tmp_path: Path) -> None:
    shapes = [(1, latents, HEIGHT, WIDTH) for latents in (1, 2, 3)]
    size = 0
    for age, shape in zip((30, 10, 0), shapes, strict=True):
        limit = 2 * size or PLENTY
        decoders = decoders_in(tmp_path, Uncompiled(), limit)
        decoders.following(VAE, shape)
        decoders.wait()
        kept = decoders.files.listed()[0]
        size = kept.size
        os.utime(kept.file.with_suffix(".json"), (kept.used - age, kept.used - age))
    assert sorted(kept.key.latents for kept in decoders.files.listed()) == [2, 3]
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 2


def test_clear_removes_all_and_says_what_there_was(tmp_path: Path) -> None:
    files = made(tmp_path, Uncompiled(), VAE).files
    (tmp_path / f".{os.getpid()}_0123456789ab.part{SUFFIX}").write_text("broken off")
    (kept,) = files.listed()
    assert kept.shape == "1 x 8 frames of 48x32, float32"
    assert files.clear() == [kept]
    assert files.listed() == files.clear() == []
    assert [path.name for path in tmp_path.iterdir() if path.name != "lock"] == []


@pytest.mark.parametrize("chunk", [1, 2, 4, 8])
@pytest.mark.parametrize("least", [None, 1, 4])
def test_chunks_are_the_clip_and_what_does_not_divide_comes_first(chunk: int, least: int | None) -> None:
    for frames in range(1, 30):
        sizes = chunk_sizes(frames, chunk, least)
        assert sum(sizes) == frames
        assert min(sizes) > 0
        assert max(sizes) <= chunk
        if least == 1:
            assert set(sizes[1:]) <= {chunk}
        if least == 4 and chunk == 8 and frames >= 4:
            assert min(sizes) >= 4


@torch.inference_mode()
def test_a_clip_in_tiles_is_decoded_compiled_too(tmp_path: Path) -> None:
    back_end, latents = Uncompiled(), latents_of(5, height=40)
    decoders = decoders_in(tmp_path, back_end)
    tile = 64 * 24 * WIDTH
    plain = decode_in_chunks(VAE, latents, 1, tile, decoders)
    decoders.wait()
    compiled = decode_in_chunks(VAE, latents, 1, tile, decoders)
    assert back_end.calls == 2 * 4, "two tiles, of each four chunks that follow"
    assert float((plain - compiled).abs().max()) < 2e-3, "of float16"


def test_a_missing_compiler_is_said_and_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    chosen = resolve({"compiled_vae": "1"}, {}, tmp_path / "none.json")
    found, notices = compiled_decoders(chosen.decoders, tmp_path, torch.device("cpu"))
    assert found is None
    (notice,) = map(str, notices)
    assert notice.startswith("Videos are decoded without a compiled decoder: there is no C++ compiler")


def test_settings_choose_the_back_end_and_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(**flags: str) -> tuple[CompiledDecoders | None, tuple[str, ...]]:
        settings = resolve(flags, {}, tmp_path / "none.json")
        found, notices = compiled_decoders(settings.decoders, tmp_path, torch.device("cpu"))
        return found, tuple(map(str, notices))

    assert chosen() == (None, ())
    found, notices = chosen(compiled_vae="1", compiled_limit="7mb")
    assert found is not None
    assert (found._back_end.name, found.files._limit, notices) == ("aot_inductor", 7 * 10**6, ())
    found, (notice,) = chosen(enable_tensorrt="1")
    assert found is None
    assert "without a compiled decoder: " in notice
    found, (notice,) = chosen(enable_tensorrt="1", compiled_vae="1")
    assert found is not None, "the first that can serve does"
    monkeypatch.setattr("diffusers_helper.vae.back_ends.TensorRT.why_not", lambda *_: None)
    found, notices = chosen(enable_tensorrt="1", compiled_vae="1")
    assert found is not None
    assert found._back_end.name == "tensorrt"
    assert notices == ("--enable-tensorrt goes before --compiled-vae, which has no effect.",)


class TestTensorRTLatentDecoder:
    """The promised class, on a machine without CUDA and without torch-tensorrt."""

    def test_it_decodes_as_the_plain_decoder_and_says_how_to_get_what_is_missing(self, tmp_path: Path) -> None:
        decoder = TensorRTLatentDecoder(VAE, tmp_path, chunk_size=2)
        assert torch.equal(decoder(LATENTS), vae_decode_chunked(LATENTS, VAE, 2))
        (notice,) = map(str, decoder.notices())
        assert "pip install torch-tensorrt==" in notice or "needs an NVIDIA GPU" in notice
        assert decoder.notices() == []
        decoder.wait()
        decoder.close()

    def test_it_uses_what_has_become_ready(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        back_end = Uncompiled()
        decoder = TensorRTLatentDecoder(VAE, tmp_path, chunk_size=2, back_end=back_end)
        monkeypatch.setattr(decoder._compiled, "_compile", back_end.make)
        plain = decoder(LATENTS)
        decoder.wait()
        assert back_end.calls == 0
        compiled = decoder(LATENTS)
        assert back_end.calls == 2
        assert plain.shape == compiled.shape == (1, 3, 17, 32, 48)
        decoder.close()
