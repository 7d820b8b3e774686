"""Train the encoders: text from captions with known meaning, pictures by a pretext. A few minutes, then frozen.

`python -m tools.pocket.train_encoders --minutes 5`. Linear heads read the meaning (motion, speed, shape, colour) from
Llama's `hidden_states[-3]` and CLIP's pooled output; the picture encoder predicts the small colour fields of every
patch and of the whole picture. Heads are thrown away. Results lie in `--work/encoders`.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import SiglipVisionModel

from tools.pocket import captions, encoders, loop
from tools.pocket.bank import DEFAULT_WORK, load_canvases
from tools.pocket.camera import MOVES, SPEEDS
from tools.pocket.train_vae import draw_frames

LOG = logging.getLogger(__name__)
FOLDER = "encoders"
TRAINED_TOKENS = 32
MOTIONS = [*MOVES, *(f"shape {m}" for m in captions.SHAPE_MOVES)]
MEANINGS = {
    "motion": MOTIONS,
    "speed": list(SPEEDS),
    "shape": ["", *captions.SHAPES],
    "colour": ["", *captions.COLOURS],
}


def meaning_ids(batch: list[captions.Caption]) -> dict[str, torch.Tensor]:
    """Class numbers of each caption's meaning, `[B]` per property."""
    rows = []
    for caption in batch:
        motion = f"shape {caption.move}" if caption.shape else caption.move
        values = {"motion": motion, "speed": caption.speed, "shape": caption.shape, "colour": caption.colour}
        rows.append({name: MEANINGS[name].index(value) for name, value in values.items()})
    return {name: torch.tensor([row[name] for row in rows]) for name in MEANINGS}


class Heads(nn.Module):
    """One linear reader per property from a feature of width `width`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.readers = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in MEANINGS.items()})

    def forward(self, features: torch.Tensor, wanted: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
        """Summed cross-entropy and the share of right motions, from `[B, D]`."""
        losses = [functional.cross_entropy(head(features), wanted[name]) for name, head in self.readers.items()]
        right = (self.readers["motion"](features).argmax(1) == wanted["motion"]).float().mean()
        return torch.stack(losses).sum(), float(right)


def make_text_encoders(rng: np.random.Generator) -> encoders.TextEncoders:
    """Tokenizers trained on captions, models with random weights."""
    texts = [captions.draw_caption(rng, shape_share=0.3).text for _ in range(20000)]
    llama_tokenizer, clip_tokenizer = encoders.train_llama_tokenizer(texts), encoders.train_clip_tokenizer(texts)
    made = encoders.TextEncoders(
        llama_tokenizer, encoders.make_llama(llama_tokenizer), clip_tokenizer, encoders.make_clip(clip_tokenizer)
    )
    LOG.info("template prefix: %d tokens", encoders.prefix_length(llama_tokenizer))
    return made


def train_text(text: encoders.TextEncoders, minutes: float, batch_size: int) -> None:
    """Supervised by the meaning of drawn captions."""
    rng, clock = np.random.default_rng(), loop.Clock(minutes)
    heads = nn.ModuleList([Heads(encoders.WIDTH) for _ in range(3)])
    parameters = [*text.llama.parameters(), *text.clip.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW([{"params": parameters, "peak": 1e-3}], weight_decay=0.01)
    step = 0
    while clock.progress < 1:
        loop.set_rate(optimizer, loop.warm_cosine(clock.progress))
        batch = [captions.draw_caption(rng, shape_share=0.3) for _ in range(batch_size)]
        texts, wanted = [c.text for c in batch], meaning_ids(batch)
        with loop.autocast(torch.device("cpu")):
            states, mask = text.prompt_features(texts, TRAINED_TOKENS)
            mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            last = states[torch.arange(len(batch)), mask.sum(1) - 1]
            features = (mean, last, text.pooled_features(texts, TRAINED_TOKENS))
            results = [head(f.float(), wanted) for head, f in zip(heads, features, strict=True)]
            loss = torch.stack([r[0] for r in results]).sum() + 1e-3 * states.float().square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 25 == 0:
            LOG.info(
                "text %d  loss %.3f  motion right: mean %.3f last %.3f pooled %.3f",
                step,
                loss.detach(),
                *(r[1] for r in results),
            )


def colour_fields(pictures: torch.Tensor) -> torch.Tensor:
    """What a patch token must tell: its own 4x4 colours, its neighbourhood's and the picture's; `[B, 16, 99]`."""
    patches = encoders.PICTURE_SIDE // encoders.PICTURE_PATCH
    own = functional.avg_pool2d(pictures, 4).unfold(2, 4, 4).unfold(3, 4, 4)
    own = own.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    around = functional.avg_pool2d(functional.pad(pictures, (16, 16, 16, 16), mode="reflect"), 48, 16)
    around = around.flatten(2).transpose(1, 2)
    whole = functional.avg_pool2d(pictures, 16).flatten(1)[:, None].expand(-1, patches**2, -1)
    return torch.cat([own, around, whole], dim=-1)


def train_pictures(canvases: torch.Tensor, minutes: float) -> SiglipVisionModel:
    """SigLIP from scratch on colour fields."""
    rng, clock, siglip = np.random.default_rng(), loop.Clock(minutes), encoders.make_siglip()
    head = nn.Linear(encoders.PICTURE_WIDTH, 99)
    parameters = [*siglip.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW([{"params": parameters, "peak": 1e-3}], weight_decay=0.01)
    step = 0
    while clock.progress < 1:
        loop.set_rate(optimizer, loop.warm_cosine(clock.progress))
        pictures = draw_frames(rng, canvases, 64, encoders.PICTURE_SIDE)
        with loop.autocast(torch.device("cpu")):
            told = head(siglip(pictures).last_hidden_state)
        loss = functional.mse_loss(told.float(), colour_fields(pictures))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            LOG.info("pictures %d  loss %.4f", step, loss.detach())
    return siglip


def main() -> None:
    """Entry."""
    loop.start_logging()
    loop.keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--picture-minutes", type=float, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--canvases", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--resume", action="store_true", help="go on from the encoders in --work")
    parser.add_argument("--from-folder", type=Path, help="go on from an exported checkpoint")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder, started = args.work / FOLDER, time.monotonic()
    source = args.from_folder or (folder if args.resume else None)
    text = encoders.TextEncoders.load(source) if source else make_text_encoders(np.random.default_rng(3))
    train_text(text, args.minutes, args.batch)
    text.save(folder)
    if args.picture_minutes:
        train_pictures(load_canvases(args.work, args.canvases), args.picture_minutes).save_pretrained(
            folder / "image_encoder"
        )
        encoders.make_feature_extractor().save_pretrained(folder / "feature_extractor")
    LOG.info("encoders in %s after %.1f minutes", folder, (time.monotonic() - started) / 60)


if __name__ == "__main__":
    main()
