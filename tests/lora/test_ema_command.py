"""The command `lora-ema` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusers_helper import cli

from .test_ema import UP, five, lora


def run(*arguments: object) -> int:
    return cli.main(["lora-ema", *map(str, arguments)])


def test_it_averages_from_the_oldest_and_says_what_each_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, output = five(tmp_path), tmp_path / "mean.safetensors"
    assert run(*reversed(files), "--output_file", output, "--beta", "0.5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:5]] == [
        [share, str(file)] for share, file in zip(["6.25%", "6.25%", "12.50%", "25.00%", "50.00%"], files, strict=True)
    ]
    assert lines[5:] == ["as in the first file, since they hold no floats: steps", str(output)]
    halves = (0.0625, 0.0625, 0.125, 0.25, 0.5)
    expected = sum(share * lora(seed)[UP] for seed, share in enumerate(halves))
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(load_file(output)[UP], expected)


@pytest.mark.parametrize(
    ("flags", "shares"),
    [
        (["--no_sort", "--beta=1"], ["0.00%", "0.00%", "0.00%", "0.00%", "100.00%"]),
        (["--sigma_rel", "0.2"], ["0.00%", "1.99%", "12.11%", "30.25%", "55.65%"]),
        (["--beta", "0.9", "--beta2", "0.6"], ["30.24%", "3.36%", "8.40%", "18.00%", "40.00%"]),
        ([], ["81.45%", "4.29%", "4.51%", "4.75%", "5.00%"]),
    ],
)
def test_every_flag_changes_what_counts(
    flags: list[str], shares: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = five(tmp_path)
    assert run(*reversed(files), *flags, "--output-file", tmp_path / "mean.safetensors") == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()[:5]]
    assert {file: share for share, file in told} == dict(zip(map(str, files), shares, strict=True))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sigma-rel", "0.2", "--beta", "0.9"], "sigma_rel takes the place of beta and beta2"),
        (["--sigma-rel", "0.2", "--beta2", "0.9"], "sigma_rel takes the place of beta and beta2"),
        (["--sigma-rel", "0.5"], "sigma_rel: 0.5 is not allowed"),
        (["--beta", "2"], "beta: 2 is not allowed"),
        (["--output-file", ""], "--output-file='': give the path of a file"),
    ],
)
def test_what_is_refused_ends_with_2(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = five(tmp_path)
    assert run(*files, "--output-file", tmp_path / "mean.safetensors", *flags) == 2
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == sorted(files)
