"""`python -m scenarios.charting` does what `semcom run charting` does."""

import sys

from scenarios.cli import run_main

sys.exit(run_main("charting"))
