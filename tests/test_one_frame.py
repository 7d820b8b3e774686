"""One picture, control by control: what each changes of what the transformer is given, and nothing else.

The engine is a stand-in: a picture's latent and tokens are its mean, and the transformer keeps what it was called with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusers_helper.caches.step_cache import Measured
from diffusers_helper.conditioning.picture import latent_mask
from diffusers_helper.conditioning.prompt import PromptEmbedding
from diffusers_helper.errors import CancelRequested, InvalidRequest, UnusablePicture
from diffusers_helper.events import Cancelled, Finished, Notice, Plan
from diffusers_helper.generate import generate, resume
from diffusers_helper.media.fit import resize_and_crop
from diffusers_helper.models.load import Compute
from diffusers_helper.preparation import fit_pictures
from diffusers_helper.request import Request
from diffusers_helper.request.fields import fields
from diffusers_helper.request.recipe import Recipe
from diffusers_helper.section_denoiser import Conditioning, EncodedPicture, SectionDenoiser, section_denoiser
from diffusers_helper.sections.history import Context
from diffusers_helper.sections.kinds import OneFrame
from diffusers_helper.sections.modes import MODES, Mode
from diffusers_helper.sections.plan import SectionPlan
from diffusers_helper.vae.codec import LatentPosterior

from .parity.engine import PackCheckpoint, PackEngine

HEIGHT, WIDTH = 48, 80
CELLS = HEIGHT // 8, WIDTH // 8
SHADES = {"start": 40, "a": 80, "b": 120, "c": 160}
CPU = Compute(torch.device("cpu"), *[torch.float32] * 3, "as the stand-in")


class Spy:
    """A transformer that keeps what it is given."""

    modulation = None

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    def __call__(self, **inputs: Any) -> Tensor:
        self.given.append(inputs)
        return torch.zeros_like(inputs["hidden_states"])


class StandIn(PackEngine):
    """Encodes by shades, and counts how often each picture is encoded."""

    def __init__(self) -> None:
        self.checkpoint = PackCheckpoint("parity", "parity", ("one_frame",), {}, ((HEIGHT, WIDTH),))
        self.fingerprint, self.decoded, self.spy = "parity", [], Spy()

    def encode(self, request: Request, pictures: Sequence[np.ndarray]) -> Conditioning:
        means = [float(picture.mean()) for picture in pictures]
        encoded = [
            EncodedPicture(
                torch.full((1, 2, 4), mean), LatentPosterior(torch.full((1, 16, 1, *CELLS), mean), torch.zeros(1))
            )
            for mean in means
        ]
        prompts = tuple(PromptEmbedding(torch.ones(1, 3, 4), torch.ones(1, 4), 0) for _ in request.prompts)
        negative = PromptEmbedding(torch.zeros(1, 3, 4), torch.zeros(1, 4), 0) if request.real_cfg > 1 else None
        return Conditioning(prompts, negative, tuple(encoded))

    def denoiser(
        self, request: Request, conditioning: Conditioning, section: SectionPlan, context: Context, sigmas: Tensor
    ) -> SectionDenoiser:
        spy: Any = self.spy
        return section_denoiser(spy, CPU, request, conditioning, section, context, sigmas, Measured())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Flat pictures, and masks: the left half, none, all, soft."""
    folder = tmp_path_factory.mktemp("files")
    made = {name: np.full((HEIGHT, WIDTH, 3), shade, np.uint8) for name, shade in SHADES.items()}
    left = np.zeros((HEIGHT, WIDTH), np.uint8)
    left[:, : WIDTH // 2] = 255
    soft = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    masks = {
        "left": left,
        "none": left * 0,
        "all": left * 0 + 255,
        "soft": soft,
        "tall": np.full((90, 48), 255, np.uint8),
    }
    for name, pixels in {**made, **masks}.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    cut = np.dstack([made["b"], left])
    Image.fromarray(cut).save(folder / "cut.png")
    return {file.stem: file for file in folder.iterdir()}


def asked(files: Mapping[str, Path], mode: Mode, **flat: Any) -> Request:
    """A mode's request with as many pictures as it has places, two steps, unless ``flat`` says otherwise."""
    names = "abc"[: len(mode.kind.control_indices)]
    pictures = [{"role": "control", "path": str(files[name])} for name in names]
    common = {**mode.flat(), "kind": "one_frame", "step_cache": "off", "steps": 2, "seed": 3, "pictures": pictures}
    return Request.parse({**common, **flat})


def given(request: Request, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What the transformer is given at the first step, and what is told."""
    engine = StandIn()
    events = list(generate(request, engine, folder))
    assert isinstance(events[-1], Finished), events[-1]
    first = {name: value for name, value in engine.spy.given[0].items() if value is not None}
    return first, [event.message for event in events if isinstance(event, Notice)]


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """The inputs that are not the same; one that is absent from one of them is."""

    def same(name: str) -> bool:
        one, other = before.get(name), after.get(name)
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            return one.shape == other.shape and torch.equal(one, other)
        return type(one) is type(other) and (one is other or one == other)

    return {name for name in before.keys() | after.keys() if not same(name)}


CLEAN, INDEX = "latents_clean", "indices_latents_clean"
LEVEL_2X = {"latents_history_2x", "indices_latents_history_2x"}
LEVEL_4X = {"latents_history_4x", "indices_latents_history_4x"}
CONTROLS: dict[str, tuple[Any, set[str]]] = {
    "one_frame_target_index": (7, {"indices_latents"}),
    "one_frame_control_index": ("0;20;21", {INDEX}),
    "one_frame_post": (None, {CLEAN, INDEX}),
    "one_frame_history_2x": (None, LEVEL_2X),
    "one_frame_history_4x": (None, LEVEL_4X),
    "one_frame_embedding": ("control_2", {"image_embeds"}),
    "distilled_guidance": (6.0, {"guidance"}),
    "seed": (4, {"hidden_states"}),
}
"""Control -> another value, None for the other of a switch, and the inputs that it changes."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_changes_what_it_is_for_and_nothing_else(
    mode: str, control: str, files: dict[str, Path], tmp_path: Path
) -> None:
    value, expected = CONTROLS[control]
    layout = MODES[mode]
    places = len(layout.kind.control_indices)
    if control == "one_frame_embedding" and places < 2:
        value = "mean"
        expected = set()  # of one picture the mean is itself
    if control == "one_frame_control_index":
        value = ";".join(value.split(";")[:places]) if places > 1 else "2"
    flat = {control: not layout.flat()[control] if value is None else value}
    before, _ = given(asked(files, layout), tmp_path)
    after, _ = given(asked(files, layout, **flat), tmp_path)
    assert changed(before, after) == expected


def test_every_parameter_of_the_kind_is_in_the_table() -> None:
    assert {name for name, field in fields(Recipe).items() if field.option is OneFrame} <= set(CONTROLS)


@pytest.mark.parametrize("mode", MODES)
def test_the_latent_window_moves_what_lies_behind_it(mode: str, files: dict[str, Path], tmp_path: Path) -> None:
    """Post, 2x and 4x by as much; where there are none it changes nothing, so a RoPE batch is refused there."""
    kind = MODES[mode].kind
    before, _ = given(asked(files, MODES[mode]), tmp_path)
    after, told = given(asked(files, MODES[mode], latent_window=12), tmp_path)
    levels = {
        INDEX: kind.post,
        "indices_latents_history_2x": kind.history_2x,
        "indices_latents_history_4x": kind.history_4x,
    }
    assert changed(before, after) == {name for name, is_there in levels.items() if is_there}
    if kind.post:
        assert (after[INDEX] - before[INDEX]).tolist() == [0] * len(kind.control_indices) + [3]
    assert any("12" in line for line in told)


def test_absent_is_not_zero(files: dict[str, Path], tmp_path: Path) -> None:
    zero, _ = given(asked(files, MODES["one_frame"]), tmp_path)
    absent, _ = given(asked(files, MODES["kisekaeichi"]), tmp_path)
    assert zero["latents_history_2x"].shape[2] == 2
    assert not zero["latents_history_2x"].any()
    assert not zero[CLEAN][:, :, -1].any(), "post"
    assert not (LEVEL_2X | LEVEL_4X) & absent.keys()


@pytest.mark.parametrize(
    ("embedding", "shade"), [("start", 40), ("control_1", 80), ("control_2", 120), ("mean", (40 + 80 + 120) / 3)]
)
def test_the_image_encoder_sees_what_is_chosen(
    embedding: str, shade: float, files: dict[str, Path], tmp_path: Path
) -> None:
    """With a start picture that stands nowhere in time."""
    pictures = [{"role": "start", "path": str(files["start"])}]
    pictures += [{"role": "control", "path": str(files[name])} for name in "ab"]
    request = asked(files, MODES["kisekaeichi"], pictures=pictures, one_frame_embedding=embedding)
    found, _ = given(request, tmp_path)
    assert torch.allclose(found["image_embeds"], torch.tensor(float(shade)))
    assert [found[CLEAN][0, 0, n, 0, 0].item() for n in range(2)] == [80, 120]


def masked(files: Mapping[str, Path], *masks: str | None) -> list[dict[str, str]]:
    """Pictures a, b, ... with masks."""
    return [
        {"role": "control", "path": str(files[name]), **({"mask": str(files[mask])} if mask else {})}
        for name, mask in zip("abc", masks, strict=False)
    ]


@pytest.mark.parametrize("place", [0, 1])
def test_a_mask_acts_once_on_the_latent_of_its_picture(place: int, files: dict[str, Path], tmp_path: Path) -> None:
    """White is used and black is not; soft edges stay as soft, not squared."""
    before, _ = given(asked(files, MODES["kisekaeichi"]), tmp_path)
    for mask in ("left", "none", "soft", "all"):
        masks = [mask if n == place else None for n in range(2)]
        after, _ = given(asked(files, MODES["kisekaeichi"], pictures=masked(files, *masks)), tmp_path)
        assert changed(before, after) == (set() if mask == "all" else {CLEAN})
        weights = latent_mask(np.array(Image.open(files[mask])), *CELLS)
        assert torch.equal(after[CLEAN][:, :, place], before[CLEAN][:, :, place] * weights[:, :, 0])
        assert torch.equal(after[CLEAN][:, :, 1 - place], before[CLEAN][:, :, 1 - place])
    assert set(latent_mask(np.array(Image.open(files["left"])), *CELLS).unique().tolist()) >= {0.0, 1.0}
    ramp = latent_mask(np.array(Image.open(files["soft"])), *CELLS)[0, 0, 0, 0]
    assert torch.allclose(ramp, torch.linspace(0.05, 0.95, CELLS[1]), atol=0.02)


def test_transparency_is_a_mask_and_a_file_goes_before_it(files: dict[str, Path], tmp_path: Path) -> None:
    cut = [{"role": "control", "path": str(files["a"])}, {"role": "control", "path": str(files["cut"])}]
    found, told = given(asked(files, MODES["kisekaeichi"], pictures=cut), tmp_path)
    assert found[CLEAN][0, 0, 1, 0].tolist()[-1] == 0
    assert found[CLEAN][0, 0, 1, 0].tolist()[0] > 0
    assert any("Picture 2 is transparent" in line for line in told)
    over = [cut[0], {**cut[1], "mask": str(files["all"])}]
    found, told = given(asked(files, MODES["kisekaeichi"], pictures=over), tmp_path)
    assert found[CLEAN][0, 0, 1].min() > 0
    assert not any("transparent" in line for line in told)


def test_a_mask_is_cut_as_its_picture_is(tmp_path: Path) -> None:
    """A tall picture with a disc, and a mask that is the disc: they stay one on the other, whatever is cut."""
    rows, columns = np.mgrid[0:300, 0:200]
    disc = (rows - 140) ** 2 + (columns - 110) ** 2 < 60**2
    Image.fromarray(np.where(disc, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    Image.fromarray(np.where(disc, 255, 0).astype(np.uint8)[::2, ::2]).save(tmp_path / "small.png")
    Image.fromarray(np.dstack([np.where(disc, 255, 0).astype(np.uint8)] * 3)).save(tmp_path / "disc.png")
    for name, apart in (("mask", 0), ("small", 12)):
        pictures = [{"role": "control", "path": str(tmp_path / "disc.png"), "mask": str(tmp_path / f"{name}.png")}]
        (fitted,) = fit_pictures(Request.parse({"kind": "one_frame", "pictures": pictures}), StandIn().checkpoint)
        assert fitted.mask is not None
        assert fitted.mask.shape == fitted.pixels.shape[:2] == (HEIGHT, WIDTH)
        assert np.abs(fitted.mask.astype(int) - fitted.pixels[..., 0]).mean() <= apart


@pytest.mark.parametrize(
    ("pictures", "error", "words"),
    [
        ([("a", "tall")], InvalidRequest, "the mask tall.png is 48x90, and its picture 80x48"),
        ([("a", "gone")], UnusablePicture, "gone.png"),
        ([("gone", None)], UnusablePicture, "gone.png"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused_before_anything(
    pictures: list[tuple[str, str | None]], error: type[Exception], words: str, files: dict[str, Path], tmp_path: Path
) -> None:
    def path(name: str) -> str:
        return str(files.get(name, tmp_path / f"{name}.png"))

    inputs = [
        {"role": "control", "path": path(name), **({"mask": path(mask)} if mask else {})} for name, mask in pictures
    ]
    with pytest.raises(error) as refused:
        list(generate(asked(files, MODES["one_frame"], pictures=inputs), StandIn(), tmp_path / "out"))
    assert words in str(refused.value)
    assert not list((tmp_path / "out").rglob("*.*"))


def test_what_may_surprise_is_told_before_anything_is_encoded(files: dict[str, Path], tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "teal").save(tmp_path / "other.png")
    pictures = masked(files, None, "none")
    pictures[0]["path"] = str(tmp_path / "other.png")
    engine = StandIn()
    events = generate(asked(files, MODES["kisekaeichi"], pictures=pictures), engine, tmp_path)
    told = []
    for event in events:
        if isinstance(event, Notice):
            told.append(event.message)
        if len(told) == 2:
            break
    events.close()
    assert told == [
        "The pictures have different sizes; all are brought to 80x48, cut around their middles.",
        "The mask of picture 2 has nothing white: nothing of that picture is used.",
    ]
    assert engine.spy.given == []


def test_f1_checkpoints_refuse_it_with_the_reason(files: dict[str, Path]) -> None:
    checkpoint = PackCheckpoint("framepack-f1", "f1", ("f1",), {}, ((HEIGHT, WIDTH),))
    with pytest.raises(InvalidRequest, match="F1 only knows to go on from what came before"):
        fit_pictures(asked(files, MODES["one_frame"]), checkpoint)


def test_a_picture_that_was_broken_off_goes_on_with_its_masks(files: dict[str, Path], tmp_path: Path) -> None:
    """The originals may be gone by then."""
    pictures = masked(files, "soft", "left")
    whole, _ = given(asked(files, MODES["kisekaeichi"], pictures=pictures), tmp_path)
    events = generate(asked(files, MODES["kisekaeichi"], pictures=pictures), StandIn(), tmp_path)
    for event in events:
        if isinstance(event, Plan):
            break
    ended = events.throw(CancelRequested())
    assert isinstance(ended, Cancelled)
    with suppress(StopIteration):
        next(events)
    engine = StandIn()
    assert isinstance(list(resume(Path(ended.folder), engine))[-1], Finished)
    assert changed(whole, {name: value for name, value in engine.spy.given[0].items() if value is not None}) == set()


def test_a_mask_that_fits_stays_as_it_is(files: dict[str, Path]) -> None:
    mask = np.array(Image.open(files["soft"]))
    assert resize_and_crop(mask, HEIGHT, WIDTH) is mask
