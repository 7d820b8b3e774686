"""Write the checkpoint folder: every part in bfloat16, in the layout of diffusers' FramePack pipeline.

`python -m tools.pocket.export` takes what training left in `--work`; a part that is not trained yet is exported with
its starting weights. Files are replaced one by one, each in one step.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import SiglipVisionModel

from diffusers_helper.models.transformer import FramePackTransformer
from tools.pocket import codec, encoders, loop, train_encoders, train_vae, transformer
from tools.pocket.bank import DEFAULT_WORK, load_canvases
from tools.pocket.vae_facts import VaeFacts, measure_vae

LOG = logging.getLogger(__name__)
TARGET = Path("checkpoints/pocket")
# height, width; the first is the default for square pictures
BUCKETS = [[128, 128], [112, 144], [144, 112], [96, 160], [160, 96], [112, 176], [176, 112]]
# decoding a frame, in computed sampling steps: between 0.4 and 1.1 on CPUs
STEPS_PER_FRAME = 0.7
INDEX = {
    "_class_name": "HunyuanVideoFramepackPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": ["transformers", "SiglipImageProcessor"],
    "image_encoder": ["transformers", "SiglipVisionModel"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "LlamaModel"],
    "text_encoder_2": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "transformer": ["diffusers", "HunyuanVideoFramepackTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLHunyuanVideo"],
}


def write_json(path: Path, content: object) -> None:
    """Indented JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def export_vae(folder: Path, work: Path, canvases: torch.Tensor) -> VaeFacts:
    """The VAE with its measured scaling factor; what was measured is returned."""
    state = loop.load_state(work / train_vae.STATE)
    vae = train_vae.make_start(canvases) if state is None else codec.make_vae()
    if state is not None:
        vae.load_state_dict(state["model"])
    facts = measure_vae(vae, canvases)
    vae.register_to_config(scaling_factor=facts.scaling_factor)
    vae.to(torch.bfloat16).save_pretrained(folder / "vae")
    return facts


def export_encoders(folder: Path, work: Path) -> None:
    """Text and picture encoders with their tokenizers and processor."""
    source = work / train_encoders.FOLDER
    trained = (source / "text_encoder_2").exists()
    text = (
        encoders.TextEncoders.load(source) if trained else train_encoders.make_text_encoders(np.random.default_rng(3))
    )
    text.llama.to(torch.bfloat16)
    text.clip.to(torch.bfloat16)
    text.save(folder)
    pictures = source / "image_encoder"
    siglip = SiglipVisionModel.from_pretrained(pictures) if pictures.exists() else encoders.make_siglip()
    siglip.to(torch.bfloat16).save_pretrained(folder / "image_encoder")
    encoders.make_feature_extractor().save_pretrained(folder / "feature_extractor")


def export_transformer(folder: Path, work: Path) -> None:
    """The averaged weights of the transformer, under the name of diffusers' class."""
    model = transformer.make_transformer()
    state = loop.load_state(work / transformer.STATE)
    if state is not None:
        model.load_state_dict(state["average"])
    model.to(torch.bfloat16).save_pretrained(folder / "transformer")
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["_class_name"] = FramePackTransformer.__base__.__name__
    write_json(path, config)


def export_small_files(folder: Path, facts: VaeFacts) -> None:
    """Scheduler, index, and the facts that the application reads."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
    )
    scheduler.save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", INDEX)
    write_json(
        folder / "framepack.json",
        {
            "buckets": BUCKETS,
            "latent_rgb_factors": facts.rgb_factors,
            "latent_rgb_bias": facts.rgb_bias,
            "kinds": ["f1", "framepack"],
            "steps_per_frame": STEPS_PER_FRAME,
            "guidance": transformer.GUIDANCE,
            "about": json.loads((TARGET / "framepack.json").read_text(encoding="utf-8"))["about"],
        },
    )


def replace_files(source: Path, target: Path) -> None:
    """Move every file of `source` over the one in `target`, each in one step."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
            place.chmod(0o644)


def export(work: Path, target: Path, parts: set[str], canvas_count: int) -> None:
    """Export the named parts (vae, encoders, transformer)."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        if "vae" in parts:
            export_small_files(folder, export_vae(folder, work, load_canvases(work, canvas_count)))
        if "encoders" in parts:
            export_encoders(folder, work)
        if "transformer" in parts:
            export_transformer(folder, work)
        replace_files(folder, target)
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    LOG.info("%s: %s, %.1f MB in all", target, ", ".join(sorted(parts)), size / 1e6)


def main() -> None:
    """Entry."""
    loop.start_logging()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument(
        "--parts", nargs="+", choices=["vae", "encoders", "transformer"], default=["vae", "encoders", "transformer"]
    )
    parser.add_argument("--canvases", type=int, default=2000)
    args = parser.parse_args()
    export(args.work, args.target, set(args.parts), args.canvases)


if __name__ == "__main__":
    main()
