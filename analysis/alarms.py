"""Alarms: ROC curves, and what is detected at a rate of false alarms that was set beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score, roc_curve

FloatArray = npt.NDArray[np.float64]

FALSE_ALARM_GRID = (
    0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
)  # fmt: skip
"""False-alarm rates at which a ROC curve is recorded: densest where alarms are of use."""


def roc(score_normal: npt.ArrayLike, score_faulty: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Rates of false alarms and of detections at every threshold, both rising from 0 to 1.

    An alarm is a score of at least the threshold: the share of the normal [N] and of the faulty [M] scores
    that raise one. Raises ValueError for no scores, or such as are not finite.
    """
    labels, scores = _labelled(score_normal, score_faulty)
    false_alarm, detection, _ = roc_curve(labels, scores, drop_intermediate=False)
    return false_alarm, detection


def roc_at(
    score_normal: npt.ArrayLike, score_faulty: npt.ArrayLike, false_alarm: npt.ArrayLike = FALSE_ALARM_GRID
) -> FloatArray:
    """Highest detection rate of a ROC curve at no more than each of these false-alarm rates, float64 [G].

    Without interpolation: a threshold has it. Scores and errors as for `roc`.
    """
    rate, detection = roc(score_normal, score_faulty)
    return detection[np.searchsorted(rate, np.asarray(false_alarm, dtype=np.float64), side="right") - 1]


def area_under_roc(score_normal: npt.ArrayLike, score_faulty: npt.ArrayLike) -> float:
    """Probability that a faulty score is above a normal one, ties counting half; as for `roc`."""
    return float(roc_auc_score(*_labelled(score_normal, score_faulty)))


@dataclass(frozen=True)
class Detection:
    """An alarm at a threshold: which, the share of faults that raise it, and that of normal steps."""

    threshold: float
    detection_rate: float
    false_alarm_rate: float


def detection_at(
    score_normal_calibration: npt.ArrayLike,
    score_normal_test: npt.ArrayLike,
    score_faulty: npt.ArrayLike,
    false_alarm: float = 0.05,
) -> Detection:
    """Detection at a false-alarm rate that is set on calibration scores and measured on test scores.

    An alarm is a score above the threshold, the ceil((n + 1) (1 - a))-th smallest of the n calibration
    scores: a new normal score that is exchangeable with these exceeds it with probability a or less.
    Raises ValueError for scores that are missing or not finite, and for n too small for a.
    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005, section 2.2.
    """
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm = {false_alarm:g}: give a rate between 0 and 1")
    calibration, normal, faulty = (
        _scores(values) for values in (score_normal_calibration, score_normal_test, score_faulty)
    )
    # Rounded first: 20 * 0.95 is a little above 19 in binary.
    rank = ceil(round((calibration.size + 1) * (1 - false_alarm), 9))
    if rank > calibration.size:
        raise ValueError(
            f"{calibration.size} calibration scores are too few for {false_alarm:g} false alarms: "
            f"give at least {ceil(round(1 / false_alarm, 9)) - 1}"
        )
    threshold = float(np.partition(calibration, rank - 1)[rank - 1])
    return Detection(threshold, float(np.mean(faulty > threshold)), float(np.mean(normal > threshold)))


def _scores(values: npt.ArrayLike) -> FloatArray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"scores of shape {scores.shape} are none, or not finite: give [N] numbers")
    return scores


def _labelled(
    score_normal: npt.ArrayLike, score_faulty: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    normal, faulty = _scores(score_normal), _scores(score_faulty)
    return np.repeat([0, 1], [normal.size, faulty.size]), np.concatenate([normal, faulty])
