"""A prompt as the transformer reads it: token features of a Llama model, and CLIP's pooled vector.

Shapes: L prompt tokens (template and padding cut off, at most 512), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import DEFAULT_PROMPT_TEMPLATE
from torch import Tensor
from transformers import CLIPTextModel, LlamaModel, PreTrainedTokenizerBase

TEMPLATE: str = DEFAULT_PROMPT_TEMPLATE["template"]
PROMPT_TOKENS_MAX = 256
CLIP_TOKENS_MAX = 77
FEATURE_LAYER = -3


@dataclass(frozen=True)
class PromptEmbedding:
    """``tokens`` [1, L, D] and ``pooled`` [1, D'], on the CPU; ``tokens_cut``: prompt tokens that did not fit."""

    tokens: Tensor
    pooled: Tensor
    tokens_cut: int


def template_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the template that stand before the prompt: 95 for the real tokenizer."""
    return len(tokenizer(TEMPLATE.partition("{}")[0])["input_ids"])


def llama_features(prompt: str, tokenizer: PreTrainedTokenizerBase, encoder: LlamaModel) -> tuple[Tensor, int]:
    """Third last hidden state of the prompt's tokens inside the template, [1, L, D], and the number of tokens cut off
    at the end."""
    crop = template_length(tokenizer)
    text = TEMPLATE.format(prompt)
    ids = tokenizer(text, max_length=PROMPT_TOKENS_MAX + crop, truncation=True, return_tensors="pt")["input_ids"]
    whole = len(tokenizer(text, verbose=False)["input_ids"])
    output = encoder(input_ids=ids.to(encoder.device), output_hidden_states=True, use_cache=False)
    return output.hidden_states[FEATURE_LAYER][:, crop:].cpu(), whole - ids.shape[1]


def pooled_by_clip(prompt: str, tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextModel) -> Tensor:
    """CLIP's vector of the prompt as it is, [1, D']."""
    inputs = tokenizer(prompt, max_length=CLIP_TOKENS_MAX, truncation=True, padding="max_length", return_tensors="pt")
    return encoder(input_ids=inputs["input_ids"].to(encoder.device)).pooler_output.cpu()
