"""The command `lora` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusers_helper import cli
from diffusers_helper.lora.bases import shapes_in
from diffusers_helper.lora.writing import FORMS
from diffusers_helper.lora_command import FORM_NAMES

from .building import Built, random
from .test_passport import METADATA


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))


def made(folder: Path, width: int) -> Path:
    """For a transformer of this width: one block of 40 modules' worth is enough."""
    built = Built(metadata=dict(METADATA))
    for number in range(2):
        for name in ("to_q", "to_k", "to_v"):
            key = f"lora_unet_transformer_blocks_{number}_attn_{name}"
            built.tensors |= {
                f"{key}.lora_down.weight": random(4, width, seed=number),
                f"{key}.lora_up.weight": random(width, 4),
                f"{key}.alpha": torch.tensor(2.0),
            }
    return built.write(folder, "style.safetensors")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["lora", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def content_of(file: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """Tensors and metadata; in which order a file has its metadata is chance."""
    with safe_open(file, "pt") as opened:
        return {key: tensor.numpy().tobytes() for key, tensor in load_file(file).items()}, opened.metadata()


def test_info_tells_a_person_what_a_file_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = made(tmp_path, 3072)
    save_file({**load_file(file), "lora_te1_x.lora_up.weight": torch.ones(1, 1)}, file, METADATA)
    code, out, err = run(capsys, "info", str(file))
    assert (code, err) == (0, "")
    rows = dict(line.split("  ", 1) for line in out.splitlines() if not line.startswith(" "))
    facts = {name: text.strip() for name, text in rows.items()}
    assert facts["file"].startswith("style.safetensors, 0.6 MB")
    assert facts["names"] == "musubi FramePack"
    assert facts["made for"] == "FramePack"
    assert facts["fits"] == "framepack: 6 modules"
    assert (facts["kind"], facts["rank"], facts["alpha"], facts["scale"]) == ("low rank", "4", "2", "0.5")
    assert facts["tensors"] == ("18 of 19 have an effect; without: lora_te1_x.lora_up.weight, 1 of text encoders")
    assert "the Frobenius norm of the change of all weights; most of it in" in facts["effect"]
    assert facts["trigger words"] == "blue, a cat"
    assert "fp_1f_clean_indices [0, 10]" in facts["one frame"]
    assert "learning_rate: 0.0002" in out
    assert "  transformer_blocks.1  " in out


def test_info_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", str(made(tmp_path, 192)), "--json")
    content = json.loads(out)
    assert (code, content["fits"], len(content["effects"])) == (0, "pocket", 6)
    assert content["one_frame"]["fp_1f_target_index"] == 1


def test_info_holds_a_file_against_the_checkpoint_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(made(tmp_path, 192))
    assert run(capsys, "info", file, "--checkpoint", "pocket")[0] == 0
    code, out, err = run(capsys, "info", file, "--checkpoint", "framepack")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: The LoRA {file} cannot be used: ")
    assert re.search(r"a change of 192 x 192, but transformer_blocks\.\d\.attn\.to_. is 3072 x 3072 here\.", err)
    code, _, err = run(capsys, "info", file, "--checkpoint", "nowhere")
    assert (code, err.startswith("error: checkpoint 'nowhere' is neither a name nor a folder")) == (2, True)


def test_convert_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, between, back = made(tmp_path, 192), tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    code, out, _ = run(capsys, "convert", str(file), str(between), "--to", "diffusers")
    assert (code, out) == (0, f"{between}: 6 modules as diffusers names them\n")
    assert set(load_file(between)) == {
        f"transformer.transformer_blocks.{number}.attn.{name}.lora_{factor}.weight"
        for number in range(2) for name in ("to_q", "to_k", "to_v") for factor in "AB"
    }  # fmt: skip
    assert run(capsys, "convert", str(between), str(back), "--to", "musubi")[0] == 0
    assert content_of(back) == content_of(file)


def test_convert_tells_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out_file = made(tmp_path, 192), tmp_path / "b.safetensors"
    save_file({**load_file(file), **{f"text_encoder.{n}": torch.ones(1) for n in range(7)}}, file)
    _, out, _ = run(capsys, "convert", str(file), str(out_file), "--to", "musubi")
    assert "; left out, since nothing here has that name: text_encoder.0, text_encoder.1, " in out
    assert out.endswith(" and 2 more\n")


def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = made(tmp_path, 192)
    for arguments, words in [
        (("info", str(tmp_path / "a.pt")), "there is no such file"),
        (("info", "~nosuchuser/a"), "there is no home folder ~nosuchuser"),
        (("convert", str(file), str(tmp_path / "b.pt"), "--to", "musubi"), "is not the name of a .safetensors file"),
        (("convert", str(tmp_path), str(tmp_path / "b.safetensors"), "--to", "musubi"), "it is a folder or a device"),
    ]:
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert words in err
    code, _, err = run(capsys, "convert", str(file), str(tmp_path / "no" / "b.safetensors"), "--to", "musubi")
    assert (code, "Could not write" in err) == (1, True)


def test_names_and_metadata_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = made(tmp_path, 192)
    evil = {"modelspec.title": "\x1b[31mred\nline", "ss_output_name": "x" * 1000, "ss_network_args": "\x07"}
    save_file({**load_file(file), "\x1b[2J": torch.ones(1)}, file, evil)
    code, out, _ = run(capsys, "info", str(file))
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out
    assert max(map(len, out.splitlines())) < 250


def test_the_forms_that_the_command_offers_are_those_there_are(pocket: Path) -> None:
    assert set(FORM_NAMES) == set(FORMS)
    assert shapes_in(pocket / "transformer")["proj_out"] == (64, 192)
