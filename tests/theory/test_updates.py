"""Model updates against theory: errors, bits, and what error feedback brings, by hand and in general."""

from math import lgamma, log, log2, sqrt

import pytest
import torch

from nodes.training.updates import (
    UPDATE_HEADER_BITS,
    QuantisedUpdate,
    TopKUpdate,
    UpdateCodec,
    UpdateCodecConfig,
)

STEP_BITS = 32
# What a range coder of 32-bit words adds to a message's cost: two words at most.
TAIL_BITS = 64


def sent_and_received(
    config: UpdateCodecConfig, values: torch.Tensor, seed: int = 0
) -> tuple[int, torch.Tensor]:
    """The bits of one update from zero to values, and what is decoded."""
    reference = {"weight": torch.zeros_like(values)}
    codec = UpdateCodec(config, reference)
    generator = torch.Generator().manual_seed(seed)
    payload, _ = codec.encode({"weight": values}, reference, codec.initial_memory(), generator)
    return 8 * len(payload), codec.decode(payload, reference)["weight"]


def decoded_sums(config: UpdateCodecConfig, update: torch.Tensor, num_rounds: int) -> list[torch.Tensor]:
    """What the base station has after each round of one client that wants to move by `update` every time."""
    model = {"weight": torch.zeros_like(update)}
    codec = UpdateCodec(config, model)
    memory, models = codec.initial_memory(), []
    for _ in range(num_rounds):
        payload, memory = codec.encode({"weight": model["weight"] + update}, model, memory)
        model = codec.decode(payload, model)
        models.append(model["weight"])
    return models


def assert_mean_is(samples: torch.Tensor, expected: float, power: float) -> None:
    sigma = float(samples.double().std()) / sqrt(samples.numel())
    mean = float(samples.double().mean())
    assert abs(mean - expected) < 4.5 * sigma
    assert abs(mean - expected * power) > 4.5 * sigma  # the power check


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
def test_the_error_of_a_uniform_difference_is_a_twelfth_of_the_step_squared(bits):
    values = torch.rand(60_000, generator=torch.Generator().manual_seed(1)) * 2 - 1
    values[0] = 1.0
    _, decoded = sent_and_received(QuantisedUpdate(bits=bits), values)
    step = 1 / (2 ** (bits - 1) - 1)
    error = (decoded - values).double()
    assert float(error.abs().max()) <= step / 2 * (1 + 1e-3)
    assert_mean_is(error.square(), step**2 / 12, power=10**0.05)


def test_every_block_has_a_step_of_its_own():
    # Steps by hand at 3 bits: 3 / 3 = 1 and 0.3 / 3 = 0.1; one step for all would lose the second block.
    values = torch.tensor([3.0, -1.4, 0.3, 0.14])
    _, decoded = sent_and_received(QuantisedUpdate(bits=3, block_size=2), values)
    torch.testing.assert_close(decoded, torch.tensor([3.0, -1.0, 0.3, 0.1]))
    _, decoded = sent_and_received(QuantisedUpdate(bits=3), values)
    torch.testing.assert_close(decoded, torch.tensor([3.0, -1.0, 0.0, 0.0]))


def test_one_bit_is_the_sign_and_the_mean_magnitude():
    _, decoded = sent_and_received(QuantisedUpdate(bits=1), torch.tensor([4.0, -1.0, 0.5, -0.5]))
    assert decoded.tolist() == [1.5, -1.5, 1.5, -1.5]


# The step is 1: 1.3 becomes 2 with probability 0.3; with one bit 0.2 becomes 1 with probability 0.6.
@pytest.mark.parametrize(
    ("bits", "largest", "value", "variance", "nearest"),
    [
        (3, 3.0, 1.3, 0.21, 1.0),
        (3, 3.0, -1.3, 0.21, -1.0),
        (16, 32767.0, 9.75, 0.1875, 10.0),
        (1, 1, 0.2, 0.96, 1),
    ],
)
def test_stochastic_rounding_has_no_bias_and_the_variance_of_a_coin(bits, largest, value, variance, nearest):
    values = torch.full((40_000,), value)
    values[0] = largest
    _, decoded = sent_and_received(QuantisedUpdate(bits=bits, rounding="stochastic"), values)
    assert float(decoded[0]) == largest
    rounded = decoded[1:].double()
    assert abs(float(rounded.mean()) - value) < 4.5 * sqrt(variance / len(rounded))
    assert abs(nearest - value) > 4.5 * sqrt(variance / len(rounded))  # the power check
    assert float(rounded.var()) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("bits", [1, 2, 8, 16])
def test_without_entropy_coding_a_number_costs_the_logarithm_of_its_levels(bits):
    values = torch.randn(5000, generator=torch.Generator().manual_seed(2))
    spent, _ = sent_and_received(QuantisedUpdate(bits=bits, entropy_coding=False), values)
    ideal = UPDATE_HEADER_BITS + STEP_BITS + 5000 * log2(max(2, 2**bits - 1))
    assert ideal - 8 <= spent <= ideal + TAIL_BITS
    by_hand = UPDATE_HEADER_BITS + STEP_BITS + 5000 * bits
    if bits == 2:
        assert spent < 0.85 * by_hand  # three levels are no two bits


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_entropy_coding_brings_a_gaussian_difference_to_its_entropy(bits):
    """A Gaussian at step s has h = log2(sqrt(2 pi e) / s) bits a symbol, while s is about 1 or less."""
    num = 20_000
    values = torch.randn(num, generator=torch.Generator().manual_seed(3))
    spent, _ = sent_and_received(QuantisedUpdate(bits=bits), values)
    step = float(values.abs().max()) / (2 ** (bits - 1) - 1)
    ideal = num * log2(sqrt(2 * torch.pi * torch.e) / step)
    # The information of N numbers spreads by sqrt(N / 2) / ln 2; learning: Krichevsky and Trofimov.
    spread = 4.5 * sqrt(num / 2) / log(2)
    learning = (min(2**bits, 256) - 1) / 2 * log2(num) + 64 * bits + TAIL_BITS
    assert ideal - spread < spent < ideal + spread + learning
    fixed, _ = sent_and_received(QuantisedUpdate(bits=bits, entropy_coding=False), values)
    assert spent < 0.95 * fixed


@pytest.mark.parametrize("bits", [None, 1, 8])
def test_top_k_costs_the_binomial_bound_and_its_values(bits):
    num, num_sent = 20_000, 200
    values = torch.randn(num, generator=torch.Generator().manual_seed(4))
    spent, decoded = sent_and_received(TopKUpdate(share=0.01, bits=bits), values)
    assert int((decoded != 0).sum()) == num_sent
    places = (lgamma(num + 1) - lgamma(num_sent + 1) - lgamma(num - num_sent + 1)) / log(2)
    each, fixed = (32.0, 0) if bits is None else (log2(max(2, 2**bits - 1)), STEP_BITS)
    ideal = UPDATE_HEADER_BITS + fixed + places + num_sent * each
    # The counted symbols of 200 values, some of which never occur, cost at most what learning them takes.
    learning = 0 if bits is None else 0.1 * num_sent * each + log2(num_sent)
    low = ideal - (0.25 * num_sent * each if bits == 8 else 8)
    assert low < spent < ideal + log2(num + 1) + learning + TAIL_BITS
    assert spent < UPDATE_HEADER_BITS + fixed + num_sent * (each + log2(num))  # the power check


def test_top_k_sends_the_largest_and_of_equals_the_first():
    values = torch.tensor([1.0, -3.0, 2.0, -2.0, 2.0, 0.0])
    _, decoded = sent_and_received(TopKUpdate(share=0.5, bits=None), values)
    assert decoded.tolist() == [0.0, -3.0, 2.0, -2.0, 0.0, 0.0]
    _, decoded = sent_and_received(TopKUpdate(share=0.5, bits=1), values)
    torch.testing.assert_close(decoded, torch.tensor([0.0, -7 / 3, 7 / 3, -7 / 3, 0.0, 0.0]))


def test_error_feedback_sends_a_small_gradient_that_top_1_never_would():
    """By hand: the second number gathers 0.25 a round, and at 1.25 it is larger than the first.

    At 1.0 the two are equal and the first goes; what the first missed in round 5 goes in round 6.
    """
    update = torch.tensor([1.0, 0.25])
    feedback = TopKUpdate(share=0.5, bits=None)
    sums = decoded_sums(feedback, update, num_rounds=100)
    first = [[1, 0], [2, 0], [3, 0], [4, 0], [4, 1.25], [6, 1.25], [7, 1.25], [8, 1.25], [9, 1.25], [9, 2.5]]
    assert [model.tolist() for model in sums[:10]] == first
    assert sums[-1].tolist() == [99.0, 25.0]
    without = decoded_sums(feedback.model_copy(update={"error_feedback": False}), update, num_rounds=100)
    assert without[-1].tolist() == [100.0, 0.0]


@pytest.mark.parametrize(
    "config",
    [
        QuantisedUpdate(bits=1, error_feedback=True),
        QuantisedUpdate(bits=2, error_feedback=True),
        TopKUpdate(share=0.1, bits=1),
        TopKUpdate(share=0.1, bits=8),
    ],
    ids=str,
)
def test_with_error_feedback_the_sum_of_what_is_decoded_approaches_the_sum_of_the_updates(config):
    """What is missing is the memory, which stays bounded (Karimireddy et al. 2019, lemma 3).

    Its share falls as 1 / rounds once the memory has grown: to a half at most in four times as many.
    """
    update = torch.randn(100, generator=torch.Generator().manual_seed(5))
    without = config.model_copy(update={"error_feedback": False})
    missing = {}
    for num_rounds in (100, 400):
        missing[num_rounds] = [
            float((decoded_sums(codec, update, num_rounds)[-1] / num_rounds - update).norm() / update.norm())
            for codec in (config, without)
        ]
    assert missing[400][0] < 0.5 * missing[100][0]
    assert missing[400][0] < 0.05
    # The power check: without it the same share is missing after any number of rounds.
    assert missing[400][1] == pytest.approx(missing[100][1], rel=1e-3)
    assert missing[400][1] > 0.3
