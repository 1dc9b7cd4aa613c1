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
FAULTS: dict[str, str] = {
    "frozen": "the sensor repeats what it measured when the fault began",
    "noise": "the sensor measures noise of its usual mean and deviation",
    "swapped": "two sensors of a kind have changed places",
}
FALSE_ALARMS = 0.05
"""The rate of false alarms that thresholds are set for."""
