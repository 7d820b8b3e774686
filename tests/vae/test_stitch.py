"""The growing video equals the original's: blending all clips while keeping every frame."""

import pytest
import torch
from torch import Tensor

from diffusers_helper.limits import DecodingName
from diffusers_helper.vae.stitch import Stitcher, soft_append
from tests.plans import plan_video


def clips(
    kind: str, seconds: float, window: int, decoding: DecodingName = "lean"
) -> tuple[list[Tensor], bool, int, int | None]:
    plan = plan_video(kind, seconds, window, decoding)
    generator = torch.Generator().manual_seed(0)
    made = [torch.rand((1, 3, 4 * s.decode_frames - 3, 2, 2), generator=generator) for s in plan.sections]
    return made, plan.grows_at_front, plan.overlap_frames, plan.fade_frames


@pytest.mark.parametrize("decoding", ["lean", "quality", "reference"])
@pytest.mark.parametrize("kind", ["framepack", "f1"])
@pytest.mark.parametrize(("seconds", "window"), [(1, 9), (2.4, 9), (6, 9), (2, 1), (3, 4)])
def test_final_frames_are_those_of_the_whole_video(
    kind: str, seconds: float, window: int, decoding: DecodingName
) -> None:
    made, at_front, overlap, fade = clips(kind, seconds, window, decoding)
    whole = made[0]
    for clip in made[1:]:
        whole = soft_append(clip, whole, overlap, fade) if at_front else soft_append(whole, clip, overlap, fade)
    stitcher = Stitcher(overlap, at_front, fade)
    final = [stitcher.add(clip, is_last=clip is made[-1]) for clip in made]
    assert stitcher.tail is None
    assert torch.equal(torch.cat(final[::-1] if at_front else final, dim=2), whole)


@pytest.mark.parametrize("kind", ["framepack", "f1"])
def test_after_a_break_the_last_clip_alone_gives_the_same_tail(kind: str) -> None:
    made, at_front, overlap, fade = clips(kind, 6, 9)
    unbroken, again = Stitcher(overlap, at_front, fade), Stitcher(overlap, at_front, fade)
    for clip in made[:3]:
        unbroken.add(clip, is_last=False)
    again.add(made[2], is_last=False)
    assert again.tail is not None
    assert unbroken.tail is not None
    assert torch.equal(again.tail, unbroken.tail)
    assert torch.equal(again.add(made[3], is_last=False), unbroken.add(made[3], is_last=False))


def test_a_fade_begins_where_the_first_clip_has_few_frames_left() -> None:
    first, second = torch.ones(1, 1, 9, 1, 1), torch.zeros(1, 1, 12, 1, 1)
    joined = soft_append(first, second, 7, fade=3).flatten()
    assert torch.allclose(joined, torch.tensor([1.0] * 6 + [0.75, 0.5, 0.25] + [0.0] * 5))


def test_clips_shorter_than_the_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot overlap by 5"):
        soft_append(torch.zeros(1, 3, 4, 2, 2), torch.zeros(1, 3, 9, 2, 2), 5)
