"""Uncoded modulations through Sionna's mapper and demapper against the closed forms."""

from math import sqrt

import pytest

from analysis import theory
from channels.links.uncoded import BITS_PER_SYMBOL, count_bit_errors

CLOSED_FORMS = {
    ("bpsk", False): theory.ber_bpsk_awgn,
    ("qpsk", False): theory.ber_qpsk_awgn,
    ("16-qam", False): theory.ber_16qam_awgn,
    ("bpsk", True): theory.ber_bpsk_rayleigh,
    ("qpsk", True): theory.ber_qpsk_rayleigh,
    ("16-qam", True): theory.ber_16qam_rayleigh,
}


@pytest.mark.parametrize("fading", [False, True])
@pytest.mark.parametrize("modulation", BITS_PER_SYMBOL)
def test_bit_errors_follow_the_closed_form(modulation, fading):
    num_symbols, ebno_db = 600_000, 4.0
    closed_form = CLOSED_FORMS[modulation, fading]
    num_errors, num_bits = count_bit_errors(modulation, ebno_db, num_symbols, seed=11, fading=fading)
    assert num_bits == num_symbols * BITS_PER_SYMBOL[modulation]
    # The bits of a symbol share its noise and fading: symbols are the independent samples.
    expected = float(closed_form(ebno_db))
    sigma = sqrt(expected * (1 - expected) / num_symbols)
    assert abs(num_errors / num_bits - expected) < 4.5 * sigma
    for half_db_off in (ebno_db - 0.5, ebno_db + 0.5):
        assert abs(num_errors / num_bits - float(closed_form(half_db_off))) > 4.5 * sigma
