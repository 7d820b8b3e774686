"""Training LoRAs: pictures and videos with captions in, a LoRA file out."""
