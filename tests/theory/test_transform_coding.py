"""The codec klt on Gaussian vectors against reverse water-filling, and the closed form by hand."""

import numpy as np
import pytest
import torch

from analysis.theory import distortion_rate_gaussian, rate_distortion_gaussian
from semcom.codecs.catalogue import CodecConfig, make_codec

DIM, NUM = 12, 8000
VARIANCE = 4.0 * 0.55 ** np.arange(DIM)
# What uniform quantisation with entropy coding loses against theory at high rates, bits a component:
# log2(pi e / 6) / 2 (Gish and Pierce 1968).
LOSS_BITS = 0.5 * np.log2(np.pi * np.e / 6)


def test_water_filling_by_hand():
    # Equal variances: every one has its share of the bits. At no bits the error is the variance.
    assert distortion_rate_gaussian([2.0, 2.0, 2.0], 6.0) == pytest.approx(3 * 2.0 / 2**4)
    assert distortion_rate_gaussian([3.0, 1.0], 0.0) == pytest.approx(4.0)
    # 4 and 1: the first half bit is the larger's alone, down to 2; from one bit on both have a level of 1.
    assert distortion_rate_gaussian([1.0, 4.0], 0.5) == pytest.approx(2 + 1)
    assert distortion_rate_gaussian([1.0, 4.0], 1.0) == pytest.approx(1 + 1)
    assert distortion_rate_gaussian([1.0, 4.0, 0.0], 3.0) == pytest.approx(0.25 + 0.25)
    for bits in (0.3, 2.0, 9.0):
        distortion = distortion_rate_gaussian(VARIANCE, bits)
        assert rate_distortion_gaussian(VARIANCE, distortion) == pytest.approx(bits, abs=1e-9)
    assert rate_distortion_gaussian([1.0, 4.0], 5.0) == 0


def gaussian(num: int, seed: int) -> torch.Tensor:
    """Vectors of the variances above in axes that are turned against the coordinates, mean 5."""
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.normal(size=(DIM, DIM)))[0]
    rows = np.random.default_rng(seed).normal(size=(num, DIM)) * np.sqrt(VARIANCE)
    return torch.from_numpy(rows @ axes.T + 5).float()


def spent_and_lost(codec) -> tuple[float, float]:
    """Mean bits under the codec's own table, and how many more they are than theory needs for its error."""
    codec.fit(gaussian(NUM, seed=1))
    fresh = gaussian(NUM, seed=2)
    bits = float(codec.entropy_bits(fresh).mean())
    distortion = float((codec.eval()(fresh) - fresh).double().square().sum(dim=1).mean())
    return bits, bits - rate_distortion_gaussian(VARIANCE, distortion)


@pytest.mark.parametrize("mean_bits", [3.0, 12.0, 36.0])
def test_klt_spends_what_it_is_given_and_errs_as_water_filling_says(mean_bits):
    codec = make_codec(CodecConfig(kind="klt", mean_bits=mean_bits), DIM)
    bits, lost = spent_and_lost(codec)
    # Fresh vectors cost as much as those that the step was chosen on.
    assert bits == pytest.approx(mean_bits, rel=0.02)
    num_active = int((codec.quantiser.bound > 0).sum())
    assert -0.02 * bits < lost < LOSS_BITS * num_active + 0.1


@pytest.mark.parametrize("mean_bits", [0.4, 3.0, 12.0, 36.0, 55.0])
def test_training_vectors_cost_what_was_asked_for_under_the_codecs_own_table(mean_bits):
    codec = make_codec(CodecConfig(kind="klt", mean_bits=mean_bits), DIM).eval()
    training = gaussian(NUM, seed=1)
    codec.fit(training)
    # The step is the finest at which they don't cost more; a little finer, and one more would round away.
    left = mean_bits - float(codec.entropy_bits(training).mean())
    assert -1e-3 < left < 0.01


def test_no_step_is_finer_than_its_symbols_reach():
    codec = make_codec(CodecConfig(kind="klt", mean_bits=90.0), DIM).eval()
    codec.fit(gaussian(NUM, seed=1))
    largest = float(
        ((gaussian(NUM, seed=1).double() - codec.quantiser.mean) @ codec.quantiser.basis).abs().max()
    )
    assert float(codec.quantiser.step) == pytest.approx(largest / 127, rel=1e-5)
    assert float(codec.entropy_bits(gaussian(NUM, seed=1)).mean()) < 60


def test_payloads_take_two_bits_more_for_whole_bytes():
    codec = make_codec(CodecConfig(kind="klt", mean_bits=24.0), DIM).eval()
    codec.fit(gaussian(NUM, seed=1))
    payloads = codec.encode(gaussian(500, seed=3))
    deviation = np.std([8 * len(payload) for payload in payloads]) / 500**0.5
    assert 8 * np.mean([len(payload) for payload in payloads]) == pytest.approx(26, abs=0.6 + 4 * deviation)


def test_without_the_transform_the_same_bits_do_not_do():
    """The power check: the scalar quantiser with the same coder misses the bound that klt is held to."""
    for bits in (1, 3):
        spent, lost = spent_and_lost(make_codec(CodecConfig(kind="entropy", bits=bits), DIM))
        assert lost > LOSS_BITS * DIM + 0.1
        klt = make_codec(CodecConfig(kind="klt", mean_bits=spent), DIM)
        assert spent_and_lost(klt)[1] < LOSS_BITS * DIM + 0.1


def test_a_component_below_the_step_costs_nothing_and_is_its_mean():
    z = gaussian(NUM, seed=1)
    codec = make_codec(CodecConfig(kind="klt", mean_bits=0.5), DIM).eval()
    codec.fit(z)
    faintest = codec.quantiser.basis[:, -1]
    assert int(codec.quantiser.bound[-1]) == 0
    assert float(((codec(z) - z.mean(dim=0)).double() @ faintest).abs().max()) < 1e-4


def test_the_same_embeddings_give_the_same_transform_and_constant_ones_are_their_mean():
    z = gaussian(400, seed=1)
    one, other = (make_codec(CodecConfig(kind="klt", mean_bits=9.0), DIM) for _ in range(2))
    one.fit(z)
    other.fit(z.flip(0).flip(0))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    one.fit(torch.ones(10, DIM))
    assert one.eval().encode(torch.ones(2, DIM)) == [b"", b""]
    assert torch.equal(one(torch.ones(2, DIM)), torch.ones(2, DIM))
