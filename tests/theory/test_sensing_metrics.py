"""Metrics of sensing, against cases worked by hand, scipy, the definitions, and what theory says."""

from math import erf, log10, sqrt

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from analysis.alarms import FALSE_ALARM_GRID, area_under_roc, detection_at, roc, roc_at
from analysis.sensing import (
    assigned_estimates,
    balanced_occlusion_accuracy,
    count_accuracy,
    localisation_error_m,
    localisation_errors_m,
    num_present,
    occlusion_accuracy,
    ospa_m,
    psnr_db,
    ssim,
)

NAN = [np.nan, np.nan]
# Two people, then one (in the second slot), then nobody.
TRUE = np.array([[[0, 0], [4, 0], NAN], [NAN, [1, 1], NAN], [NAN, NAN, NAN]], dtype=float)
# Step 0: the best two are slots 2 and 0, (4, 1) and (0, 2): distances 1 and 2, against sqrt 20 and sqrt 17.
# Step 1: slot 1 alone, at (4, 5): 5, though slot 0 is nearer.
ESTIMATE = np.array([[[0, 2], [0, 0], [4, 1]], [[1, 1], [4, 5], [0, 0]], [[1, 2], [3, 4], [5, 6]]], float)
SCORE = np.array([[0.6, 0.1, 0.9], [0.2, 0.9, 0.3], [0.5, 0.5, 0.5]])


def test_localisation_errors_by_hand():
    errors = localisation_errors_m(TRUE, ESTIMATE, SCORE)
    np.testing.assert_allclose(errors[:2], [1.5, 5.0])
    assert np.isnan(errors[2])
    assert num_present(TRUE).tolist() == [2, 1, 0]
    # Over the three pedestrians, not over the two steps: (1 + 2 + 5) / 3.
    assert localisation_error_m(TRUE, ESTIMATE, SCORE) == pytest.approx(8 / 3)
    assert np.isnan(localisation_error_m(TRUE[2:], ESTIMATE[2:], SCORE[2:]))
    # Of equal scores the first counts.
    assert localisation_errors_m(TRUE[1:2], ESTIMATE[1:2], np.ones((1, 3)))[0] == 0


def test_assigned_estimates_by_hand():
    # Step 0: (0, 0) gets slot 0, (4, 0) slot 2. Step 1: the second slot's person gets slot 1, the best one.
    assert assigned_estimates(TRUE, ESTIMATE, SCORE).tolist() == [[0, 2, -1], [-1, 1, -1], [-1, -1, -1]]


def test_errors_are_those_of_the_assigned_estimates():
    generator = np.random.default_rng(0)
    true, estimate = generator.uniform(0, 6, (200, 3, 2)), generator.uniform(0, 6, (200, 4, 2))
    true[generator.random((200, 3)) < 0.3] = np.nan
    score = generator.random((200, 4))
    chosen = assigned_estimates(true, estimate, score)
    there = chosen >= 0
    assert (there == np.isfinite(true).all(axis=2)).all()
    placed = np.take_along_axis(estimate, chosen.clip(0)[..., None], axis=1)
    distance = np.where(there, np.linalg.norm(true - placed, axis=2), 0).sum(axis=1)
    expected = localisation_errors_m(true, estimate, score) * there.sum(axis=1)
    np.testing.assert_allclose(distance, np.nan_to_num(expected))
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in chosen)


def test_ospa_by_hand():
    def ospa(count_hat: int, step: int = 0, **settings: float) -> float:
        rows = slice(step, step + 1)
        return ospa_m(TRUE[rows], ESTIMATE[rows], SCORE[rows], [count_hat], **settings).item()

    # Two and two: distances 1 and 2, cut off at 1.5.
    assert ospa(2, cutoff_m=1.5) == pytest.approx((1 + 1.5) / 2)
    assert ospa(2, cutoff_m=1.5, order=2) == pytest.approx(sqrt((1 + 1.5**2) / 2))
    # One estimate, (4, 1), for two people: 1 from the second, and the first is missing.
    assert ospa(1, cutoff_m=1.5) == pytest.approx((1 + 1.5) / 2)
    # Three for two: (0, 0) goes to the first, (4, 1) to the second, and one is too many.
    assert ospa(3, cutoff_m=1.5) == pytest.approx((0 + 1 + 1.5) / 3)
    assert ospa(3, cutoff_m=1.5, order=2) == pytest.approx(sqrt((0 + 1 + 2.25) / 3))
    # None for two, two for none, none for none.
    assert (ospa(0), ospa(2, step=2), ospa(0, step=2)) == (1, 1, 0)


def test_assignment_is_that_of_scipy_and_better_than_one_in_order():
    rng = np.random.default_rng(0)
    true, estimate, score = rng.normal(size=(200, 4, 2)), rng.normal(size=(200, 5, 2)), rng.random((200, 5))
    true[rng.random((200, 4)) < 0.3] = np.nan
    count_hat = rng.integers(0, 6, 200)
    errors, in_order = np.full((2, 200), np.nan)
    ospa = np.zeros(200)
    for step in range(200):
        there = true[step][np.isfinite(true[step, :, 0])]
        best = estimate[step][np.argsort(-score[step])]
        distance = np.linalg.norm(there[:, None] - best, axis=-1)
        k, m = len(there), count_hat[step]
        if k:
            errors[step] = distance[:, :k][linear_sum_assignment(distance[:, :k])].mean()
            in_order[step] = np.diag(distance[:, :k]).mean()
        cut = np.minimum(distance[:, :m], 0.8) ** 2
        matched = cut[linear_sum_assignment(cut)].sum()
        ospa[step] = sqrt((matched + 0.64 * abs(k - m)) / max(1, k, m))
    np.testing.assert_allclose(localisation_errors_m(true, estimate, score), errors)
    np.testing.assert_allclose(ospa_m(true, estimate, score, count_hat, 0.8, 2), ospa)
    assert np.nanmean(in_order) > 1.2 * np.nanmean(errors)  # the power check


def test_ospa_obeys_the_triangle_inequality_and_knows_no_order():
    rng = np.random.default_rng(1)
    a, b, c = rng.random((3, 300, 3, 2)) * 2
    num = rng.integers(0, 4, (3, 300))
    score = np.tile([3.0, 2, 1], (300, 1))

    def distance(x, num_x, y, num_y):
        there = np.where(np.arange(3)[None, :, None] < num_x[:, None, None], x, np.nan)
        return ospa_m(there, y, score, num_y)

    ab, bc, ac = (
        distance(*pair) for pair in ((a, num[0], b, num[1]), (b, num[1], c, num[2]), (a, num[0], c, num[2]))
    )
    assert (ac <= ab + bc + 1e-12).all()
    np.testing.assert_allclose(ab, distance(b, num[1], a, num[0]))
    assert ab.max() == 1


def test_counts_and_occlusions_by_hand():
    assert count_accuracy([0, 1, 2, 3], [0, 1, 1, 3]) == 0.75
    share = np.array([[0.0, 0.49, np.nan], [0.5, 1.0, 0.9]])
    guess = np.array([[True, False, True], [False, False, True]])
    # Occluded are the first two, one of them told; the three others, two told; nobody counts in between.
    assert occlusion_accuracy(share, guess) == pytest.approx(3 / 5)
    assert balanced_occlusion_accuracy(share, guess) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert balanced_occlusion_accuracy(share, np.zeros_like(guess)) == 0.5
    assert np.isnan(balanced_occlusion_accuracy(share[1], guess[1]))
    assert np.isnan(occlusion_accuracy([np.nan], [True]))


def test_psnr_is_the_mean_of_frames_and_bounded_by_rounding():
    true = np.full((2, 4, 6, 3), 0.5)
    decoded = true + np.array([0.1, 0.01])[:, None, None, None]
    # 20 dB and 40 dB; the mean error of both frames together would give 22.97.
    assert psnr_db(true, decoded) == pytest.approx(30)
    assert psnr_db(true, true) == pytest.approx(10 * log10(12 * 255**2))
    # Noise of deviation s: -20 log10 s; its variance over n values deviates by sqrt(2 / n).
    rng, sigma, num = np.random.default_rng(0), 0.05, 8 * 64 * 96 * 3
    noisy = np.full((8, 64, 96, 3), 0.5) + sigma * rng.normal(size=(8, 64, 96, 3))
    tolerance_db = 4.5 * 10 / np.log(10) * sqrt(2 / num)
    found = psnr_db(np.full(noisy.shape, 0.5), noisy.clip(0, 1))
    assert abs(found + 20 * log10(sigma)) < tolerance_db
    assert abs(found + 20 * log10(sigma) - 0.1) > tolerance_db  # the power check


def ssim_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, eqs. 13 to 17, of one colour, window by window."""
    at = np.arange(-5, 6)
    weight = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for i in range(5, a.shape[0] - 5):
        for j in range(5, a.shape[1] - 5):
            x, y = (frame[i - 5 : i + 6, j - 5 : j + 6] for frame in (a, b))
            mx, my = (weight * x).sum(), (weight * y).sum()
            vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
            vxy = (weight * (x - mx) * (y - my)).sum()
            values.append((2 * mx * my + 1e-4) * (2 * vxy + 9e-4)
                          / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))  # fmt: skip
    return float(np.mean(values))


def test_ssim_is_that_of_its_authors():
    rng = np.random.default_rng(0)
    true = rng.random((2, 16, 20, 3))
    decoded = (true + 0.2 * rng.normal(size=true.shape)).clip(0, 1)
    expected = np.mean([ssim_by_definition(true[n, ..., c], decoded[n, ..., c])
                        for n in range(2) for c in range(3)])  # fmt: skip
    assert ssim(true, decoded) == pytest.approx(expected, abs=1e-9)
    assert ssim(true, true) == pytest.approx(1)
    # Frames are not mixed: one of two is perfect.
    half = np.stack([true[0], decoded[1]])
    assert ssim(true, half) == pytest.approx((1 + ssim(true[1:], decoded[1:])) / 2)


def test_roc_by_hand():
    normal, faulty = [1, 2, 3, 4], [3, 5, 6]
    false_alarm, detection = roc(normal, faulty)
    # Thresholds above all, then at 6, 5, 4, 3, 2 and 1.
    np.testing.assert_allclose(false_alarm, [0, 0, 0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(detection, [0, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1])
    np.testing.assert_allclose(roc_at(normal, faulty, [0, 0.24, 0.5, 0.51, 1]), [2 / 3, 2 / 3, 1, 1, 1])
    # Of 12 pairs 5 and 6 win 8, 3 wins over 1 and 2, and ties with 3.
    assert area_under_roc(normal, faulty) == pytest.approx((8 + 2 + 0.5) / 12)
    assert roc_at(normal, faulty).shape == (len(FALSE_ALARM_GRID),)


def test_area_and_detection_of_normal_scores_are_those_of_theory():
    # N(0, 1) against N(d, 1): the area is Phi(d / sqrt 2), and 5 % false alarms detect Phi(d - 1.645).
    def phi(x: float) -> float:
        return (1 + erf(x / sqrt(2))) / 2

    rng, num, shift = np.random.default_rng(0), 40_000, 1.5
    calibration, normal = rng.normal(size=(2, num))
    faulty = rng.normal(shift, 1, num)
    area = area_under_roc(normal, faulty)
    # Hanley and McNeil 1982: a variance of at most A (1 - A) / min(n, m).
    sigma = sqrt(area * (1 - area) / num)
    assert abs(area - phi(shift / sqrt(2))) < 4.5 * sigma
    assert abs(area - phi((shift + 0.1) / sqrt(2))) > 4.5 * sigma  # the power check
    found = detection_at(calibration, normal, faulty)
    # The threshold's own spread, sqrt(a (1 - a) / n) / density, moves both rates.
    density = np.exp(-(1.6449**2) / 2) / sqrt(2 * np.pi)
    threshold_sigma = sqrt(0.05 * 0.95 / num) / density
    assert abs(found.threshold - 1.6449) < 4.5 * threshold_sigma
    assert abs(found.false_alarm_rate - 0.05) < 4.5 * sqrt(2 * 0.05 * 0.95 / num)
    expected = phi(shift - 1.6449)
    slope = np.exp(-((shift - 1.6449) ** 2) / 2) / sqrt(2 * np.pi)
    sigma = sqrt(expected * (1 - expected) / num + (slope * threshold_sigma) ** 2)
    assert abs(found.detection_rate - expected) < 4.5 * sigma
    assert abs(found.detection_rate - phi(shift + 0.1 - 1.6449)) > 4.5 * sigma  # the power check


def test_false_alarms_of_few_calibration_scores_are_right_on_average():
    # Of 39 scores the 38th: a new one is above it in 2 of 40 cases. The 95th percentile would give more.
    rng, trials = np.random.default_rng(0), 4000
    rates, plain = np.empty((2, trials))
    for trial in range(trials):
        calibration, normal = rng.normal(size=39), rng.normal(size=400)
        rates[trial] = detection_at(calibration, normal, [0.0]).false_alarm_rate
        plain[trial] = np.mean(normal > np.quantile(calibration, 0.95))
    sigma = rates.std() / sqrt(trials)
    assert abs(rates.mean() - 0.05) < 4.5 * sigma
    assert abs(plain.mean() - 0.05) > 4.5 * sigma  # the power check


def test_the_threshold_is_of_the_calibration_scores_and_both_rates_of_others():
    found = detection_at(np.arange(1, 20), [0, 18, 19, 20], [19, 19.5, 30], 0.05)
    assert (found.threshold, found.detection_rate, found.false_alarm_rate) == (19, 2 / 3, 0.25)
    assert detection_at(np.arange(1, 20), [0], [1], 0.1).threshold == 18
    with pytest.raises(ValueError, match=r"18 calibration scores are too few for 0.05 .* at least 19"):
        detection_at(np.arange(18), [0], [1])


FRAMES = np.zeros((1, 12, 12, 3))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: localisation_errors_m(TRUE, ESTIMATE, SCORE[:, :2]), r"\(3, 2\): give \[N, P, 2\]"),
        (lambda: localisation_errors_m(TRUE, ESTIMATE[:, :2], SCORE[:, :2]), "3 pedestrians and 2 estimates"),
        (lambda: localisation_errors_m(TRUE, ESTIMATE * np.nan, SCORE), "not finite"),
        (lambda: localisation_errors_m([[[1.0, np.nan]]], [[[1.0, 1]]], [[1.0]]), "half NaN"),
        (lambda: ospa_m(TRUE, ESTIMATE, SCORE, [1, 4, 0]), "numbers from 0 to 3"),
        (lambda: ospa_m(TRUE, ESTIMATE, SCORE, [1, 1, 0], cutoff_m=0), "cutoff_m = 0"),
        (lambda: count_accuracy([1, 2], [1]), r"\(2,\) and \(1,\)"),
        (lambda: occlusion_accuracy([0.2], [0.9]), "float64"),
        (lambda: psnr_db(FRAMES, FRAMES[:, 1:]), r"\(1, 12, 12, 3\) and \(1, 11, 12, 3\)"),
        (lambda: psnr_db(FRAMES, FRAMES + 1.01), "decoded frames of float64 are not from 0 to 1"),
        (lambda: psnr_db(FRAMES * np.nan, FRAMES), "true frames"),
        (lambda: psnr_db(FRAMES, FRAMES.astype(np.uint8)), "uint8"),
        (lambda: ssim(FRAMES[:, :10], FRAMES[:, :10]), "10 x 12 are too small"),
        (lambda: roc([], [1.0]), "none, or not finite"),
        (lambda: area_under_roc([1.0], [np.nan]), "not finite"),
        (lambda: detection_at(np.arange(50), [1.0], [1.0], 1.0), "between 0 and 1"),
    ],
)
def test_bad_input_is_refused_in_one_clear_line(call, text: str):
    with pytest.raises(ValueError, match=text) as error:
        call()
    assert "\n" not in str(error.value)
