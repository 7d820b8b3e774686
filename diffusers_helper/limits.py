"""Bounds that the settings, the request and the memory plan share."""

LEAST_PRESERVED_GB, MOST_PRESERVED_GB = 6, 128
"""Of the GPU memory that the weights may be asked to leave free, in GB of 1e9 bytes."""
