"""What swap, table and quantisation do to a video: frames of one section against those of the plain transformer.

    python -m bench.precision [--steps 12] [--write]

The pocket on the CPU, the same prompt, picture and noise each time: PSNR of all frames. Beside it, the relative error
of weights, the pocket's and made-up ones. Rows of bitsandbytes are there where it is installed.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from skimage import data
from torch import Tensor, nn
from torch.distributions import Laplace, StudentT

from bench.machine import RESULTS, ROOT, machine
from diffusers_helper.conditioning.picture import encode_picture_tokens
from diffusers_helper.conditioning.prompt import encode_prompt
from diffusers_helper.denoise.sample import sample
from diffusers_helper.denoise.schedule import flow_mu, flow_sigmas, token_count
from diffusers_helper.engine import Conditioning, section_denoiser
from diffusers_helper.media.fit import choose_bucket, resize_and_crop
from diffusers_helper.models.load import choose_compute, load_parts
from diffusers_helper.models.modulation import tabulate
from diffusers_helper.models.quantise import KINDS, Quantisation, quantisable, quantise
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.request import Request
from diffusers_helper.sections.context import f1_context
from diffusers_helper.sections.history import gather_context
from diffusers_helper.transport import ThreadTransport
from diffusers_helper.vae.codec import decode_clip, encode_picture, to_frames

PROMPT, SEED, WINDOW = "the camera pans left", 7, 9
SPREADS: dict[str, Callable[[], Tensor]] = {
    "normal, 0.02": lambda: 0.02 * torch.randn(512, 3072),
    "normal, 0.005": lambda: 0.005 * torch.randn(512, 3072),
    "Laplace": lambda: Laplace(0.0, 0.014).sample((512, 3072)),
    "Student's t, 5": lambda: 0.015 * StudentT(5.0).sample((512, 3072)),
}
Row = dict[str, Any]
Change = Callable[[FramePackTransformer], object]


def swapped(share: float) -> Change:
    """Blocks pass through, but for a share that stays."""

    def change(transformer: FramePackTransformer) -> object:
        size = sum(t.nbytes for block in transformer.blocks for t in (*block.parameters(), *block.buffers()))
        return transformer.swap_blocks(ThreadTransport(), int(1.1 * share * size))

    return change


def quantised(precision: Quantisation, multiply: bool = False, swap: bool = False) -> Change:
    """In 8 or 4 bits; with the table and swapped as well where asked for."""

    def change(transformer: FramePackTransformer) -> None:
        quantise(transformer, precision, multiply=multiply)
        if swap:
            tabulate(transformer)
            swapped(0.5)(transformer)

    return change


def changes() -> dict[str, Change]:
    """Everything that a CPU can run."""
    found: dict[str, Change] = {
        "swapped, none stays": swapped(0.0),
        "swapped, half stays": swapped(0.5),
        "swapped, all stay": swapped(1.0),
        "modulation table": tabulate,
        "int8": quantised("int8"),
        "int8, table, swapped": quantised("int8", swap=True),
        "int8, 8-bit products": quantised("int8", multiply=True),
        "fp8": quantised("fp8"),
        "fp8, table, swapped": quantised("fp8", swap=True),
        "fp8, 8-bit products": quantised("fp8", multiply=True),
    }
    if find_spec("bitsandbytes"):
        found |= {"bitsandbytes, 8 bits": quantised("bnb8"), "bitsandbytes, 4 bits": quantised("bnb4")}
    return found


class Section:
    """One F1 section of the pocket, ready to be made again and again."""

    @torch.inference_mode()
    def __init__(self, steps: int) -> None:
        self._compute = choose_compute()
        checkpoint = find_checkpoint("pocket", ROOT / "hf_download")
        self._parts = parts = load_parts(checkpoint, self._compute)
        pixels = data.astronaut()
        pixels = resize_and_crop(pixels, *choose_bucket(*pixels.shape[:2], checkpoint.buckets))
        prompt = encode_prompt(PROMPT, parts.tokenizer, parts.text_encoder, parts.tokenizer_2, parts.text_encoder_2)
        tokens = encode_picture_tokens(pixels, parts.feature_extractor, parts.image_encoder)
        self._conditioning = Conditioning(prompt, None, tokens, encode_picture(parts.vae, pixels))
        self._start = self._conditioning.start.mean
        shape = (*self._start.shape[:2], WINDOW, *self._start.shape[3:])
        self._noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
        self._sigmas = flow_sigmas(steps, flow_mu(token_count(*shape[2:])))
        self._request = Request.parse({"picture": "-", "steps": steps, "teacache": False})

    def latents(self, change: Change = lambda transformer: None) -> Tensor:
        """[1, C, T, H, W], from a transformer that was changed first."""
        transformer = copy.deepcopy(self._parts.transformer)
        change(transformer)
        context = gather_context(f1_context(WINDOW), self._start, self._start)
        made = section_denoiser(transformer, self._compute, self._request, self._conditioning, context)
        *_, last = sample(made.denoise, self._noise, self._sigmas)
        return last.denoised

    @torch.inference_mode()
    def frames(self, latents: Tensor) -> Tensor:
        """[F, height, width, 3] float64."""
        clip = decode_clip(self._parts.vae, torch.cat([self._start, latents], dim=2))
        return torch.from_numpy(to_frames(clip)).double()


def psnr(frames: Tensor, plain: Tensor) -> float | None:
    """In dB; None for equal frames."""
    error = (frames - plain).square().mean()
    return round(float(10 * torch.log10(255**2 / error)), 2) if error else None


def videos(steps: int) -> Iterator[Row]:
    """Every change, and how far its frames are from the plain ones."""
    section = Section(steps)
    plain = section.latents()
    frames = section.frames(plain)
    for name, change in changes().items():
        latents = section.latents(change)
        equal = bool(torch.equal(latents, plain))
        yield {"way": name, "equal_latents": equal, "psnr_db": psnr(section.frames(latents), frames)}


def spreads() -> Iterator[Row]:
    """Relative error of weights in 8 bits, on made-up spreads and on the pocket's own."""
    for name, make in SPREADS.items():
        torch.manual_seed(0)
        yield {"spread": name, **_errors([make()])}
    folder = find_checkpoint("pocket", ROOT / "hf_download").folders["transformer"]
    pocket = FramePackTransformer.from_pretrained(folder, torch_dtype=torch.float32)
    yield {"spread": "the pocket's", **_errors([linear.weight.detach() for linear in quantisable(pocket).values()])}


def _errors(weights: list[Tensor]) -> Row:
    def error(rounded: Callable[[Tensor], Tensor]) -> float:
        wrong = sum(float((rounded(weight) - weight).square().sum()) for weight in weights)
        return round((wrong / sum(float(weight.square().sum()) for weight in weights)) ** 0.5, 5)

    found = {
        name: error(lambda weight, kind=kind: kind(_linear(weight)).weight_in(torch.float32))
        for name, kind in KINDS.items()
    }
    return {**found, "fp8 without scales": error(lambda weight: weight.to(torch.float8_e4m3fn).float())}


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def main() -> None:
    """Measure, print, and keep it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    options = parser.parse_args()
    report = {
        "command": f"python -m bench.precision --steps {options.steps}",
        "machine": machine(),
        "videos": list(videos(options.steps)),
        "weights": list(spreads()),
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if options.write:
        Path(RESULTS / "precision.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
