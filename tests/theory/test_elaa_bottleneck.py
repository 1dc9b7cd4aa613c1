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


def _bits(model, z: torch.Tensor, level: float) -> float:
    return float(model.bits(model.round(z, level), level).mean())


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
    observed = setups.observed(150, seed=13)
    for mean_bits in (40, 150):
        feedback = setups.feedback(mean_bits)
        spare = torch.tensor([8.0 * len(each) for each in feedback.encode(observed)])
        spare = spare - feedback.entropy_bits(observed)
        sigma = float(spare.std()) / 150**0.5
        # Between one and four bits for a whole number of bytes, about 2 to 2.5 on average.
        assert abs(float(spare.mean()) - 2.2) < 0.8 + 4.5 * sigma
        # The power check: the information at steps a tenth finer is another.
        other = setups.BottleneckFeedback(feedback.model, ARRAY, feedback.level + 0.3)
        moved = spare + feedback.entropy_bits(observed) - other.entropy_bits(observed)
        assert abs(float(moved.mean()) - 2.2) > 0.8 + 4.5 * sigma


def test_probabilities_of_all_numbers_add_up_and_are_the_density_s():
    feedback = setups.feedback()
    table = feedback.coder.frequencies[3:].double()
    used = (table > 0).sum(dim=1)
    total = table.sum(dim=1)
    # Rounded down, plus one each.
    assert bool((total >= 2**20).all())
    assert bool((total <= 2**20 + used).all())
    z = feedback.look(setups.observed())[1]
    trained_on = _bits(feedback.model, z, feedback.level)
    frames = feedback.coder.frequencies[:3].double()
    symbols = feedback.quantise(setups.observed())
    share = frames / frames.sum(dim=1, keepdim=True)
    head = float(-share[torch.arange(3), symbols[:, :3]].log2().sum(dim=1).mean())
    coded = float(feedback.entropy_bits(setups.observed()).mean()) - head
    # But for numbers beyond what training had.
    assert abs(trained_on - coded) < 0.03 * coded
    # The power check: at other steps it is not so.
    other = _bits(feedback.model, z, feedback.level + 0.3)
    assert abs(other - coded) > 0.03 * coded
