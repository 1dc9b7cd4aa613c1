"""Channel feedback by hand: steps that cost alike, beams on the grid, a lone wavefront."""

import math

import elaa_feedback_setups as setups
import numpy as np
import pytest
import torch

from analysis.estimation import nmse_db, normalised_errors
from channels.near_field import NearFieldConfig
from scenarios.elaa.feedback_codebook import BeamBits, BeamFeedback, _rank, _set_of
from scenarios.elaa.feedback_paths import PathCodec, PathSteps
from scenarios.elaa.feedback_prior import Cells, Prior
from scenarios.elaa.feedback_transform import fit_dechirped_klt_feedback, fit_klt_feedback
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.wavefronts import WavefrontGrid

LONE = NearFieldConfig(num_elements=64, min_paths=1, max_paths=1)


def test_a_path_s_four_parameters_cost_a_twelfth_of_a_squared_step_each():
    """With fine steps: 4 size^2 / 12 of the power 1, a path's amplitude and all."""
    array, size = LineArray.of(LONE), 0.004
    h, paths = setups.draw(2000, "lone", LONE)
    # Amplitudes that vary, or there would be nothing to round.
    scale = 0.5 + torch.rand(2000, 1, generator=torch.Generator().manual_seed(1))
    paths = type(paths)(paths.gain * scale, paths.sine, paths.inverse_m)
    h = h * scale
    codec = PathCodec(array, 1, PathSteps(size), paths)
    errors = (codec(paths) - h).abs().square().mean(dim=1).double().numpy()
    sigma = errors.std() / math.sqrt(len(errors))
    # Cells are a little smaller than asked for, so that a whole number of them fits: up to 3 %.
    expected = 4 * size**2 / 12
    assert 0.97 * expected - 4.5 * sigma < errors.mean() < expected + 4.5 * sigma
    finer = (codec.with_steps(PathSteps(size / 10**0.05))(paths) - h).abs().square().mean()
    assert float(finer) < 0.97 * expected - 4.5 * sigma  # the power check: steps half a dB smaller


def test_six_decibels_take_a_bit_for_each_parameter():
    array = LineArray.of(LONE)
    _, paths = setups.draw(300, "lone", LONE)
    codec = PathCodec(array, 1, PathSteps(0.002), paths)
    coarse = codec.entropy_bits(paths).mean()
    fine = codec.with_steps(PathSteps(0.001)).entropy_bits(paths).mean()
    # All paths here have amplitude 1, which is known; sine, inverse distance and phase are left.
    assert float(fine - coarse) == pytest.approx(3, abs=0.05)


def test_cells_and_their_frequencies_by_hand():
    prior = Prior(np.linspace(0, 1, 1001))
    cells = Cells.even(prior, np.array([0.3, 2.0]))
    assert cells.num.tolist() == [4, 1]
    assert cells.symbols(np.array([0.49, 0.49])).tolist() == [1, 0]
    assert cells.symbols(np.array([-3.0, 7.0])).tolist() == [0, 0]
    assert cells.symbols(np.array([3.0, 7.0])).tolist() == [3, 0]
    np.testing.assert_allclose(cells.values(np.array([1, 0])), [0.375, 0.5], atol=1e-9)
    np.testing.assert_allclose(cells.cost_bits(np.array([1, 0])), [2, 0], atol=1e-4)
    table = cells.table(0)
    assert table[0] == 0
    assert table[-1] == (1 << 20) + 4
    # What the coder reads one by one is what all of them cost together.
    fine = Cells.even(Prior(np.linspace(0, 1, 101) ** 3, -0.5), np.array([0.013]))
    places = np.arange(int(fine.num[0]) + 1)
    one_by_one = [fine.cumulative(np.array([place])).item() for place in places]
    assert fine.table(0)[:] == one_by_one
    # A value that half of the samples have costs a bit, wherever the others are: 0.95 of it, and the rest.
    skewed = Prior([0.0] * 50 + np.linspace(0.02, 1, 50).tolist())
    bits = Cells.even(skewed, np.array([0.001])).cost_bits(np.array([0]))
    assert float(bits[0]) == pytest.approx(-math.log2(0.95 * 0.5), abs=0.05)


@pytest.mark.parametrize(("num_beams", "total"), [(1, 2 + 5 + 0 + 4 + 4), (2, 2 + 9 + 1 + 4 + 4 + 6)])
def test_bits_of_a_beam_report_by_hand(num_beams, total):
    # 4 groups; 32 beams, or 496 pairs; the strongest; its level and phase (a bit more); 3 + 3 for the other.
    bits = BeamBits(num_beams, amplitude=3, phase=3)
    assert bits.total(32) == total
    assert BeamFeedback(32, bits).payload_bits() == 8 * math.ceil(total / 8)


def test_sets_of_beams_are_numbered_without_gaps():
    sets = [_set_of(rank, 3, 7) for rank in range(math.comb(7, 3))]
    assert [_rank(one) for one in sets] == list(range(35))
    assert sorted(map(tuple, sets)) == sorted({tuple(one) for one in sets})
    assert all(0 <= one[0] < one[1] < one[2] < 7 for one in sets)


def test_beams_on_the_grid_come_back_but_for_the_coefficients_rounding():
    number = torch.arange(32, dtype=torch.float64)
    beams = torch.stack([torch.exp(2j * torch.pi * number * (m + 3 / 4) / 32) for m in (5, 30)])
    phase = torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coefficient = torch.tensor([1.0, 0.5]) * torch.exp(2j * torch.pi * phase)
    h = (coefficient @ beams).to(torch.complex64)
    feedback = BeamFeedback(32, BeamBits(2, amplitude=4, phase=6, gain=10))
    feedback.fit(h)
    symbols = feedback.quantise(h)
    assert torch.equal(symbols[:, :4], torch.tensor([3, 5, 30, 0]).expand(200, 4))
    # 0.5 is 6.02 dB below: four steps of 1.5 dB make 6 dB.
    assert symbols[:, 6].unique().tolist() == [4]
    # Phases: uniform within (2 pi / 2^7)^2 / 12, the other's on top of it in steps of 2 pi / 2^6.
    strongest, other = ((2 * math.pi / 2**b) ** 2 / 12 for b in (7, 6))
    expected = (1.25 * strongest + 0.25 * other) / 1.25
    errors = normalised_errors(h.numpy(), feedback(h).numpy())
    assert errors.mean() == pytest.approx(expected, rel=0.25)


def test_the_strongest_wavefront_is_the_best_of_the_whole_grid():
    h, _ = setups.draw(100, "test")
    grid = WavefrontGrid(setups.ARRAY, 64, 4, 8)
    head, rest = grid.split(h)
    places = torch.cartesian_prod(torch.arange(64), torch.arange(4))
    inner = (grid.responses(places).conj() @ h.T).abs()
    best = inner.max(dim=0).values
    found = (grid.responses(head[:, :2]).conj() * h).sum(dim=1)
    # The Fourier transform's bins are a little off the grid's sines: of two alike either may win.
    assert float((found.abs() / best).min()) > 0.99
    # What is left points along the real axis, to half a step of the phase.
    assert float(torch.angle(rest.sum(dim=1)).abs().max()) <= math.pi / 8 + 1e-4
    # Training channels are split once; others that lie where they lay, and changed ones, are split anew.
    training = h.clone()
    once = grid.split_training(training)
    assert grid.split_training(training)[1] is once[1]
    training.mul_(1j)
    assert not torch.equal(grid.split_training(training)[0], once[0])
    assert torch.equal(grid.split_training(training)[0][:, :2], once[0][:, :2])


def test_a_lone_wavefront_costs_its_direction_and_little_more():
    config = NearFieldConfig(num_elements=32, min_paths=1, max_paths=1)
    array = LineArray.of(config)
    h, _ = setups.draw(400, "lone", config)
    fresh, _ = setups.draw(100, "fresh", config)
    dechirped = fit_dechirped_klt_feedback(array, h, 24.0, grids=((128, 4, 16),))
    assert nmse_db(fresh.numpy(), dechirped(fresh).numpy()) < -15
    # The power check: the transform alone can't follow a direction.
    assert nmse_db(fresh.numpy(), fit_klt_feedback(h, 24.0)(fresh).numpy()) > -6
