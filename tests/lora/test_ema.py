"""Averages of LoRA files: against the direct formula, the file that is made, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from diffusers_helper.errors import OutputFailed, UnusableInput
from diffusers_helper.lora import ema, streamed
from diffusers_helper.lora.ema import average, by_age
from diffusers_helper.lora.shares import Profile, shares

MODULE = "lora_unet_transformer_blocks_0_attn_to_q"
DOWN, UP, ALPHA = (f"{MODULE}.{name}" for name in ("lora_down.weight", "lora_up.weight", "alpha"))
PROFILES = [Profile(0.9), Profile(0.9, 0.5), Profile(sigma_rel=0.2), Profile(sigma_rel=0.29)]


def lora(seed: int, dtype: torch.dtype = torch.float32, width: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        DOWN: torch.randn(4, width, generator=generator).to(dtype),
        UP: torch.randn(width, 4, generator=generator).to(dtype),
        ALPHA: torch.tensor(2.0),
        "steps": torch.tensor([seed]),
    }


def write(folder: Path, files: Mapping[str, Mapping[str, Tensor]], metadata: Any = None) -> list[Path]:
    """One file after the other, each a second younger."""
    places = []
    for age, (name, tensors) in enumerate(files.items()):
        places.append(folder / f"{name}.safetensors")
        save_file(dict(tensors), places[-1], {"ss_name": name, "other": "ü"} if metadata is None else metadata)
        os.utime(places[-1], (1_700_000_000 + age,) * 2)
    return places


def five(folder: Path, dtype: torch.dtype = torch.float32) -> list[Path]:
    return write(folder, {name: lora(seed, dtype) for seed, name in enumerate("abcde")})


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata() or {})


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_average_is_the_sum_by_shares(profile: Profile, dtype: torch.dtype, tmp_path: Path) -> None:
    files, output = five(tmp_path, dtype), tmp_path / "mean.safetensors"
    made = average(files, output, profile)
    weights = shares(profile.betas(5))
    assert made.shares == tuple(zip(files, weights, strict=True))
    found, inputs = load_file(output), [load_file(file) for file in files]
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in inputs[0].items()
    }
    for name in (DOWN, UP):
        expected = sum(share * tensors[name].double() for share, tensors in zip(weights, inputs, strict=True))
        assert isinstance(expected, Tensor)
        exact = (
            {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": torch.finfo(dtype).eps, "atol": 1e-6}
        )
        torch.testing.assert_close(found[name].double(), expected, **exact)
        assert not torch.equal(found[name], inputs[-1][name])
    assert found["steps"] == 0
    assert found[ALPHA] == 2
    assert made.kept == ("steps",)


def test_the_first_files_dtypes_are_kept_and_arithmetic_is_float32(tmp_path: Path) -> None:
    files = write(tmp_path, {"a": lora(0, torch.bfloat16), "b": lora(1, torch.float32)})
    average(files, tmp_path / "mean.safetensors", Profile(0.5))
    found = load_file(tmp_path / "mean.safetensors")[UP]
    expected = (0.5 * lora(0, torch.bfloat16)[UP].float() + 0.5 * lora(1)[UP]).bfloat16()
    assert torch.equal(found, expected)


def test_by_age_the_oldest_is_first(tmp_path: Path) -> None:
    files = five(tmp_path)
    mixed = random.Random(1).sample(files, 5)
    assert mixed != files
    assert by_age(mixed) == files


def kohyas_hashes(file: Path) -> dict[str, str]:
    """As the programs compute them that write such files: of a file with the training's metadata alone."""
    kept = {name: text for name, text in metadata_of(file).items() if name.startswith("ss_")}
    whole = io.BytesIO(save(load_file(file), kept))
    whole.seek(0x100000)
    legacy = hashlib.sha256(whole.read(0x10000)).hexdigest()[:8]
    whole.seek(0)
    whole.seek(8 + int.from_bytes(whole.read(8), "little"))
    return {"sshs_model_hash": hashlib.sha256(whole.read()).hexdigest(), "sshs_legacy_hash": legacy}


@pytest.mark.parametrize("width", [12, 40_000, 90_000])
@pytest.mark.parametrize("length", [0, 3, 2_000_000])
def test_the_last_files_metadata_with_the_hashes_computed_anew(width: int, length: int, tmp_path: Path) -> None:
    """For files below 1 MiB, about as large, and larger; also with metadata that is."""
    told = {"ss_tags": '"ü\n' * length, "other": "x", "sshs_model_hash": "old", "sshs_legacy_hash": "old"}
    first, *_ = write(tmp_path, {"a": lora(0, width=width)}, {"ss_name": "first"})
    (last,) = write(tmp_path, {"b": lora(1, width=width)}, told)
    output = tmp_path / "mean.safetensors"
    average([first, last], output, Profile(0.5))
    assert metadata_of(output) == {**told, **kohyas_hashes(output)}


def test_without_metadata_the_hashes_are_written_all_the_same(tmp_path: Path) -> None:
    files = write(tmp_path, {"a": lora(0), "b": lora(1)}, {})
    average(files, tmp_path / "mean.safetensors", Profile())
    assert metadata_of(tmp_path / "mean.safetensors") == kohyas_hashes(tmp_path / "mean.safetensors")
    assert metadata_of(tmp_path / "mean.safetensors")["sshs_legacy_hash"] == "e3b0c442"


def anonymous_bytes() -> int:
    """Of this process, what is not mapped from files."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts as Linux does")
def test_memory_is_that_of_a_few_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight files with 24 MB in 24 tensors each."""

    def tensors(seed: int) -> dict[str, Tensor]:
        return {f"{name}.lora_up.weight": torch.full((250, 1000), float(seed + name)) for name in range(24)}

    files = write(tmp_path, {f"file{seed}": tensors(seed) for seed in range(8)})
    seen: list[int] = []
    plain = ema._averaged

    def counted(*arguments: Any) -> Tensor:
        made = plain(*arguments)
        seen.append(anonymous_bytes())
        return made

    monkeypatch.setattr(ema, "_averaged", counted)
    before = anonymous_bytes()
    average(files, tmp_path / "mean.safetensors", Profile(0.5))
    assert len(seen) == 24
    assert max(seen) - before < files[0].stat().st_size, "one of eight would be held"


def change(**tensors: Any) -> Callable[[Path], None]:
    """Another second file; None leaves a tensor out."""

    def write_anew(file: Path) -> None:
        kept = {name: tensor for name, tensor in {**lora(1), **tensors}.items() if tensor is not None}
        save_file(kept, file)

    return write_anew


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change(**{UP: None}), f"b.safetensors has no {UP}, which is in .*a.safetensors"),
        (change(new=torch.ones(2)), "a.safetensors has no new, which is in .*b.safetensors"),
        (change(**{UP: torch.ones(12, 8)}), rf"b.safetensors: {UP} is \(12, 8\), and in .*a.safetensors \(12, 4\)"),
        (change(**{ALPHA: torch.ones(1)}), rf"b.safetensors: {ALPHA} is \(1,\)"),
        (change(**{ALPHA: torch.tensor(4.0)}), f"b.safetensors: {ALPHA} is 4.0, and in .*a.safetensors 2.0"),
        (change(**{ALPHA: torch.tensor(4)}), f"b.safetensors: {ALPHA} is 4.0"),
        (change(**{DOWN: torch.full((4, 12), float("nan"))}), f"b.safetensors: {DOWN} holds NaN"),
        (cut, "b.safetensors is damaged"),
        (lambda file: file.write_bytes(b""), "b.safetensors"),
        (lambda file: file.write_text("<html>not found</html>"), "b.safetensors is damaged"),
        (lambda file: torch.save(lora(1), file), "b.safetensors is damaged"),
        (lambda file: file.unlink(), "b.safetensors cannot be read: No such file"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_its_key(
    damage: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    files, output = five(tmp_path), tmp_path / "mean.safetensors"
    output.write_text("older")
    damage(files[1])
    with pytest.raises(UnusableInput, match=words):
        average(files, output, Profile())
    assert output.read_text() == "older"
    assert not list(tmp_path.glob(".*"))


def test_an_alpha_of_whole_numbers_is_compared_and_kept(tmp_path: Path) -> None:
    files = write(tmp_path, {"a": {**lora(0), ALPHA: torch.tensor(2)}, "b": lora(1)})
    average(files, tmp_path / "mean.safetensors", Profile())
    assert load_file(tmp_path / "mean.safetensors")[ALPHA].dtype == torch.int64


def test_fewer_than_two_pickles_and_a_lost_input_are_refused(tmp_path: Path) -> None:
    files, output = five(tmp_path), tmp_path / "mean.safetensors"
    pickled = tmp_path / "lora.pt"
    pickled.write_bytes(b"never read")
    linked = tmp_path / "linked.safetensors"
    linked.symlink_to(files[0])
    for given, target, words in (
        (files[:1], output, "two files or more"),
        ([*files, pickled], output, r"lora\.pt is no \.safetensors file\. Pickle files .* can run code"),
        (files, tmp_path / "mean.bin", r"mean\.bin is not the name of a \.safetensors file"),
        (files, files[2], r"c\.safetensors is one of the files"),
        (files, linked, "is one of the files"),
    ):
        with pytest.raises(UnusableInput, match=words):
            average(given, target, Profile())
    with pytest.raises(OutputFailed, match="its folder does not exist"):
        average(files, tmp_path / "nowhere" / "mean.safetensors", Profile())


def test_a_broken_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = five(tmp_path)

    def full(*_: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(streamed, "header", full)
    with pytest.raises(OutputFailed, match="the disk is full"):
        average(files, tmp_path / "mean.safetensors", Profile())
    assert sorted(tmp_path.iterdir()) == sorted(files)
