"""Arithmetic coding in whole numbers: by hand, back and forth, and the cost against the entropy."""

import numpy as np
import pytest

from semcom.codecs.interval_coding import IntervalReader, IntervalWriter
from semcom.contracts import SemcomError


def written(symbols: list[tuple[int, list[int]]]) -> bytes:
    writer = IntervalWriter()
    for symbol, cumulative in symbols:
        writer.write(symbol, cumulative)
    return writer.payload()


def test_payloads_by_hand():
    # Symbol 1 of frequencies 1, 3: [1/4, 1). The shortest fraction in it has one byte: 64 / 256.
    assert written([(1, [0, 1, 4])]) == bytes([64])
    # Symbol 0: [0, 1/4) holds 0, which takes no byte; so does a certain symbol.
    assert written([(0, [0, 1, 4])]) == b""
    assert written([(0, [0, 5])]) == b""
    # 1 of 4 after 1 of (1, 3): [1/4 + 3/16, 1/4 + 6/16) = [7/16, 10/16): 112 / 256.
    assert written([(1, [0, 1, 4]), (1, [0, 1, 2, 3, 4])]) == bytes([112])
    # [255/256 + 255/65536, 1): two bytes and no fewer.
    assert written([(255, list(range(257))), (255, list(range(257)))]) == b"\xff\xff"
    writer = IntervalWriter()
    writer.write_uniform(7, 16)
    assert writer.payload() == bytes([112])


def message(generator: np.random.Generator) -> list[tuple[int, list[int]]]:
    """Symbols under tables of 1 to 40 symbols with skewed frequencies, each symbol as likely as it says."""
    symbols = []
    for _ in range(generator.integers(0, 30)):
        frequency = 1 + (40 * generator.random(generator.integers(1, 41)) ** 6).astype(int)
        symbol = generator.choice(len(frequency), p=frequency / frequency.sum())
        symbols.append((int(symbol), [0, *np.cumsum(frequency).tolist()]))
    return symbols


def test_what_is_written_is_read_and_costs_two_bits_more_than_its_entropy():
    generator = np.random.default_rng(0)
    excess = []
    for _ in range(2000):
        symbols = message(generator)
        payload = written(symbols)
        reader = IntervalReader(payload)
        assert [reader.read(cumulative) for _, cumulative in symbols] == [symbol for symbol, _ in symbols]
        cost = -sum(np.log2((c[s + 1] - c[s]) / c[-1]) for s, c in symbols)
        # Of two shorter strings at most the empty tail of the interval is left out.
        assert 8 * len(payload) < cost + 8
        if cost > 16:
            excess.append(8 * len(payload) - cost)
    deviation = np.std(excess) / np.sqrt(len(excess))
    assert abs(np.mean(excess) - 2.0) < 0.6 + 4.5 * deviation


def test_equally_likely_symbols_are_those_of_a_flat_table():
    one, other = IntervalWriter(), IntervalWriter()
    for symbol, size in ((3, 7), (0, 1), (99, 100), (511, 512)):
        one.write_uniform(symbol, size)
        other.write(symbol, range(size + 1))
    assert one.payload() == other.payload()
    reader = IntervalReader(one.payload())
    assert [reader.read_uniform(size) for size in (7, 1, 100, 512)] == [3, 0, 99, 511]


def test_what_a_table_has_not_is_refused():
    for symbol in (-1, 2, 3):
        with pytest.raises(SemcomError, match=f"symbol {symbol} does not occur"):
            IntervalWriter().write(symbol, [0, 1, 4, 4])
    with pytest.raises(SemcomError, match="not one of 0 to 3"):
        IntervalWriter().write_uniform(4, 4)
