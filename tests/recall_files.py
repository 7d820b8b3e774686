"""Files with settings as FramePack's peers write them, for the tests of what is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

PIXELS = np.zeros((16, 32, 3), dtype=np.uint8)
STUDIO: dict[str, Any] = {
    "app_version": "0.5.1",
    "prompt": "a dancer turns",
    "negative_prompt": "blur",
    "seed": 2500,
    "steps": 30,
    "cfg": 1.0,
    "gs": 9.5,
    "rs": 0.25,
    "latent_type": "Noise",
    "timestamp": 1752000000.5,
    "resolutionW": 640,
    "resolutionH": 480,
    "model_type": "F1",
    "generation_type": "F1",
    "has_input_image": True,
    "input_image_path": "/etc/passwd",
    "total_second_length": 6,
    "blend_sections": 4,
    "latent_window_size": 9,
    "num_cleaned_frames": 5,
    "end_frame_strength": None,
    "end_frame_image_path": None,
    "end_frame_used": "False",
    "input_video": None,
    "video_path": None,
    "x_param": None,
    "combine_with_source": False,
    "use_teacache": True,
    "teacache_num_steps": 25,
    "teacache_rel_l1_thresh": 0.2,
    "use_magcache": False,
    "magcache_threshold": 0.1,
    "loras": {},
}
STUDIO_FIELDS = {
    "prompt": "a dancer turns",
    "negative_prompt": "blur",
    "seed": 2500,
    "steps": 30,
    "real_cfg": 1.0,
    "distilled_guidance": 9.5,
    "cfg_rescale": 0.25,
    "seconds": 6.0,
    "latent_window": 9,
    "kind": "f1",
    "step_cache": "teacache",
    "teacache_threshold": 0.2,
}
EICHI = "A girl dances.\nShe laughs\n\nSeed: 31337\nSection Prompt: she turns\nSection Number: 2"


def json_file(folder: Path, data: Any) -> Path:
    path = folder / "found.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def png_with(folder: Path, texts: dict[str, str]) -> Path:
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    Image.fromarray(PIXELS).save(folder / "found.png", pnginfo=chunks)
    return folder / "found.png"
