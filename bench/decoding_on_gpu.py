"""The VAE at full size on a GPU, with random weights: what the original's ways of decoding take, and what these take.

    python -m bench.decoding_on_gpu [--repeats 3] [--dry-run] [--write]

What is decoded after a section in the middle of a video, at 640 by 608: eighteen latent frames by diffusers' own way,
whole or in tiles of 256 pixels, and the nine of a first section; eleven and nine by each decoder of the lean table, and
thirteen in quality mode. The ways take turns. Seconds are the median after a run that warms up; the peak is what
PyTorch has held beside the weights, and what it has reserved; ``planned_gb`` is what the memory plan counts. A way that
runs out of memory says so. ``--dry-run`` goes through it on the CPU with a tiny VAE: it shows that it works, and no
number of it means anything.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from bench.machine import machine, tell
from diffusers_helper.memory.costs import Workload
from diffusers_helper.memory.shortage import is_out_of_memory
from diffusers_helper.models.sizes import FULL_SIZE
from diffusers_helper.vae.chunks import decode_in_chunks
from diffusers_helper.vae.codec import decode_clip
from diffusers_helper.vae.decoders import Chunked, Decoder, Reference, decoders

FULL, DRY = (640, 608), (16, 24)
TINY = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
DECODED = {"reference": (9, 18), "lean": (9, 11), "quality": (13,)}
"""Latent frames: of a first section, and of one in the middle."""


@dataclass(frozen=True)
class Place:
    """Where it is measured."""

    device: torch.device
    size: tuple[int, int]

    def latents(self, frames: int) -> Tensor:
        """[1, 16, frames, height / 8, width / 8], random."""
        return torch.randn(
            1, 16, frames, self.size[0] // 8, self.size[1] // 8, generator=torch.Generator().manual_seed(0)
        )

    def peak(self, work: Callable[[], object]) -> dict[str, float]:
        """GB beside what there was; nothing on the CPU."""
        if self.device.type != "cuda":
            work()
            return {}
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        held = torch.cuda.max_memory_allocated() - before
        return {"held_gb": round(held / 1e9, 2), "reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2)}

    def seconds(self, work: Callable[[], object]) -> float:
        """Of one run; the clip comes to the CPU, so nothing is left to wait for."""
        began = time.perf_counter()
        work()
        return time.perf_counter() - began


def main() -> None:
    """Measure every way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dry-run", action="store_true", help="a tiny VAE on the CPU")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/results")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("not run: there is no GPU here; --dry-run shows on the CPU that it works")
    place = Place(torch.device("cpu" if options.dry_run else "cuda"), DRY if options.dry_run else FULL)
    report = {"command": "python -m bench.decoding_on_gpu", "machine": machine(), "rows": rows(place, options.repeats)}
    tell(report, "decoding_on_gpu" if options.write else None)


@torch.inference_mode()
def rows(place: Place, repeats: int) -> dict[str, Any]:
    """Each way with its peak, then all of those that fit in turns for their seconds."""
    torch.manual_seed(0)
    with place.device:
        vae = AutoencoderKLHunyuanVideo(**({} if place.size == FULL else TINY)).eval().requires_grad_(False)
    vae.to(torch.float16 if place.device.type == "cuda" else torch.float32)
    ways, found = _ways(vae, place), dict[str, dict[str, Any]]()
    for name, (decoder, work) in ways.items():
        try:
            found[name] = {**place.peak(work), "planned_gb": _planned(decoder, place)}
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            found[name] = {"out_of_memory": str(error).splitlines()[0], "planned_gb": _planned(decoder, place)}
    seconds: dict[str, list[float]] = {name: [] for name, row in found.items() if "out_of_memory" not in row}
    for _ in range(repeats):
        for name, taken in seconds.items():
            taken.append(place.seconds(ways[name][1]))
    return {name: {**row, **_median(seconds.get(name, []))} for name, row in found.items()}


def _ways(vae: AutoencoderKLHunyuanVideo, place: Place) -> dict[str, tuple[Decoder, Callable[[], object]]]:
    found: dict[str, tuple[Decoder, Callable[[], object]]] = {}
    for decoding, lengths in DECODED.items():
        for decoder in decoders(decoding).values():  # type: ignore[arg-type]
            for length in lengths if decoder.uses_device else ():
                latents = place.latents(length)
                found[f"{decoding}, {decoder.name}, {length} latent frames"] = decoder, _work(vae, decoder, latents)
    return found


def _work(vae: AutoencoderKLHunyuanVideo, decoder: Decoder, latents: Tensor) -> Callable[[], object]:
    if isinstance(decoder, Reference):
        return lambda: decode_clip(vae, latents, decoder.tile)
    if isinstance(decoder, Chunked):
        return lambda: decode_in_chunks(vae, latents, decoder.chunk, decoder.tile)
    raise TypeError(f"{decoder.name} is measured by nothing here")


def _planned(decoder: Decoder, place: Place) -> float:
    return round(decoder.device_bytes(FULL_SIZE, Workload.of(*place.size)) / 1e9, 2)


def _median(seconds: list[float]) -> dict[str, float]:
    return {"seconds": round(statistics.median(seconds), 3)} if seconds else {}


if __name__ == "__main__":
    main()
