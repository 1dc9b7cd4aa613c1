"""Paths of a partly visible array: matching pursuit on a grid, NOMP off it, shrinking, unknown masks."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from scipy import special

from channels.near_field import NearFieldConfig, draw_channels
from scenarios.elaa.dictionaries import Dictionary, dft_dictionary, polar_dictionary
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.nomp import Nomp, nomp_prior, tune_nomp
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.path_refinement import PathSet
from scenarios.elaa.pursuit import Pursuit, subcarrier_atoms, tune_pursuit
from scenarios.elaa.region_detection import RegionDetector, fit_region_detector, unmask
from scenarios.elaa.shrinking import Shrink, fit_change, fit_shrink, tune_shrink
from semcom.contracts import SemcomError
from semcom.rng import Streams

ARRAY = LineArray(128, 0.01, max_sine=math.sin(math.radians(60)), min_distance_m=3, max_distance_m=40)


def generator(step: int = 0) -> torch.Generator:
    return Streams(0).torch_generator("test", step=step)


def half_hidden(num: int, width: int = 128) -> torch.Tensor:
    number = torch.arange(width)
    begin = 16 * (torch.arange(num)[:, None] % 5)
    return (number < begin) | (number >= begin + 64)


def nmse(h_hat: torch.Tensor, h: torch.Tensor) -> float:
    return float(((h_hat - h).abs().square().sum(dim=1) / h.abs().square().sum(dim=1)).mean())


@pytest.fixture(scope="module")
def channels() -> torch.Tensor:
    config = NearFieldConfig(num_elements=128, min_distance_m=3, max_distance_m=40)
    return draw_channels(config, 120, generator()).h[:, 0, 0]


@pytest.fixture(scope="module")
def polar() -> tuple[LineArray, Dictionary]:
    """A short array close by, and atoms that aren't much alike."""
    array = LineArray(64, 0.01, min_distance_m=2)
    return array, polar_dictionary(array, oversampling=1.0, coherence_scale=1.6)


def two_paths() -> PathSet:
    """Well apart, the second one 7 dB weaker."""
    gain = torch.tensor([[1.0, 0.45j], [0.9j, -0.4]], dtype=torch.complex64)
    sine = torch.tensor([[0.3131, -0.4123], [-0.717, 0.0517]])
    return PathSet(gain, sine, torch.tensor([[0.0831, 0.1572], [0.2215, 0.0413]]))


def test_responses_are_those_of_the_generated_channels():
    config = NearFieldConfig()
    made = draw_channels(config, 20, generator())
    array = LineArray.of(config)
    response = array.response(made.angle_rad[:, 0].sin(), 1 / made.distance_m[:, 0])
    assert torch.allclose((made.gain[..., None] * response).sum(dim=1), made.h[:, 0, 0], atol=1e-4)
    paths = PathSet(made.gain, made.angle_rad[:, 0].sin().float(), (1 / made.distance_m[:, 0]).float())
    assert torch.allclose(paths.waves(array).field.sum(dim=1), made.h[:, 0, 0], atol=3e-3)


def test_slopes_are_the_derivatives_of_the_phase():
    sine, inverse_m = torch.tensor([0.4, -0.8]).double(), torch.tensor([0.2, 0.0]).double()
    along, across = ARRAY.slopes(sine, inverse_m)
    step = 1e-6
    turn = -2 * torch.pi
    by_sine = turn * (ARRAY.delay(sine + step, inverse_m) - ARRAY.delay(sine - step, inverse_m)) / (2 * step)
    by_inverse = (
        turn * (ARRAY.delay(sine, inverse_m + step) - ARRAY.delay(sine, inverse_m - step)) / (2 * step)
    )
    assert torch.allclose(along, by_sine, atol=1e-4)
    assert torch.allclose(across, by_inverse, atol=1e-4)
    # Those of the paths are the same in float32, in units that turn the last element by about a radian.
    waves = PathSet(torch.ones(2, 1).to(torch.complex64), sine.float()[:, None], inverse_m.float()[:, None])
    for mine, true in ((waves.waves(ARRAY).along, along), (waves.waves(ARRAY).across, across)):
        ratio = mine[:, 0, 0] / true[:, 0]
        assert torch.allclose(mine[:, 0], (ratio[:, None] * true).float(), atol=1e-4)
        assert torch.allclose(mine[:, 0, -1].abs(), torch.ones(2), atol=0.8)


def test_polar_dictionary_is_uniform_in_the_sine_and_reaches_the_nearest_distance():
    dictionary = polar_dictionary(ARRAY, oversampling=1.0)
    sines = dictionary.sine.unique()
    assert torch.allclose(sines.diff(), torch.full((len(sines) - 1,), 2 / 128, dtype=torch.float64))
    assert dictionary.inverse_m.min() == 0
    assert float(dictionary.inverse_m.max()) == pytest.approx(1 / 3)
    # Cui and Dai, IV: rings beta = 1.2 apart overlap by |C(beta) + j S(beta)| / beta (Fresnel's).
    sine_part, cosine_part = special.fresnel(1.2)
    same = dictionary.sine == sines[len(sines) // 2]
    rings = dictionary.atoms[same]
    overlap = (rings[1:].conj() * rings[:-1]).mean(dim=1).abs()
    assert torch.allclose(
        overlap[:-1], torch.tensor(math.hypot(sine_part, cosine_part) / 1.2).float(), rtol=0.02
    )


def test_dft_dictionary_is_orthogonal_without_oversampling():
    atoms = dft_dictionary(ARRAY).atoms
    assert torch.allclose(atoms.conj() @ atoms.T / 128, torch.eye(128).to(torch.complex64), atol=1e-4)


def test_pursuit_recovers_atoms_on_the_grid_exactly(polar):
    array, dictionary = polar
    numbers = torch.tensor([[30, 100], [111, 20], [5, 80]])
    gain = torch.tensor([1.0, 0.3j], dtype=torch.complex64)
    h = (gain[:, None] * dictionary.atoms[numbers]).sum(dim=1)
    visible = torch.arange(array.num_elements).expand(3, -1) < 48
    observed = Observed(torch.where(visible, h, 0), visible, torch.full((3,), 1e-8))
    pursuit = Pursuit(dictionary, num_atoms=2, stop=0.0, ridge=0.0)
    sparse = pursuit.decompose(observed.y[:, None], visible, observed.noise_var)
    assert torch.equal(sparse.support.sort(dim=1).values, numbers.sort(dim=1).values)
    assert nmse(pursuit.estimate(observed), h) < 1e-8


def test_pursuit_stops_at_the_noise():
    h = polar_dictionary(ARRAY).atoms[[100, 700]]
    observed = observe(h, half_hidden(2), 20.0, generator())
    pursuit = Pursuit(polar_dictionary(ARRAY), num_atoms=8, stop=1.5)
    sparse = pursuit.decompose(observed.y[:, None], observed.visible, observed.noise_var)
    assert sparse.count.tolist() == [1, 1]
    assert (sparse.gain[:, :, 1:] == 0).all()


def test_snapshots_that_share_atoms_help_each_other(polar):
    """P-SOMP of one channel with other gains in each of eight snapshots."""
    array, dictionary = polar
    turn = torch.randn((6, 8, 2), dtype=torch.complex64, generator=generator())
    numbers = torch.tensor([[30, 100], [111, 20], [5, 80], [70, 120], [90, 10], [102, 44]])
    h = turn @ dictionary.atoms[numbers]
    visible = torch.arange(array.num_elements).expand(6, -1) < 48
    flat = observe(h.flatten(0, 1), visible.repeat_interleave(8, dim=0), 0.0, generator(1))
    pursuit = Pursuit(dictionary, num_atoms=2, stop=0.0)
    jointly = pursuit.estimate_jointly(flat.y.unflatten(0, (6, 8)), visible, flat.noise_var[::8])
    assert nmse(jointly.flatten(0, 1), h.flatten(0, 1)) < 0.5 * nmse(pursuit.estimate(flat), h.flatten(0, 1))


def test_subcarriers_have_responses_of_their_own():
    config = NearFieldConfig(num_subcarriers=3, bandwidth_hz=2e9, min_paths=1, max_paths=1)
    made = draw_channels(config, 1, generator())
    place = polar_dictionary(LineArray.of(config), 0.05)
    place = replace(place, sine=made.angle_rad[0, 0].sin(), inverse_m=1 / made.distance_m[0, 0])
    atoms = subcarrier_atoms(LineArray.of(config), place, config.offsets_hz())
    match = (atoms[:, 0].conj() * made.h[0, 0]).mean(dim=1).abs()
    assert torch.allclose(match, torch.ones(3), atol=1e-4)
    assert (atoms[0, 0].conj() * made.h[0, 0, 2]).mean().abs() < 0.9
    pursuit = Pursuit(place, num_atoms=1, stop=0.0, ridge=0.0, snapshot_atoms=atoms)
    visible = torch.arange(256)[None] < 100
    y = torch.where(visible, made.h[:, 0], 0)
    assert (pursuit.estimate_jointly(y, visible, torch.tensor([1e-6])) - made.h[:, 0]).abs().max() < 1e-3


def test_nomp_recovers_paths_off_the_grid():
    truth = two_paths()
    h = truth.waves(ARRAY).field.sum(dim=1)
    visible = half_hidden(2)
    observed = Observed(torch.where(visible, h, 0), visible, torch.full((2,), 1e-5))
    found = Nomp(ARRAY, nomp_prior(ARRAY), joint_steps=8, last_steps=10).paths(observed)
    strongest = found.gain.abs().argsort(dim=1, descending=True)[:, :2]
    assert (found.sine.gather(1, strongest) - truth.sine).abs().max() < 2e-4
    assert (found.inverse_m.gather(1, strongest) - truth.inverse_m).abs().max() < 1e-2
    assert (found.gain.gather(1, strongest) - truth.gain).abs().max() < 0.02
    assert nmse(found.field(), h) < 1e-3


@pytest.mark.parametrize("num_elements", [1, 2, 3, 17])
def test_nomp_of_few_elements_finds_what_there_is(num_elements):
    config = NearFieldConfig(num_elements=num_elements)
    h = draw_channels(config, 40, generator()).h[:, 0, 0]
    visible = torch.ones(40, num_elements, dtype=torch.bool)
    visible[20:, 1:] = False
    line = LineArray.of(config)
    paths = Nomp(line, nomp_prior(line)).paths(observe(h, visible, 20.0, generator(1)))
    assert torch.isfinite(torch.view_as_real(paths.field())).all()
    # One element alone tells its own channel.
    assert nmse(paths.field()[20:, :1], h[20:, :1]) < 0.3
    assert nmse(paths.field()[:20], h[:20]) < 0.5


def test_errors_of_nomp_are_those_of_the_bound():
    """One path, whole array: the phase's error at each element has the variance that the bound tells."""
    num = 400
    truth = PathSet(
        torch.ones((num, 1), dtype=torch.complex64), torch.full((num, 1), 0.3), torch.full((num, 1), 0.15)
    )
    h = truth.waves(ARRAY).field[:, 0]
    observed = observe(h, torch.ones_like(h, dtype=torch.bool), 5.0, generator())
    nomp = Nomp(ARRAY, nomp_prior(ARRAY), max_paths=1, joint_steps=10)
    found = nomp.paths(observed)
    error = (found.field() * h.conj()).angle().square().mean(dim=0)
    waves = PathSet(found.gain, found.sine, found.inverse_m).waves(ARRAY)
    expected = waves.phase_variance(found.covariance)[:, 0].mean(dim=0)
    # The mean of a square over 400 draws deviates by sqrt(2 / 400) = 7 %; elements are not independent.
    ratio = float((error / expected).mean())
    assert ratio == pytest.approx(1, abs=4.5 * math.sqrt(2 / num))
    assert abs(ratio - 10**0.5) > 4.5 * math.sqrt(2 / num) * 10**0.5


def test_estimates_of_a_row_do_not_depend_on_other_rows(channels):
    observed = observe(channels, half_hidden(len(channels)), 10.0, generator())
    nomp = Nomp(ARRAY, nomp_prior(ARRAY), max_paths=4)
    some = torch.tensor([3, 77, 100])
    for estimate in (nomp.estimate, Pursuit(polar_dictionary(ARRAY), 4).estimate):
        assert nmse(estimate(observed[some]), estimate(observed)[some]) < 1e-4


def test_hidden_part_is_shrunk_and_never_blown_up(channels):
    observed = observe(channels, half_hidden(len(channels)), 10.0, generator())
    paths = Nomp(ARRAY, nomp_prior(ARRAY), max_paths=4).paths(observed)
    waves = PathSet(paths.gain, paths.sine, paths.inverse_m).waves(ARRAY)
    assert (paths.reliability() <= 1).all()
    assert (paths.reliability() >= 0).all()
    away = paths.reliability()[~observed.visible].mean()
    assert away < paths.reliability()[observed.visible].mean()
    assert (waves.phase_variance(paths.covariance) >= 0).all()
    # Factors of an estimate that is too small would be above 1.
    shrink = fit_shrink(0.5 * channels, observed.visible, channels)
    assert torch.equal(shrink.factor, torch.ones(len(shrink.factor)))
    wrong = fit_shrink(-channels, observed.visible, channels)
    assert (wrong.factor == 0).all()


def test_shrink_factor_is_the_one_of_least_error(channels):
    rough = channels + torch.randn(channels.shape, dtype=torch.complex64, generator=generator())
    visible = half_hidden(len(channels))
    shrink = fit_shrink(rough, visible, channels, (0.5,))
    least = nmse(shrink.apply(rough, visible), channels)
    for change in (-0.05, 0.05):
        assert least < nmse(Shrink(shrink.edges, shrink.factor + change).apply(rough, visible), channels)
    # E|h|^2 / (E|h|^2 + 1) = 1 / 2 where the noise is as strong as the channel.
    assert shrink.factor.mean() == pytest.approx(0.5, abs=0.05)


def test_a_change_is_believed_as_far_as_it_is_right(channels):
    visible, rng = half_hidden(len(channels)), generator()
    base = channels + 0.3 * torch.randn(channels.shape, dtype=torch.complex64, generator=rng)
    # It takes the whole error from what is visible, and adds as much again to what is hidden.
    changed = torch.where(visible, channels, 2 * base - channels)
    assert fit_change(base, changed, visible, channels).factor.tolist() == pytest.approx([1.0, 0.0], abs=1e-5)
    # Noise of the targets' own leaves it where it is, within its deviation.
    heard = channels + 0.3 * torch.randn(channels.shape, dtype=torch.complex64, generator=rng)
    assert fit_change(base, changed, visible, heard).factor.tolist() == pytest.approx([1.0, 0.0], abs=0.05)
    # Of two estimates with errors of one size that have nothing in common, half of each; their errors are
    # weighed by the channels' power, as in the metric.
    other = channels + 0.3 * torch.randn(channels.shape, dtype=torch.complex64, generator=rng)
    change = fit_change(base, other, visible, channels)
    assert change.factor.tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    least = nmse(base + change.apply(other - base, visible), channels)
    for step in (-0.02, 0.02):
        moved = Shrink(change.edges, change.factor + step)
        assert least < nmse(base + moved.apply(other - base, visible), channels)


def test_distance_to_what_is_visible_decides_the_factor():
    visible = torch.zeros((1, 40), dtype=torch.bool)
    visible[0, 20] = True
    factor = Shrink((0.5, 8.5), torch.tensor([1.0, 0.5, 0.25])).apply(torch.ones((1, 40)), visible)[0]
    assert factor.tolist() == [0.25] * 12 + [0.5] * 8 + [1.0] + [0.5] * 8 + [0.25] * 11


def test_tuning_chooses_what_is_best_on_its_data(channels):
    observed = observe(channels, half_hidden(len(channels)), 10.0, generator())
    dictionary = polar_dictionary(ARRAY)
    grid = ((1, 2, 4), (0.0, 1.0, 40.0), (1.0, 10.0, 300.0))
    pursuit = tune_pursuit(dictionary, observed, channels, *grid)
    tried = [Pursuit(dictionary, num, stop, ridge) for num, stop, ridge in itertools.product(*grid)]
    errors = [nmse(each.estimate(observed), channels) for each in tried]
    assert nmse(pursuit.estimate(observed), channels) <= min(errors) + 1e-6
    assert max(errors) > 1.1 * min(errors)
    nomp = tune_nomp(ARRAY, observed, channels, (1, 4), (12.0,), (0.1,))
    assert nomp.max_paths == 4
    shrunk = tune_shrink(nomp, observed, channels)
    found = nmse(shrunk.estimate(observed), channels)
    assert found <= nmse(nomp.estimate(observed), channels)
    # Off the grid is better than on it, by far more than 120 channels leave open.
    assert found < 0.8 * min(errors)


def test_a_hidden_block_is_found_without_the_mask(channels):
    visible = half_hidden(len(channels))
    blind = unmask(channels, visible, 20.0, generator())
    pursuit = Pursuit(polar_dictionary(ARRAY), num_atoms=4)
    detector = RegionDetector(pursuit)
    wrong = (detector.detect(blind) != visible).float().mean()
    assert wrong < 0.03
    tuned = fit_region_detector(pursuit, blind, visible, channels, thresholds=(0.3, 1.0), margins=(2.0,))
    assert (tuned.detect(blind) != visible).float().mean() <= wrong + 0.01
    assert nmse(tuned.estimate(blind), channels) < nmse(pursuit.estimate(blind), channels)


def test_a_detector_is_the_best_of_all_rounds_and_margins(channels):
    visible, margins = half_hidden(len(channels)), (0.0, 2.0, 4.0)
    won = set()
    for salt in range(12):

        class Fickle:
            """Knows a part of the channels, which hangs on the mask that it is given."""

            def estimate(self, observed: Observed, salt: int = salt) -> torch.Tensor:
                return channels * (math.sin(1e3 * salt + 7.0 * int(observed.visible.sum())) % 1)

        blind = unmask(channels, visible, 0.0, generator(salt))
        tuned = fit_region_detector(Fickle(), blind, visible, channels, margins=margins)
        choices = [replace(tuned, rounds=rounds, margin=margin) for rounds in (0, 1, 2) for margin in margins]
        errors = [nmse(each.estimate(blind), channels) for each in choices]
        assert nmse(tuned.estimate(blind), channels) == pytest.approx(min(errors), rel=1e-6)
        won.add(tuned.rounds)
    assert won == {0, 1, 2}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: polar_dictionary(ARRAY, max_bytes=100_000), r"GB.*smaller oversampling"),
        (lambda: polar_dictionary(LineArray(16384, 1e-3), oversampling=8), r"atoms of 16,384 elements takes"),
        (lambda: polar_dictionary(ARRAY, oversampling=0), "above 0"),
        (lambda: dft_dictionary(ARRAY, oversampling=0), "at least one angle"),
        (lambda: Pursuit(dft_dictionary(ARRAY), num_atoms=0), "num_atoms 0"),
        (lambda: Pursuit(dft_dictionary(ARRAY), ridge=-1), "0 or more"),
        (lambda: Nomp(ARRAY, nomp_prior(ARRAY), max_paths=0), "max_paths 0"),
        (lambda: nomp_prior(ARRAY, 0), "other_gain_var 0"),
        (lambda: LineArray.of(NearFieldConfig(num_rows=4)), "so take 1"),
        (
            lambda: Nomp(replace(ARRAY, spacing_wavelengths=1.0), nomp_prior(ARRAY)).estimate(dark(True)),
            "ambig",
        ),
        (lambda: Nomp(ARRAY, nomp_prior(ARRAY)).estimate(dark()), "no visible element"),
        (lambda: Pursuit(dft_dictionary(ARRAY)).estimate(dark()), "no visible element"),
        (lambda: RegionDetector(Pursuit(dft_dictionary(ARRAY)), 100).detect(dark(True)), "don't divide"),
        (lambda: fit_shrink(dark().y, dark().visible, dark().y[:1]), "don't match"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, match):
    with pytest.raises(SemcomError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


def dark(seen: bool = False) -> Observed:
    """Two channels of which nothing, or everything, is visible."""
    y = torch.zeros((2, 128), dtype=torch.complex64)
    return Observed(y, torch.full((2, 128), seen), torch.ones(2))
