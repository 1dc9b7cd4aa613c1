"""Chirps and the spherical waves that they touch, and what a search that knows this finds of long arrays."""

from dataclasses import replace

import pytest
import torch

from scenarios.elaa.chirps import (
    Sharpener,
    chirp_of,
    places_to_touch,
    reach_of_chirps,
    third_order_rad,
    touching,
)
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.nomp import Nomp, nomp_prior
from scenarios.elaa.observations import observe
from scenarios.elaa.path_search import path_search

LONG = LineArray(512, 0.01, max_sine=0.866)
SHORT = LineArray(256, 0.01, max_sine=0.866)


def test_a_chirp_has_the_slope_and_curvature_of_the_wave_it_touches():
    sine = torch.tensor([-0.8, 0.0, 0.55], dtype=torch.float64)
    inverse_m = torch.tensor([0.2, 0.05, 1 / 60], dtype=torch.float64)
    place_m = 0.9
    slope, curvature = chirp_of(sine, inverse_m, torch.tensor(place_m, dtype=torch.float64))

    def lag_m(d):
        r = 1 / inverse_m
        return (r**2 + d**2 - 2 * d * r * sine).sqrt() - r

    step = 1e-3
    first = (lag_m(place_m + step) - lag_m(place_m - step)) / (2 * step)
    second = (lag_m(place_m + step) - 2 * lag_m(place_m) + lag_m(place_m - step)) / step**2
    torch.testing.assert_close(-slope + place_m * curvature, first, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(curvature, second, rtol=1e-4, atol=1e-7)
    # The wave that it touches elsewhere is another one.
    back = touching(LONG, slope, curvature, torch.tensor(place_m, dtype=torch.float64))
    torch.testing.assert_close(torch.stack(back), torch.stack((sine, inverse_m)))
    sine_there, _ = touching(LONG, slope, curvature, torch.tensor(-place_m, dtype=torch.float64))
    assert float((sine_there - sine).abs().max()) > 1e-3


def test_what_the_second_order_leaves_out_is_the_exact_phase_less_the_chirp():
    sine, inverse_m = torch.tensor([3**-0.5]), torch.tensor([1 / LONG.min_distance_m])
    d = LONG.place_m[-1]
    chirp = (-d * sine + d**2 / 2 * (1 - sine**2) * inverse_m) / LONG.wavelength_m
    left = 2 * torch.pi * (LONG.delay(sine, inverse_m)[0, -1] - chirp)
    # The fourth order is a fifth of it here.
    assert float(left) == pytest.approx(third_order_rad(LONG), rel=0.25)
    assert third_order_rad(LONG) == pytest.approx(8 * third_order_rad(SHORT), rel=0.02)


def test_arrays_are_touched_at_centre_and_ends_and_long_ones_at_more_places_between():
    short, places = places_to_touch(SHORT), places_to_touch(LONG)
    for array, each in ((SHORT, short), (LONG, places)):
        assert float(each[-1]) == pytest.approx(float(array.place_m[-1]))
        assert float(each[len(each) // 2]) == pytest.approx(0, abs=1e-12)
    assert len(places) > len(short) >= 3
    slope, curvature = reach_of_chirps(SHORT, torch.zeros(1, dtype=torch.float64))
    assert (slope, curvature) == pytest.approx((SHORT.max_sine, 1 / SHORT.min_distance_m))
    wider, more_bent = reach_of_chirps(LONG, places)
    assert wider > LONG.max_sine
    assert more_bent > 1 / LONG.min_distance_m


def test_near_waves_on_a_long_array_are_found_where_they_come_from():
    generator, num = torch.Generator().manual_seed(5), 64
    sine = (2 * torch.rand(num, generator=generator) - 1) * 0.8
    inverse_m = 1 / (5 + 5 * torch.rand(num, generator=generator))
    h = LONG.response(sine, inverse_m)
    visible = torch.ones(h.shape, dtype=torch.bool)
    visible[:, 160:416] = False
    observed = observe(h, visible, 10.0, generator)
    search = path_search(LONG, 4.0, 0.8)
    found, peak = search.strongest(observed.y, visible)
    # Of a unit wave, 10 dB over the noise, nearly all is matched where it is found.
    assert float(peak.min()) > 0.8 * int(visible[0].sum())
    torch.testing.assert_close(peak, found.gain[:, 0].abs().square() * visible.sum(dim=1), rtol=1e-3, atol=0)
    errors = (Nomp(LONG, nomp_prior(LONG)).estimate(observed) - h).abs().square().mean(dim=1)
    assert float(errors.median()) < 1e-3
    assert float((errors > 0.1).float().mean()) < 0.1
    # What the highest peak is at the array's centre, without a closer look, matches little of it.

    def as_it_stands(seen, slope, curvature):
        sine, inverse_m = touching(LONG, slope[:, 0], curvature[:, 0], torch.tensor(0.0))
        match = (LONG.response(sine, inverse_m).conj() * seen).sum(dim=1).abs().square()
        return sine.float(), inverse_m.float(), match

    at_the_centre, _ = replace(search, sharpen=as_it_stands).strongest(observed.y, visible)
    assert float(at_the_centre.gain.abs().median()) < 0.7 * float(found.gain.abs().median())


def test_a_closer_look_tells_pieces_lobes_apart_on_short_arrays_too():
    """Two visible pieces of 32 elements, far apart: both fit a wave only near to where it comes from."""
    generator, num = torch.Generator().manual_seed(6), 128
    sine = (2 * torch.rand(num, generator=generator) - 1) * 0.8
    inverse_m = 1 / (5 + 10 * torch.rand(num, generator=generator))
    h = SHORT.response(sine, inverse_m)
    visible = torch.zeros(h.shape, dtype=torch.bool)
    visible[:, 16:48], visible[:, 192:224] = True, True
    observed = observe(h, visible, 20.0, generator)
    found, _ = path_search(SHORT, 4.0, 0.8).strongest(observed.y, visible)
    field = found.waves(SHORT).field[:, 0]
    seen = ((field - h).abs().square() * visible).sum(dim=1) / 64
    # Without other curvatures it is 0.04.
    assert float(seen.quantile(0.95)) < 0.02


@pytest.mark.parametrize(
    ("num_elements", "least"), [(4, 0.9), (16, 0.9), (64, 0.95), (256, 0.95), (1024, 0.9)]
)
def test_one_wave_is_found_whole_whatever_the_array_s_length(num_elements, least):
    """On short arrays many angles are alike, on long ones a turn is not the same for all near waves."""
    array = LineArray(num_elements, 0.01, max_sine=0.866)
    sine, inverse_m = torch.tensor([0.67, 0.31, -0.5, 0.02]), torch.tensor([0.1, 0.1, 0.188, 0.02])
    wave = array.response(sine, inverse_m)
    search = path_search(array, 4.0, 0.8)
    found, _ = search.strongest(wave, torch.ones(4, num_elements, dtype=torch.bool))
    match = (array.response(found.sine[:, 0], found.inverse_m[:, 0]).conj() * wave).mean(dim=1).abs()
    assert match.min() > 0.9


def test_a_peak_beside_the_wave_is_turned_to_it():
    """A chirp whose slope is off by 1.2 rad at the array's end, and its curvature by 2 at half of it."""
    sine, inverse_m = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.04], dtype=torch.float64)
    wave = SHORT.response(sine, inverse_m)
    slope, curvature = chirp_of(sine, inverse_m, torch.zeros(1, dtype=torch.float64))
    end_m = float(SHORT.place_m[-1])
    slope = slope + 1.2 * SHORT.wavelength_m / (2 * torch.pi * end_m)
    curvature = curvature + 2.0 * SHORT.wavelength_m / (torch.pi * end_m**2)
    started = SHORT.response(*touching(SHORT, slope, curvature, torch.zeros(1, dtype=torch.float64)))
    before = (started.conj() * wave).mean(dim=1).abs()
    found, near, match = Sharpener(SHORT, 2)(wave, slope[None], curvature[None])
    after = (SHORT.response(found, near).conj() * wave).mean(dim=1).abs()
    assert before < 0.9
    assert after > 0.98
    torch.testing.assert_close(match, (256 * after.float()).square(), rtol=1e-3, atol=1.0)
