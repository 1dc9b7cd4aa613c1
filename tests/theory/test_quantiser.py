"""The quantiser's error and the entropy coder's length against theory."""

from math import log2, sqrt

import numpy as np
import pytest
import torch

from semcom.codecs.catalogue import CodecConfig, make_codec
from semcom.codecs.scalar import UniformQuantiser, UniformScalarCodec


def draw_uniform(num_rows: int, embedding_dim: int, seed: int) -> torch.Tensor:
    return torch.rand(num_rows, embedding_dim, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def draw_normal(num_rows: int, embedding_dim: int, seed: int) -> torch.Tensor:
    return torch.randn(num_rows, embedding_dim, generator=torch.Generator().manual_seed(seed))


def entropy_codec(embedding_dim: int, bits: int):
    return make_codec(CodecConfig(kind="entropy", bits=bits), embedding_dim).eval()


def assert_error_is(squared_error: torch.Tensor, expected: float) -> None:
    sigma = float(squared_error.std()) / sqrt(squared_error.numel())
    mean = float(squared_error.double().mean())
    assert abs(mean - expected) < 4.5 * sigma
    half_a_decibel = 10**0.05
    assert abs(mean - expected * half_a_decibel) > 4.5 * sigma  # the power check


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12])
def test_the_error_of_a_uniform_source_is_a_twelfth_of_the_step_squared(bits):
    quantiser = UniformQuantiser(3, bits).eval()
    quantiser.low.fill_(-1.0)
    quantiser.high.fill_(1.0)
    z = draw_uniform(40_000, 3, seed=1)
    error = quantiser(z) - z
    step = 2 / 2**bits
    assert float(error.abs().max()) <= step / 2 * (1 + 1e-3)
    assert_error_is(error.double().square(), step**2 / 12)


def test_the_fitted_range_of_a_uniform_source_is_its_range():
    quantiser = UniformQuantiser(2, 4).eval()
    z = draw_uniform(20_000, 2, seed=2)
    quantiser.fit(z)
    error = quantiser(draw_uniform(20_000, 2, seed=3)) - draw_uniform(20_000, 2, seed=3)
    assert_error_is(error.double().square(), (2 / 16) ** 2 / 12)


# Least mean squared error of a uniform quantiser for N(0, 1) (Max 1960, table II).
@pytest.mark.parametrize(("bits", "least_error"), [(1, 0.3634), (2, 0.1188), (3, 0.03744), (4, 0.01154)])
def test_the_fitted_range_of_a_gaussian_is_the_optimal_one(bits, least_error):
    quantiser = UniformQuantiser(1, bits).eval()
    quantiser.fit(draw_normal(16_000, 1, seed=4))
    z = draw_normal(400_000, 1, seed=5)
    error = (quantiser(z) - z).square()
    assert_within(float(error.mean()), least_error, 0.03)
    # The power check: the range from least to greatest, the obvious choice, is far off.
    quantiser.low.fill_(float(z.min()))
    quantiser.high.fill_(float(z.max()))
    assert float((quantiser(z) - z).square().mean()) > 1.3 * least_error


def assert_within(value: float, expected: float, share: float) -> None:
    assert abs(value - expected) < share * expected


def test_the_range_follows_a_skewed_source_to_one_side():
    quantiser = UniformQuantiser(1, 3).eval()
    z = draw_normal(16_000, 1, seed=6).exp()
    quantiser.fit(z)
    assert float(quantiser.low) > -0.2
    assert float(quantiser.high) > 4
    assert float(quantiser.high) < float(z.max()) / 2
    half_width = (quantiser.high - z.median()).clone()
    fitted = float((quantiser(z) - z).square().mean())
    quantiser.low.copy_(z.median() - half_width)
    assert float((quantiser(z) - z).square().mean()) > 1.3 * fitted


@pytest.mark.parametrize(
    ("embedding_dim", "bits", "num_bytes"), [(12, 8, 12), (3, 3, 2), (1, 1, 1), (5, 16, 10)]
)
def test_the_bits_of_a_uniform_payload_are_exact(embedding_dim, bits, num_bytes):
    codec = UniformScalarCodec(embedding_dim, bits)
    z = draw_normal(50, embedding_dim, seed=7)
    codec.fit(z)
    assert codec.max_payload_bits() == 8 * num_bytes
    assert {len(payload) for payload in codec.encode(z)} == {num_bytes}


def test_a_payload_worked_by_hand():
    codec = UniformScalarCodec(3, 3).eval()
    codec.quantiser.low.fill_(0.0)
    codec.quantiser.high.fill_(8.0)
    payload = bytes([0b001_111_10, 0b0_0000000])
    assert codec.encode(torch.tensor([[1.9, 99.0, 4.0]])) == [payload]
    assert codec.decode([payload]).tolist() == [[1.5, 7.5, 4.5]]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_cross_entropy_follows_from_laplace_smoothed_counts(bits):
    codec = entropy_codec(1, bits)
    train, z = draw_normal(5000, 1, seed=8), draw_normal(200, 1, seed=9)
    codec.fit(train)
    seen = codec.quantiser.quantise(train)[:, 0].tolist()
    for symbol, cost in zip(codec.quantiser.quantise(z)[:, 0].tolist(), codec.entropy_bits(z), strict=True):
        expected = -log2((seen.count(symbol) + 1) / (5000 + 2**bits))
        assert float(cost) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_payloads_are_as_short_as_whole_bytes_allow(bits):
    """A message of h bits takes k = ceil(h / 8) bytes, or one fewer with probability 2^(8 (k - 1) - h)."""
    codec = entropy_codec(12, bits)
    codec.fit(draw_normal(5000, 12, seed=10))
    z = draw_normal(1000, 12, seed=11)
    sizes = np.array([8 * len(payload) for payload in codec.encode(z)])
    costs = codec.entropy_bits(z).numpy()
    # The most that twelve symbols lose to the coder's own rounding of its range and probabilities, in bits.
    rounding = 0.15
    assert (sizes <= 8 * np.ceil((costs + rounding) / 8)).all()
    whole = 8 * np.ceil(costs / 8)
    shorter = 2.0 ** -(costs - whole + 8)
    expected = whole - 8 * shorter - 8 * shorter / 256
    sigma = sqrt(float((64 * shorter * (1 - shorter)).sum())) / len(z)
    assert abs(float((sizes - expected).mean())) < 4.5 * sigma + rounding
    # The power check: rounding the length up to whole bytes, without the search for fewer, is told apart.
    assert abs(float((whole - expected).mean())) > 4.5 * sigma + rounding


def test_entropy_coding_gains_what_the_distribution_offers():
    codec, fixed = entropy_codec(12, 8), UniformScalarCodec(12, 8).eval()
    train, z = draw_normal(5000, 12, seed=12), draw_normal(500, 12, seed=13)
    codec.fit(train)
    fixed.fit(train)
    assert torch.equal(codec(z), fixed(z))
    mean_bits = sum(8 * len(payload) for payload in codec.encode(z)) / len(z)
    # A Gaussian at step s has log2(sqrt(2 pi e) / s) bits a symbol (high-rate approximation); the counts
    # of 5000 rows over 256 symbols cost (256 / 5000) / 2 nats more, and whole bytes under 4 bits a packet.
    step = float((codec.quantiser.high - codec.quantiser.low).mean()) / 256
    ideal = 12 * log2(sqrt(2 * np.pi * np.e) / step)
    assert ideal < mean_bits < ideal + 12 * 0.06 + 4 < fixed.max_payload_bits()
