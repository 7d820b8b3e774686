"""MagCache in tiny transformers of every class: what runs, what comes out, and what a new run remembers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor, nn

from diffusers_helper.errors import UnusableArgument
from diffusers_helper.other_models import PRESETS, apply_magcache, remove_magcache

from . import tiny
from .tiny import blocks, conditioning, counted, latents, run, time

STEADY = {"ratios": [1.0] * 10, "threshold": 0.1, "k": 2, "retention_ratio": 0.2}
"""Ten steps: CC..C..C.C."""
EACH = pytest.mark.parametrize("name", tiny.CLASSES)
BOTH = pytest.mark.parametrize("contexts", [True, False], ids=["named", "plain"])


def preset_for(name: str) -> str:
    return next(row.name for row in PRESETS.values() if row.transformer == name)


def steady(name: str, **given: Any) -> tuple[Any, Any]:
    """A transformer with MagCache for ten steps, and what was applied."""
    transformer = tiny.tiny(name)
    return transformer, apply_magcache(transformer, preset_for(name), 10, **{**STEADY, **given})


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("preset", PRESETS)
def test_as_many_blocks_run_as_the_pattern_says(preset: str) -> None:
    """The time that is saved, counted in blocks; with both branches, as each of them has its own."""
    row = PRESETS[preset]
    transformer, steps = tiny.tiny(row.transformer), len(row.ratios[0])
    applied = apply_magcache(transformer, preset, steps)
    with counted(transformer) as ran:
        run(transformer, row.transformer, steps, guided=True)
        assert applied.made == {"cond": applied.pattern, "uncond": applied.plan.pattern(1)}
        assert ran() == sum(each.count("C") for each in applied.made.values()) * len(blocks(transformer))
    assert "." in applied.pattern


@EACH
@BOTH
def test_a_run_without_guidance_is_one_branch(name: str, contexts: bool) -> None:
    transformer, applied = steady(name)
    run(transformer, name, 10, guided=False, contexts=contexts)
    assert list(applied.made.values()) == [applied.pattern] == ["CC..C..C.C"]


@EACH
def test_a_skipped_step_adds_what_the_blocks_added_last(name: str) -> None:
    """Also what stands between the blocks, once: the hints of VACE."""
    plain, (cached, _) = tiny.tiny(name), steady(name)
    seen: dict[str, Tensor] = {}
    embedder = getattr(plain, "x_embedder", None) or plain.patch_embedding

    def before(module: nn.Module, given: Any, tokens: Tensor) -> None:
        seen["before"] = tokens if tokens.ndim == 3 else tokens.flatten(2).transpose(1, 2)

    def after(module: nn.Module, given: tuple[Tensor, ...]) -> Any:
        if "residual" in seen:
            return (seen["before"] + seen["residual"], *given[1:])
        seen["after"] = given[0]
        return None

    embedder.register_forward_hook(before)
    plain.norm_out.register_forward_pre_hook(after)
    prompt = conditioning(name, 0, latents(name))
    for step in range(4):
        call = {"hidden_states": latents(name, step), "timestep": time(name, step, 10), **prompt}
        if step == 2:
            seen["residual"] = seen["after"] - seen["before"]
        torch.testing.assert_close(cached(**call)[0], plain(**call)[0])


@EACH
@pytest.mark.parametrize("off", [{"threshold": 0}, {"k": 0}], ids=str)
def test_off_is_the_transformer_as_it_was(name: str, off: dict[str, float]) -> None:
    transformer = tiny.tiny(name)
    plain = run(transformer, name, 5, guided=True)
    applied = apply_magcache(transformer, preset_for(name), 5, **off)
    assert applied.pattern == "CCCCC"
    assert not transformer.is_cache_enabled
    assert equal(run(transformer, name, 5, guided=True), plain)


@EACH
def test_removed_it_is_the_transformer_as_it_was(name: str) -> None:
    plain = run(tiny.tiny(name), name, 4, guided=True)
    for remove in (remove_magcache, lambda transformer: transformer.disable_cache()):
        transformer, _ = steady(name)
        assert not equal(run(transformer, name, 4, guided=True), plain)
        remove(transformer)
        assert equal(run(transformer, name, 4, guided=True), plain)
        remove_magcache(transformer)


def test_applied_again_the_new_settings_count() -> None:
    transformer, _ = steady("FluxTransformer2DModel")
    applied = apply_magcache(transformer, "FLUX", 10, **{**STEADY, "k": 1})
    run(transformer, "FluxTransformer2DModel", 10, guided=False)
    assert applied.made == {"cond": applied.pattern}
    assert not apply_magcache(transformer, "FLUX", 10, threshold=0).made
    assert not transformer.is_cache_enabled


def test_the_branches_are_apart() -> None:
    """Each has the residual of its own calls, and its own list."""
    name = "WanTransformer3DModel"
    transformer, applied = steady(name, uncond_ratios=[1.0] * 5 + [2.0] * 5)
    both = run(transformer, name, 10, guided=True)
    assert applied.made == {"cond": "CC..C..C.C", "uncond": "CC..CCCCCC"}
    alone, _ = steady(name)
    prompt = conditioning(name, 0, latents(name))
    for step, (cond, uncond) in enumerate(zip(both[0:8:2], both[1:8:2], strict=True)):
        state = latents(name) - sum(both[1 : 2 * step : 2], torch.zeros(())) / 10
        with alone.cache_context("cond"):
            made = alone(hidden_states=state, timestep=time(name, step, 10), **prompt)[0]
        torch.testing.assert_close(made, cond)
        assert not torch.equal(cond, uncond)


@EACH
def test_plain_calls_are_told_apart(name: str) -> None:
    """Chroma's pipeline, and Kontext's, name no branch."""
    named, plain = steady(name)[0], steady(name)[0]
    assert equal(run(named, name, 10, guided=True), run(plain, name, 10, guided=True, contexts=False))


@BOTH
@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("retention_ratio", [0.2, 0.0])
def test_a_run_that_was_broken_off_leaves_nothing(retention_ratio: float, guided: bool, contexts: bool) -> None:
    """Wherever it was, also before the same noise comes again with other words."""
    name = "FluxTransformer2DModel"
    transformer, applied = steady(name, retention_ratio=retention_ratio)
    expected = run(transformer, name, 10, guided=guided, contexts=contexts)
    for stop in (1, 2, 7):
        for noise in (0, 1):
            with pytest.raises(InterruptedError):
                run(transformer, name, 10, guided=guided, contexts=contexts, seed=1, noise=noise, stop=stop)
            assert equal(run(transformer, name, 10, guided=guided, contexts=contexts), expected)
            assert not contexts or set(applied.made.values()) == {applied.pattern}


@pytest.mark.parametrize("say", ["applied", "diffusers"])
def test_a_run_below_the_one_that_was_left_has_to_be_said(say: str) -> None:
    """As for pictures made from pictures: nothing in its calls shows that it is another one."""
    name = "FluxTransformer2DModel"
    transformer, applied = steady(name, retention_ratio=0)
    with pytest.raises(InterruptedError):
        run(transformer, name, 10, guided=False, stop=2)
    applied.begin_run() if say == "applied" else transformer._reset_stateful_cache()
    call = {"hidden_states": latents(name, 1), "timestep": time(name, 5, 10), **conditioning(name, 1, latents(name))}
    assert torch.equal(transformer(**call)[0], tiny.tiny(name)(**call)[0])


@EACH
def test_another_size_is_computed(name: str) -> None:
    transformer, applied = steady(name)
    plain = tiny.tiny(name)
    for step, height in enumerate((4, 4, 6, 6, 4)):
        state = latents(name, step, height)
        call = {"hidden_states": state, "timestep": time(name, step, 10), **conditioning(name, 0, state)}
        made = transformer(**call)[0]
        assert torch.equal(made, plain(**call)[0]) == (step != 3)
    assert applied.made == {"first call": "CCC.C"}


def test_a_branch_that_missed_a_step_is_computed() -> None:
    name = "WanTransformer3DModel"
    transformer, applied = steady(name)
    prompt = conditioning(name, 0, latents(name))
    for step in range(5):
        for branch in ("cond", "uncond") if step not in (2, 3) else ("cond",):
            with transformer.cache_context(branch):
                transformer(hidden_states=latents(name, step), timestep=time(name, step, 10), **prompt)
    assert applied.made == {"cond": "CC..C", "uncond": "CCC"}


def test_a_branch_of_the_run_before_is_none_of_this_run() -> None:
    """Guidance that begins late: the last run's residual is of the step before, and still not this run's."""
    name = "WanTransformer3DModel"
    transformer, applied = steady(name)
    run(transformer, name, 2, guided=True)
    prompt = conditioning(name, 0, latents(name))
    for step in range(3):
        for branch in ("cond", "uncond") if step == 2 else ("cond",):
            with transformer.cache_context(branch):
                transformer(hidden_states=latents(name, step), timestep=time(name, step, 10), **prompt)
    assert applied.made == {"cond": "CC.", "uncond": "C"}


@EACH
def test_an_error_on_a_skipped_step_leaves_the_blocks(name: str) -> None:
    transformer, _ = steady(name)
    count = len(blocks(transformer))
    with pytest.raises(InterruptedError):
        run(transformer, name, 10, guided=False, contexts=False, stop=2)
    call = {"timestep": time(name, 2, 10), **conditioning(name, 0, latents(name)), "encoder_hidden_states": "none"}
    with pytest.raises((TypeError, AttributeError)):
        transformer(hidden_states=latents(name, 2), **call)
    assert len(blocks(transformer)) == count


def test_arguments_may_stand_in_their_places() -> None:
    name = "WanTransformer3DModel"
    transformer, applied = steady(name)
    prompt = conditioning(name, 0, latents(name))
    text = prompt.pop("encoder_hidden_states")
    for step in range(4):
        transformer(latents(name, step), time(name, step, 10), text, **prompt)
    assert applied.made == {"first call": "CC.."}


def test_more_steps_than_it_was_applied_for_are_computed_and_told(caplog: pytest.LogCaptureFixture) -> None:
    name = "FluxTransformer2DModel"
    transformer, applied = steady(name)
    with caplog.at_level(logging.WARNING):
        run(transformer, name, 13, guided=False)
    assert applied.made == {"cond": "CC..C..C.CCCC"}
    assert [record.getMessage() for record in caplog.records] == [
        "MagCache was applied for 10 steps, and the run has more"
    ]


def test_another_number_of_steps_that_the_pipeline_names_is_told(caplog: pytest.LogCaptureFixture) -> None:
    name = "WanTransformer3DModel"
    transformer, _ = steady(name)
    with transformer.cache_context("cond", step_index=0, num_inference_steps=30):
        transformer(hidden_states=latents(name), timestep=time(name, 0, 30), **conditioning(name, 0, latents(name)))
    assert "applied for 10 steps, and the run has 30" in caplog.text


def test_a_list_of_another_length_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        applied = apply_magcache(tiny.tiny("FluxTransformer2DModel"), "FLUX", 20)
    assert applied.notes
    assert applied.notes[0] in caplog.text


def test_offloading_that_replaces_forward_leaves_it_in_place() -> None:
    """accelerate does at the end of each of a pipeline's runs."""
    hooks = pytest.importorskip("accelerate.hooks")
    name = "FluxTransformer2DModel"
    transformer = tiny.tiny(name)
    hooks.add_hook_to_module(transformer, hooks.ModelHook())
    applied = apply_magcache(transformer, "FLUX", 10, **STEADY)
    hooks.remove_hook_from_module(transformer, recurse=True)
    hooks.add_hook_to_module(transformer, hooks.ModelHook())
    run(transformer, name, 10, guided=False)
    assert applied.made == {"cond": applied.pattern}


def test_the_blocks_numbers_may_be_half_as_long() -> None:
    """Wan hands its last norm float32; the residual is kept as the blocks made it."""
    name = "WanTransformer3DModel"
    transformer, applied = steady(name)
    transformer.to(torch.bfloat16)
    prompt = {key: value.bfloat16() if isinstance(value, Tensor) else value
              for key, value in conditioning(name, 0, latents(name)).items()}  # fmt: skip
    for step in range(4):
        call = {"hidden_states": latents(name, step).bfloat16(), "timestep": time(name, step, 10)}
        assert transformer(**call, **prompt)[0].dtype == torch.bfloat16
    assert applied.made == {"first call": "CC.."}


@pytest.mark.parametrize(
    ("name", "preset", "said"),
    [
        ("WanTransformer3DModel", "FLUX", "for a FluxTransformer2DModel, and this is a WanTransformer3DModel. For it "
         "there are: Wan2.1-T2V-1.3B, Wan2.1-T2V-14B, Wan2.1-I2V-480P-14B, Wan2.1-I2V-720P-14B."),
        ("ChromaTransformer2DModel", "sdxl", "There is no preset 'sdxl'. There are: FLUX, FLUX-Kontext, Chroma"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(name: str, preset: str, said: str) -> None:
    with pytest.raises(UnusableArgument) as caught:
        apply_magcache(tiny.tiny(name), preset, 28)
    assert said in str(caught.value)


@pytest.mark.parametrize("other", [nn.Linear(2, 2), None])
def test_what_is_no_such_transformer_is_refused(other: Any) -> None:
    with pytest.raises(UnusableArgument, match="For it there is none"):
        apply_magcache(other, "FLUX", 28)


def test_of_two_step_caches_the_second_is_refused() -> None:
    transformer, _ = steady("FluxTransformer2DModel")
    with pytest.raises(ValueError, match="already been enabled"):
        transformer.enable_cache(FirstBlockCacheConfig())
    remove_magcache(transformer)
    transformer.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(UnusableArgument, match="another step cache \\(FirstBlockCacheConfig\\)"):
        apply_magcache(transformer, "FLUX", 28)
