"""The scenarios that there are, by name; a scenario's code is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scenarios.contracts import Scenario

# name: (the module that holds its SCENARIO, what it is in one line)
SCENARIOS: dict[str, tuple[str, str]] = {
    "control": (
        "scenarios.control.scenario",
        "predictive remote control: a cart-pole seen by a camera and steered over the air",
    ),
    "charting": (
        "scenarios.charting.scenario",
        "channel charting and forecasting: a chart of a cell from CSI, without positions",
    ),
    "isac": (
        "scenarios.isac.scenario",
        "cross-modal sensing: cameras and CSI receivers in a room; missing embeddings are inpainted",
    ),
    "elaa": (
        "scenarios.elaa.scenario",
        "near-field CSI of an extremely large array of which a part sees nothing",
    ),
    "links": (
        "scenarios.links.scenario",
        "no model: error rates and goodput of the links by SNR, closed forms beside them",
    ),
}


def load_scenario(name: str) -> Scenario:
    """Imports a scenario and returns it; raises SemcomError for a name that is not in the catalogue."""
    if name not in SCENARIOS:
        from semcom.contracts import SemcomError

        raise SemcomError(f"unknown scenario {name}: choose one of {', '.join(SCENARIOS)}")
    module, _ = SCENARIOS[name]
    scenario: Scenario = importlib.import_module(module).SCENARIO
    return scenario
