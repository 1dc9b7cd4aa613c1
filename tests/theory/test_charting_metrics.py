"""Metrics of charts, against arrangements worked by hand, scikit-learn, and what must not change them."""

from math import log2, sqrt

import numpy as np
import pytest
import sklearn.manifold
from scipy import stats

from analysis.charting import (
    continuity,
    fit_affine,
    held_out_positions,
    kruskal_stress,
    position_errors,
    rajski_distance,
    score_chart,
    split_halves,
    trustworthiness,
)


def random_points(num: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, dim))


def rotated(points: np.ndarray, angle: float = 0.7) -> np.ndarray:
    return points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


# Five points on a line, A 0, B 1, C 3, D 7, E 15, and a chart in which C and D changed places.
# K = 1: the nearest in the chart of A is B, of B A, of C (at 7) D (at 3), of D B, of E C.
# Their ranks in space: B is A's 1st, A is B's 1st, D is C's 3rd (B 2, A 3, D 4), B is D's 2nd (C 4, B 6,
# A 7, E 8), C is E's 2nd. Penalty 0 + 0 + 2 + 1 + 1 = 4; 1 - 2 / (5 * 1 * (10 - 3 - 1)) * 4 = 11 / 15.
# The other way: the nearest in space of C is B, of D is C, of E is D. Their ranks in the chart (A 0, B 1,
# D 3, C 7, E 15): B is C's 2nd (D 4, B 6), C is D's 3rd (B 2, A 3, C 4), D is E's 2nd. Again 4.
LINE = np.array([[0.0], [1.0], [3.0], [7.0], [15.0]])
SWAPPED = np.array([[0.0], [1.0], [7.0], [3.0], [15.0]])


def test_trustworthiness_and_continuity_of_five_points_by_hand():
    assert trustworthiness(LINE, SWAPPED, 1) == pytest.approx(11 / 15, abs=1e-15)
    assert continuity(LINE, SWAPPED, 1) == pytest.approx(11 / 15, abs=1e-15)
    # E folded onto A's other side is near A in the chart alone, which trustworthiness sees first:
    # chart A 0, B 1, C 3, D 7, E -0.5. A's nearest is E, its 4th in space: 3; E's is A, its 4th: 3; else 0.
    folded = np.array([[0.0], [1.0], [3.0], [7.0], [-0.5]])
    assert trustworthiness(LINE, folded, 1) == pytest.approx(1 - 6 / 15, abs=1e-15)
    # In space A's nearest is B, its 2nd in the chart; E's is D, its 4th there: 1 + 3.
    assert continuity(LINE, folded, 1) == pytest.approx(1 - 4 / 15, abs=1e-15)


@pytest.mark.parametrize(
    ("num", "dim", "neighbors"), [(40, 2, None), (333, 3, None), (333, 2, 60), (1500, 4, 7)]
)
def test_without_ties_they_are_scikit_learn_s(num: int, dim: int, neighbors: int | None):
    position = random_points(num, 2, seed=num)
    chart = position @ random_points(2, dim) + 0.7 * random_points(num, dim, seed=1)
    k = neighbors or int(0.05 * num)
    expected = sklearn.manifold.trustworthiness(position, chart, n_neighbors=k)
    assert trustworthiness(position, chart, neighbors) == pytest.approx(expected, abs=1e-12)
    expected = sklearn.manifold.trustworthiness(chart, position, n_neighbors=k)
    assert continuity(position, chart, neighbors) == pytest.approx(expected, abs=1e-12)
    assert trustworthiness(position, chart, k + 1) != pytest.approx(expected, abs=1e-6)  # the power check


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch):
    position, chart = random_points(101, 2), random_points(101, 2, seed=1)
    metrics = (trustworthiness, kruskal_stress, rajski_distance)
    whole = [metric(position, chart) for metric in metrics]
    monkeypatch.setattr("analysis.charting._BLOCK_PAIRS", 700)
    assert [metric(position, chart) for metric in metrics] == pytest.approx(whole, abs=1e-13)


def test_ties_count_as_the_mean_over_the_orders_of_those_tied():
    # Points on a grid tie. Moved by a millionth they don't, and the mean over such moves is over all orders.
    position = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0)), -1).reshape(-1, 2)
    chart = position[np.random.default_rng(2).permutation(len(position))]
    generator, trials = np.random.default_rng(0), []
    for _ in range(1500):
        moved = [points + 1e-6 * generator.normal(size=points.shape) for points in (position, chart)]
        trials.append(sklearn.manifold.trustworthiness(*moved, n_neighbors=3))
    sigma = np.std(trials) / sqrt(len(trials))
    assert abs(trustworthiness(position, chart, 3) - np.mean(trials)) < 4.5 * sigma
    assert (
        abs(sklearn.manifold.trustworthiness(position, chart, n_neighbors=3) - np.mean(trials)) > 4.5 * sigma
    )


def test_a_chart_that_collapsed_is_worth_no_more_than_a_random_one():
    position, collapsed = random_points(200, 2), np.zeros((200, 2))
    # By hand: of the n - 1 others each is a neighbour with weight K / (n - 1), and ranks run over 1 .. n - 1.
    num, k = 200, 10
    penalty = num * k / (num - 1) * sum(rank - k for rank in range(k + 1, num))
    expected = 1 - 2 * penalty / (num * k * (2 * num - 3 * k - 1))
    assert trustworthiness(position, collapsed) == pytest.approx(expected, abs=1e-12)
    assert continuity(position, collapsed) == pytest.approx(expected, abs=1e-12)
    assert 0.48 < expected < 0.52
    assert kruskal_stress(position, collapsed) == pytest.approx(1, abs=1e-12)
    assert rajski_distance(position, collapsed) == 1


@pytest.mark.parametrize("metric", [trustworthiness, continuity, kruskal_stress, rajski_distance])
def test_turning_scaling_and_moving_a_chart_changes_no_metric(metric):
    position = random_points(150, 2)
    chart = position + 0.3 * random_points(150, 2, seed=1)
    same = 5.0 * rotated(chart) + [100, -30]
    assert metric(position, same) == pytest.approx(metric(position, chart), abs=1e-9)
    assert metric(position, chart * [1, 3]) != pytest.approx(metric(position, chart), abs=1e-3)  # power


def test_a_turned_and_scaled_copy_is_a_perfect_chart():
    position = random_points(60, 2)
    score = score_chart(0.02 * rotated(position) + 1, position, np.random.default_rng(0))
    assert (score.trustworthiness, score.continuity) == (1, 1)
    assert score.kruskal_stress < 1e-12
    assert score.rajski_distance < 0.05  # distances on a bin's edge may fall on either side
    assert score.held_out.r95_m < 1e-12


def test_a_score_tells_both_fits():
    position, chart = random_points(40, 2), random_points(40, 2, seed=1)
    groups = np.repeat(np.arange(8), 5)
    score = score_chart(chart, position, np.random.default_rng(3), groups)
    held_out = held_out_positions(chart, position, np.random.default_rng(3), groups)
    assert score.held_out == position_errors(held_out, position)
    assert score.fitted == position_errors(fit_affine(chart, position).apply(chart), position)
    assert score.fitted.drms_m < score.held_out.drms_m
    assert score.trustworthiness == trustworthiness(position, chart)
    assert score.continuity == continuity(position, chart)


def test_kruskal_stress_of_three_points_by_hand():
    # D = 1, 1, 2 (A, B, C at 0, 1, 2), D_hat = 1, 2, 3 (at 0, 1, 3): b = (1 + 2 + 6) / 14 = 9 / 14,
    # sum (D - b D_hat)^2 = (25 + 16 + 1) / 196 = 3 / 14, sum D^2 = 6: KS = sqrt(1 / 28).
    stress = kruskal_stress([[0.0], [1.0], [2.0]], [[0.0], [1.0], [3.0]])
    assert stress == pytest.approx(sqrt(1 / 28), abs=1e-15)


def test_rajski_distance_of_three_points_by_hand():
    # Nine pairs: D = 0 (3 times), 1 (4), 2 (2); D_hat = 0 (3), 1 (2), 2 (2), 3 (2). With 20 bins no two of
    # these share one. Joint: (0,0) 3/9, (1,1) 2/9, (1,2) 2/9, (2,3) 2/9. D_hat tells D, so that I = H(D).
    def entropy(*ninths: int) -> float:
        return -sum(n / 9 * log2(n / 9) for n in ninths)

    expected = 1 - entropy(3, 4, 2) / entropy(3, 2, 2, 2)
    assert rajski_distance([[0.0], [1.0], [2.0]], [[0.0], [1.0], [3.0]]) == pytest.approx(expected, abs=1e-14)
    # With 2 bins D falls into 0 | 1, 2 and D_hat into 0, 1 | 2, 3.
    both = 1 - (entropy(3, 6) + entropy(5, 4) - entropy(3, 2, 4)) / entropy(3, 2, 4)
    assert rajski_distance([[0.0], [1.0], [2.0]], [[0.0], [1.0], [3.0]], 2) == pytest.approx(both, abs=1e-14)


def test_rajski_distance_agrees_with_scipy_and_numpy():
    position, chart = random_points(70, 2), random_points(70, 2, seed=1) ** 3
    distances = [np.linalg.norm(p[:, None] - p[None], axis=-1).reshape(-1) for p in (position, chart)]
    joint = np.histogram2d(*distances, bins=20)[0]
    entropy = stats.entropy(joint.reshape(-1))
    information = stats.entropy(joint.sum(0)) + stats.entropy(joint.sum(1)) - entropy
    assert rajski_distance(position, chart) == pytest.approx(1 - information / entropy, abs=1e-12)
    assert abs(rajski_distance(position, chart, 19) - rajski_distance(position, chart)) > 1e-4  # power


def test_position_errors_by_hand():
    # Errors 0, 3, 4, 5 (a 3-4-5 triangle): mean 3, RMS sqrt(50 / 4), median 3.5, 95 % at 4 + 0.85.
    errors = position_errors([[0, 0], [3, 0], [0, 4], [3, 4]], np.zeros((4, 2)))
    assert errors.mae_m == 3
    assert errors.drms_m == pytest.approx(sqrt(12.5), abs=1e-15)
    assert errors.cep_m == 3.5
    assert errors.r95_m == pytest.approx(4.85, abs=1e-12)


def test_an_affine_map_is_recovered_and_applied_to_any_shape():
    chart = random_points(20, 2)
    matrix, offset = np.array([[2.0, 1.0], [-0.5, 3.0]]), np.array([10.0, -4.0])
    fit = fit_affine(chart, chart @ matrix + offset)
    np.testing.assert_allclose(fit.matrix, matrix, atol=1e-12)
    np.testing.assert_allclose(fit.offset, offset, atol=1e-12)
    assert fit.apply(np.zeros((3, 4, 2))).shape == (3, 4, 2)
    # A collapsed chart can tell the mean position and no more.
    np.testing.assert_allclose(fit_affine(np.full((20, 2), 7.0), chart).apply([[7.0, 7.0]])[0], chart.mean(0))


def test_halves_keep_groups_whole_and_are_halves():
    groups = np.repeat(np.arange(30), np.random.default_rng(0).integers(5, 50, 30))
    for seed in range(20):
        first = split_halves(groups, np.random.default_rng(seed))
        assert not set(groups[first]) & set(groups[~first])
        assert abs(first.sum() - len(groups) / 2) <= np.bincount(groups).max() / 2
    again = split_halves(groups, np.random.default_rng(19))
    np.testing.assert_array_equal(again, first)
    assert not np.array_equal(split_halves(groups, np.random.default_rng(1)), first)


def test_held_out_errors_of_a_chart_that_knows_nothing_are_larger_by_what_theory_says():
    # Chart and position independent and normal: fitted on m points and evaluated on others, the mean squared
    # error per coordinate is s^2 (1 + 1 / m) (m - 2) / (m - 4) with 3 coefficients and normal regressors;
    # fitted on the n evaluated it is s^2 (n - 3) / n.
    num, trials, generator = 24, 4000, np.random.default_rng(0)
    held, own = np.empty(trials), np.empty(trials)
    for trial in range(trials):
        position, chart = generator.normal(size=(num, 2)), generator.normal(size=(num, 2))
        held[trial] = np.mean((held_out_positions(chart, position, generator) - position) ** 2)
        own[trial] = np.mean((fit_affine(chart, position).apply(chart) - position) ** 2)
    half = num // 2
    expected = (1 + 1 / half) * (half - 2) / (half - 4)
    for values, mean in ((held, expected), (own, (num - 3) / num)):
        sigma = values.std() / sqrt(trials)
        assert abs(values.mean() - mean) < 4.5 * sigma
        assert abs(values.mean() - 1) > 4.5 * sigma  # the power check: neither is the plain variance


def test_a_leak_between_halves_would_show():
    # Each trajectory is one place of its own in 12 dimensions of chart: split by points, the map learns each
    # trajectory's place; split by trajectory, it can't.
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 30)
    position = generator.normal(size=(12, 2))[groups]
    chart = np.eye(12)[groups] + 0.01 * generator.normal(size=(360, 12))
    by_point = position_errors(held_out_positions(chart, position, generator), position)
    by_group = position_errors(held_out_positions(chart, position, generator, groups), position)
    assert by_point.mae_m < 0.1
    assert by_group.mae_m > 0.5


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: trustworthiness(random_points(19, 2), random_points(19, 2)), "19 points are too few"),
        (lambda: continuity(random_points(19, 2), random_points(19, 2), 10), "K = 10 neighbours"),
        (lambda: kruskal_stress(np.zeros((5, 2)), random_points(5, 2)), "all the same"),
        (lambda: rajski_distance(np.zeros((5, 2)), random_points(5, 2)), "all the same"),
        (lambda: kruskal_stress(random_points(5, 2), random_points(6, 2)), r"\(5, 2\) and \(6, 2\)"),
        (lambda: kruskal_stress(random_points(2, 2), [[0, 0], [np.nan, 1]]), "1 of 2 rows are not finite"),
        (lambda: fit_affine(random_points(2, 2), random_points(2, 2)), "2 points are too few"),
        (lambda: split_halves(np.zeros(9), np.random.default_rng(0)), "1 group can't be halved"),
        (lambda: position_errors(random_points(4, 3), random_points(4, 3)), r"\[..., 2\]"),
        (lambda: position_errors([[np.inf, 0.0]], [[0.0, 0.0]]), "1 of 1 positions are not finite"),
        (
            lambda: held_out_positions(*[random_points(9, 2)] * 2, np.random.default_rng(0), np.arange(8)),
            "8 groups are given for 9 points",
        ),
    ],
)
def test_bad_input_is_refused_in_one_clear_line(call, text: str):
    with pytest.raises(ValueError, match=text) as error:
        call()
    assert "\n" not in str(error.value)
