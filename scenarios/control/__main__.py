"""`python -m scenarios.control` does what `semcom run control` does."""

import sys

from scenarios.cli import run_main

sys.exit(run_main("control"))
