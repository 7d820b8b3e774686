"""Data sets: folders, musubi's TOML and lists; what is missing is named by its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffusers_helper.errors import InvalidRequest
from diffusers_helper.training.dataset import Config, DataSet, Entry, of_folder, read_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures with captions, control pictures of each, a video; files are empty, since nothing opens them."""
    for name in ("img/a.png", "img/b.JPG", "img/notes.md", "ctl/a.png", "ctl/b_0.png", "ctl/b_1.png", "vid/v.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name, caption in (("img/a.txt", "\ufeffone\n"), ("img/b.txt", ""), ("vid/v.txt", "a move")):
        (tmp_path / name).write_text(caption, encoding="utf-8")
    return tmp_path


def config(folder: Path, text: str) -> Config:
    (folder / "c.toml").write_text(text, encoding="utf-8")
    return read_config(folder / "c.toml")


def entries(folder: Path, text: str) -> list[Entry]:
    (data_set,) = config(folder, text).data_sets
    return data_set.entries(folder)


def test_a_folder_is_a_data_set(folder: Path) -> None:
    (pictures,) = of_folder(folder / "img").data_sets
    assert pictures.result == "picture"
    assert [(entry.path.name, entry.controls) for entry in pictures.entries(Path())] == [("a.png", ()), ("b.JPG", ())]
    (videos,) = of_folder(folder / "vid").data_sets
    assert videos.result == "video"
    assert [entry.caption for entry in videos.entries(Path())] == ["a move"]


def test_general_is_for_all_and_each_may_say_otherwise(folder: Path) -> None:
    text = """
        [general]
        resolution = [128, 96]
        num_repeats = 3
        [[datasets]]
        image_directory = "img"
        control_directory = "ctl"
        fp_1f_clean_indices = [0]
        num_repeats = 1
        [[datasets]]
        video_directory = "vid"
        target_frames = 37
    """
    pictures, videos = config(folder, text).data_sets
    assert (pictures.resolution, pictures.num_repeats, pictures.result) == ((128, 96), 1, "one_frame")
    assert (videos.resolution, videos.num_repeats, videos.target_frames) == ((128, 96), 3, (37,))
    assert config(folder, text.replace("[128, 96]", "256")).data_sets[0].resolution == (256, 256)


@pytest.mark.parametrize(("indices", "expected"), [([0], ["a.png"]), ([0, 10], None)])
def test_control_pictures_belong_to_pictures_by_name(
    folder: Path, indices: list[int], expected: list[str] | None
) -> None:
    text = f'[[datasets]]\nimage_directory="img"\ncontrol_directory="ctl"\nfp_1f_clean_indices={indices}'
    if expected is None:
        with pytest.raises(
            InvalidRequest, match=r"a\.png: there are 1 control pictures for 2 places in fp_1f_clean_ind"
        ):
            entries(folder, text)
        (folder / "img/a.png").unlink()
        (entry,) = entries(folder, text)
        assert [path.name for path in entry.controls] == ["b_0.png", "b_1.png"], "in the order of their numbers"
        return
    one, other = entries(folder, text)
    assert [path.name for path in one.controls] == expected
    assert [path.name for path in other.controls] == ["b_0.png"]


@pytest.mark.parametrize(
    "control",
    [
        {"control_path": "ctl/a.png,ctl/b_0.png"},
        {"control_path_1": "ctl/b_0.png", "control_path_0": "ctl/a.png"},
        {"control_path_0": "ctl/a.png", "control_path_10": "ctl/b_1.png", "control_path_2": "ctl/b_0.png"},
    ],
)
def test_lists_name_control_pictures_in_either_way(folder: Path, control: dict[str, str]) -> None:
    line = json.dumps({"image_path": "img/a.png", "caption": "x", **control})
    (folder / "l.jsonl").write_text(f"{line}\n\n", encoding="utf-8")
    text = '[[datasets]]\nimage_jsonl_file="l.jsonl"\nfp_1f_clean_indices=[0, 10]'
    (entry,) = entries(folder, text)
    assert [path.name for path in entry.controls] == ["a.png", "b_0.png"]
    assert entry.caption == "x"


@pytest.mark.parametrize(
    ("places", "controls"), [("", {}), ("", {"control_path": "ctl/a.png"}), ("fp_1f_target_index=1", {})]
)
def test_a_picture_of_a_list_is_alone_where_nothing_says_otherwise(
    folder: Path, places: str, controls: dict[str, str]
) -> None:
    """Where the config or another line says that they are made of others, one without is refused."""
    first = {"image_path": "img/a.png", "caption": "x", **controls}
    lines = [first, {"image_path": "img/b.JPG", "caption": "y"}]
    (folder / "l.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    text = f'[[datasets]]\nimage_jsonl_file="l.jsonl"\n{places}'
    if places or controls:
        with pytest.raises(InvalidRequest, match="there are 0 control pictures for 1 places"):
            entries(folder, text)
    else:
        assert [entry.controls for entry in entries(folder, text)] == [(), ()]


WRONG: dict[str, str] = {
    "": "there is no [[datasets]]",
    "x = 1": "'x' is not known; it holds [general] and [[datasets]]",
    "[[datasets]": "cannot be read",
    "[[datasets]]": "give one of image_directory, image_jsonl_file, video_directory, video_jsonl_file, and not none",
    '[[datasets]]\nimage_directory="a"\nvideo_directory="b"': "and not image_directory and video_directory",
    '[[datasets]]\nimage_directory="img"\ncaption="x"': "caption: Extra inputs are not permitted; known are image_",
    '[[datasets]]\nimage_directory="img"\nnum_repeats=0': "num_repeats",
    '[[datasets]]\nimage_directory="img"\nfp_1f_target_index=-1': "fp_1f_target_index",
    '[[datasets]]\nimage_directory="img"\nfp_1f_clean_indices=[]': "fp_1f_clean_indices is empty",
    '[[datasets]]\nimage_directory="img"\nresolution=[8, 8]': "is too small",
    '[[datasets]]\nvideo_directory="vid"\nfp_1f_no_post=true': "fp_1f_no_post is of pictures, and these are videos",
    '[[datasets]]\nimage_directory="img"\ntarget_frames=9': "target_frames is of videos",
    '[[datasets]]\nimage_directory="img"\nfp_1f_image_embedding_source="x"': "fp_1f_image_embedding_source",
    '[[datasets]]\nimage_directory="img"\nfp_1f_clean_indices=[-5]': "fp_1f_clean_indices",
    '[[datasets]]\nimage_directory="img"\ncaption_extension="txt"': "caption_extension",
    "general = 1": "has to hold [general] and [[datasets]]",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_config_that_means_nothing_is_refused(text: str, folder: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        config(folder, text)
    assert WRONG[text] in str(refused.value)


def test_what_has_no_effect_is_named(folder: Path) -> None:
    text = '[general]\ncontrol_resolution=9\n[[datasets]]\nvideo_directory="vid"'
    assert config(folder, text).ignored == ("control_resolution",)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "img/b.txt").unlink(), "b.txt: the caption is missing"),
        (lambda folder: (folder / "img/b.txt").write_bytes(b"\xff\xfe\xff"), "b.txt: the caption cannot be read"),
        (lambda folder: [file.unlink() for file in (folder / "img").iterdir()], "there is no file"),
    ],
)
def test_what_is_missing_is_told_by_its_place(spoil: Any, words: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(InvalidRequest) as refused:
        DataSet(image_directory="img", control_directory="ctl").entries(folder)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x", "line 1: it has to be an object"),
        ('{"caption": "x"}', "line 1: it has to be an object with image_path and caption"),
        ('{"image_path": "img/a.png", "caption": 7}', "have to be texts"),
        ('{"image_path": "img/gone.png", "caption": "x"}', "'img/gone.png' is no file"),
        ('{"image_path": "img/a.png", "caption": "x", "control_path": "ctl/gone.png"}', "'ctl/gone.png' is no file"),
        ('{"image_path": "img/a.png", "caption": "x", "control_path": 3}', "control_path has to be a text"),
    ],
)
def test_lists_are_judged_line_by_line(line: str, words: str, folder: Path) -> None:
    (folder / "l.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(InvalidRequest) as refused:
        DataSet(image_jsonl_file="l.jsonl").entries(folder)
    assert words in str(refused.value)


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    for asked in (lambda: of_folder(tmp_path / "x"), lambda: DataSet(video_directory="x").entries(tmp_path)):
        with pytest.raises(InvalidRequest, match="there is no such folder"):
            asked()
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_config(tmp_path / "x.toml")
