"""MagCache for other models."""
