"""Whether a data set has the steps, cameras and receivers that the results ask for."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from scenarios.isac.vocabulary import FALSE_ALARMS
from semcom.contracts import SemcomError

if TYPE_CHECKING:
    from scenarios.isac.config import EvaluationConfig


def check_sizes(
    told: EvaluationConfig, num_validation: int, num_steps: int, num_cameras: int, num_receivers: int
) -> None:
    """Raises SemcomError unless every result can be made of sequences of num_steps steps of these sensors.

    num_validation: sequences that alarms are calibrated on.
    """
    if told.outage_step >= num_steps:
        raise SemcomError(
            f"evaluation.outage_step = {told.outage_step}, and sequences have {num_steps} steps: lower it"
        )
    if told.faults and num_validation < 2:
        raise SemcomError(
            "1 sequence is for validation, and alarms are fitted to one and judged on another: raise "
            "split.validation_share, or leave evaluation.faults empty"
        )
    num_calm, least = num_validation * (num_steps - told.outage_step), ceil(round(1 / FALSE_ALARMS, 9)) - 1
    if told.faults and num_calm < least:
        raise SemcomError(
            f"validation has {num_calm} steps from evaluation.outage_step = {told.outage_step} on, and "
            f"{100 * FALSE_ALARMS:g} % false alarms take {least}: raise split.validation_share, or "
            "leave evaluation.faults empty"
        )
    if "camera-2" in told.missing and num_cameras < 2:
        raise SemcomError("evaluation.missing holds 'camera-2', and there is 1 camera: leave it out")
    for number in told.num_receivers if told.receiver_methods else ():
        if number > num_receivers:
            raise SemcomError(
                f"evaluation.num_receivers holds {number}, and there are {num_receivers} receivers: lower it"
            )
    if "swapped" in told.faults and min(num_cameras, num_receivers) < 2:
        kind = "camera" if num_cameras < 2 else "receiver"
        raise SemcomError(
            f"evaluation.faults holds 'swapped', and there is 1 {kind}, which nothing can be swapped with: "
            "leave it out"
        )
