"""Imported once by the process from which programs are forked: the libraries that every start takes seconds for."""

from __future__ import annotations

import diffusers_helper.engine
import diffusers_helper.generate
import diffusers_helper.ui.app  # noqa: F401
