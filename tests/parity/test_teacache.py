"""TeaCache decisions and results at several thresholds and step counts, 1 and 2 steps among them."""

import pytest
import torch

from diffusers_helper.caches.step_cache import Rule
from diffusers_helper.caches.teacache import TeaCache, estimated_change
from diffusers_helper.denoise.denoiser import Denoiser, Guidance, TextInput
from diffusers_helper.denoise.sample import sample
from diffusers_helper.denoise.schedule import flow_mu, flow_sigmas, token_count

from ..caches.support import Told, decisions
from . import pack

RECORDS = {record["key"]: record for record in pack.record("teacache_thresholds")}


@pytest.mark.parametrize("key", RECORDS)
def test_decisions_from_numbers_alone(key: str) -> None:
    record = RECORDS[key]
    steps = record["steps"]
    cache = Told(Rule(flow_sigmas(steps, 0.7)[:-1].tolist(), record["rel_l1_thresh"]), [0.0, *record["rel_l1"], 0.0])
    assert decisions(cache, steps) == record["blocks_computed"]


@pytest.mark.parametrize("key", RECORDS)
def test_polynomial(key: str) -> None:
    record = RECORDS[key]
    rescaled = next(value for name, value in record.items() if name.startswith("rescaled"))
    assert [estimated_change(measure) for measure in record["rel_l1"]] == pytest.approx(rescaled, rel=1e-9)


@pytest.mark.parametrize("key", RECORDS)
@torch.inference_mode()
def test_result_and_decisions_on_the_model(key: str) -> None:
    values, record = pack.tensors("teacache_thresholds"), RECORDS[key]
    noise, steps = values[f"{key}.noise"], record["steps"]
    sigmas = flow_sigmas(steps, flow_mu(token_count(*noise.shape[2:])))
    cache = TeaCache(Rule(sigmas[:-1].tolist(), record["rel_l1_thresh"]))
    text = TextInput(values["encoder_hidden_states"], values["encoder_attention_mask"], values["pooled_projections"])
    guidance = Guidance(distilled=float(pack.metadata("teacache_thresholds")["guidance_embed_value"]) / 1000)
    conditioning = {"image_embeds": values["image_embeddings"], **pack.context_inputs(pack.group(values, "layout"))}
    denoiser = Denoiser(
        pack.transformer(), conditioning, text, None, guidance, torch.float32, branch_inputs=({"step_cache": cache}, {})
    )
    states = list(sample(denoiser, noise, sigmas))
    assert cache.computed == record["blocks_computed"]
    pack.assert_close(states[-1].denoised, values[f"{key}.result"], max(2e-3, pack.trajectory_tolerance(steps)))
