"""Visibility against the distributions that its models promise, and shadows against diffraction theory."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.near_field import NearFieldConfig, element_positions_m
from channels.shadows import screen_amplitude
from channels.visibility import (
    VISIBLE_ABOVE,
    BlockerVisibility,
    BlockVisibility,
    MarkovVisibility,
    StochasticVisibility,
    VisibilityConfig,
    draw_visibility,
)
from semcom.rng import Streams

WAVELENGTH_M = SPEED_OF_LIGHT_M_PER_S / 30e9


def draw(config: VisibilityConfig, num: int, **array: object) -> np.ndarray:
    generator = Streams(0).torch_generator("visibility")
    return draw_visibility(config, NearFieldConfig.model_validate(array), num, generator).numpy()


def num_runs(is_on: np.ndarray) -> np.ndarray:
    """How many runs of True each row has."""
    return (np.diff(is_on.astype(int), axis=1, prepend=0) == 1).sum(axis=1)


@pytest.mark.parametrize("share", [1.0, 0.75, 0.5, 0.25])
def test_blocks_leave_the_share_and_hide_one_run_or_two_of_whole_subarrays(share):
    visible = draw(BlockVisibility(share=share), 3000) > VISIBLE_ABOVE
    assert (visible.mean(axis=1) == share).all()
    parts = visible.reshape(3000, 16, 16)
    assert (parts.all(axis=2) == parts.any(axis=2)).all()
    count = num_runs(~visible)
    if share == 1:
        assert (count == 0).all()
        return
    assert set(count) == {1, 2}
    assert abs((count == 2).mean() - 0.5) < 4.5 * math.sqrt(0.25 / 3000)
    # Nothing is said of left and right.
    mirrored = visible[:, ::-1].mean(axis=0) - visible.mean(axis=0)
    assert np.abs(mirrored).max() < 4.5 * math.sqrt(2 * 0.25 / 3000)


def test_one_hidden_block_is_anywhere_alike():
    # With fifteen of sixteen left there is one hidden sub-array: uniform over its sixteen places.
    visible = draw(BlockVisibility(share=15 / 16), 4000) > VISIBLE_ABOVE
    place = (~visible).reshape(4000, 16, 16).all(axis=2).argmax(axis=1)
    counts = np.bincount(place, minlength=16)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.chisquare(counts, 250 + 60 * np.repeat([1, -1], 8)).pvalue < 1e-4  # the power check


@pytest.mark.parametrize(("share", "mean_visible"), [(0.5, 16.0), (0.25, 10.0), (0.75, 60.0)])
def test_markov_runs_have_the_means_and_the_share_that_are_asked_for(share, mean_visible):
    # Of 4,096 columns none is without a visible one: no draw is drawn again.
    num, size = 200, 4096
    config = MarkovVisibility(share=share, mean_visible=mean_visible)
    visible = draw(config, num, num_elements=size) > VISIBLE_ABOVE
    before, after = visible[:, :-1], visible[:, 1:]
    mean_hidden = mean_visible * (1 - share) / share
    for leaves, mean in ((~after[before], mean_visible), (after[~before], mean_hidden)):
        rate, sigma = 1 / mean, math.sqrt((1 - 1 / mean) / mean / len(leaves))
        assert abs(leaves.mean() - rate) < 4.5 * sigma
        assert abs(leaves.mean() - rate * 1.1) > 4.5 * sigma  # a tenth more would be seen
    correlation = 1 - 1 / mean_visible - 1 / mean_hidden
    sigma = math.sqrt(share * (1 - share) * (1 + correlation) / (1 - correlation) / num / size)
    assert abs(visible.mean() - share) < 4.5 * sigma
    sigma = math.sqrt(share * (1 - share) / num)
    assert abs(visible[:, 0].mean() - share) < 4.5 * sigma  # stationary from the first column on


def test_markov_rows_are_alike_and_a_share_of_one_is_all():
    visible = draw(MarkovVisibility(mean_visible=4), 50, num_rows=8).reshape(50, 8, 32)
    assert (visible == visible[:, :1]).all()
    assert (draw(MarkovVisibility(share=1), 20) == 1).all()


@pytest.mark.parametrize("num_rows", [1, 16])
def test_stochastic_regions_have_the_share_and_fall_off_by_the_distance(num_rows):
    config = StochasticVisibility(partial_probability=0.7, roll_off_db=4)
    factor = draw(config, 3000, num_rows=num_rows, num_elements=1024).reshape(3000, num_rows, -1)
    inside = factor == 1
    is_full = inside.all(axis=(1, 2))
    truncated = stats.truncnorm((0.01 - 0.5) / 0.2, (1 - 0.5) / 0.2, 0.5, 0.2)
    # Whole shares are those of all who see everything, and of a part that is rounded to all.
    assert abs(is_full.mean() - 0.3) < 4.5 * math.sqrt(0.21 / 3000) + 0.3 * (num_rows > 1)
    if num_rows == 1:
        share = inside.mean(axis=(1, 2))[~is_full]
        assert stats.kstest(share, truncated.cdf).pvalue > 1e-4
        assert stats.kstest(share, lambda x: truncated.cdf(x - 0.05)).pvalue < 1e-4
    # Regions are rectangles.
    of_rows, of_columns = inside.any(axis=2), inside.any(axis=1)
    assert (inside == of_rows[:, :, None] & of_columns[:, None]).all()
    assert (num_runs(of_rows) == 1).all()
    assert (num_runs(of_columns) == 1).all()
    # In the first row of the region, to the right of it: 4 dB a wavelength, two elements.
    row = of_rows.argmax(axis=1)
    end = factor.shape[2] - of_columns[:, ::-1].argmax(axis=1)
    for number, (first, last) in enumerate(zip(row, end, strict=True)):
        right = factor[number, first, last:]
        loss_db = np.minimum(2 * (1 + np.arange(len(right))), 30)
        np.testing.assert_allclose(right, 10 ** (-loss_db / 20), rtol=1e-5)


def shadow(width_m: float, aim_y_m: float, angle_rad: float, height_m: float = 1e3) -> np.ndarray:
    """Amplitudes behind a screen 2 m before the array, of a user 10 m away."""
    user_m = 10 * np.array([[math.cos(angle_rad), math.sin(angle_rad), 0.0]])
    aim_m, rest = torch.tensor([[0.0, aim_y_m, 0.0]], dtype=torch.float64), (height_m, WAVELENGTH_M)
    element_m = element_positions_m(NearFieldConfig())
    away_m, width = (torch.tensor([part], dtype=torch.float64) for part in (2.0, width_m))
    return screen_amplitude(element_m, torch.from_numpy(user_m), aim_m, away_m, width, *rest)[0].numpy()


def test_a_wide_screen_is_a_knife_edge():
    # The edge's shadow falls on y = 0: of a screen 100 m wide in front of a user straight ahead.
    found = shadow(100.0, -50 * 10 / 8, 0.0)
    y_m = element_positions_m(NearFieldConfig())[:, 1].numpy()
    beside_m = -y_m * 8 / 10
    v = beside_m * math.sqrt(2 / WAVELENGTH_M * (1 / 2 + 1 / 8))
    assert np.interp(0, y_m, found) == pytest.approx(0.5, abs=0.01)
    dark = v > 0
    # ITU-R P.526, eq. 31: an approximation that errs by less than 0.3 dB there.
    expected_db = 6.9 + 20 * np.log10(np.sqrt((v[dark] - 0.1) ** 2 + 1) + v[dark] - 0.1)
    assert np.abs(-20 * np.log10(found[dark]) - expected_db).max() < 0.4
    assert dark.sum() == 128
    assert (found[v < -0.5] > 0.79).all()
    assert found.max() == 1


@pytest.mark.parametrize(("width_m", "angle_rad"), [(0.3, 0.0), (0.3, 0.6), (0.05, -0.4), (1.0, -0.9)])
def test_a_screen_s_shadow_is_the_integral_over_what_it_blocks(width_m, angle_rad):
    """Huygens' sum over the screen by exact ways, against all of the plane by stationary phase."""
    found = shadow(width_m, 0.1, angle_rad)
    user_m = 10 * np.array([math.cos(angle_rad), math.sin(angle_rad)])
    ahead, across = user_m / 10, np.array([-user_m[1], user_m[0]]) / 10
    aim_m = np.array([0.0, 0.1])
    part = (2 - aim_m @ ahead) / ((user_m - aim_m) @ ahead)
    centre_m = aim_m + part * (user_m - aim_m)
    number = (np.arange(4000) + 0.5) / 4000 - 0.5
    screen_m = centre_m + number[:, None] * width_m * across
    element_m = element_positions_m(NearFieldConfig()).numpy()[::5, :2]
    behind_m = np.linalg.norm(element_m[:, None] - screen_m, axis=-1)
    way_m = np.linalg.norm(screen_m - user_m, axis=-1) + behind_m
    direct_m = np.linalg.norm(element_m - user_m, axis=-1)
    phase = 2 * np.pi / WAVELENGTH_M * (way_m - direct_m[:, None])
    crossing = (2 - element_m @ ahead) / ((user_m - element_m) @ ahead)
    plane = np.sqrt(WAVELENGTH_M * direct_m * crossing * (1 - crossing)) * np.exp(-0.25j * np.pi)
    blocked = np.exp(-1j * phase).mean(axis=1) * width_m / plane
    expected = np.abs(1 - blocked).clip(max=1)
    assert np.abs(found[::5] - expected).max() < 0.02
    assert expected.min() < 0.65
    # Half the width would be seen.
    assert np.abs(shadow(width_m / 2, 0.1, angle_rad)[::5] - expected).max() > 0.1


def test_a_low_screen_in_front_lets_waves_over_it():
    tall, low = shadow(0.5, 0.0, 0.0), shadow(0.5, 0.0, 0.0, height_m=0.02)
    assert tall.min() < 0.1
    assert low.min() > 0.5


def test_blockers_shadow_the_array_of_the_user_that_is_given():
    config = BlockerVisibility(min_width_m=0.3, max_width_m=0.3)
    user_m = torch.tensor([[20.0, 0.0, 0.0]]).double().expand(400, 3)
    generator = Streams(0).torch_generator("visibility")
    visible = draw_visibility(config, NearFieldConfig(), 400, generator, user_m).numpy() > VISIBLE_ABOVE
    assert (visible.any(axis=1)).all()
    # A shadow of 0.32 to 0.35 m on an array of 1.27 m: of those that lie inside it.
    inside = visible[:, :32].all(axis=1) & visible[:, -32:].all(axis=1) & ~visible.all(axis=1)
    hidden_m = (~visible[inside]).mean(axis=1) * 1.28
    assert inside.sum() > 50
    assert (hidden_m > 0.26).all()
    assert (hidden_m < 0.40).all()
