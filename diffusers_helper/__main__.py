"""`python -m diffusers_helper`."""

import sys

from .cli import main
from .names import take_names_as_utf8

take_names_as_utf8()
sys.exit(main())
