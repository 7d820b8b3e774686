"""Prompt and picture to what the transformer is told. Encodes nothing twice."""
