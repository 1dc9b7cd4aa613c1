"""Whether trajectories are enough, and long enough, for what a configuration asks of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.charting import NEIGHBOR_SHARE
from scenarios.charting.forecasts import look_ahead_steps
from scenarios.splits import split_by_trajectory
from semcom.contracts import SemcomError
from semcom.rng import Streams

if TYPE_CHECKING:
    from scenarios.charting.config import ChartingConfig


def check_sizes(config: ChartingConfig, num_trajectories: int, num_steps: int, interval_s: float) -> None:
    """Raises SemcomError unless trajectories of num_steps positions each serve training and every result.

    They are split, half of the test ones maps the other half, and trustworthiness needs a neighbour; a
    training window and the farthest forecast have to fit into one. Which trajectories are held out depends
    on the seed, how many doesn't.
    """
    split, told = config.split, config.evaluation
    parts = split_by_trajectory(
        np.arange(num_trajectories),
        Streams(0),
        validation_share=split.validation_share,
        test_share=split.test_share,
    )
    num_test = len(parts.test)
    if num_test < 2:
        raise SemcomError(
            f"split.test_share = {split.test_share:g} of {num_trajectories} trajectories is {num_test}, and "
            "the test takes 2 or more, as each half is mapped by the other: raise it or add trajectories"
        )
    if NEIGHBOR_SHARE * num_test * num_steps < 1:
        raise SemcomError(
            f"{num_test} test trajectories of {num_steps} positions are {num_test * num_steps} samples, and "
            f"K = {NEIGHBOR_SHARE:g} n neighbours need {1 / NEIGHBOR_SHARE:g}: raise split.test_share or add "
            "trajectories"
        )
    window = config.training.num_starts + config.training.rollout_steps
    if num_steps < window:
        raise SemcomError(
            f"trajectories of {num_steps} positions are shorter than a training window of {window}: shorten "
            "training.rollout_steps or training.num_starts, or lengthen the trajectories"
        )
    farthest = max(look_ahead_steps(told.look_aheads_s, interval_s))
    if num_steps <= told.num_history + farthest:
        raise SemcomError(
            f"trajectories of {num_steps} positions are too short for evaluation.num_history = "
            f"{told.num_history} and evaluation.look_aheads_s up to {max(told.look_aheads_s):g} s "
            f"({farthest} positions): shorten one of them, or lengthen the trajectories"
        )
