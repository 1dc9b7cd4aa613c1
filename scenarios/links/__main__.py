"""`python -m scenarios.links` does what `semcom run links` does."""

import sys

from scenarios.cli import run_main

sys.exit(run_main("links"))
