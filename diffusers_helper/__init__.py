"""FramePack: one picture and a sentence become a video of any length. docs/ARCHITECTURE.md is the map."""

__version__ = "0.1.0"
