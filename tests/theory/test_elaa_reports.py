"""Sub-arrays' embeddings: the strongest wave by least squares, and what rounding costs."""

import math

import pytest
import torch

from scenarios.elaa.local_wave import NUM_OF_WAVE, LocalWave, embed_wave, find_wave, places, rebuild_wave
from scenarios.elaa.methods import Patch

SIZE, NUM = 16, 300


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def plane_waves(num: int = NUM) -> LocalWave:
    draw = generator()
    gain = torch.randn(num, dtype=torch.complex64, generator=draw)
    return LocalWave(torch.rand(num, generator=draw) - 0.5, gain)


def patch_of(y: torch.Tensor, visible: torch.Tensor | None = None) -> Patch:
    visible = torch.ones(y.shape, dtype=torch.bool) if visible is None else visible
    return Patch(torch.where(visible, y, 0), visible, torch.full((len(y),), 0.1), torch.zeros(len(y)).long())


def error_db(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    return 10 * math.log10(float((estimate - truth).abs().square().sum() / truth.abs().square().sum()))


def wave_alone(tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat((tokens[:, :NUM_OF_WAVE], torch.zeros_like(tokens[:, NUM_OF_WAVE:])), dim=1)


def test_one_wave_without_noise_is_told_by_its_four_numbers():
    y = plane_waves().field(SIZE)
    assert error_db(rebuild_wave(wave_alone(embed_wave(patch_of(y)))), y) < -80
    # Of two waves the four numbers tell one.
    two = y + 0.5 * plane_waves().field(SIZE).roll(1, dims=0)
    assert error_db(rebuild_wave(wave_alone(embed_wave(patch_of(two)))), two) > -10


def test_elements_that_are_hidden_do_not_bend_the_wave():
    y = plane_waves().field(SIZE)
    visible = torch.ones(y.shape, dtype=torch.bool)
    visible[:, 11:] = False
    assert error_db(rebuild_wave(wave_alone(embed_wave(patch_of(y, visible)))), y) < -80


def test_frequency_errors_are_those_of_the_cramer_rao_bound():
    """var(2 pi f) = noise_var / (2 |g|^2 sum x^2) (Rife and Boorstyn 1974)."""
    wave, noise_var = plane_waves(2000), 0.01
    wave = LocalWave(wave.frequency, wave.gain / wave.gain.abs())
    noise = torch.randn(2000, SIZE, dtype=torch.complex64, generator=generator()) * noise_var**0.5
    y = wave.field(SIZE) + noise
    found = find_wave(y, torch.ones(y.shape, dtype=torch.bool))
    turn = (found.frequency - wave.frequency + 0.5) % 1 - 0.5
    variance = float((2 * math.pi * turn).square().mean())
    bound = noise_var / (2 * float(places(SIZE).square().sum()))
    assert variance == pytest.approx(bound, rel=0.15)
    # A grid alone, of four places to a bin, would err by more.
    assert (2 * math.pi / (4 * SIZE)) ** 2 / 12 > 5 * bound


def test_embeddings_without_rounding_tell_everything_and_rounded_ones_err_by_the_step():
    y = torch.randn(NUM, SIZE, dtype=torch.complex64, generator=generator())
    tokens = embed_wave(patch_of(y))
    assert error_db(rebuild_wave(tokens), y) < -90
    step = 0.02
    rounded = rebuild_wave((tokens / step).round() * step)
    error = float((rounded - y).abs().square().mean())
    # Gain and rest: 2 m + 2 numbers of step^2 / 12, the rest's in units of sqrt(m).
    told = step**2 / 12 * (2 + 2 * SIZE)
    frequency = step**2 / 12 * float(embed_wave(patch_of(y))[:, 2:4].square().sum(dim=1).mean())
    assert error == pytest.approx(told + frequency, rel=0.05)


def test_a_sub_array_that_sees_nothing_has_an_embedding_of_zeros():
    y = torch.zeros(2, SIZE, dtype=torch.complex64)
    tokens = embed_wave(patch_of(y, torch.zeros(2, SIZE, dtype=torch.bool)))
    assert float(rebuild_wave(tokens).abs().max()) == 0
