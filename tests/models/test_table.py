"""Finding a checkpoint: what is said when it is missing, incomplete, damaged, or elsewhere."""

import json
import shutil
from pathlib import Path

import pytest

from diffusers_helper.errors import UnusableCheckpoint
from diffusers_helper.models import table
from diffusers_helper.models.about import Description
from diffusers_helper.models.load import choose_compute, load_parts
from diffusers_helper.models.table import CHECKPOINTS, PARTS, Checkpoint, find_checkpoint, part_folders


@pytest.fixture
def copy(pocket: Path, tmp_path: Path) -> Path:
    """A checkpoint folder to damage."""
    return Path(shutil.copytree(pocket, tmp_path / "copy"))


def test_the_pocket_is_there_by_name_and_by_folder(pocket: Path, tmp_path: Path) -> None:
    by_name, by_folder = find_checkpoint("pocket", tmp_path), find_checkpoint(str(pocket), tmp_path)
    assert by_name.folders == by_folder.folders
    assert set(by_name.kinds) == {"framepack", "f1", "one_frame"}
    assert all(height % 16 == 0 and width % 16 == 0 for height, width in by_name.buckets)
    assert by_name.fingerprint() == by_folder.fingerprint()


def test_other_weights_of_the_same_shape_have_another_fingerprint(copy: Path, tmp_path: Path) -> None:
    before = find_checkpoint(str(copy), tmp_path).fingerprint()
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[len(whole) // 3] ^= 1
    weights.write_bytes(whole)
    assert find_checkpoint(str(copy), tmp_path).fingerprint() != before


def test_what_is_no_file_is_no_part_of_the_fingerprint(copy: Path, tmp_path: Path) -> None:
    before = find_checkpoint(str(copy), tmp_path).fingerprint()
    (copy / "vae" / "README.md").symlink_to("nowhere")
    (copy / "tokenizer" / "old.json").symlink_to(copy / "nowhere")
    (copy / "text_encoder" / "a folder.json").mkdir()
    assert find_checkpoint(str(copy), tmp_path).fingerprint() == before


def _of_one_config(folder: Path, config: bytes) -> Checkpoint:
    """A checkpoint whose parts are one config each, all the same."""
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_bytes(config)
    return Checkpoint("x", "x", ("f1",), {part: folder / part for part in PARTS}, ((64, 64),))


@pytest.mark.parametrize(
    ("config", "other"),
    [
        (b"{\n}\n", b"{\r\n}\r\n"), (b"{\n}\n", b"{\r}\r"), (b"{\n}\n", b"{\r\n}\n"), (b"{\n}\n", b"{\n}\r"),
        (b"{\n\n}", b"{\r\n\r\n}"), (b"{\n\n}", b"{\r\r}"), (b"{\n\n}", b"{\r\n\r}"), (b"\n", b"\r\n"),
        (b'{"a": "\\r\\n"}\n', b'{"a": "\\r\\n"}\r\n'), ('{"a": "é"}\n'.encode(), '{"a": "é"}\r\n'.encode()),
    ],
)  # fmt: skip
def test_line_ends_of_the_configs_leave_the_fingerprint(tmp_path: Path, config: bytes, other: bytes) -> None:
    before = _of_one_config(tmp_path / "a", config).fingerprint()
    assert _of_one_config(tmp_path / "b", other).fingerprint() == before


def test_whatever_else_a_config_says_changes_the_fingerprint(tmp_path: Path) -> None:
    configs = (b"{}", b"{ }", b"{}\n", b"{}\n\n", b"{\t}", b"{\n}", b'{"a": "\\n"}', b'{"a": "\\r\\n"}', b'{"a": 1}')
    found = {_of_one_config(tmp_path, config).fingerprint() for config in configs}
    assert len(found) == len(configs)


def test_the_pocket_is_small(pocket: Path) -> None:
    assert sum(file.stat().st_size for file in pocket.rglob("*") if file.is_file()) < 40e6


def test_an_unknown_name_lists_the_names(tmp_path: Path) -> None:
    with pytest.raises(UnusableCheckpoint, match="the names are pocket, framepack, framepack-f1"):
        find_checkpoint("framepak", tmp_path)


@pytest.mark.parametrize("name", ["framepack", "framepack-f1"])
def test_a_checkpoint_that_is_not_downloaded_says_what_how_large_and_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableCheckpoint) as refusal:
        find_checkpoint(name, tmp_path)
    message = str(refusal.value)
    for source in CHECKPOINTS[name].sources.values():
        assert source.repository in message
        assert f"{source.size_gb:.2f} GB" in message
    assert str(tmp_path / "hub") in message
    assert f"download {name}" in message
    assert "--checkpoint pocket" in message


def _download(name: str, models_dir: Path) -> None:
    """Empty files in the hub library's own layout, weights in shards."""
    for part, source in CHECKPOINTS[name].sources.items():
        repository = models_dir / "hub" / f"models--{source.repository.replace('/', '--')}"
        folder = repository / "snapshots" / "abc" / source.subfolder
        folder.mkdir(parents=True, exist_ok=True)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text("abc")
        stem = "diffusion_pytorch_model" if part in ("transformer", "vae") else "model"
        for file in ("config.json", "tokenizer.json", "preprocessor_config.json"):
            (folder / file).write_text("{}")
        shard = f"{stem}-00001-of-00001.safetensors"
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
        (folder / shard).write_bytes(b"\0" * 8)


def test_downloads_of_the_original_program_serve(tmp_path: Path) -> None:
    _download("framepack", tmp_path)
    checkpoint = find_checkpoint("framepack", tmp_path)
    assert checkpoint.folders["vae"] == tmp_path / "hub/models--hunyuanvideo-community--HunyuanVideo/snapshots/abc/vae"
    assert (640, 608) in checkpoint.buckets
    assert len(checkpoint.fingerprint()) == 16


@pytest.mark.parametrize("kinds", [("f1",), ("f1", "framepack")])
def test_the_kinds_of_a_large_checkpoint_are_those_of_its_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...]
) -> None:
    _download("framepack", tmp_path)
    assert find_checkpoint("framepack", tmp_path).kinds == ("framepack", "one_frame")
    monkeypatch.setattr(table, "describe_large", lambda _: Description.model_validate({"kinds": kinds}))
    assert find_checkpoint("framepack", tmp_path).kinds == kinds


def test_a_download_without_one_shard_names_the_part(tmp_path: Path) -> None:
    _download("framepack", tmp_path)
    next(tmp_path.rglob("text_encoder/*.safetensors")).unlink()
    with pytest.raises(UnusableCheckpoint) as refusal:
        find_checkpoint("framepack", tmp_path)
    rows = [line.split()[0] for line in str(refusal.value).splitlines() if " GB " in line]
    assert rows == ["text_encoder"]


@pytest.mark.parametrize(
    "content",
    [
        '{"weight_map": null}', '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 5}}',
        '{"weight_map": {"a": ["x"]}}', '{"weight_map": {"a": "\\ud800"}}', '{"weight_map": 7}',
        "{}", "[" * 100_000, "{",
    ],
    ids=lambda content: content[:30],
)  # fmt: skip
def test_a_damaged_index_is_named(copy: Path, content: str, tmp_path: Path) -> None:
    index = copy / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(UnusableCheckpoint, match=f"{index} is damaged: .* Fetch its files again"):
        find_checkpoint(str(copy), tmp_path)


@pytest.mark.parametrize("name", ["../vae/config.json", "x" * 999, "a/../config.json", "a\0b"])
def test_an_index_names_files_of_its_folder_only(copy: Path, name: str, tmp_path: Path) -> None:
    index = copy / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UnusableCheckpoint, match=r"files are missing|is damaged"):
        find_checkpoint(str(copy), tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"\0" * 40, b"<html>", b"../../elsewhere"])
def test_a_download_of_no_commit_is_not_there(content: bytes, tmp_path: Path) -> None:
    """And can be begun anew, so doctor and page offer that."""
    _download("framepack", tmp_path)
    for head in tmp_path.rglob("refs/main"):
        head.write_bytes(content)
    assert part_folders(CHECKPOINTS["framepack"], tmp_path) == {}
    with pytest.raises(UnusableCheckpoint, match="download framepack"):
        find_checkpoint("framepack", tmp_path)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(copy: Path, part: str, tmp_path: Path) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(UnusableCheckpoint, match=f"missing:\n  {copy / part}/"):
        find_checkpoint(str(copy), tmp_path)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2", "image_encoder"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "page"])
def test_damaged_weights_are_named(copy: Path, part: str, damage: str, tmp_path: Path) -> None:
    weights = next((copy / part).glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "page": b"<!DOCTYPE html>" * 99}[damage])
    with pytest.raises(UnusableCheckpoint, match=f"the {part} in .* is damaged"):
        load_parts(find_checkpoint(str(copy), tmp_path), choose_compute())


def test_weights_of_another_model_are_refused(copy: Path, tmp_path: Path) -> None:
    weights = next((copy / "image_encoder").glob("*.safetensors"))
    shutil.copy(next((copy / "text_encoder").glob("*.safetensors")), weights)
    with pytest.raises(UnusableCheckpoint, match="image_encoder"):
        load_parts(find_checkpoint(str(copy), tmp_path), choose_compute())


@pytest.mark.parametrize("content", ["{", "[]", '{"buckets": [[1]]}', '{"buckets": 7}'])
def test_a_damaged_description_is_named(copy: Path, content: str, tmp_path: Path) -> None:
    (copy / "framepack.json").write_text(content)
    with pytest.raises(UnusableCheckpoint, match=r"framepack\.json is damaged"):
        find_checkpoint(str(copy), tmp_path)


def test_a_fingerprint_is_read_anew_only_when_a_file_changes(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    sampled = table._update_with_samples
    monkeypatch.setattr(
        table, "_update_with_samples", lambda digest, file: (opened.append(file), sampled(digest, file))
    )
    checkpoint = find_checkpoint(str(copy), tmp_path)
    first = checkpoint.fingerprint()
    read = len(opened)
    assert read
    assert checkpoint.fingerprint() == first
    assert len(opened) == read
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert checkpoint.fingerprint() != first
    assert len(opened) == 2 * read
