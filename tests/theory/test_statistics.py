"""The intervals behind every error bar, against hand-worked numbers, scipy, and their own promise."""

from math import isnan, sqrt

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import intervals_overlap, mean_interval, summarise
from analysis.tables import format_interval, pivot, to_markdown


def test_the_interval_of_three_numbers_worked_by_hand():
    # Mean 2, s = 1, t(2, 0.975) = 4.302653: half-width 4.302653 / sqrt 3.
    interval = mean_interval([1, 2, 3])
    assert interval.mean == 2
    assert interval.half_width == pytest.approx(4.302653 / sqrt(3), rel=1e-6)
    assert (interval.low, interval.high) == (2 - interval.half_width, 2 + interval.half_width)


@pytest.mark.parametrize("num_samples", [2, 5, 40])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_agrees_with_scipy(num_samples: int, confidence: float):
    values = np.random.default_rng(num_samples).normal(3, 2, num_samples)
    interval = mean_interval(values, confidence)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-12)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    num_trials, num_seeds = 20_000, 5
    samples = np.random.default_rng(1).normal(0, 1, (num_trials, num_seeds))
    sigma = sqrt(0.95 * 0.05 / num_trials)

    def coverage(half_widths: np.ndarray) -> float:
        return float(np.mean(np.abs(samples.mean(1)) <= half_widths))

    half_widths = np.array([mean_interval(row).half_width for row in samples[:4000]])
    deviations = samples.std(1, ddof=1) / sqrt(num_seeds)
    ratio = half_widths / deviations[:4000]
    assert ratio == pytest.approx(ratio[0])  # the rest may be had by scaling
    assert abs(coverage(ratio[0] * deviations) - 0.95) < 4.5 * sigma
    # The power check: neither the normal quantile nor n instead of n - 1 would pass.
    assert abs(coverage(stats.norm.ppf(0.975) * deviations) - 0.95) > 4.5 * sigma
    assert abs(coverage(ratio[0] * deviations * sqrt(4 / 5)) - 0.95) > 4.5 * sigma


def test_one_sample_has_a_mean_but_no_width_and_none_is_refused():
    interval = mean_interval([4.0])
    assert interval.mean == 4
    assert isnan(interval.half_width)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
    assert isnan(mean_interval([1.0, float("nan")]).mean)


def test_overlap():
    narrow, near, far = mean_interval([1, 2, 3]), mean_interval([4, 5, 6]), mean_interval([101, 102, 103])
    assert intervals_overlap(narrow, near)
    assert intervals_overlap(near, narrow)
    assert not intervals_overlap(narrow, far)
    assert intervals_overlap(mean_interval([1.0]), far)  # one seed tells nothing apart


def rows(values: dict[tuple[str, int], list[float]], metric: str = "score", unit: str = "%") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"method": method, "seed": seed, "metric": metric, "value": value, "unit": unit}
            for (method, seed), listed in values.items()
            for value in listed
        ]
    )


def test_the_rows_of_one_seed_count_as_one_sample():
    records = rows({("ours", 0): [0.0, 2.0], ("ours", 1): [2.0], ("ours", 2): [3.0], ("base", 0): [7.0]})
    summary = summarise(records, ["method"]).set_index("method")
    expected = mean_interval([1, 2, 3])
    assert summary.loc["ours", "mean"] == 2
    assert summary.loc["ours", "half_width"] == expected.half_width
    assert list(summary["num_seeds"]) == [3, 1]


@pytest.mark.parametrize(
    ("mean", "half_width", "text"),
    [
        (0.78149, 0.01234, "0.781 ± 0.012"),
        (78.149, 1.234, "78.1 ± 1.2"),
        (781.49, 123.4, "781 ± 123"),
        (0.5, 0.0, "0.5 ± 0"),
        (0.78149, float("nan"), "0.7815"),
        (float("nan"), float("nan"), "nan"),
        (1.5e-9, 2e-11, "1.5e-09 ± 2.0e-11"),
    ],
)
def test_a_mean_has_the_digits_that_its_interval_carries(mean: float, half_width: float, text: str):
    assert format_interval(mean, half_width) == text


def test_a_table_has_a_line_per_method_and_a_column_per_metric():
    score = rows({("ours", 0): [1.0], ("ours", 1): [2.0], ("ours", 2): [3.0], ("base", 0): [7.0]})
    airtime = rows({("ours", 0): [0.5]}, "airtime", "s")
    table = pivot(pd.concat([score, airtime]), ["method"])
    assert list(table.columns) == ["method", "score (%)", "airtime (s)"]
    assert table.values.tolist() == [["ours", "2.0 ± 2.5", "0.5"], ["base", "7", ""]]
    assert to_markdown(table).splitlines() == [
        "| method | score (%) | airtime (s) |",
        "| --- | --- | --- |",
        "| ours | 2.0 ± 2.5 | 0.5 |",
        "| base | 7 |  |",
    ]
    with pytest.raises(ValueError, match="shows one metric"):
        pivot(pd.concat([score, airtime]), ["method"], columns="seed")
