"""What a user asks for: one frozen, validated, versioned object; serialises to JSON; everything else derives from it.

* ``recipe``: how the result is made; ``request``: a recipe with its inputs.
* ``fields``: the flat names by which people know the values, as flags, keys and components.
* ``migrate``: what older versions wrote. ``explain``: what is wrong, in words and as data.
"""

from .migrate import SCHEMA_VERSION
from .parts import Lora, TimedPrompt
from .recipe import DRAW_A_SEED, SEED_MAX, Recipe
from .request import Picture, Request

__all__ = ["DRAW_A_SEED", "SCHEMA_VERSION", "SEED_MAX", "Lora", "Picture", "Recipe", "Request", "TimedPrompt"]
