"""Bounds and names that the settings, the request and the memory plan share."""

from typing import Literal

LEAST_PRESERVED_GB, MOST_PRESERVED_GB = 6, 128
"""Of the GPU memory that the weights may be asked to leave free, in GB of 1e9 bytes."""
MOST_DECODED_AT_ONCE = 8
"""Latent frames of a chunk that is decoded."""

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Where PyTorch reads how it manages GPU memory; the first goes before the second, and is known from 2.9 on."""

DecodingName = Literal["lean", "quality", "reference"]
"""How latents become pixels: each once, as far as that can be; with more of what came before; or as the original does,
which decodes every section twice."""
LoraMode = Literal["auto", "beside", "merged"]
"""How LoRAs act: beside the linears, in their weights, or as suits."""
