"""`python -m scenarios.elaa` does what `semcom run elaa` does."""

import sys

from scenarios.cli import run_main

sys.exit(run_main("elaa"))
