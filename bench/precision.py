"""What every way to run does to a video: frames of one section against those of the plain way.

    python -m bench.precision [--steps 12] [--write]

The pocket on the CPU, loaded and run by the engine as its memory plan says, the plan changed to what a small GPU would
get; the same prompt, picture and noise each time: PSNR of all frames. Beside it, the relative error of weights, the
pocket's and made-up ones. Rows of bitsandbytes are there where it is installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from skimage import data
from torch import Tensor, nn
from torch.distributions import Laplace, StudentT

from bench.machine import ROOT, machine, tell
from diffusers_helper.denoise.sample import sample
from diffusers_helper.denoise.schedule import flow_mu, flow_sigmas, token_count
from diffusers_helper.engine import Engine
from diffusers_helper.errors import FramePackError
from diffusers_helper.media.fit import choose_bucket, resize_and_crop
from diffusers_helper.memory.plan import MemoryPlan
from diffusers_helper.models.load import choose_compute, load_parts
from diffusers_helper.models.quantise import KINDS, quantisable
from diffusers_helper.models.table import WEIGHTS_PARTS, find_checkpoint
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.models.weights import constraints_of, weights_of, why_no_products
from diffusers_helper.planning import planner_for
from diffusers_helper.request import Request
from diffusers_helper.sections.history import gather_context
from diffusers_helper.settings import resolve
from diffusers_helper.vae.codec import to_frames

PROMPT, SEED, WINDOW = "the camera pans left", 7, 9
SPREADS: dict[str, Callable[[], Tensor]] = {
    "normal, 0.02": lambda: 0.02 * torch.randn(512, 3072),
    "normal, 0.005": lambda: 0.005 * torch.randn(512, 3072),
    "Laplace": lambda: Laplace(0.0, 0.014).sample((512, 3072)),
    "Student's t, 5": lambda: 0.015 * StudentT(5.0).sample((512, 3072)),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """How to run: settings, whether a table stands for the modulation, what the plan becomes, fallbacks that are taken.

    Attributes:
        stays: share of the transformer's blocks that stay while the others pass through; None: nothing is swapped.
    """

    settings: Mapping[str, Any] = field(default_factory=lambda: {"quantise": "off"})
    table: bool = True
    stays: float | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()


def quantised(name: str, **more: Any) -> dict[str, Any]:
    """Settings for weights in 8 or 4 bits."""
    return {"quantise": name, **more}


def ways() -> dict[str, Way]:
    """Everything that a CPU can run."""
    lent = {"take_turns": True}
    found = {
        "modulation table": Way(),
        "swapped, none stays": Way(table=False, stays=0.0),
        "swapped, half stays, with table": Way(stays=0.5),
        "swapped, all stay, parts take turns": Way(stays=1.0, plan=lent),
        "encoders on demand": Way(stays=0.0, fallbacks=("encode", "encode")),
        "fewer blocks after running out of memory": Way(stays=1.0, fallbacks=("sample", "sample", "sample")),
        "int8": Way(quantised("int8")),
        "int8, half stays": Way(quantised("int8"), stays=0.5),
        "int8, 8-bit products": Way(quantised("int8", quantised_matmul=True)),
        "fp8": Way(quantised("fp8")),
        "fp8, half stays": Way(quantised("fp8"), stays=0.5),
        "fp8, 8-bit products": Way(quantised("fp8", quantised_matmul=True)),
    }
    if find_spec("bitsandbytes"):
        found["bitsandbytes, 8 bits"] = Way(quantised("bnb8"))
        found["bitsandbytes, 4 bits"] = Way(quantised("bnb4"))
        found["bitsandbytes, 4 bits, parts take turns"] = Way(quantised("bnb4"), stays=1.0, plan=lent)
    return found


def as_on_a_gpu(plan: MemoryPlan, way: Way, transformer_bytes: int) -> MemoryPlan:
    """The plan, changed as ``way`` says; parts come and go where the transformer is swapped."""
    if way.stays is not None:
        held = int(way.stays * transformer_bytes)
        plan = replace(plan, residency=dict.fromkeys(WEIGHTS_PARTS, "swapped"), resident_bytes=held, decode="chunks_4")
    return replace(plan, **way.plan)


class Section:
    """One F1 section of a small checkpoint, ready to be made again and again."""

    def __init__(self, steps: int, models_dir: Path, checkpoint: str = "pocket") -> None:
        """``models_dir``: where quantised weights are kept."""
        self._compute, self._models_dir = choose_compute(), models_dir
        self._checkpoint = find_checkpoint(checkpoint, models_dir)
        self._request = Request.parse(
            {"picture": "-", "prompt": PROMPT, "steps": steps, "seed": SEED, "teacache": False}
        )
        pixels = data.astronaut()
        self._picture = resize_and_crop(pixels, *choose_bucket(*pixels.shape[:2], self._checkpoint.buckets))

    @cached_property
    def _transformer_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._checkpoint.folders["transformer"].glob("*.safetensors")) * 2

    def engine(self, way: Way) -> Engine:
        """The checkpoint, loaded as ``way`` says."""
        settings = resolve({**way.settings, "models_dir": str(self._models_dir)}, {}, self._models_dir / "none")
        constraints = replace(constraints_of(settings.weights, settings.memory), modulation_table=way.table)
        change = partial(as_on_a_gpu, way=way, transformer_bytes=self._transformer_bytes)
        planner = planner_for(self._checkpoint, self._compute, constraints, self._models_dir)
        plan_video, planner.plan = planner.for_workload, change(planner.plan)
        planner.for_workload = lambda *given: change(plan_video(*given))  # type: ignore[method-assign]
        no_products = why_no_products(planner.plan, self._compute, settings.weights, settings.kernels)
        weights = weights_of(self._checkpoint, self._compute, planner.plan, settings, no_products)
        parts = load_parts(self._checkpoint, self._compute, lambda *where: weights.load())
        return Engine(self._checkpoint, self._compute, parts, planner)

    def make(self, way: Way) -> tuple[Tensor, Tensor]:
        """Latents [1, C, T, H, W] and frames [F, height, width, 3] float64."""
        engine = self.engine(way)
        engine.prepare(self._request, *self._picture.shape[:2])
        for stage in way.fallbacks:
            engine.degradation.use_less(stage)  # type: ignore[arg-type]  # the stages' names
        conditioning = engine.encode(self._request, [self._picture])
        start = conditioning.pictures[0].latent.mean
        noise = torch.randn((*start.shape[:2], WINDOW, *start.shape[3:]), generator=torch.Generator().manual_seed(SEED))
        sigmas = flow_sigmas(self._request.steps, flow_mu(token_count(*noise.shape[2:])))
        section = self._request.plan().sections[0]
        context = gather_context(section.context, start, [start])
        made = engine.denoiser(self._request, conditioning, section, context, sigmas[:-1])
        with torch.inference_mode():
            *_, last = sample(made, noise, sigmas)
        clip = engine.decode(torch.cat([start, last.denoised], dim=2))
        engine.close()
        return last.denoised, torch.from_numpy(to_frames(clip)).double()


def psnr(frames: Tensor, plain: Tensor) -> float | None:
    """In dB; None for equal frames."""
    error = (frames - plain).square().mean()
    return round(float(10 * torch.log10(255**2 / error)), 2) if error else None


def videos(steps: int) -> Iterator[Row]:
    """Every way, and how far its frames are from the plain ones."""
    with TemporaryDirectory() as folder:
        section = Section(steps, Path(folder))
        plain, frames = section.make(Way(table=False))
        for name, way in ways().items():
            try:
                latents, made = section.make(way)
            except (RuntimeError, FramePackError) as error:
                yield {"way": name, "failed": str(error).partition("\n")[0]}
                continue
            yield {"way": name, "equal_latents": bool(torch.equal(latents, plain)), "psnr_db": psnr(made, frames)}


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
    tell(report, "precision" if options.write else None)


if __name__ == "__main__":
    main()
