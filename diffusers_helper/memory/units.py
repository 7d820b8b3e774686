"""Two units that are 7 % apart. What people are told is in GB."""

from __future__ import annotations

GB = 10**9
GIB = 2**30
