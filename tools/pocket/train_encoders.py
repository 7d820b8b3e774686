"""Train the encoders: text from captions with known meaning, pictures by a pretext. A few minutes, then frozen.

`python -m tools.pocket.train_encoders --minutes 5`. Linear heads read the meaning (motion, speed, shape, colour) from
Llama's `hidden_states[-3]` and CLIP's pooled output; the picture encoder predicts the small colour fields of every
patch and of the whole picture. Heads are thrown away. Results lie in `--work/encoders`.

Going on (`--from-folder`, `--resume`) teaches new words to encoders that a transformer already knows: `--new` names the
meanings that are new (such as `clockwise "shape spin" star`), and the features of all other captions are held where
they were.
"""

from __future__ import annotations

import argparse
import logging
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import SiglipVisionModel

from tools.pocket import encoders, loop
from tools.pocket.bank import DEFAULT_WORK, load_canvases
from tools.pocket.camera import MOVES, SPEEDS
from tools.pocket.captions import Caption, Figure
from tools.pocket.shape_captions import COLOURS, FIGURE_MOVES, SHAPE_WORDS, draw_caption
from tools.pocket.train_vae import draw_frames

LOG = logging.getLogger(__name__)
FOLDER = "encoders"
TRAINED_TOKENS = 32
SHAPE_SHARE = 0.3
HEADS_ALONE = 0.08  # share of the time in which only the heads learn, when encoders are taught new words
FIGURE_MOTIONS = [f"shape {move}" for move in FIGURE_MOVES]
_COLOURS = ["", *COLOURS]
MEANINGS = {
    "motion": [*MOVES, *FIGURE_MOTIONS],
    "speed": list(SPEEDS),
    "start": ["", "soft start"],
    "shape": ["", *SHAPE_WORDS],
    "colour": _COLOURS,
    "becomes": _COLOURS,
    "other motion": ["", *FIGURE_MOTIONS],
    "other shape": ["", *SHAPE_WORDS],
    "other colour": _COLOURS,
}


def meaning(caption: Caption) -> dict[str, str]:
    """What a caption says, by property; "other" is the second of two figures."""
    if not caption.figures:
        values = {"motion": caption.move, "speed": caption.speed, "start": "soft start" if caption.soft_start else ""}
        return {name: values.get(name, "") for name in MEANINGS}
    nobody = Figure("", "", "")
    first, other = (*caption.figures, nobody)[:2]
    return {
        "motion": f"shape {first.move}",
        "speed": first.speed,
        "start": "",
        "shape": first.shape,
        "colour": first.colour,
        "becomes": first.becomes,
        "other motion": f"shape {other.move}" if other.move else "",
        "other shape": other.shape,
        "other colour": other.colour,
    }


def meaning_ids(batch: list[Caption]) -> dict[str, torch.Tensor]:
    """Class numbers of each caption's meaning, `[B]` per property."""
    rows = [{name: MEANINGS[name].index(value) for name, value in meaning(c).items()} for c in batch]
    return {name: torch.tensor([row[name] for row in rows]) for name in MEANINGS}


def is_known(caption: Caption, new: set[str]) -> bool:
    """Whether earlier training had such captions: one figure at most, and nothing that it says is new."""
    return len(caption.figures) < 2 and not new & set(meaning(caption).values())


class Heads(nn.Module):
    """One linear reader per property from a feature of width `width`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.readers = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in MEANINGS.items()})

    def forward(self, features: torch.Tensor, wanted: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed cross-entropy, and which motions are right `[B]` bool, from `[B, D]`."""
        losses = [functional.cross_entropy(head(features), wanted[name]) for name, head in self.readers.items()]
        return torch.stack(losses).sum(), self.readers["motion"](features).argmax(1) == wanted["motion"]


@dataclass
class TextFeatures:
    """Llama's states `[B, L, D]` with their mask `[B, L]`, and CLIP's pooled output `[B, D]`."""

    states: torch.Tensor
    mask: torch.Tensor
    pooled: torch.Tensor

    @classmethod
    def of(cls, text: encoders.TextEncoders, texts: list[str]) -> TextFeatures:
        """Features of some texts, in the arithmetic of training."""
        with loop.autocast(torch.device("cpu")):
            states, mask = text.prompt_features(texts, TRAINED_TOKENS)
            return cls(states.float(), mask, text.pooled_features(texts, TRAINED_TOKENS).float())

    def summaries(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the heads read, `[B, D]` each: the mean and the last of the states, and the pooled output."""
        mean = (self.states * self.mask[..., None]).sum(1) / self.mask.sum(1, keepdim=True)
        return mean, self.states[torch.arange(len(self.mask)), self.mask.sum(1) - 1], self.pooled

    def distance(self, other: TextFeatures, rows: torch.Tensor) -> torch.Tensor:
        """Mean squared distance in some rows `[B]` bool, relative to the variance: of the states and of the pooled."""
        pairs = [(self.states[rows][self.mask[rows]], other.states[rows][self.mask[rows]])]
        pairs.append((self.pooled[rows], other.pooled[rows]))
        return torch.stack([(a - b).square().mean() / b.var(0).mean() for a, b in pairs])


def make_text_encoders(rng: np.random.Generator) -> encoders.TextEncoders:
    """Tokenizers trained on captions, models with random weights."""
    texts = [draw_caption(rng, SHAPE_SHARE).text for _ in range(20000)]
    llama_tokenizer, clip_tokenizer = encoders.train_llama_tokenizer(texts), encoders.train_clip_tokenizer(texts)
    made = encoders.TextEncoders(
        llama_tokenizer, encoders.make_llama(llama_tokenizer), clip_tokenizer, encoders.make_clip(clip_tokenizer)
    )
    LOG.info("template prefix: %d tokens", encoders.prefix_length(llama_tokenizer))
    return made


class TextTrainer:
    """Supervised by the meaning of drawn captions; with `new` words, known captions keep their features."""

    def __init__(self, text: encoders.TextEncoders, args: argparse.Namespace, goes_on: bool) -> None:
        self.text, self.args, self.new = text, args, set(args.new)
        self.before = deepcopy(text) if goes_on else None
        self.heads = nn.ModuleList([Heads(encoders.WIDTH) for _ in range(3)])
        self.models = [*text.llama.parameters(), *text.clip.parameters()]
        groups = [
            {"params": self.models, "peak": args.rate},
            {"params": list(self.heads.parameters()), "peak": args.head_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        self.rng = np.random.default_rng()

    def _drift(self, batch: list[Caption], features: TextFeatures) -> torch.Tensor:
        """How far the features of known captions have moved, `[2]`."""
        if self.before is None:
            return torch.zeros(2)
        with torch.no_grad():
            wanted = TextFeatures.of(self.before, [c.text for c in batch])
        return features.distance(wanted, torch.tensor([is_known(c, self.new) for c in batch]))

    def step(self, heads_alone: bool) -> None:
        """One batch of captions."""
        batch = [draw_caption(self.rng, SHAPE_SHARE) for _ in range(self.args.batch)]
        features, wanted = TextFeatures.of(self.text, [c.text for c in batch]), meaning_ids(batch)
        summaries = features.summaries()
        losses = [h(f.detach() if heads_alone else f, wanted)[0] for h, f in zip(self.heads, summaries, strict=True)]
        loss = torch.stack(losses).sum() + 1e-3 * features.states.square().mean()
        if self.before is not None:
            loss = loss + self.args.keep * self._drift(batch, features).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.models, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def report(self, count: int) -> str:
        """Share of right motions and the drift of features on fresh captions."""
        batch = [draw_caption(self.rng, SHAPE_SHARE) for _ in range(count)]
        features, wanted = TextFeatures.of(self.text, [c.text for c in batch]), meaning_ids(batch)
        right = torch.stack(
            [head(f, wanted)[1] for head, f in zip(self.heads, features.summaries(), strict=True)]
        ).float()
        known = torch.tensor([is_known(c, self.new) for c in batch])
        states, pooled = self._drift(batch, features).sqrt()
        shares = [
            f"{name} {' '.join(f'{v:.3f}' for v in right[:, rows].mean(1))}"
            for name, rows in (("known", known), ("new", ~known))
            if rows.any()
        ]
        return f"motion right (mean last pooled): {', '.join(shares)}  drift: states {states:.3f} pooled {pooled:.3f}"

    def run(self) -> None:
        """Train for the given minutes."""
        clock, step = loop.Clock(self.args.minutes), 0
        while clock.progress < 1:
            loop.set_rate(self.optimizer, loop.warm_cosine(clock.progress))
            self.step(self.before is not None and clock.progress < HEADS_ALONE)
            step += 1
            if step % 25 == 0:
                LOG.info("text %d  %s", step, self.report(self.args.batch))
        LOG.info("text done  %s", self.report(1024))


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
    parser.add_argument("--new", nargs="*", default=[], help="going on: meanings that were not trained before")
    parser.add_argument("--keep", type=float, default=15.0, help="going on: weight of holding known captions' features")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--head-rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder, started = args.work / FOLDER, time.monotonic()
    source = args.from_folder or (folder if args.resume else None)
    text = encoders.TextEncoders.load(source) if source else make_text_encoders(np.random.default_rng(3))
    TextTrainer(text, args, goes_on=source is not None).run()
    text.save(folder)
    if args.picture_minutes:
        train_pictures(load_canvases(args.work, args.canvases), args.picture_minutes).save_pretrained(
            folder / "image_encoder"
        )
        encoders.make_feature_extractor().save_pretrained(folder / "feature_extractor")
    LOG.info("encoders in %s after %.1f minutes", folder, (time.monotonic() - started) / 60)


if __name__ == "__main__":
    main()
