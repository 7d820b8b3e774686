"""The growing video equals the original's: blending all clips while keeping every frame."""

import pytest
import torch
from torch import Tensor

from diffusers_helper.vae.stitch import Stitcher, soft_append
from tests.plans import plan_video


def clips(kind: str, seconds: float, window: int) -> tuple[list[Tensor], bool, int]:
    plan = plan_video(kind, seconds, window)
    generator = torch.Generator().manual_seed(0)
    made = [torch.rand((1, 3, 4 * s.decode_frames - 3, 2, 2), generator=generator) for s in plan.sections]
    return made, plan.grows_at_front, plan.overlap_frames


@pytest.mark.parametrize("kind", ["framepack", "f1"])
@pytest.mark.parametrize(("seconds", "window"), [(1, 9), (2.4, 9), (6, 9), (2, 1), (3, 4)])
def test_final_frames_are_those_of_the_whole_video(kind: str, seconds: float, window: int) -> None:
    made, at_front, overlap = clips(kind, seconds, window)
    whole = made[0]
    for clip in made[1:]:
        whole = soft_append(clip, whole, overlap) if at_front else soft_append(whole, clip, overlap)
    stitcher = Stitcher(overlap, at_front)
    final = [stitcher.add(clip, is_last=clip is made[-1]) for clip in made]
    assert stitcher.tail is None
    assert torch.equal(torch.cat(final[::-1] if at_front else final, dim=2), whole)


@pytest.mark.parametrize("kind", ["framepack", "f1"])
def test_after_a_break_the_last_clip_alone_gives_the_same_tail(kind: str) -> None:
    made, at_front, overlap = clips(kind, 6, 9)
    unbroken, again = Stitcher(overlap, at_front), Stitcher(overlap, at_front)
    for clip in made[:3]:
        unbroken.add(clip, is_last=False)
    again.add(made[2], is_last=False)
    assert again.tail is not None
    assert unbroken.tail is not None
    assert torch.equal(again.tail, unbroken.tail)
    assert torch.equal(again.add(made[3], is_last=False), unbroken.add(made[3], is_last=False))


def test_clips_shorter_than_the_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot overlap by 5"):
        soft_append(torch.zeros(1, 3, 4, 2, 2), torch.zeros(1, 3, 9, 2, 2), 5)
