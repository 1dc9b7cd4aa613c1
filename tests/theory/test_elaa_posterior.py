"""The mean field of a path over what it may be: calibrated where it is hidden, exact where it is sure."""

import torch

from channels.near_field import NearFieldConfig, draw_channels
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.nomp import Nomp, Paths, nomp_prior
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.path_posterior import _flatness, posterior_fields
from scenarios.elaa.path_refinement import PathSet, uncertainty
from semcom.rng import Streams

CONFIG = NearFieldConfig(num_elements=64, min_paths=1, max_paths=1, min_distance_m=2, max_distance_m=30)
LINE = LineArray.of(CONFIG)
NOMP = Nomp(LINE, nomp_prior(LINE), max_paths=1)
NUM_SEEN = 24


def one_path(num: int, snr_db: float, num_seen: int) -> tuple[torch.Tensor, Observed]:
    """Channels of one path, of which the first elements are visible."""
    streams = Streams(0)
    h = draw_channels(CONFIG, num, streams.torch_generator("channels")).h[:, 0, 0]
    visible = (torch.arange(64) < num_seen).expand(num, -1)
    return h, observe(h, visible, snr_db, streams.torch_generator("noise"))


def test_what_is_sure_stays_as_it_was_found():
    _, observed = one_path(40, 30.0, 64)
    paths = NOMP.paths(observed)
    expected = posterior_fields(paths, observed).sum(dim=1)
    found = paths.field()
    assert (expected - found).abs().square().mean() < 2e-4
    # What a wrong grid would do: a phase that is off by as much as a single element tells it to.
    assert (found * torch.polar(torch.ones(()), torch.tensor(0.03)) - found).abs().square().mean() > 4e-4


def test_hidden_elements_are_as_large_as_they_are_like_the_truth():
    """A mean over the posterior is at right angles to its error: E Re(E[h]^* h) = E |E[h]|^2."""
    h, observed = one_path(1500, 0.0, NUM_SEEN)
    paths = NOMP.paths(observed)
    hidden = slice(40, None)
    slack = {}
    for name, field in (("expected", posterior_fields(paths, observed).sum(dim=1)), ("found", paths.field())):
        part, truth = field[:, hidden], h[:, hidden]
        each = ((part.conj() * truth).real - part.abs().square()).mean(dim=1)
        slack[name] = (float(each.mean()), float(each.std() / len(each) ** 0.5))
    mean, sigma = slack["expected"]
    assert abs(mean) < max(4.5 * sigma, 0.03)
    # The path as it was found is far too large for what it knows.
    mean, sigma = slack["found"]
    assert mean < -0.2


def test_the_mean_errs_less_than_the_path_and_than_the_bound_makes_of_it():
    h, observed = one_path(400, 0.0, NUM_SEEN)
    paths = NOMP.paths(observed)
    errors = [
        float((field - h).abs().square().mean())
        for field in (posterior_fields(paths, observed).sum(dim=1), paths.field(1.0), paths.field())
    ]
    assert errors[0] < errors[1] < errors[2]


def test_channels_do_not_depend_on_their_batch():
    _, observed = one_path(20, 5.0, NUM_SEEN)
    paths = NOMP.paths(observed)
    whole = posterior_fields(paths, observed)
    for row in (0, 19):
        alone = posterior_fields(paths[row : row + 1], observed[row : row + 1])
        torch.testing.assert_close(alone[0], whole[row], atol=1e-5, rtol=1e-4)


def test_beyond_its_count_a_channel_has_no_path():
    _, observed = one_path(3, 20.0, 64)
    paths = NOMP.paths(observed)
    paths.gain[1] = 0
    fields = posterior_fields(paths, observed)
    assert (fields[1] == 0).all()
    assert (fields[0] != 0).any()


def two_paths(apart: float, snr_db: float) -> tuple[Paths, Observed]:
    """Two paths of like strength, `apart` beams from each other, as they are; half is visible."""
    gain = torch.tensor([[1.0, 0.7j]])
    sine = torch.tensor([[0.2, 0.2 + apart * 2 / 64]])
    exact = PathSet(gain.to(torch.complex64), sine, torch.tensor([[0.2, 0.1]]))
    seen = (torch.arange(64) < 32)[None]
    noise_var = torch.tensor([10 ** (-snr_db / 10)])
    observed = Observed(torch.where(seen, exact.waves(LINE).field.sum(dim=1), 0), seen, noise_var)
    bound = uncertainty(LINE, nomp_prior(LINE), exact, observed)
    count = torch.tensor([2])
    return Paths(LINE, exact.gain, exact.sine, exact.inverse_m, count, bound), observed


def flatness(paths: Paths, observed: Observed) -> torch.Tensor:
    waves = PathSet(paths.gain, paths.sine, paths.inverse_m).waves(LINE)
    row, number = (paths.gain.abs() > 0).nonzero(as_tuple=True)
    return _flatness(paths, waves, observed, row, number)


def test_the_likelihood_is_as_much_flatter_as_other_paths_widen_the_bound():
    paths, observed = two_paths(1.5, 40.0)

    def field(theta: torch.Tensor) -> torch.Tensor:
        gain = torch.complex(theta[:2], theta[2:4])
        turns = LINE.delay(theta[4:6], theta[6:])[:, :32]
        angle = -2 * torch.pi * turns
        return torch.view_as_real((gain[:, None] * torch.polar(torch.ones_like(angle), angle)).sum(dim=0))

    gain = paths.gain[0].to(torch.complex128)
    theta = torch.cat((gain.real, gain.imag, paths.sine[0].double(), paths.inverse_m[0].double()))
    slopes = torch.autograd.functional.jacobian(field, theta).flatten(0, 1)
    together = torch.linalg.inv(slopes.T @ slopes)
    expected = []
    for number in range(2):
        own = slopes[:, [number, 2 + number, 4 + number, 6 + number]]
        alone = torch.linalg.inv(own.T @ own)[2:, 2:]
        place = [4 + number, 6 + number]
        expected.append((together[place][:, place].det() / alone.det()).sqrt())
    assert min(expected) > 1.2
    torch.testing.assert_close(flatness(paths, observed).double(), torch.stack(expected), rtol=0.02, atol=0)


def test_a_path_alone_or_far_from_others_is_as_flat_as_it_is():
    _, observed = one_path(30, 20.0, NUM_SEEN)
    torch.testing.assert_close(flatness(NOMP.paths(observed), observed), torch.ones(30))
    far, near = flatness(*two_paths(16.0, 20.0)), flatness(*two_paths(1.5, 20.0))
    assert (far < 1.1).all()
    assert (near > 1.2).all()


def test_the_mean_field_of_near_paths_is_that_of_the_flatter_likelihood(monkeypatch):
    """Two paths half a beam apart, seen by a part: taken as known, each would be surer than it is."""
    truth = PathSet(torch.tensor([[0.8 + 0j, 0.5j]]), torch.tensor([[0.2, 0.26]]), torch.tensor([[0.1, 0.1]]))
    h = truth.waves(LINE).field.sum(dim=1)
    visible = torch.arange(64)[None] < NUM_SEEN
    observed = observe(h, visible, 15.0, torch.Generator().manual_seed(0))
    bound = uncertainty(LINE, nomp_prior(LINE), truth, observed)
    paths = Paths(LINE, truth.gain, truth.sine, truth.inverse_m, torch.tensor([2]), bound)
    as_it_is = posterior_fields(paths, observed).abs()[0, :, 40:].mean()
    level = []
    for flatness in (1.0, 10.0):
        told = torch.full((2,), flatness)
        monkeypatch.setattr("scenarios.elaa.path_posterior._flatness", lambda *_, told=told: told)
        level.append(posterior_fields(paths, observed).abs()[0, :, 40:].mean())
    assert level[0] > 1.005 * as_it_is > 1.01 * level[1]
