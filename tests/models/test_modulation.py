"""The modulation table: not one bit differs from the linears it stands for, and no stale row is used."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from diffusers_helper.caches.step_cache import Measured
from diffusers_helper.conditioning.prompt import PromptEmbedding
from diffusers_helper.denoise.sample import sample
from diffusers_helper.denoise.schedule import flow_sigmas
from diffusers_helper.engine import Conditioning, EncodedPicture, SectionDenoiser, section_denoiser
from diffusers_helper.memory.transport import ThreadTransport
from diffusers_helper.models.load import Compute
from diffusers_helper.models.modulation import modulation_linears, tabulate
from diffusers_helper.models.shards import Shards
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.request import Request
from diffusers_helper.sections.history import gather_context
from diffusers_helper.vae.codec import LatentPosterior

from ..parity import pack
from ..plans import plan_video

VALUES = pack.tensors("run_f1")
STEPS = 6
SIGMAS = flow_sigmas(STEPS, 0.7)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def transformer(request: pytest.FixtureRequest) -> FramePackTransformer:
    return copy.deepcopy(pack.transformer()).to(request.param)


def denoiser(transformer: FramePackTransformer, **fields: object) -> SectionDenoiser:
    """A section of a recorded run; with real CFG the negative text is another one."""
    start, prompt = VALUES["in.start_latent"], PromptEmbedding(VALUES["in.llama"], VALUES["in.clip"], 0)
    negative = (
        PromptEmbedding(VALUES["in.llama"].flip(1), VALUES["in.clip"].flip(1), 0) if "real_cfg" in fields else None
    )
    conditioning = Conditioning(
        (prompt,), negative, (EncodedPicture(VALUES["in.img_embeds"], LatentPosterior(start, torch.zeros_like(start))),)
    )
    compute = Compute(torch.device("cpu"), transformer.dtype, torch.float32, torch.float32, "a test")
    request = Request.parse({"picture": "-", "steps": STEPS, **fields})
    section = plan_video("f1", 1).sections[0]
    context = gather_context(section.context, start, [start])
    return section_denoiser(transformer, compute, request, conditioning, section, context, SIGMAS[:-1], Measured())


def result(made: SectionDenoiser) -> Tensor:
    *_, last = sample(made.denoise, VALUES["section0.noise"], SIGMAS)
    return last.denoised


@pytest.mark.parametrize("fields", [{}, {"real_cfg": 2.5, "teacache": False}, {"distilled_guidance": 4.0}])
@pytest.mark.parametrize("prepared", [True, False])
def test_not_one_bit_differs(transformer: FramePackTransformer, fields: dict[str, object], prepared: bool) -> None:
    plain = result(denoiser(transformer, **fields))
    table, made = tabulate(transformer), denoiser(transformer, **fields)
    if prepared:
        table.prepare(made.denoise.time_inputs(SIGMAS[:-1]))
    rows = table.rows_made
    assert torch.equal(result(made), plain)
    assert table.rows_made == STEPS * (2 if "real_cfg" in fields else 1)
    assert rows == (table.rows_made if prepared else 0)


def test_with_the_weights_in_files_and_the_blocks_swapped() -> None:
    transformer = copy.deepcopy(pack.transformer())
    plain = result(denoiser(transformer))
    tabulate(transformer, Shards(pack.PACK / "model"))
    assert not any(
        parameter for linear in modulation_linears(transformer).values() for parameter in linear.parameters()
    )
    with transformer.swap_blocks(ThreadTransport()):
        assert torch.equal(result(denoiser(transformer)), plain)


def test_another_prompt_guidance_or_schedule_makes_new_rows_and_drops_the_old() -> None:
    transformer = copy.deepcopy(pack.transformer())
    table, made = tabulate(transformer), denoiser(transformer)
    table.prepare(made.denoise.time_inputs(SIGMAS[:-1]))
    table.prepare(made.denoise.time_inputs(SIGMAS[:-1]))
    size = table.nbytes
    assert table.rows_made == STEPS
    table.prepare(denoiser(transformer, distilled_guidance=3.0).denoise.time_inputs(SIGMAS[:-1]))
    table.prepare(made.denoise.time_inputs(flow_sigmas(STEPS, 1.1)[:-1]))
    assert table.rows_made == 3 * STEPS
    assert table.nbytes == size


def test_several_samples_have_a_row_each() -> None:
    transformer = copy.deepcopy(pack.transformer())
    plain = list(modulation_linears(transformer).values())
    temb = torch.randn(3, transformer.x_embedder.proj.out_channels)
    expected = [linear(torch.nn.functional.silu(temb)) for linear in plain]
    tabulate(transformer).select(temb)
    for linear, outputs in zip(modulation_linears(transformer).values(), expected, strict=True):
        torch.testing.assert_close(linear(temb), outputs)
