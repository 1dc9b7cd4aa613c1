"""Dissimilarities by hand and by plain loops; charts against known configurations and scikit-learn."""

import numpy as np
import pytest
import sklearn.decomposition
import sklearn.manifold
from scipy.spatial.distance import cdist

from analysis.charting import fit_affine, kruskal_stress
from scenarios.charting.charts import PcaChart, SammonChart, ScalingChart, _sammon_stress
from scenarios.charting.dissimilarity import (
    adp_dissimilarity,
    fuse,
    geodesic_dissimilarity,
    geodesic_to_training,
    time_dissimilarity,
    time_scale,
)
from semcom.contracts import SemcomError


def random_taps(*shape: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape) + 1j * generator.normal(size=shape)


def plane(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(num, 2)) * [3, 1]


def s_curve(num: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    angle = 3 * np.pi * (generator.random(num) - 0.5)
    return np.stack([np.sin(angle), 2 * generator.random(num), np.sign(angle) * (np.cos(angle) - 1)], axis=1)


def test_the_angle_delay_dissimilarity_of_two_taps_by_hand():
    # Two antennas, one array. Tap 1: (1, 0) against (1, 1): |1|^2 / (1 * 2) = 1/2, so 1/2.
    # Tap 2: (1, i) against (i, -1) = i (1, i): the same direction, 0. Together 1/2.
    first = np.array([[1, 1], [0, 1j]])  # antennas by delays
    second = np.array([[1, 1j], [1, -1]])
    dissimilarity = adp_dissimilarity(np.stack([first, second])[:, None])
    np.testing.assert_allclose(dissimilarity, [[0, 0.5], [0.5, 0]], atol=1e-6)


def test_it_is_the_sum_over_arrays_and_taps_as_plain_loops_take_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scenarios.charting.dissimilarity._BLOCK_PAIRS", 20)
    taps, others = random_taps(9, 2, 4, 3), random_taps(6, 2, 4, 3, seed=1)
    expected = np.zeros((9, 6))
    for i, j, array, tap in np.ndindex(9, 6, 2, 3):
        h, w = taps[i, array, :, tap], others[j, array, :, tap]
        expected[i, j] += 1 - abs(np.vdot(h, w)) ** 2 / (np.linalg.norm(h) * np.linalg.norm(w)) ** 2
    np.testing.assert_allclose(adp_dissimilarity(taps, others), expected, atol=1e-5)
    np.testing.assert_allclose(adp_dissimilarity(taps)[:, :3], adp_dissimilarity(taps, taps[:3]), atol=1e-5)


def test_phase_and_power_of_a_user_do_not_count_but_those_of_an_antenna_do():
    taps = random_taps(5, 2, 4, 3)
    user = random_taps(5, 1, 1, 1, seed=1)
    whole = adp_dissimilarity(taps)
    np.testing.assert_allclose(adp_dissimilarity(1e-24 * user * taps), whole, atol=1e-5)
    np.testing.assert_allclose(np.diag(whole), 0)
    np.testing.assert_array_equal(whole, whole.T)
    assert np.abs(adp_dissimilarity(taps * random_taps(5, 1, 4, 1, seed=2)) - whole).max() > 0.1


def test_empty_taps_count_one_against_others_and_nothing_against_each_other():
    taps = random_taps(3, 1, 4, 2)
    taps[0, :, :, 1] = taps[1, :, :, 1] = 0
    full = adp_dissimilarity(taps[..., :1])
    np.testing.assert_allclose(adp_dissimilarity(taps)[0], full[0] + [0, 0, 1], atol=1e-6)
    taps[0] = 0
    assert np.isfinite(adp_dissimilarity(taps)).all()


def test_time_counts_within_a_trajectory():
    gap = time_dissimilarity([0.0, 0.5, 2.0, 0.0], [7, 7, 7, 8])
    np.testing.assert_array_equal(gap[:3, :3], [[0, 0.5, 2], [0.5, 0, 1.5], [2, 1.5, 0]])
    assert np.isinf(gap[3, :3]).all()
    adp = np.full((4, 4), 3, dtype=np.float32)
    np.testing.assert_array_equal(fuse(adp, gap, 4.0)[0], [0, 2, 3, 3])


def test_the_time_scale_is_the_lower_edge_of_what_moving_users_show():
    # Ratios between 5 and 7 per second, and half as many outliers spread between 0 and 5.
    generator = np.random.default_rng(0)
    num = 400
    gap = time_dissimilarity(0.1 * np.arange(num), np.zeros(num))
    ratio = np.where(generator.random((num, num)) < 2 / 3, 5 + 2 * generator.random((num, num)), 5)
    ratio = np.where(ratio == 5, 5 * generator.random((num, num)), ratio)
    # The last rare bin below 5 is a few bins of 0.06 away at most: half of them are rarer than the median.
    assert 4.7 < time_scale(gap * ratio, gap) < 5.03
    assert 3 * 4.7 < time_scale(3 * gap * ratio, gap) < 3 * 5.03  # the power check
    # Where most users stand, their ratio of 0 is the most frequent: the median takes its place.
    standing = np.where(generator.random((num, num)) < 0.4, 0, ratio)
    median = np.median(standing[(gap > 0) & (gap < 2)])
    assert time_scale(gap * standing, gap) == pytest.approx(median, rel=1e-5)
    with pytest.raises(SemcomError, match=r"less than 0\.05 s apart"):
        time_scale(gap * ratio, gap, max_gap_s=0.05)
    with pytest.raises(SemcomError, match="nobody moves"):
        time_scale(0 * gap, gap)


def test_geodesics_follow_the_curve_and_not_the_chord():
    # Half a circle of 101 points, each joined to its 2 nearest. From end to end it is not 2: the ends reach
    # two points on, and the other 96 sides of the polygon are 2 sin(pi / 200) each.
    angle = np.linspace(0, np.pi, 101)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    geodesic = geodesic_dissimilarity(cdist(points, points), num_neighbors=2)
    expected = 4 * np.sin(np.pi / 100) + 192 * np.sin(np.pi / 200)
    assert geodesic[0, -1] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(geodesic, geodesic.T)
    # A new point on the arc between two: the rest of the way from the nearer neighbours.
    new = np.array([[np.cos(0.333), np.sin(0.333)]])
    onward = geodesic_to_training(cdist(new, points), geodesic, num_neighbors=2)
    assert onward[0, -1] == pytest.approx(np.pi - 0.333, rel=1e-3)
    assert onward[0, 0] == pytest.approx(0.333, rel=1e-3)


def test_parts_of_a_graph_are_joined_by_their_nearest_points():
    # Three clusters on a line, at 0..4, 100..104, 300..304; each point joined to 2 others.
    line = np.concatenate([np.arange(5.0), 100 + np.arange(5.0), 300 + np.arange(5.0)])[:, None]
    distance = cdist(line, line)
    np.testing.assert_allclose(geodesic_dissimilarity(distance, 2), distance, rtol=1e-6)
    distance[:5, 5:] = distance[5:, :5] = np.inf
    with pytest.raises(SemcomError, match="3 parts"):
        geodesic_dissimilarity(distance, 2)


def test_points_that_are_the_same_are_joined():
    line = np.array([[0.0], [0.0], [0.0], [1.0], [2.0]])
    np.testing.assert_allclose(geodesic_dissimilarity(cdist(line, line), 2), cdist(line, line), atol=1e-6)


def test_the_pca_is_scikit_learn_s():
    for shape in ((80, 6), (30, 200)):
        features = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 3, shape[1])
        reference = sklearn.decomposition.PCA(2, svd_solver="full").fit(features)
        chart = PcaChart.fit(features)
        sign = np.sign(np.sum(reference.components_.T * chart.components, axis=0))
        np.testing.assert_allclose(chart.points * sign, reference.transform(features), atol=1e-9)
        new = np.random.default_rng(1).normal(size=(5, shape[1]))
        np.testing.assert_allclose(chart.place(new) * sign, reference.transform(new), atol=1e-9)


def test_classical_scaling_finds_a_configuration_and_places_others_in_it():
    known, new = plane(60), plane(7, seed=1)
    chart = ScalingChart.fit(cdist(known, known))
    assert kruskal_stress(known, chart.points) < 1e-9
    fit = fit_affine(chart.points, known)
    np.testing.assert_allclose(fit.apply(chart.place(cdist(new, known))), new, atol=1e-9)
    # Of Euclidean distances it is the PCA of the points.
    pca = PcaChart.fit(known)
    np.testing.assert_allclose(np.abs(chart.points), np.abs(pca.points), atol=1e-9)


def test_isomap_is_scikit_learn_s():
    points, new = s_curve(300), s_curve(20, seed=1)
    reference = sklearn.manifold.Isomap(n_neighbors=10, n_components=2).fit(points)
    geodesic = geodesic_dissimilarity(cdist(points, points), 10)
    np.testing.assert_allclose(geodesic, reference.dist_matrix_, atol=1e-5)
    chart = ScalingChart.fit(geodesic)
    sign = np.sign(np.sum(reference.embedding_ * chart.points, axis=0))
    np.testing.assert_allclose(chart.points * sign, reference.embedding_, atol=1e-4)
    placed = chart.place(geodesic_to_training(cdist(new, points), geodesic, 10))
    np.testing.assert_allclose(placed * sign, reference.transform(new), atol=1e-4)
    assert np.abs(ScalingChart.fit(cdist(points, points)).points).max() < 0.8 * np.abs(chart.points).max()


def test_the_gradient_of_sammon_s_stress_is_its_slope():
    points, target = plane(8), cdist(s_curve(8), s_curve(8))
    weight = 1 / np.maximum(target, 1e-3)
    _, gradient = _sammon_stress(points, target, weight)
    for index in np.ndindex(points.shape):
        step = np.zeros_like(points)
        step[index] = 1e-6
        slope = (
            _sammon_stress(points + step, target, weight)[0]
            - _sammon_stress(points - step, target, weight)[0]
        )
        assert gradient[index] == pytest.approx(slope / 2e-6, abs=1e-6)


def test_sammon_s_stress_of_three_points_by_hand():
    # d = 1, 1, 2 and in the chart 1, 2, 3: (0 / 1 + 1 / 1 + 1 / 2) / 4 = 3 / 8.
    target = np.array([[0.0, 1, 2], [1, 0, 1], [2, 1, 0]])
    value, _ = _sammon_stress(np.array([[0.0], [1.0], [3.0]]), target, 1 / np.maximum(target, 1e-3))
    assert value == pytest.approx(3 / 8, abs=1e-15)


def test_sammon_s_mapping_finds_a_configuration_and_places_others_in_it():
    known, new = plane(80), plane(9, seed=1)
    chart = SammonChart.fit(cdist(known, known))
    assert chart.stress < 1e-9
    assert kruskal_stress(known, chart.points) < 1e-4
    fit = fit_affine(chart.points, known)
    np.testing.assert_allclose(fit.apply(chart.place(cdist(new, known), tolerance=1e-7)), new, atol=1e-3)


def test_sammon_s_mapping_ends_in_a_minimum_below_where_it_started():
    points = s_curve(120)
    target = geodesic_dissimilarity(cdist(points, points), 8).astype(np.float64) ** 1.3
    chart = SammonChart.fit(target)
    assert chart.stress < 0.9 * chart.start_stress
    weight = 1 / np.maximum(target, chart.weight_floor)
    generator = np.random.default_rng(0)
    for _ in range(20):
        moved = chart.points + 0.01 * chart.points.std() * generator.normal(size=chart.points.shape)
        assert _sammon_stress(moved, target, weight)[0] > chart.stress
    # A training point's place is the best for it, given the others: it is placed where it is.
    np.testing.assert_allclose(chart.place(target[:10]), chart.points[:10], atol=0.02 * chart.points.std())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: adp_dissimilarity(np.zeros((3, 4))), "have to be"),
        (lambda: adp_dissimilarity(np.full((3, 1, 2, 2), np.nan)), "3 of 3 snapshots"),
        (lambda: adp_dissimilarity(random_taps(3, 1, 2, 2), random_taps(3, 1, 2, 3)), "cut both alike"),
        (lambda: time_dissimilarity([1.0, 2.0], [1]), "per point"),
        (lambda: ScalingChart.fit(np.zeros((3, 4))), "square"),
        (lambda: ScalingChart.fit(np.full((3, 3), np.inf)), "not finite"),
        (lambda: PcaChart.fit(np.zeros((5, 1))), "too few"),
    ],
)
def test_bad_input_is_refused_in_one_clear_line(call, text: str):
    with pytest.raises(SemcomError, match=text) as error:
        call()
    assert "\n" not in str(error.value)
