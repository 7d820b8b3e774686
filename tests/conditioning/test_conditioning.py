"""Prompts and pictures are encoded as diffusers' own pipeline encodes them, and only once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HunyuanVideoFramepackPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers import PreTrainedTokenizerFast

from diffusers_helper.conditioning import cache as caching
from diffusers_helper.conditioning.picture import encode_picture_tokens
from diffusers_helper.conditioning.prompt import (
    TEMPLATE,
    PromptEmbedding,
    llama_features,
    pooled_by_clip,
    template_length,
)
from diffusers_helper.encoders import Encoders
from diffusers_helper.engine import Engine
from diffusers_helper.memory.costs import Constraints
from diffusers_helper.models.load import Compute, Parts, load_parts
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.planning import planner_for
from diffusers_helper.request import Request

FLOAT32 = Compute(torch.device("cpu"), torch.float32, torch.float32, torch.float32, "exact")
PROMPTS = ["the camera pans left", "", "a {curly} 'quoted' prompt\nof two lines", "カメラが左にパンする 🎥", "يسار"]


@pytest.fixture(scope="module")
def parts(pocket: Path) -> Parts:
    return load_parts(find_checkpoint("pocket", pocket), FLOAT32)


@pytest.fixture(scope="module")
def pipeline(pocket: Path) -> Any:
    diffusers_logging.disable_progress_bar()
    return HunyuanVideoFramepackPipeline.from_pretrained(pocket, torch_dtype=torch.float32)


def make_engine(pocket: Path, parts: Parts) -> Engine:
    checkpoint = find_checkpoint("pocket", pocket)
    return Engine(checkpoint, FLOAT32, parts, planner_for(checkpoint, FLOAT32, Constraints(), pocket))


def encode(prompt: str, parts: Parts) -> Any:
    with torch.inference_mode():
        tokens, cut = llama_features(prompt, parts.tokenizer, parts.text_encoder)
        return PromptEmbedding(tokens, pooled_by_clip(prompt, parts.tokenizer_2, parts.text_encoder_2), cut)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_equal_the_pipelines(prompt: str, parts: Parts, pipeline: Any) -> None:
    template = {"template": TEMPLATE, "crop_start": template_length(parts.tokenizer)}
    with torch.inference_mode():
        tokens, pooled, mask = pipeline.encode_prompt(prompt, prompt_template=template)
    ours = encode(prompt, parts)
    torch.testing.assert_close(ours.tokens, tokens[:, : int(mask.sum())], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.pooled, pooled, atol=1e-5, rtol=1e-5)


def test_the_template_is_cut_where_the_prompt_begins(parts: Parts) -> None:
    crop = template_length(parts.tokenizer)
    ids = parts.tokenizer(TEMPLATE.format("the camera pans left"))["input_ids"]
    assert parts.tokenizer.decode(ids[crop:]).startswith("the camera pans left")


def test_a_long_prompt_is_cut_and_said_so(parts: Parts) -> None:
    embedding = encode("left " * 400, parts)
    assert embedding.tokens.shape[1] == 256
    assert embedding.tokens_cut > 100
    assert encode("left", parts).tokens_cut == 0


def test_the_picture_is_seen_as_bytes_resized_bicubically(parts: Parts) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    size = parts.feature_extractor.size
    resized = Image.fromarray(pixels).resize((size["width"], size["height"]), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(resized)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        expected = parts.image_encoder(pixel_values=values).last_hidden_state
        tokens = encode_picture_tokens(pixels, parts.feature_extractor, parts.image_encoder)
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)


def test_nothing_is_encoded_twice(parts: Parts, pocket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(pocket, parts)
    calls: list[str] = []
    for name in ("text_encoder", "text_encoder_2", "image_encoder"):
        getattr(parts, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    pixels = np.zeros((128, 128, 3), dtype=np.uint8)
    request = Request.parse({"picture": "p", "prompt": "a", "real_cfg": 2, "negative_prompt": "b"})
    first, second = engine.encode(request, [pixels]), engine.encode(request, [pixels.copy()])
    assert sorted(calls) == ["image_encoder", *["text_encoder"] * 2, *["text_encoder_2"] * 2]
    assert torch.equal(first.pictures[0].latent.mean, second.pictures[0].latent.mean)
    engine.encode(request, [pixels + 1])
    assert calls.count("image_encoder") == 2
    assert calls.count("text_encoder") == 2


def test_many_prompts_do_not_drive_out_the_picture(parts: Parts) -> None:
    """Also without an engine, where every part stays where it is."""
    encoders, seen = Encoders(parts), list[str]()
    hook = parts.image_encoder.register_forward_hook(lambda *_: seen.append("picture"))
    pixels = np.zeros((128, 128, 3), dtype=np.uint8)
    first = encoders.picture_tokens(pixels)
    for number in range(40):
        encoders.prompt(f"shot {number}")
    assert encoders.picture_tokens(pixels) is first
    hook.remove()
    assert seen == ["picture"]


def test_the_negative_prompt_is_encoded_only_for_real_cfg(parts: Parts, pocket: Path) -> None:
    engine = make_engine(pocket, parts)
    pixels = np.zeros((128, 128, 3), dtype=np.uint8)
    assert engine.encode(Request.parse({"picture": "p", "negative_prompt": "b"}), [pixels]).negative is None
    assert engine.encode(Request.parse({"picture": "p", "real_cfg": 1.5}), [pixels]).negative is not None


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache = caching.ContentCache(size=2)
    made: list[str] = []

    def get(key: str) -> None:
        cache.get(key, lambda: made.append(key))

    for key in "abacab":
        get(key)
    assert made == ["a", "b", "c", "b"]


def test_content_keys_tell_apart_what_differs() -> None:
    zeros = np.zeros((2, 3), dtype=np.uint8)
    keys = {
        caching.content_key(*contents)
        for contents in [("a", "b"), ("ab", ""), ("", "ab"), (zeros,), (zeros.T,), (zeros.astype(np.int8),)]
    }
    assert len(keys) == 6


def test_another_tokenizer_is_cropped_by_its_own_count() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert template_length(tokenizer) == len(TEMPLATE.partition("{}")[0].split())
