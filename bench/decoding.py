"""Decoding: how near to the whole clip chunks come, what whole videos gain, and what a section and ten seconds take.

    python -m bench.decoding [--checkpoint pocket] [--parts chunks videos section ten_seconds full_size] [--write]

The latents are those of videos that the checkpoint makes, without a step cache. *Whole* is diffusers' decoder over all
latents at once, with its sliding windows off; *reference* what the original does: windows of five latent frames, every
section twice, a cross-fade over all that two clips have in common. PSNR is of pixels from -1 to 1, as a mean over all
frames and of the worst one. A *seam* is how much more two frames differ where a chunk, or a section, ends than the same
two frames of the whole clip, over the same of all other frames: 1 shows nothing. Times are the median of runs that take
turns. ``full_size`` counts the operations of the 13B checkpoint's VAE without a number, on the meta device, and says
what the memory plan counts for it, which ``tests/memory/test_cards.py`` holds to what its tensors take.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.machine import RESULTS, ROOT, machine
from diffusers_helper.engine import Engine
from diffusers_helper.generate import generate
from diffusers_helper.limits import DecodingName
from diffusers_helper.media.segments import Segments
from diffusers_helper.media.video import write_segment
from diffusers_helper.memory.candidates import Situation
from diffusers_helper.memory.costs import Constraints, Machine, Workload
from diffusers_helper.memory.plan import plan_memory
from diffusers_helper.memory.units import GIB
from diffusers_helper.models.sizes import FULL_SIZE
from diffusers_helper.models.table import find_checkpoint
from diffusers_helper.request import Recipe, Request
from diffusers_helper.request.output import Mp4
from diffusers_helper.sections.history import newest
from diffusers_helper.sections.plan import VideoPlan
from diffusers_helper.vae.chunks import decode_in_chunks
from diffusers_helper.vae.codec import decode_clip, in_tiles, to_frames
from diffusers_helper.vae.decoders import LATENTS_AT_ONCE, Chunked, decoders
from diffusers_helper.vae.stitch import Stitcher, soft_append
from diffusers_helper.vae.streaming import StreamingDecoder
from diffusers_helper.vae.tiles import cuts

LENGTHS = (2, 3, 5, 8, 9, 11, 12, 18, 19, 30)
CHUNKS = range(1, 9)
MADE: dict[str, dict[str, Any]] = {
    "framepack": {"image": "astronaut", "prompt": "the camera pans left"},
    "f1": {"image": "coffee", "prompt": "a red circle moves to the right"},
}
WINDOW, FPS, CRF, REPEATS = 9, 30, 16, 3
HEIGHT, WIDTH = 640, 608
Decode = Callable[[Tensor], Tensor]


def main() -> None:
    """Measure the parts that are asked for, and keep each as soon as it is done."""
    options = _options()
    for part, found in _measured(options):
        report = {part: {"command": f"python -m bench.decoding --parts {part}", "machine": machine(), **found}}
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
        if options.write:
            _keep(report)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--checkpoint", default="pocket")
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, "full_size"), default=[*PARTS, "full_size"])
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    return parser.parse_args()


def _keep(report: dict[str, Any]) -> None:
    """Beside the parts that are kept already."""
    file = RESULTS / "decoding.json"
    kept = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**kept, **report}, indent=1) + "\n")


@torch.inference_mode()
def _measured(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    if "full_size" in options.parts:
        yield "full_size", full_size()
    if not set(options.parts) & set(PARTS):
        return
    with Engine.load(find_checkpoint(options.checkpoint, ROOT / "hf_download")) as engine:
        made = {kind: latents_of(engine, kind) for kind in MADE}
        vae = engine.parts.vae
    for part in options.parts:
        if part in PARTS:
            yield part, PARTS[part](vae, made)


def latents_of(engine: Engine, kind: str, seconds: float = 4.8) -> Tensor:
    """[1, C, T, H, W] of a video, in time order."""
    folder, (name, prompt) = Path(tempfile.mkdtemp()), MADE[kind].values()
    Image.fromarray(getattr(data, name)()).save(folder / "photo.png")
    fields = {"picture": str(folder / "photo.png"), "prompt": prompt, "seed": 3, "steps": 15, "step_cache": "off"}
    request, file = Request.parse({**fields, "kind": kind, "seconds": seconds}), folder / "latents.safetensors"
    list(generate(request, engine, folder, latents_result=file))
    return load_file(file)["latents"]


def chunks(vae: AutoencoderKLHunyuanVideo, made: dict[str, Tensor]) -> dict[str, Any]:
    """Chunk size -> mean and worst PSNR against the whole clip, and seams, over videos and all lengths of more than
    one chunk."""
    rows: dict[int, list[tuple[float, float, float]]] = {chunk: [] for chunk in CHUNKS}
    reference = []
    for latents in made.values():
        for length in LENGTHS:
            part = latents[:, :, :length]
            expected = whole(vae, part)
            if length > LATENTS_AT_ONCE:
                reference.append(psnr(decode_clip(vae, part), expected))
            for chunk in range(1, min(length, CHUNKS.stop)):
                clip = decode_in_chunks(vae, part, chunk)
                ends = [4 * latent - 3 for latent in _ends(length, chunk)]
                rows[chunk].append((psnr(clip, expected), worst(clip, expected), seam(clip, expected, ends)))
    table = {
        chunk: {
            "psnr": round(statistics.fmean(row[0] for row in found), 1),
            "worst_frame": round(min(row[1] for row in found), 1),
            "seam": round(statistics.fmean(row[2] for row in found), 3),
            "worst_seam": round(max(row[2] for row in found), 3),
        }
        for chunk, found in rows.items()
    }
    return {"lengths": LENGTHS, "reference_psnr": round(statistics.fmean(reference), 1), **table}


def _ends(length: int, chunk: int) -> list[int]:
    """The latent frames with which chunks begin that follow another."""
    parts = torch.empty(length).tensor_split(math.ceil(length / chunk))
    return list(accumulate(len(part) for part in parts))[:-1]


def videos(vae: AutoencoderKLHunyuanVideo, made: dict[str, Tensor]) -> dict[str, Any]:
    """Whole videos against all their latents decoded at once, and where their sections meet."""
    found: dict[str, Any] = {}
    for kind, latents in made.items():
        expected = whole(vae, latents)
        for decoding, chunk in (("reference", 0), ("lean", 1), ("lean", 4), ("quality", 4), ("quality", 8)):
            plan = plan_of(kind, latents, decoding)  # type: ignore[arg-type]
            clip = assembled(plan, latents, decoder_of(vae, chunk))
            found[f"{kind}, {decoding}" + (f", chunks of {chunk}" if chunk else "")] = {
                "psnr": round(psnr(clip, expected), 1),
                "worst_frame": round(worst(clip, expected), 1),
                "seam": round(seam(clip, expected, _borders(plan)), 3),
            }
    return found


def section(vae: AutoencoderKLHunyuanVideo, made: dict[str, Tensor]) -> dict[str, Any]:
    """Seconds for what is decoded after a section in the middle of a video: eighteen latent frames, or eleven."""
    latents = made["f1"][:, :, :18]
    ways: dict[str, Callable[[], object]] = {"diffusers": lambda: decode_clip(vae, latents)}
    for chunk in (1, 2, 4, 8):
        ways[f"lean, chunks of {chunk}"] = lambda chunk=chunk: decode_in_chunks(vae, latents[:, :, :11], chunk)
    ways["quality"] = lambda: decode_in_chunks(vae, latents[:, :, :13], 8)
    return _over(in_turns(ways), "diffusers")


def ten_seconds(vae: AutoencoderKLHunyuanVideo, made: dict[str, Tensor]) -> dict[str, Any]:
    """Seconds to decode and write ten seconds, section by section, with a playable file after each."""
    repeated = torch.cat([made["f1"]] * 2, dim=2)[:, :, :73]
    plans = {way: plan_of("f1", repeated, way) for way in ("reference", "lean")}
    ways: dict[str, Callable[[], object]] = {
        "original": lambda: as_the_original(plans["reference"], repeated, decoder_of(vae, 0)),
        "lean": lambda: as_segments(plans["lean"], repeated, decoder_of(vae, 4)),
    }
    return _over(in_turns(ways), "original")


PARTS = {"chunks": chunks, "videos": videos, "section": section, "ten_seconds": ten_seconds}


def decoder_of(vae: AutoencoderKLHunyuanVideo, chunk: int) -> Decode:
    """In chunks, or with 0 as the original."""
    return (lambda latents: decode_in_chunks(vae, latents, chunk)) if chunk else (lambda z: decode_clip(vae, z))


def whole(vae: AutoencoderKLHunyuanVideo, latents: Tensor) -> Tensor:
    """diffusers' decoder over all at once."""
    vae.use_framewise_decoding = False
    try:
        return decode_clip(vae, latents)
    finally:
        vae.use_framewise_decoding = True


def plan_of(kind: str, latents: Tensor, decoding: DecodingName) -> VideoPlan:
    """The sections that so many latents are of."""
    sections = (latents.shape[2] - 1) // WINDOW
    return Recipe.parse({"kind": kind, "seconds": sections * 4 * WINDOW / FPS, "decoding": decoding}).plan()


def histories(plan: VideoPlan, latents: Tensor) -> Iterator[tuple[Any, Tensor]]:
    """Each section, and the latents that there are after it."""
    for each in plan.sections:
        count = each.latents_after
        yield each, latents[:, :, -count:] if plan.grows_at_front else latents[:, :, :count]


def assembled(plan: VideoPlan, latents: Tensor, decode: Decode) -> Tensor:
    """All frames in time order, as the road puts them together."""
    stitcher = Stitcher(plan.overlap_frames, plan.grows_at_front, plan.fade_frames)
    parts = [
        stitcher.add(decode(newest(history, each, plan)), each is plan.sections[-1])
        for each, history in histories(plan, latents)
    ]
    return torch.cat(parts[::-1] if plan.grows_at_front else parts, dim=2)


def as_the_original(plan: VideoPlan, latents: Tensor, decode: Decode) -> None:
    """All pixels are kept, and encoded anew after each section."""
    frames, folder = torch.empty(0), Path(tempfile.mkdtemp())
    for each, history in histories(plan, latents):
        clip = decode(newest(history, each, plan))
        frames = soft_append(frames, clip, plan.overlap_frames) if each.number else clip
        write_segment(folder / "video.mp4", to_frames(frames), FPS, CRF)


def as_segments(plan: VideoPlan, latents: Tensor, decode: Decode) -> None:
    """What became final is encoded once, and joined with what may still change."""
    stitcher, folder = Stitcher(plan.overlap_frames, plan.grows_at_front, plan.fade_frames), Path(tempfile.mkdtemp())
    segments = Segments(folder, FPS, Mp4(crf=CRF), plan.grows_at_front, comment="")
    for each, history in histories(plan, latents):
        settled = stitcher.add(decode(newest(history, each, plan)), each is plan.sections[-1])
        segments.save(each.number, to_frames(settled))
        tail = None if stitcher.tail is None else to_frames(stitcher.tail)
        segments.join(folder / "video.mp4", each.number + 1, tail)


def in_turns(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median seconds of each, after a run that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(REPEATS + 1):
        for name, work in ways.items():
            began = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: round(statistics.median(found), 3) for name, found in seconds.items()}


def _over(seconds: dict[str, float], base: str) -> dict[str, Any]:
    return {
        name: {"seconds": value, f"over_{base}": round(value / seconds[base], 3)} for name, value in seconds.items()
    }


def psnr(clip: Tensor, expected: Tensor) -> float:
    """Over all frames."""
    return _decibels(float(_errors(clip, expected).mean()))


def worst(clip: Tensor, expected: Tensor) -> float:
    """Of the frame that is furthest away."""
    return _decibels(float(_errors(clip, expected).max()))


def _errors(clip: Tensor, expected: Tensor) -> Tensor:
    """The mean squared error of each frame, [F]."""
    return (clip.float().clamp(-1, 1) - expected.float().clamp(-1, 1)).square().mean((0, 1, 3, 4))


def _decibels(error: float) -> float:
    return 10 * math.log10(4 / max(error, 1e-10))


def seam(clip: Tensor, expected: Tensor, ends: Sequence[int]) -> float:
    """How much larger the change from frame to frame is at ``ends`` than elsewhere, over that of the whole clip; the
    first frame of what follows is meant. 1 where nothing ends."""
    if not ends:
        return 1.0
    ratios = _changes(clip) / _changes(expected).clamp(min=1e-6)
    at = torch.zeros(len(ratios), dtype=torch.bool)
    at[[end - 1 for end in ends]] = True
    return float(ratios[at].mean() / ratios[~at].mean())


def _changes(clip: Tensor) -> Tensor:
    """The mean difference of each frame to the one before it, [F - 1]."""
    pixels = clip.float()
    return (pixels[:, :, 1:] - pixels[:, :, :-1]).abs().mean((0, 1, 3, 4))


def _borders(plan: VideoPlan) -> list[int]:
    """The frames of a whole video where the fade of two sections ends."""
    lengths = [each.frames_after for each in plan.sections[:-1]]
    if plan.grows_at_front:
        ends = [plan.frames - length + plan.overlap_frames for length in lengths]
        return [end for end in ends if end < plan.frames]
    return lengths


def full_size() -> dict[str, Any]:
    """Operations for a section in the middle of a video, and what the plan counts for its decode, by the card's GiB."""
    with torch.device("meta"):
        vae = AutoencoderKLHunyuanVideo().to(torch.float16).eval()
    rows: dict[str, Any] = {
        "reference, whole frames": {"tflop": _tflop(lambda: vae.decode(_meta(18)))},
        "reference, tiles of 256 pixels": {"tflop": _tflop(lambda: _tiled(vae))},
    }
    for card in (6, 8, 12, 24):
        rows[f"lean, a card of {card} GiB"] = _on_card(vae, card)
    return rows


def _on_card(vae: AutoencoderKLHunyuanVideo, card: int) -> dict[str, Any]:
    free = int(0.985 * card * GIB - 6e8)
    here, usable = Machine(card * GIB, free, 64 * 10**9, 54 * 10**9, 10**12), decoders()
    workload = Workload.of(HEIGHT, WIDTH)
    plan = plan_memory(Situation(here, FULL_SIZE, workload, Constraints(), tuple(usable.values())))
    decoder = usable[plan.decode]
    if not isinstance(decoder, Chunked):
        raise TypeError(f"a card of {card} GiB has no room to decode")
    planned = decoder.device_bytes(FULL_SIZE, workload)
    return {
        "decoder": plan.decode,
        "tflop": _tflop(lambda: _chunked(vae, decoder)),
        "planned_gb": round(planned / 1e9, 2),
    }


def _chunked(vae: AutoencoderKLHunyuanVideo, decoder: Chunked) -> None:
    rows, columns = cuts(HEIGHT // 8, WIDTH // 8, decoder.tile)
    for _ in range(len(rows.starts) * len(columns.starts)):
        decode = StreamingDecoder(vae)
        for chunk in _meta(11, rows.size, columns.size).tensor_split(math.ceil(11 / decoder.chunk), dim=2):
            decode(chunk)


def _tiled(vae: AutoencoderKLHunyuanVideo) -> None:
    for name in ("blend_h", "blend_v"):  # by slices of a pixel, which takes minutes to count
        setattr(vae, name, lambda before, here, width: here)
    with in_tiles(vae, 256):
        vae.decode(_meta(18))


def _meta(frames: int, rows: int = HEIGHT // 8, columns: int = WIDTH // 8) -> Tensor:
    return torch.empty(1, 16, frames, rows, columns, device="meta", dtype=torch.float16)


@torch.inference_mode()
def _tflop(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return round(counter.get_total_flops() / 1e12, 1)


if __name__ == "__main__":
    main()
