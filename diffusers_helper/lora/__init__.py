"""LoRA files.

* ``ema``: several files of one training become their average. ``shares``: how much each counts; needs no torch.
* ``streamed``: a safetensors file written tensor by tensor, with the hashes by which LoRAs are known.
"""
