"""Means and 95 % intervals over seeds, by Student's t: the one place where error bars come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; half_width is NaN for a single sample, which tells no spread."""

    mean: float
    half_width: float
    num_samples: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width


def mean_interval(values: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Mean of n independent samples and its interval: x_bar +- t_(n-1, (1 + c) / 2) s / sqrt n.

    values [n], n >= 1; s is the sample deviation (n - 1). The samples are taken as normal, which means
    over many episodes nearly are. A NaN among the values makes the mean NaN: a sample that failed is
    not left out in silence. Raises ValueError for no values.
    Source: Casella and Berger, Statistical Inference, 9.2.2.
    """
    samples = np.asarray(values, dtype=np.float64).reshape(-1)
    if samples.size == 0:
        raise ValueError("no values: a mean needs at least one")
    mean = float(samples.mean())
    if samples.size == 1:
        return Interval(mean, math.nan, 1)
    quantile = float(stats.t.ppf((1 + confidence) / 2, samples.size - 1))
    half_width = quantile * float(samples.std(ddof=1)) / math.sqrt(samples.size)
    return Interval(mean, half_width, int(samples.size))


def intervals_overlap(first: Interval, second: Interval) -> bool:
    """Tells whether two intervals share a point; an unknown width (one seed) overlaps everything.

    Apart means different at more than the confidence; overlapping ones may still differ.
    """
    gap = abs(first.mean - second.mean)
    return not gap > first.half_width + second.half_width


def summarise(records: pd.DataFrame, by: Sequence[str], confidence: float = CONFIDENCE) -> pd.DataFrame:
    """Reduces records to one row per group: its columns `by`, mean, half_width, low, high and num_seeds.

    Rows of one seed are averaged first: they share trained weights, so seeds are the independent samples.
    Groups are in their order of appearance; a missing coordinate (NaN) is a group of its own.
    """
    rows = []
    for key, group in records.groupby(list(by), sort=False, dropna=False):
        interval = mean_interval(group.groupby("seed")["value"].mean().to_numpy(), confidence)
        values = (interval.mean, interval.half_width, interval.low, interval.high, interval.num_samples)
        rows.append((*key, *values))
    return pd.DataFrame(rows, columns=[*by, "mean", "half_width", "low", "high", "num_seeds"])
