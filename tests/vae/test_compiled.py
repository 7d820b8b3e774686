"""Compiled decoders really compiled: the same pixels as the plain decoder's, whatever the length; kept for later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from diffusers_helper.media.compiled_files import CompiledFiles
from diffusers_helper.models import compile as compiling
from diffusers_helper.vae.back_ends import AOTInductor, BackEnd, TensorRT
from diffusers_helper.vae.chunks import decode_in_chunks
from diffusers_helper.vae.compile_one import Task
from diffusers_helper.vae.compiled import Beside, CompiledDecoders, CompilingError, config_of

from .compiled_support import CHUNK, PLENTY, SHAPE, decoded, latents_of, tiny_vae

TOLERANCE = 1e-3
"""Of pixels between -1 and 1, in float32."""
DEVICES = {AOTInductor: "cpu", TensorRT: "cuda"}


@dataclass(frozen=True)
class Ready:
    """A folder in which a decoder for ``SHAPE`` was compiled."""

    back_end: BackEnd
    folder: Path
    device: str
    said: list[str]

    def decoders(self) -> CompiledDecoders:
        """As after a start of the program: nothing may be compiled."""

        def refuse(task: Task, file: Path) -> None:
            raise AssertionError(f"{task} is compiled again")

        return CompiledDecoders(self.back_end, CompiledFiles(self.folder, PLENTY), refuse)


@pytest.fixture(scope="module", params=DEVICES, ids=lambda kind: kind.name)
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    back_end = request.param()
    device = torch.device(DEVICES[request.param])
    if reason := back_end.why_not(device) or compiling.why_not(device):
        pytest.skip(f"not run: {reason}")
    folder = tmp_path_factory.mktemp("compiled")
    decoders = CompiledDecoders(back_end, CompiledFiles(folder, PLENTY))
    assert decoders.following(tiny_vae().to(device), SHAPE) is None, "the plain one serves meanwhile"
    decoders.wait()
    yield Ready(back_end, folder, device.type, [str(notice) for notice in decoders.notices()])
    decoders.close()


@pytest.mark.parametrize("attention", [True, False])
def test_every_length_has_the_plain_decoders_pixels(ready: Ready, attention: bool) -> None:
    """With other weights than those it was compiled beside: it holds none."""
    vae = tiny_vae(attention, seed=5).to(ready.device)
    for frames in range(1, 13):
        following = ready.decoders().following(vae, SHAPE)
        assert following is not None
        latents = latents_of(frames).to(ready.device)
        plain, compiled = decoded(vae, latents), decoded(vae, latents, following)
        assert compiled.shape == (1, 3, 4 * frames - 3, 32, 48)
        assert float((plain - compiled).abs().max()) < TOLERANCE
        assert torch.equal(plain, compiled) == (frames <= CHUNK), "the first chunk is plain, and no other"


def test_what_was_said_is_that_it_is_made_in_the_background(ready: Ready) -> None:
    (said,) = ready.said
    assert said.startswith("A decoder for 8 frames of 48x32 at once is compiled in the background.")


@torch.inference_mode()
def test_a_clip_is_decoded_by_it_as_the_program_does(ready: Ready) -> None:
    vae, latents = tiny_vae().to(ready.device), latents_of(7)
    decoders = ready.decoders()
    clip = decode_in_chunks(vae, latents, CHUNK, compiled=decoders)
    scaled = (latents / vae.config.scaling_factor).to(ready.device)
    assert float((clip - decoded(vae, scaled).cpu()).abs().max()) < TOLERANCE
    assert decoders.notices() == []


def test_what_the_compiler_says_is_why_there_is_none(tmp_path: Path) -> None:
    task = Task("aot_inductor", SHAPE, "float99", "cpu", config_of(tiny_vae()))
    with pytest.raises(CompilingError, match="float99"):
        Beside()(task, tmp_path / "none.pt2")


def test_the_process_ends_with_the_program(tmp_path: Path) -> None:
    """When its standard input does; it would compile for half a minute."""
    decoders = CompiledDecoders(AOTInductor(), CompiledFiles(tmp_path, PLENTY))
    assert decoders.following(tiny_vae(), SHAPE) is None
    while not decoders._beside._running:
        time.sleep(0.01)
    decoders.close()
    (process,) = decoders._beside._running
    decoders.wait()
    assert process.poll() not in (None, 0)
    assert len(decoders.notices()) == 1, "it was not the compiler that failed"
