"""What an older version of the program would have written of a request."""

from typing import Any

from diffusers_helper.request import Request


def as_schema_1(request: Request) -> dict[str, Any]:
    """The flat form, with one picture, one prompt, one step cache that was on or off."""
    flat = request.flat()
    cache = flat.pop("step_cache")
    for later in ("auto_strength", "output", "mp4_pixels"):  # what came later was not yet the usual one
        flat.pop(later, None)
    threshold = flat.pop("teacache_threshold", 0.15)
    one_frame = {name for name in flat if name.startswith("one_frame")}
    assert not one_frame
    return {"schema_version": 1, **flat, "teacache": cache != "off", "teacache_threshold": threshold, "fps": 30}
