"""How the embedded small checkpoint "pocket" is made: scenes, captions, training, export, evaluation.

OpenMP threads sleep while they wait, because training shares its machine: spinning threads stop each other several
times over. This must be said before torch is imported.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
