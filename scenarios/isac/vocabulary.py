"""The words of the sensing scenario's results: what is missing, which faults there are, and at which rate."""

from __future__ import annotations

MISSING: dict[str, str] = {
    "none": "nothing",
    "camera-1": "the first camera",
    "camera-2": "the second camera",
    "cameras": "both cameras",
    "receivers": "all CSI receivers",
    "all": "every sensor",
}
"""What is missing in the result of that name, in the order of tables and figures."""
EITHER = "either camera"
"""The mean over the one and the other camera missing, in tables."""
PLACES = ("none", "camera-1", "camera-2", EITHER, "cameras", "receivers", "all")
"""What is missing, in the order of tables."""
FAULTS: dict[str, str] = {
    "frozen": "the sensor repeats what it measured when the fault began",
    "noise": "the sensor measures noise of its usual mean and deviation",
    "swapped": "two sensors of a kind have changed places",
}
FALSE_ALARMS = 0.05
"""The rate of false alarms that thresholds are set for."""
