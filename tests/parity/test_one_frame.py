"""The pack's one-frame cases through the road: a kind that differs by its plan alone, and makes a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from diffusers_helper.caches.step_cache import Measured
from diffusers_helper.conditioning.prompt import PromptEmbedding
from diffusers_helper.engine import Conditioning, EncodedPicture, section_denoiser
from diffusers_helper.events import Finished, Plan, SectionDone, Step
from diffusers_helper.generate import generate
from diffusers_helper.models.load import Compute
from diffusers_helper.request import Request
from diffusers_helper.sections.context import ContextFrame, ContextPlan, Source
from diffusers_helper.sections.history import gather_context
from diffusers_helper.sections.plan import SectionPlan
from diffusers_helper.vae.codec import LatentPosterior
from tests.parity import pack
from tests.parity.engine import PackCheckpoint, PackEngine

NAME = "run_oneframe"
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "with_zero_history": ({}, (0,)),
    "single_clean": ({"target_index": 1, "post": False, "history_2x": False, "history_4x": False}, (0,)),
    "no_2x_4x": ({"post": False, "history_2x": False, "history_4x": False}, (0, 10)),
}
"""What each recorded layout is as a request: the kind's parameters, and the time indices of its control pictures."""


class OneFrameEngine(PackEngine):
    """One recorded case; its clean latents are the request's pictures."""

    def __init__(self, case: str) -> None:
        values = pack.tensors(NAME)
        self._values, self._clean = values, values[f"{case}.layout.clean_latents"]
        height, width = (8 * cells for cells in self._clean.shape[3:])
        self.checkpoint = PackCheckpoint("parity", "parity", ("one_frame",), {}, ((height, width),))
        self.fingerprint, self.decoded, self.contexts = "parity", [], []

    def encode(self, request: Request, pictures: Any) -> Conditioning:
        tokens, valid = self._values["image_embeddings"], self._values["encoder_attention_mask"].bool()
        prompt = self._values["encoder_hidden_states"][:, valid[0]]
        encoded = []
        for n in range(len(pictures)):
            latent = self._clean[:, :, n : n + 1]
            encoded.append(EncodedPicture(tokens, LatentPosterior(latent, torch.zeros_like(latent))))
        prompts = (PromptEmbedding(prompt, self._values["pooled_projections"], 0),)
        return Conditioning(prompts, None, tuple(encoded))


@pytest.mark.parametrize("case", CASES)
def test_a_picture_is_made_as_the_original_makes_it(case: str, tmp_path: Path) -> None:
    parameters, indices = CASES[case]
    Image.new("RGB", (80, 48)).save(tmp_path / "a.png")
    pictures = [{"role": "control", "path": str(tmp_path / "a.png")} for _ in indices]
    kind = {"name": "one_frame", **parameters, "control_index": ";".join(map(str, indices))}
    data = {"kind": kind, "step_cache": None, "pictures": pictures}
    request = Request.from_data(
        {"schema_version": 4, **data, "seed": int(pack.metadata(NAME)["noise_seed"]), "steps": 8}
    )
    latents, engine = tmp_path / "latents.safetensors", OneFrameEngine(case)
    events = list(generate(request, engine, tmp_path / "outputs", latents_result=latents))
    assert isinstance(events[-1], Finished), events[-1]
    result = pack.tensors(NAME)[f"{case}.result"]
    pack.assert_close(load_file(latents)["latents"], result, pack.trajectory_tolerance(8))
    assert_layout(engine, case)
    assert_one_picture(events, Path(events[-1].path or ""))


def assert_layout(engine: PackEngine, case: str) -> None:
    (context,), layout = engine.contexts, pack.group(pack.tensors(NAME), f"{case}.layout")
    recorded = pack.context_inputs(layout)
    assert context.target_index.tolist() == recorded["indices_latents"].tolist()
    for mine, name in ((context.index, "clean"), (context.index_2x, "history_2x"), (context.index_4x, "history_4x")):
        expected = recorded.get(f"indices_latents_{name}")
        assert (None if mine is None else mine.tolist()) == (None if expected is None else expected.tolist())


def assert_one_picture(events: list[Any], path: Path) -> None:
    """One section, one frame, and a PNG that tells its recipe; no work folder is left."""
    assert [event.frames for event in events if isinstance(event, (SectionDone, Plan))] == [1, 1]
    assert sum(isinstance(event, Step) for event in events) == 8
    assert path.suffix == ".png"
    with Image.open(path) as image:
        assert image.size == (10, 6)  # the stand-in decoder makes a pixel of each latent cell
        assert '"one_frame"' in image.info["Comment"]
        assert np.asarray(image).std() > 0
    assert [file.name for file in path.parent.iterdir() if file.is_dir()] == []


FORWARD = "forward_oneframe"


def as_plan(inputs: dict[str, Tensor]) -> tuple[ContextPlan, Tensor, tuple[Tensor, ...]]:
    """A recorded layout as a plan, its history and its pictures: the clean frames are the pictures, the others the
    history. A level that was not given has no tokens."""
    clean = inputs.get("latents_clean")
    pictures = () if clean is None else tuple(clean[:, :, n : n + 1] for n in range(clean.shape[2]))
    levels: dict[str, tuple[ContextFrame, ...] | None] = {}
    history = inputs["hidden_states"][:, :, :0]
    for level in ("2x", "4x"):
        latents = inputs.get(f"latents_history_{level}")
        begin, levels[level] = history.shape[2], None
        if latents is not None:
            indices = inputs[f"indices_latents_history_{level}"].tolist()
            levels[level] = tuple(ContextFrame(index, Source.AFTER, begin + n) for n, index in enumerate(indices))
            history = torch.cat([history, latents], dim=2)
    stand = inputs["indices_latents_clean"].tolist() if pictures else []
    frames = tuple(ContextFrame(index, Source.PICTURE, n) for n, index in enumerate(stand))
    target = tuple(inputs["indices_latents"].tolist())
    return ContextPlan(target, frames or None, levels["2x"], levels["4x"]), history, pictures


@pytest.mark.parametrize("case", pack.cases(FORWARD))
@torch.inference_mode()
def test_every_recorded_layout_through_plan_context_and_denoiser(case: str) -> None:
    """Absent levels, no context at all, and 2x and 4x of lengths that no kernel divides."""
    values = {**pack.tensors(FORWARD), **pack.group(pack.tensors(FORWARD), case)}
    plan, history, pictures = as_plan({**pack.context_inputs(values), "hidden_states": values["hidden_states"]})
    context = gather_context(plan, history, pictures)
    valid = values["encoder_attention_mask"][0].bool()
    prompt = PromptEmbedding(values["encoder_hidden_states"][:, valid], values["pooled_projections"], 0)
    latent = torch.zeros(1, 16, 1, 2, 2)
    seen = EncodedPicture(values["image_embeddings"], LatentPosterior(latent, latent))
    guidance, sigma = values["guidance"].item() / 1000, values["timestep"].squeeze() / 1000
    request = Request.parse({"picture": "-", "step_cache": "off", "distilled_guidance": guidance})
    denoiser = section_denoiser(
        pack.transformer(),
        Compute(torch.device("cpu"), *[torch.float32] * 3, "the pack is float32"),
        request,
        Conditioning((prompt,), None, (seen,)),
        SectionPlan(0, plan, latents_after=1, decode_frames=1, frames_after=1),
        context,
        sigma[None],
        Measured(),
    )
    x = values["hidden_states"]
    pack.assert_near((x - denoiser(x, sigma)) / sigma, values["output"])
    assert [context.latents is None, context.latents_2x is None, context.latents_4x is None] == [
        f"{case}.{name}" not in pack.tensors(FORWARD)
        for name in ("clean_latents", "clean_latents_2x", "clean_latents_4x")
    ]
