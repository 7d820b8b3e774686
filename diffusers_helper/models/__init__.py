"""The neural parts: which checkpoints there are, where their files lie, and how they are loaded."""
