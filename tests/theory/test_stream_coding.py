"""Long messages without a table: back and forth, and their bits against entropy and binomial bound."""

from math import lgamma, log, log2

import numpy as np
import pytest

from semcom.codecs.stream_coding import StreamReader, StreamWriter
from semcom.contracts import SemcomError

# What a range coder of 32-bit words adds to a message's cost: two words at most.
TAIL_BITS = 64


def num_bits(write) -> int:
    writer = StreamWriter()
    write(writer)
    return 8 * len(writer.payload())


def log2_binomial(num: int, num_chosen: int) -> float:
    return (lgamma(num + 1) - lgamma(num_chosen + 1) - lgamma(num - num_chosen + 1)) / log(2)


def choose(num: int, num_chosen: int, seed: int) -> np.ndarray:
    is_chosen = np.zeros(num, dtype=bool)
    is_chosen[np.random.default_rng(seed).choice(num, num_chosen, replace=False)] = True
    return is_chosen


@pytest.mark.parametrize("num_symbols", [1, 2, 3, 255, 256, 257, 65_535, 65_536])
def test_what_is_written_is_read(num_symbols):
    generator = np.random.default_rng(num_symbols)
    arrays = [
        (generator.random(length) ** 3 * num_symbols).astype(np.int32) for length in (0, 1, 64, 65, 3000)
    ]
    places = [
        choose(length, length * share // 10, share) for length in (1, 8, 9, 1000) for share in (0, 3, 10)
    ]
    writer = StreamWriter()
    for symbols in arrays:
        writer.write_uniform(symbols, num_symbols)
        writer.write_counted(symbols, num_symbols)
    for is_chosen in places:
        writer.write_places(is_chosen)
    reader = StreamReader(writer.payload())
    for symbols in arrays:
        np.testing.assert_array_equal(reader.read_uniform(len(symbols), num_symbols), symbols)
        np.testing.assert_array_equal(reader.read_counted(len(symbols), num_symbols), symbols)
    for is_chosen in places:
        read = reader.read_places(len(is_chosen), int(is_chosen.sum()))
        np.testing.assert_array_equal(read, is_chosen)


def test_zeros_at_the_end_are_left_out_and_found_again():
    # A likely symbol over and over is a number near zero; a short message ends in zeros now and then.
    for seed in range(300):
        symbols = (np.random.default_rng(seed).random(seed % 40) < 0.05).astype(np.int32)
        writer = StreamWriter()
        writer.write_counted(symbols, 2)
        payload = writer.payload()
        assert not payload.endswith(b"\0")
        np.testing.assert_array_equal(StreamReader(payload).read_counted(len(symbols), 2), symbols)


@pytest.mark.parametrize("num_symbols", [3, 255, 65_535])
def test_equally_likely_symbols_cost_their_logarithm(num_symbols):
    symbols = np.random.default_rng(0).integers(0, num_symbols, 10_000)
    bits = num_bits(lambda writer: writer.write_uniform(symbols, num_symbols))
    ideal = 10_000 * log2(num_symbols)
    assert ideal - 8 <= bits <= ideal + TAIL_BITS
    assert bits < 10_000 * log2(num_symbols + 0.1 * num_symbols)  # the power check


def test_counted_symbols_cost_their_entropy_and_what_learning_takes():
    probability = np.array([0.7, 0.2, 0.09, 0.01])
    symbols = np.random.default_rng(1).choice(4, 20_000, p=probability)
    bits = num_bits(lambda writer: writer.write_counted(symbols, 4))
    ideal = -np.log2(probability[symbols]).sum()
    # Krichevsky and Trofimov's redundancy, and the first 64 symbols that are coded at 2 bits each.
    learning = 3 / 2 * log2(20_000) + 64 * 2
    assert ideal - learning < bits < ideal + learning + TAIL_BITS
    other = np.array([0.6, 0.3, 0.09, 0.01])
    assert -np.log2(other[symbols]).sum() > ideal + learning + TAIL_BITS  # the power check


def test_the_first_symbols_are_coded_as_worked_by_hand():
    # 64 symbols at 1/2 each; then 64 with probability (64 + 1/2) / (64 + 1), 0.011 bits each: 64.7 bits.
    bits = num_bits(lambda writer: writer.write_counted(np.zeros(128, dtype=np.int32), 2))
    other = num_bits(lambda writer: writer.write_counted(np.ones(128, dtype=np.int32), 2))
    assert bits <= 64 + TAIL_BITS
    assert 64 < other <= 64 + TAIL_BITS
    # A one in the second part has 1/2 of 65: log2(130) = 7.02 bits. Twenty of them take 140 bits more.
    rare = np.concatenate((np.zeros(108, dtype=np.int32), np.ones(20, dtype=np.int32)))
    ideal = 64 + 44 * log2(130 / 129) + 20 * log2(130)
    assert ideal - 8 <= num_bits(lambda writer: writer.write_counted(rare, 2)) <= ideal + TAIL_BITS


@pytest.mark.parametrize(
    ("num", "num_chosen"), [(20_000, 200), (20_000, 2000), (20_000, 20), (1_000_000, 30)]
)
def test_places_cost_little_more_than_the_binomial_bound(num, num_chosen):
    bits = num_bits(lambda writer: writer.write_places(choose(num, num_chosen, seed=2)))
    bound = log2_binomial(num, num_chosen)
    assert bound - 8 < bits < bound + log2(num + 1) + TAIL_BITS
    assert bits < 32 * num_chosen
    # The power check: a tenth more places would be told apart wherever they weigh more than whole words.
    if num_chosen >= 200:
        assert log2_binomial(num, round(1.1 * num_chosen)) > bound + log2(num + 1) + TAIL_BITS


def test_another_number_of_places_is_refused():
    writer = StreamWriter()
    writer.write_places(choose(1000, 50, seed=3))
    with pytest.raises(SemcomError, match="does not choose 51 of 1000 places"):
        StreamReader(writer.payload()).read_places(1000, 51)
