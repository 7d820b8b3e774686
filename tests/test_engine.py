"""What the engine gives a section: its own step-cache state, one for each CFG branch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffusers_helper.caches.step_cache import Measured
from diffusers_helper.conditioning.prompt import PromptEmbedding
from diffusers_helper.denoise.sample import sample
from diffusers_helper.denoise.schedule import flow_sigmas
from diffusers_helper.engine import Conditioning, EncodedPicture, SectionDenoiser, section_denoiser
from diffusers_helper.models.load import Compute
from diffusers_helper.request import Request
from diffusers_helper.sections.history import gather_context
from diffusers_helper.sections.plan import SectionPlan
from diffusers_helper.vae.codec import LatentPosterior

from .parity import pack
from .plans import plan_video

FLOAT32 = Compute(torch.device("cpu"), torch.float32, torch.float32, torch.float32, "exact")
VALUES = pack.tensors("run_f1")
STEPS = 12


SIGMAS = flow_sigmas(STEPS, 0.7)[:-1]


def denoiser(negative: PromptEmbedding | None, **fields: object) -> SectionDenoiser:
    start = VALUES["in.start_latent"]
    prompt = PromptEmbedding(VALUES["in.llama"], VALUES["in.clip"], 0)
    conditioning = Conditioning(
        (prompt,), negative, (EncodedPicture(VALUES["in.img_embeds"], LatentPosterior(start, torch.zeros_like(start))),)
    )
    request = Request.parse({"picture": "-", "steps": STEPS, **fields})
    section = plan_video("f1", 1).sections[0]
    context = gather_context(section.context, start, [start])
    return section_denoiser(pack.transformer(), FLOAT32, request, conditioning, section, context, SIGMAS, Measured())


def result(made: SectionDenoiser) -> Tensor:
    *_, last = sample(made.denoise, VALUES["section0.noise"], flow_sigmas(STEPS, 0.7))
    return last.denoised


def test_the_branches_of_real_cfg_do_not_share_a_cache() -> None:
    """With the same text in both branches, guidance changes nothing; a shared cache would skip other steps."""
    same = PromptEmbedding(VALUES["in.llama"], VALUES["in.clip"], 0)
    alone, guided = denoiser(None), denoiser(same, real_cfg=2.5)
    torch.testing.assert_close(result(guided), result(alone), atol=1e-5, rtol=0)
    (positive, _), (guided_positive, guided_negative) = alone.caches, guided.caches
    assert positive is not None
    assert guided_positive is not None
    assert guided_negative is not None
    assert guided_positive.computed == guided_negative.computed == positive.computed
    assert not all(positive.computed)


def test_every_section_begins_with_an_empty_cache() -> None:
    first, second = result(denoiser(None)), result(denoiser(None))
    assert torch.equal(first, second)


def test_without_teacache_every_step_is_computed() -> None:
    made = denoiser(None, teacache=False)
    result(made)
    assert made.caches == (None, None)
    assert made.last_step_computed


def test_real_cfg_without_a_negative_text_is_refused() -> None:
    with pytest.raises(ValueError, match="negative branch"):
        denoiser(None, real_cfg=2.0)


def test_a_section_sees_the_prompt_and_the_picture_of_its_plan() -> None:
    start, one = VALUES["in.start_latent"], PromptEmbedding(VALUES["in.llama"], VALUES["in.clip"], 0)
    other = PromptEmbedding(VALUES["in.llama"].flip(1), VALUES["in.clip"], 0)
    tokens, latent = VALUES["in.img_embeds"], LatentPosterior(start, torch.zeros_like(start))
    pictures = EncodedPicture(tokens.flip(1), latent), EncodedPicture(tokens, latent)
    request = Request.parse({"picture": "-", "steps": 2})
    section = plan_video("f1", 1).sections[0]
    context = gather_context(section.context, start, [start])

    def made(conditioning: Conditioning, plan: SectionPlan) -> Tensor:
        denoise = section_denoiser(
            pack.transformer(), FLOAT32, request, conditioning, plan, context, torch.tensor([1.0]), Measured()
        )
        return denoise(VALUES["section0.noise"], torch.tensor([1.0]))

    chosen = made(Conditioning((one, other), None, pictures), replace(section, prompt=1, seen=(1,)))
    assert torch.equal(chosen, made(Conditioning((other,), None, pictures[1:]), section))
    assert not torch.equal(chosen, made(Conditioning((one, other), None, pictures), section))
