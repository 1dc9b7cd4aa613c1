"""Near-field channels and visibility: seeds, shapes, batches, threads, and what is refused in one line."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from channels.near_field import NearFieldConfig, draw_channels, element_positions_m, response
from channels.visibility import VISIBLE_ABOVE, VisibilityConfig, draw_visibility
from semcom.contracts import SemcomError
from semcom.rng import Streams

KINDS = ["full", "blocks", "markov", "stochastic", "blocker"]
MOVING = NearFieldConfig(num_elements=32, num_rows=4, num_subcarriers=3, num_snapshots=2)


def generator(seed: int = 0) -> torch.Generator:
    return Streams(seed).torch_generator("near field")


def visibility(kind: str, **settings: Any) -> VisibilityConfig:
    return TypeAdapter(VisibilityConfig).validate_python({"kind": kind, **settings})


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(SemcomError) as refused:
        act()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_channels_have_the_shapes_that_they_promise():
    drawn = draw_channels(MOVING, 7, generator())
    assert drawn.h.shape == (7, 2, 3, 32)
    assert drawn.h.dtype == drawn.gain.dtype == torch.complex64
    assert drawn.gain.shape == (7, 6)
    for part in (drawn.distance_m, drawn.angle_rad, drawn.elevation_rad, drawn.length_m):
        assert part.shape == (7, 2, 6)
        assert part.dtype == torch.float64
        assert bool(part.isfinite().all())
    assert drawn.velocity_m_s.shape == (7, 3)
    assert drawn.user_m().shape == (7, 2, 3)
    assert draw_channels(MOVING, 0, generator()).h.shape == (0, 2, 3, 32)


def test_the_same_seed_draws_the_same_and_another_one_other_channels():
    first, again, other = (draw_channels(MOVING, 5, generator(seed)).h for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any(dim=-1).all()


@pytest.mark.parametrize("settings", [{}, {"num_rows": 8, "num_subcarriers": 2, "spreading": True}])
def test_a_user_s_channel_has_the_same_bits_in_any_company(settings):
    # 1,000 users are several chunks, 3 users a part of one.
    config = NearFieldConfig.model_validate(settings)
    many, few = (draw_channels(config, num, generator()) for num in (1000, 3))
    assert torch.equal(many.h[:3], few.h)
    assert torch.equal(many.gain[:3], few.gain)


def test_the_number_of_threads_changes_no_bit():
    before = torch.get_num_threads()
    drawn = []
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            drawn.append(draw_channels(NearFieldConfig(), 600, generator()).h)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*drawn)


def test_a_setting_of_one_part_leaves_the_draws_of_the_others():
    plain = draw_channels(NearFieldConfig(), 20, generator())
    other = draw_channels(
        NearFieldConfig(num_elements=64, num_subcarriers=2, num_snapshots=3, far_share=1), 20, generator()
    )
    assert torch.equal(plain.gain, other.gain)
    assert torch.equal(plain.distance_m[:, 0, 0], other.distance_m[:, 0, 0])


def test_elements_stand_row_by_row_around_the_origin():
    place_m = element_positions_m(NearFieldConfig(num_elements=6, num_rows=2, spacing_wavelengths=1.0))
    step_m = NearFieldConfig().wavelength_m()
    expected = torch.tensor([[0.0, y, z] for z in (-0.5, 0.5) for y in (-1, 0, 1)]).double() * step_m
    torch.testing.assert_close(place_m, expected)
    assert NearFieldConfig().rayleigh_distance_m() == pytest.approx(255**2 / 2 * step_m)


@pytest.mark.parametrize("kind", KINDS)
def test_visibility_is_a_factor_and_everyone_sees_something(kind):
    array = NearFieldConfig(num_rows=4)
    first, again, other = (
        draw_visibility(visibility(kind), array, 300, generator(seed)) for seed in (0, 0, 1)
    )
    assert first.shape == (300, 256)
    assert first.dtype == torch.float32
    assert bool(((first >= 0) & (first <= 1)).all())
    assert bool((first > VISIBLE_ABOVE).any(dim=1).all())
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind == "full")
    assert pickle.loads(pickle.dumps(visibility(kind))) == visibility(kind)


def test_draws_with_nothing_visible_are_drawn_again():
    # Of 16 columns all are hidden in 0.9 (1 - 1/36)^15 = 59 % of the draws.
    config = visibility("markov", share=0.1, mean_visible=4)
    visible = draw_visibility(config, NearFieldConfig(num_elements=16), 500, generator()) > VISIBLE_ABOVE
    assert bool(visible.any(dim=1).all())
    assert float(visible.float().mean()) > 0.2  # above the share, as documented


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_rows": 3}, "num_elements = 256 is not num_rows = 3 times a number of columns"),
        ({"min_paths": 7}, "min_paths = 7 is above max_paths = 6"),
        ({"max_distance_m": 2}, "min_distance_m = 5 is above max_distance_m = 2"),
        ({"min_gap_db": 30}, "min_gap_db = 30 is above max_gap_db = 20"),
        ({"min_speed_m_s": 20}, "min_speed_m_s = 20 is above max_speed_m_s = 10"),
        ({"bandwidth_hz": 7e10}, "bandwidth_hz = 7e+10 reaches below 0 Hz"),
        ({"min_distance_m": 0.003}, "within the reactive near field of an element"),
        ({"min_distance_m": 0.01, "max_angle_deg": 89.0}, "within the reactive near field of an element"),
        ({"num_snapshots": 100, "interval_s": 0.1}, "users who move 99 m could come within"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, told):
    config = NearFieldConfig.model_validate(settings)
    assert told in refusal(lambda: draw_channels(config, 1, generator()))


def test_more_channels_than_fit_are_refused():
    config = NearFieldConfig(num_subcarriers=1024, num_snapshots=100)
    told = refusal(lambda: draw_channels(config, 1000, generator()))
    assert "1000 channels take 195.3 GiB, more than 8" in told


@pytest.mark.parametrize(
    ("distance_m", "angle_rad", "told"),
    [
        (10.0, math.pi, "behind the array"),
        (10.0, math.pi / 2, "behind the array or in its plane"),
        (0.001, 0.7, "m from an element, within its reactive near field (0.00219 m)"),
        (torch.inf, 2.0, "behind the array"),
    ],
)
def test_points_without_a_response_are_refused(distance_m, angle_rad, told):
    distance = torch.tensor([20.0, distance_m], dtype=torch.float64)
    angle = torch.tensor([0.0, angle_rad], dtype=torch.float64)
    assert told in refusal(lambda: response(NearFieldConfig(), distance, angle))


@pytest.mark.parametrize(
    ("settings", "array", "told"),
    [
        ({"kind": "blocks", "share": 0.01}, {}, "leaves no visible element: raise share"),
        ({"kind": "blocks"}, {"num_elements": 100}, "subarray_size = 16 doesn't divide num_elements = 100"),
        ({"kind": "markov", "share": 0.9, "mean_visible": 2}, {}, "hidden runs shorter than a column"),
        (
            {"kind": "markov", "share": 1e-9, "mean_visible": 64}, {},
            "visibility = markov leaves 5 of 5 users no visible element in 100 draws",
        ),
        ({"kind": "blocker", "min_width_m": 2}, {}, "min_width_m = 2 is above max_width_m = 0.8"),
        ({"kind": "blocker", "max_away_m": 6}, {}, "max_away_m = 6 puts the blocker behind a user"),
        ({"kind": "blocker", "min_away_m": 0.5}, {}, "lets the blocker touch an array that reaches 0.637 m"),
        ({"kind": "full"}, {"num_rows": 5}, "num_elements = 256 is not num_rows = 5"),
    ],
)  # fmt: skip
def test_visibility_that_cannot_be_drawn_is_refused(settings, array, told):
    config, array_config = visibility(**settings), NearFieldConfig.model_validate(array)
    assert told in refusal(lambda: draw_visibility(config, array_config, 5, generator()))


@pytest.mark.parametrize(
    ("user_m", "told"),
    [
        ([[2.0, 0.0, 0.0]], "a user is behind the array or nearer than max_away_m = 3"),
        ([[-20.0, 0.0, 0.0]], "a user is behind the array"),
        ([[20.0, 0.0]], "user_m is [1, 2] for 1 users"),
    ],
)
def test_users_that_no_blocker_can_stand_before_are_refused(user_m, told):
    place_m = torch.tensor(user_m, dtype=torch.float64)
    config = visibility("blocker")
    assert told in refusal(lambda: draw_visibility(config, NearFieldConfig(), 1, generator(), place_m))


@pytest.mark.parametrize("wrong", [{"kind": "blocks", "share": 0}, {"kind": "fog"}, {"kind": "full", "a": 1}])
def test_visibility_of_no_known_kind_or_range_is_refused(wrong):
    with pytest.raises(ValidationError):
        visibility(**wrong)
