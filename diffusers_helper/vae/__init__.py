"""Pixels to latents and back. Knows nothing of sections: it decodes what it is given and blends where it is told."""

from .chunks import vae_decode_chunked

__all__ = ["vae_decode_chunked"]
