"""The pocket's text and picture encoders: tokenizers, configurations, and the features the transformer receives.

Shape legend: B samples, L tokens, D feature width.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import DEFAULT_PROMPT_TEMPLATE
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

TEMPLATE: str = DEFAULT_PROMPT_TEMPLATE["template"]
MAX_PROMPT_TOKENS = 256
CLIP_TOKENS = 77
WIDTH = 160
PICTURE_WIDTH = 128
PICTURE_SIDE, PICTURE_PATCH = 64, 16
LLAMA_SPECIALS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
LLAMA_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
CLIP_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_llama_tokenizer(captions: Iterable[str], vocabulary: int = 1600) -> PreTrainedTokenizerFast:
    """Byte-level BPE; every word of the prompt template is one token, so its prefix has the 95 that diffusers crops."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(LLAMA_SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    template = TEMPLATE.format("")
    for special in LLAMA_SPECIALS:
        template = template.replace(special, "\x00")
    pieces = [piece for piece in template.split("\x00") if piece]
    tokenizer.train_from_iterator([*captions, *(pieces * 5000)], trainer)
    start = LLAMA_SPECIALS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        eos_token="<|eot_id|>",
        pad_token="<|end_of_text|>",
        padding_side="right",
    )


def train_clip_tokenizer(captions: Iterable[str], vocabulary: int = 2000) -> CLIPTokenizer:
    """CLIP's own kind of BPE: lower case, byte level, `</w>` at the end of a word."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(CLIP_SPLIT), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    words += [word for word in model["vocab"] if word not in set(words)]
    vocabulary_ids = {word: number for number, word in enumerate([*words, CLIP_START, CLIP_END])}
    merges = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(vocab=vocabulary_ids, merges=merges, model_max_length=CLIP_TOKENS)


def make_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaModel:
    """Four layers; the features are those after the second (`hidden_states[-3]`)."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaModel(config)
    torch.nn.init.normal_(
        model.embed_tokens.weight, std=0.5
    )  # the features are not normalised; small ones learn slowly
    return model


def make_clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Three layers; the feature is the pooled output."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CLIP_TOKENS,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_siglip() -> SiglipVisionModel:
    """Two layers over 16 patches of a 64-pixel picture."""
    config = SiglipVisionConfig(
        hidden_size=PICTURE_WIDTH,
        intermediate_size=2 * PICTURE_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=PICTURE_SIDE,
        patch_size=PICTURE_PATCH,
        vision_use_head=False,
    )
    return SiglipVisionModel(config)


def make_feature_extractor() -> SiglipImageProcessor:
    """SigLIP's preprocessing at the pocket's own size."""
    return SiglipImageProcessor(
        size={"height": PICTURE_SIDE, "width": PICTURE_SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_convert_rgb=True,
    )


def prefix_length(tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens of the template before the prompt: the common beginning of two different prompts."""
    first, second = (tokenizer(TEMPLATE.format(word))["input_ids"] for word in ("a", "Z"))
    return next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)


@dataclass
class TextEncoders:
    """Tokenizers and models for prompts, as the application uses them."""

    llama_tokenizer: PreTrainedTokenizerFast
    llama: LlamaModel
    clip_tokenizer: CLIPTokenizer
    clip: CLIPTextModel

    def prompt_features(self, prompts: list[str], limit: int = MAX_PROMPT_TOKENS) -> tuple[torch.Tensor, torch.Tensor]:
        """Llama features after the template's prefix, `[B, L, D]`, and their mask `[B, L]` bool, L the longest.

        The prefix is the same for all and runs once; attention is causal, so the features are those of the whole text.
        """
        crop = prefix_length(self.llama_tokenizer)
        tokens = self.llama_tokenizer(
            [TEMPLATE.format(p) for p in prompts],
            max_length=crop + limit,
            padding=True,
            truncation=True,
            return_tensors="pt",
        ).to(self.llama.device)
        prefix = self.llama(input_ids=tokens.input_ids[:1, :crop], use_cache=True).past_key_values
        prefix.batch_repeat_interleave(len(prompts))
        output = self.llama(
            input_ids=tokens.input_ids[:, crop:],
            attention_mask=tokens.attention_mask,
            past_key_values=prefix,
            output_hidden_states=True,
            use_cache=True,
        )
        return output.hidden_states[-3], tokens.attention_mask[:, crop:].bool()

    def pooled_features(self, prompts: list[str], limit: int = CLIP_TOKENS) -> torch.Tensor:
        """CLIP pooled output of the raw prompts, `[B, D]`; padding after the end token changes nothing."""
        tokens = self.clip_tokenizer(prompts, max_length=limit, padding=True, truncation=True, return_tensors="pt")
        return self.clip(input_ids=tokens.input_ids.to(self.clip.device)).pooler_output

    def save(self, folder: Path) -> None:
        """Write the four folders of a pipeline, in float32."""
        self.llama_tokenizer.save_pretrained(folder / "tokenizer")
        self.llama.save_pretrained(folder / "text_encoder")
        self.clip_tokenizer.save_pretrained(folder / "tokenizer_2")
        self.clip.save_pretrained(folder / "text_encoder_2")

    @classmethod
    def load(cls, folder: Path) -> TextEncoders:
        """Read what `save` or the export wrote, as float32 models in eval mode."""
        return cls(
            PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"),
            LlamaModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval(),
            CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
            CLIPTextModel.from_pretrained(folder / "text_encoder_2", dtype=torch.float32).eval(),
        )


def picture_pixels(frames: torch.Tensor) -> torch.Tensor:
    """Start pictures `[B, 3, H, W]` in -1..1 -> SigLIP's input `[B, 3, 64, 64]`, in 8 bits as a file's would be."""
    if frames.shape[-2:] == (PICTURE_SIDE, PICTURE_SIDE):
        return frames
    extractor = make_feature_extractor()
    arrays = ((frames.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return extractor(images=[Image.fromarray(a) for a in arrays], return_tensors="pt")["pixel_values"].to(frames.device)
