"""What is learnt of one example against a direct computation in float64, for every kind of set; and what it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusers_helper.conditioning.prompt import PromptEmbedding
from diffusers_helper.errors import InvalidRequest
from diffusers_helper.media.video import write_segment
from diffusers_helper.models.transformer import FramePackTransformer
from diffusers_helper.section_denoiser import Conditioning
from diffusers_helper.sections.kinds import OneFrame
from diffusers_helper.sections.modes import Mode
from diffusers_helper.training.dataset import DataSet, Entry
from diffusers_helper.training.examples import Example, examples_of
from diffusers_helper.training.network import Network, NetworkOptions
from diffusers_helper.training.noise import NoiseLevels
from diffusers_helper.training.step import loss_of
from diffusers_helper.vae.codec import LatentPosterior

from ..parity import pack
from ..parity.engine import PackCheckpoint
from ..test_one_frame import CELLS, HEIGHT, WIDTH, StandIn, asked, given

WINDOW = 2
FRAMES = 4 * WINDOW


class Teacher(StandIn):
    """Encodes by shades, videos too: a latent frame is the shade of the first video frame that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.checkpoint = PackCheckpoint("parity", "parity", ("one_frame", "f1", "framepack"), {}, ((HEIGHT, WIDTH),))

    def encode(self, request: Any, pictures: Any) -> Conditioning:
        found = super().encode(request, pictures)
        width = pack.transformer().config
        tokens = torch.linspace(-1, 1, 3 * width.text_embed_dim).view(1, 3, -1)
        prompt = PromptEmbedding(tokens, torch.ones(1, width.pooled_projection_dim), 0)
        seen = [
            type(each)(torch.full((1, 2, width.image_proj_dim), float(each.tokens.mean()) / 255), each.latent)
            for each in found.pictures
        ]
        return Conditioning((prompt,), None, tuple(seen))

    def encode_video(self, frames: np.ndarray) -> LatentPosterior:
        shades = torch.tensor([float(frame.mean()) / 255 for frame in frames[::4]])
        mean = shades.view(1, 1, -1, 1, 1).expand(1, 16, len(shades), *CELLS).contiguous()
        return LatentPosterior(mean, torch.zeros(1))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("learnt")
    for name, shade in (("start", 40), ("a", 80), ("b", 120), ("c", 160), ("answer", 200)):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), shade, np.uint8)).save(folder / f"{name}.png")
    frames = np.repeat(np.arange(3 * FRAMES + 3, dtype=np.uint8)[:, None, None, None] * 9, 3, axis=3)
    write_segment(folder / "video.mp4", np.broadcast_to(frames, (len(frames), HEIGHT, WIDTH, 3)), 30, 0)
    return {file.stem: file for file in folder.iterdir()}


def examples(files: dict[str, Path], kind: str) -> list[Example]:
    if kind == "one_frame":
        data_set = DataSet(image_directory="-", fp_1f_clean_indices=(0, 10), fp_1f_target_index=1, fp_1f_no_post=True)
        return examples_of(Entry(files["answer"], "x", (files["a"], files["b"])), data_set, Teacher(), "f1")
    data_set = DataSet(video_directory="-", fp_latent_window_size=WINDOW)
    return examples_of(Entry(files["video"], "x"), data_set, Teacher(), kind)


def shades(latents: Tensor) -> list[float]:
    """Of each latent frame, counted in video frames of the video of ``files``."""
    return [round(float(each) * 255 / 9, 1) for each in latents[0, 0, :, 0, 0]]


def test_a_single_frame_is_given_what_the_road_gives(files: dict[str, Path], tmp_path: Path) -> None:
    (example,) = examples(files, "one_frame")
    kind = OneFrame(target_index=1, control_index="0;10", post=False)
    road, _ = given(asked(files, Mode(kind)), tmp_path)
    for name, tensor in example.inputs().items():
        if name.startswith(("latents", "indices")):
            assert torch.equal(tensor, road[name]), name
    assert {name for name in road if name.startswith(("latents", "indices"))} <= example.inputs().keys()
    assert example.target.shape == (1, 16, 1, *CELLS)
    assert float(example.target[0, 0, 0, 0, 0]) == pytest.approx(200 / 255)


def test_a_picture_alone_is_made_of_black(files: dict[str, Path]) -> None:
    """All latents around it are zeros; a checkpoint that makes no single pictures learns it too."""
    teacher = Teacher()
    teacher.checkpoint = replace(teacher.checkpoint, kinds=("f1",))
    (example,) = examples_of(Entry(files["answer"], "x"), DataSet(image_directory="-"), teacher, "f1")
    inputs = example.inputs()
    assert [name for name, each in inputs.items() if name.startswith("latents") and bool(each.any())] == []
    assert float(inputs["image_embeds"].abs().max()) == 0, "the shade that the image encoder sees"
    assert float(example.target.mean()) == pytest.approx(200 / 255)
    assert example.target.shape == (1, 16, 1, *CELLS)


def test_sections_of_a_video_see_what_they_would_see(files: dict[str, Path]) -> None:
    """f1 what came before and framepack what comes after; the frames that are no whole section are left."""
    f1, framepack = examples(files, "f1"), examples(files, "framepack")
    steps = [4.0, 8.0, 12.0, 16.0, 20.0, 24.0]
    assert [shades(each.target) for each in f1] == [pytest.approx(steps[n : n + 2], abs=0.4) for n in (0, 2, 4)]
    assert [shades(each.target) for each in framepack] == [pytest.approx(steps[n : n + 2], abs=0.4) for n in (4, 2, 0)]
    last = f1[-1].inputs()
    assert shades(last["latents_clean"])[-1] == pytest.approx(16, abs=0.4), "the newest before it"
    first = framepack[-1].inputs()
    assert shades(first["latents_clean"])[1] == pytest.approx(12, abs=0.4), "the nearest after it"
    assert not framepack[0].inputs()["latents_history_2x"].any(), "nothing comes after the end"


def test_a_video_that_is_too_short_is_named(files: dict[str, Path]) -> None:
    with pytest.raises(InvalidRequest, match=r"video\.mp4: 27 frames are too few for a section, which takes 37"):
        examples_of(Entry(files["video"], "x"), DataSet(video_directory="-"), Teacher(), "f1")


def doubled(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.double() if each.is_floating_point() else each for name, each in values.items()}


def direct(model: FramePackTransformer, example: Example, noise: Tensor, sigma: float) -> Tensor:
    """The same written down once more: velocity from latents to noise, squared error, mean."""
    target = example.target.double()
    x = (1 - sigma) * target + sigma * noise.double()
    level = torch.tensor([sigma * 1000], dtype=torch.float64)
    made = model(
        hidden_states=x,
        timestep=level,
        guidance=torch.tensor([6000.0], dtype=torch.float64),
        **doubled(example.inputs()),
    )
    return ((made - (noise.double() - target)) ** 2).mean()


@pytest.mark.parametrize("kind", ["one_frame", "f1", "framepack"])
def test_a_step_equals_a_direct_computation_in_float64(kind: str, files: dict[str, Path]) -> None:
    example = examples(files, kind)[-1]
    noise = torch.randn(example.target.shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for dtype in (torch.float32, torch.float64):
        model = FramePackTransformer.from_pretrained(pack.PACK / "model").to(dtype)
        network = Network(model, NetworkOptions(rank=2, alpha=2.0))
        for number, parameter in enumerate(network.parameters().values()):
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.05
            parameter.data = drawn.to(dtype)
        if dtype is torch.float32:
            loss = loss_of(model, example, noise, torch.tensor([0.6]), NoiseLevels(), guidance=6.0)
        else:
            loss = direct(model, example, noise, 0.6)
        loss.backward()
        found[dtype] = loss, {name: parameter.grad for name, parameter in network.parameters().items()}
    (loss, gradients), (exact, exact_gradients) = found[torch.float32], found[torch.float64]
    assert abs(float(loss) - float(exact)) <= 1e-6 * float(exact)
    for name, gradient in gradients.items():
        expected = exact_gradients[name]
        assert gradient is not None
        assert expected is not None
        error = (gradient.double() - expected).norm() / expected.norm().clamp(min=1e-12)
        assert error <= 1e-5, (name, float(error))
