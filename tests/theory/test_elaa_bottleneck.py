"""The bottleneck by hand: its transform, its frames, and bits that its payloads really take."""

import math

import elaa_bottleneck_setups as setups
import torch
from elaa_setups import ARRAY, random_channels

from scenarios.elaa.bottleneck import _fourier
from scenarios.elaa.coding_frame import FrameGrid
from scenarios.elaa.features import Dechirper
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.observations import observe

LINE = LineArray.of(ARRAY)


def test_the_transform_it_starts_from_is_the_unitary_dft():
    h = random_channels(5)
    forward, back = _fourier(ARRAY.num_elements)
    x = torch.view_as_real(h).flatten(1)
    wanted = torch.fft.fftshift(torch.fft.fft(h, norm="ortho"), dim=1)
    z = torch.view_as_complex((x @ forward.T).unflatten(1, (-1, 2)).contiguous())
    torch.testing.assert_close(z, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(x @ forward.T @ back.T, x, atol=1e-5, rtol=0)


def test_a_frame_is_off_by_half_a_step_at_most():
    """A lone wave in its rounded frame: half a step of sine, curvature and phase, and no more."""
    num = 200
    generator = torch.Generator().manual_seed(2)
    sine = 1.6 * torch.rand(num, generator=generator, dtype=torch.float64) - 0.8
    inverse_m = 1 / (6 + 50 * torch.rand(num, generator=generator, dtype=torch.float64))
    turn = 2 * torch.pi * torch.rand(num, 1, generator=generator)
    h = LINE.response(sine, inverse_m) * torch.polar(torch.ones(num, 1), turn)
    observed = observe(h, torch.ones_like(h, dtype=torch.bool), 60.0, generator)
    grid = FrameGrid(LINE, 1024, 64, 16)
    found = Dechirper(ARRAY)(observed)
    symbols = grid.round(observed, found)
    place = grid.place(symbols)
    step = 2 * LINE.max_sine / 1023
    assert float((place[:, 0] - sine).abs().max()) < 0.5 * step + 2e-4
    turned = grid.frame(observed, symbols, found).turn(observed.y)
    left = turned.mean(dim=1).angle().abs()
    assert float(left.max()) <= math.pi / 16 + 1e-4
    # The power check: with phases half as many, some are off by more than that.
    coarse = FrameGrid(LINE, 1024, 64, 8)
    again = coarse.frame(observed, coarse.round(observed, found), found).turn(observed.y)
    assert float(again.mean(dim=1).angle().abs().max()) > math.pi / 16 + 1e-2


def test_payloads_take_their_information_and_whole_bytes():
    observed, feedback = setups.observed(80, seed=13), setups.feedback()
    sizes = torch.tensor([8.0 * len(each) for each in feedback.encode(observed)])
    spare = sizes - feedback.entropy_bits(observed)
    sigma = float(spare.std()) / len(spare) ** 0.5
    # Up to a byte and a half for a whole number of bytes, 2 to 2.5 bits on average (docs/codecs.md).
    assert abs(float(spare.mean()) - 2.2) < 0.8 + 4.5 * sigma
    # The power check: the information at steps a fifth finer is another.
    other = setups.BottleneckFeedback(feedback.model, ARRAY, feedback.level + 0.15)
    assert abs(float((sizes - other.entropy_bits(observed)).mean()) - 2.2) > 0.8 + 4.5 * sigma


def test_the_coder_s_frequencies_are_the_density_s_probabilities():
    """Within what training had; the outermost numbers take the tails, so that none is beyond them."""
    feedback = setups.feedback()
    table = feedback.coder.frequencies[3:].double()
    used = (table > 0).sum(dim=1)
    total = table.sum(dim=1)
    # Rounded down, plus one each.
    assert bool((total >= 2**20).all())
    assert bool((total <= 2**20 + used).all())
    place = int(used.argmax())
    assert int(used[place]) > 2
    told = []
    for number in range(1, int(used[place]) - 1):
        z_hat = torch.zeros(1, feedback.model.num_latents)
        z_hat[0, place] = (int(feedback.lowest[place]) + number) * feedback.step
        edges = z_hat.T.double() - feedback.step / 2, z_hat.T.double() + feedback.step / 2
        probability = float(feedback.model.density.probability(*edges)[place])
        assert abs(float(table[place, number]) - 2**20 * probability) < 2
        if 2**20 * probability > 100:
            # Half a dB more.
            assert abs(float(table[place, number]) - 2**20 * probability * 10**0.05) > 2
            told.append(number)
    assert told
