"""`python -m scenarios.isac` does what `semcom run isac` does."""

import sys

from scenarios.cli import run_main

sys.exit(run_main("isac"))
