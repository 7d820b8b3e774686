"""Pixels to latents and back. Knows nothing of sections: it decodes what it is given and blends where it is told."""
