"""Segments are encoded once; the joined file shows exactly their frames at an exact rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from diffusers_helper.errors import OutputFailed, UnusableInput
from diffusers_helper.media.video import (
    VideoInfo,
    join_segments,
    last_frame,
    middle_frame,
    probe,
    read_frames,
    write_segment,
)

from .conftest import Clip


def segments_of(folder: Path, lengths: list[int], clip: Clip, fps: int = 30) -> list[Path]:
    paths = [folder / f"{number}.mp4" for number in range(len(lengths))]
    for seed, (path, length) in enumerate(zip(paths, lengths, strict=True)):
        write_segment(path, clip(length, seed), fps, 16)
    return paths


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [2, 1, 3, 1], [33, 36], [36, 1, 33, 36]])
@pytest.mark.parametrize("fps", [30, 24])
def test_a_joined_video_is_exact(tmp_path: Path, moving_clip: Clip, lengths: list[int], fps: int) -> None:
    segments = segments_of(tmp_path, lengths, moving_clip, fps)
    target = tmp_path / "joined.mp4"
    join_segments(segments, target, "", fps)
    assert probe(target) == VideoInfo(sum(lengths), Fraction(fps), 64, 48, "h264")
    assert np.array_equal(read_frames(target), np.concatenate([read_frames(segment) for segment in segments]))
    with av.open(str(target)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
        assert times == [Fraction(number, fps) for number in range(sum(lengths))]
        assert container.duration == pytest.approx(sum(lengths) / fps * 1e6, abs=2)


def test_packets_are_copied_and_every_segment_starts_afresh(tmp_path: Path, moving_clip: Clip) -> None:
    segments = segments_of(tmp_path, [12, 9], moving_clip)
    join_segments(segments, tmp_path / "joined.mp4", "", 30)

    def packets(path: Path) -> list[tuple[bytes, bool]]:
        with av.open(str(path)) as container:
            return [(bytes(packet), packet.is_keyframe) for packet in container.demux(video=0) if packet.size]

    joined = packets(tmp_path / "joined.mp4")
    assert joined == packets(segments[0]) + packets(segments[1])
    assert joined[0][1]
    assert joined[12][1]
    with av.open(str(tmp_path / "joined.mp4")) as container:
        decoding = [packet.dts for packet in container.demux(video=0) if packet.size]
    assert np.unique(np.diff(decoding)).size == 1


def test_a_seek_lands_on_the_second_segment(tmp_path: Path, moving_clip: Clip) -> None:
    segments = segments_of(tmp_path, [12, 9], moving_clip)
    join_segments(segments, tmp_path / "joined.mp4", "", 30)
    with av.open(str(tmp_path / "joined.mp4")) as container:
        stream = container.streams.video[0]
        container.seek(round(Fraction(12, 30) / stream.time_base), stream=stream)
        frame = next(container.decode(stream))
    assert frame.time == pytest.approx(12 / 30)
    assert np.array_equal(frame.to_ndarray(format="rgb24"), read_frames(segments[1])[0])


def test_the_last_frame_is_the_last_one(tmp_path: Path, moving_clip: Clip) -> None:
    video = tmp_path / "video.mp4"
    join_segments(segments_of(tmp_path, [5, 32], moving_clip), video, "{}", 30)
    assert np.array_equal(last_frame(video), read_frames(video)[-1])


@pytest.mark.parametrize("lengths", [[5, 32], [4], [1]])
def test_the_middle_frame_is_half_way_through(tmp_path: Path, moving_clip: Clip, lengths: list[int]) -> None:
    video = tmp_path / "video.mp4"
    join_segments(segments_of(tmp_path, lengths, moving_clip), video, "{}", 30)
    about = read_frames(video)[max(sum(lengths) // 2 - 1, 0) :][:3]
    assert any(np.array_equal(middle_frame(video), frame) for frame in about)


def test_a_section_can_be_put_in_front_and_joined_again(tmp_path: Path, moving_clip: Clip) -> None:
    late, early = segments_of(tmp_path, [5, 7], moving_clip)
    join_segments([late], tmp_path / "joined.mp4", "", 30)
    join_segments([early, late], tmp_path / "joined.mp4", "", 30)
    assert probe(tmp_path / "joined.mp4").frames == 12


def test_colours_are_those_of_the_frames_and_said_so(tmp_path: Path) -> None:
    frames = np.empty((2, 32, 64, 3), np.uint8)
    frames[:, :, :32], frames[:, :, 32:] = (200, 40, 30), (20, 90, 220)
    write_segment(tmp_path / "a.mp4", frames, 30, 4)
    join_segments([tmp_path / "a.mp4"], tmp_path / "b.mp4", "", 30)
    shown = read_frames(tmp_path / "b.mp4").astype(int)
    assert np.abs(shown - frames)[:, :, [8, 24, 40, 56]].max() <= 4
    with av.open(str(tmp_path / "b.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        assert codec.pix_fmt == "yuv420p"


def test_the_same_frames_give_the_same_bytes(tmp_path: Path, moving_clip: Clip) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_segment(tmp_path / name, moving_clip(9, 0), 30, 16)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_comment_stands_before_the_pictures(tmp_path: Path, moving_clip: Clip) -> None:
    comment = '{"prompt": "שלום 🌊\\n' + "x" * 20_000 + '"}'
    join_segments(segments_of(tmp_path, [3], moving_clip), tmp_path / "a.mp4", comment, 30)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.metadata["comment"] == comment
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("crf", [0, 51, 100])
def test_the_whole_range_of_quality_is_accepted(tmp_path: Path, moving_clip: Clip, crf: int) -> None:
    write_segment(tmp_path / "a.mp4", moving_clip(2, 0), 30, crf)
    assert probe(tmp_path / "a.mp4").frames == 2


@pytest.mark.parametrize("shape", [(0, 32, 32, 3), (2, 31, 32, 3), (2, 32, 32, 4), (32, 32, 3)])
def test_frames_that_cannot_be_encoded_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        write_segment(tmp_path / "a.mp4", np.zeros(shape, np.uint8), 30, 16)
    assert not names(tmp_path)


def test_unlike_segments_are_refused(tmp_path: Path, moving_clip: Clip) -> None:
    first = segments_of(tmp_path, [3], moving_clip)[0]
    write_segment(tmp_path / "small.mp4", moving_clip(3, 0)[:, :32, :32], 30, 16)
    write_segment(tmp_path / "coarse.mp4", moving_clip(3, 0), 30, 30)
    write_segment(tmp_path / "slow.mp4", moving_clip(3, 0), 15, 16)
    for other in ("small.mp4", "coarse.mp4", "slow.mp4"):
        with pytest.raises(UnusableInput, match=other):
            join_segments([first, tmp_path / other], tmp_path / "joined.mp4", "", 30)
    with pytest.raises(ValueError, match="at least one"):
        join_segments([], tmp_path / "joined.mp4", "", 30)
    assert names(tmp_path) == ["0.mp4", "coarse.mp4", "slow.mp4", "small.mp4"]


def test_a_missing_or_damaged_segment_is_not_called_an_output_failure(tmp_path: Path, moving_clip: Clip) -> None:
    first, second = segments_of(tmp_path, [3, 9], moving_clip)
    for damage in (b"", second.read_bytes()[:400], b"<html>"):
        second.write_bytes(damage)
        with pytest.raises(UnusableInput, match=r"1\.mp4"):
            join_segments([first, second], tmp_path / "joined.mp4", "", 30)
    second.unlink()
    with pytest.raises(UnusableInput, match="No such file"):
        join_segments([first, second], tmp_path / "joined.mp4", "", 30)
    assert names(tmp_path) == ["0.mp4"]


def test_a_playlist_is_not_followed(tmp_path: Path, moving_clip: Clip) -> None:
    segments_of(tmp_path, [3], moving_clip)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path / '0.mp4'}\n")
    with pytest.raises(UnusableInput):
        probe(tmp_path / "list.mp4")


def test_a_full_disk_leaves_nothing_behind(small_disk: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    with pytest.raises(OutputFailed, match="the disk is full"):
        write_segment(small_disk / "a.mp4", noise.repeat(2, 0), 30, 4)
    write_segment(tmp_path / "a.mp4", noise.repeat(2, 0), 30, 4)
    with pytest.raises(OutputFailed, match="the disk is full"):
        join_segments([tmp_path / "a.mp4"], small_disk / "b.mp4", "", 30)
    assert not names(small_disk)


def test_a_folder_that_is_gone(tmp_path: Path, moving_clip: Clip) -> None:
    with pytest.raises(OutputFailed, match="folder does not exist"):
        write_segment(tmp_path / "gone" / "a.mp4", moving_clip(1, 0), 30, 16)


def test_a_failed_join_keeps_the_older_video(
    tmp_path: Path, moving_clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = segments_of(tmp_path, [3, 3], moving_clip)
    join_segments(segments[:1], tmp_path / "joined.mp4", "", 30)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputFailed, match="the disk is full"):
        join_segments(segments, tmp_path / "joined.mp4", "", 30)
    assert probe(tmp_path / "joined.mp4").frames == 3
    assert len(names(tmp_path)) == 3


def test_a_folder_name_with_a_colon_is_no_protocol(
    tmp_path: Path, moving_clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run:1").mkdir()
    monkeypatch.chdir(tmp_path)
    segment = Path("run:1") / "a b 🌊.mp4"
    write_segment(segment, moving_clip(2, 0), 30, 16)
    join_segments([segment], Path("run:1") / "all.mp4", "", 30)
    assert probe(Path("run:1") / "all.mp4").frames == 2


def test_the_same_frames_are_the_same_file(tmp_path: Path) -> None:
    """Noise and motion, many times: what the encoder decides must not depend on what lay in memory before."""
    generator = np.random.default_rng(0)
    ground = generator.integers(0, 256, (14, 22, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    clip = np.stack([np.roll(ground, 2 * number, axis=1) for number in range(48)])
    noisy = (clip.astype(int) + generator.integers(-6, 7, clip.shape)).clip(0, 255).astype(np.uint8)
    files = set()
    for _ in range(8):
        write_segment(tmp_path / "same.mp4", noisy, 30, 16)
        files.add((tmp_path / "same.mp4").read_bytes())
    assert len(files) == 1
