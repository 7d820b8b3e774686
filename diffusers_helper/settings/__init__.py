"""The settings of this installation: every knob once, with its flag, environment variable, default and help."""

from ..limits import ALLOCATOR_VARIABLES
from .groups import (
    ATTENTIONS,
    EVERY_ADDRESS,
    ROOT,
    Decoders,
    Kernels,
    Memory,
    Network,
    PageOptions,
    Paths,
    Sampling,
    Weights,
)
from .older import XFORMERS_MODES
from .parsing import given_path
from .settings import KNOBS, PAGE_KNOBS, PageSettings, Settings, add_flags, resolve, resolve_page

__all__ = [
    "ALLOCATOR_VARIABLES",
    "ATTENTIONS",
    "EVERY_ADDRESS",
    "KNOBS",
    "PAGE_KNOBS",
    "ROOT",
    "XFORMERS_MODES",
    "Decoders",
    "Kernels",
    "Memory",
    "Network",
    "PageOptions",
    "PageSettings",
    "Paths",
    "Sampling",
    "Settings",
    "Weights",
    "add_flags",
    "given_path",
    "resolve",
    "resolve_page",
]
