"""The bit-true link against closed forms: raw bit errors, combining gain, and what arrives."""

from math import sqrt

import numpy as np
import pytest
import torch
from radio_states import still_radio

from analysis import theory
from channels.grid import GridConfig, ResourceGrid
from channels.links.nr_bit import NrBitConfig, NrBitLink, _chain
from semcom.contracts import SemcomError
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())
QPSK, QAM16 = 5, 12  # MCS of table 1


def bit_link(step_s: float = 0.5, **settings: float | str) -> NrBitLink:
    return NrBitLink(NrBitConfig.model_validate(settings), GRID, step_s, tx_power_dbm=10.0)


def flat(num_rows: int, snr_db: float) -> np.ndarray:
    return np.full((num_rows, GRID.num_resource_blocks), 10 ** (snr_db / 10), dtype=np.float32)


def raw_bit_errors(mcs: int, es_n0_db: float, *, fading: bool, num_blocks: int = 300) -> tuple[int, int]:
    """Errors among hard decisions before decoding, and their number; fading is new on each element."""
    num_rb = 4
    chain = _chain(NrBitConfig(csi="perfect"), mcs, num_rb, GRID)
    generator = torch.Generator().manual_seed(3)
    bits = torch.randint(0, 2, (num_blocks, chain._transmitter._tb_encoder.k), generator=generator).float()
    x = chain.encode(bits)[:, None]
    sent = chain._transmitter._tb_encoder(bits[:, None])[:, 0]

    def gaussian() -> torch.Tensor:
        return torch.view_as_complex(torch.randn(*x.shape, 2, generator=generator)) * 0.5**0.5

    h = 10 ** (es_n0_db / 20) * (gaussian() if fading else torch.ones_like(x))
    hard = chain.soft_bits(h * x + gaussian(), h) > 0
    return int((hard != (sent > 0.5)).sum()), hard.numel()


@pytest.mark.parametrize("fading", [False, True])
@pytest.mark.parametrize(("mcs", "bits_per_symbol"), [(QPSK, 2), (QAM16, 4)])
def test_raw_bit_errors_follow_the_closed_form(mcs, bits_per_symbol, fading):
    ebno_db = 4.0
    closed_form = {
        (2, False): theory.ber_qpsk_awgn,
        (2, True): theory.ber_qpsk_rayleigh,
        (4, False): theory.ber_16qam_awgn,
        (4, True): theory.ber_16qam_rayleigh,
    }[bits_per_symbol, fading]
    num_errors, num_bits = raw_bit_errors(mcs, ebno_db + 10 * np.log10(bits_per_symbol), fading=fading)
    # The bits of a symbol share its noise and fading: count symbols as the independent samples.
    expected = float(closed_form(ebno_db))
    sigma = sqrt(expected * (1 - expected) / (num_bits / bits_per_symbol))
    assert abs(num_errors / num_bits - expected) < 4.5 * sigma
    for half_db_off in (ebno_db - 0.5, ebno_db + 0.5):
        assert abs(num_errors / num_bits - float(closed_form(half_db_off))) > 4.5 * sigma


@pytest.mark.parametrize("csi", ["perfect", "estimated"])
def test_what_arrives_is_what_was_sent_and_in_noise_nothing_does(csi):
    rng = np.random.default_rng(1)
    packets = [rng.bytes(size) for size in (1, 3, 20, 5000, 20)]
    link = bit_link(csi=csi)
    good = link.transmit(packets, np.arange(5), still_radio(flat(5, 30.0), GRID), 0, Streams(1))
    assert good.payloads == packets
    bad = link.transmit(packets[:3], np.arange(3), still_radio(flat(3, -15.0), GRID), 0, Streams(1))
    assert bad.sent.all()
    assert not bad.ok.any()


def test_two_antennas_or_a_second_transmission_are_worth_three_decibels():
    # MCS 10 in 5 resource blocks hardly ever works at 1.2 dB and hardly ever fails at 4.2 dB.
    num = 40
    packets, devices = [bytes(range(100))] * num, np.arange(num)
    radio = still_radio(flat(num, 1.2), GRID)
    once = bit_link(csi="perfect", mcs_index=10).transmit(packets, devices, radio, 0, Streams(1))
    twice = bit_link(csi="perfect", mcs_index=10, max_retransmissions=1).transmit(
        packets, devices, radio, 0, Streams(1)
    )
    assert once.ok.mean() < 0.1
    assert twice.ok.mean() > 0.8
    np.testing.assert_array_equal(twice.channel_uses, 2 * once.channel_uses)

    def both_antennas(rows: np.ndarray, frequency_hz: np.ndarray, time_s: np.ndarray) -> np.ndarray:
        return np.repeat(radio.response(rows, frequency_hz, time_s), 2, axis=1)

    state = type(radio)(radio.sinr, both_antennas)
    combined = bit_link(csi="perfect", mcs_index=10).transmit(packets, devices, state, 0, Streams(1))
    assert combined.ok.mean() > 0.8


def test_estimating_the_channel_costs_something():
    num = 40
    packets, radio = [bytes(range(100))] * num, still_radio(flat(num, 4.2), GRID)
    perfect, estimated = (
        bit_link(csi=csi, mcs_index=10).transmit(packets, np.arange(num), radio, 0, Streams(1)).ok.mean()
        for csi in ("perfect", "estimated")
    )
    assert perfect > 0.9
    assert estimated < perfect - 0.2


def test_a_grid_without_room_for_pilots_is_refused_in_one_line():
    grid = ResourceGrid(GridConfig(num_data_symbols=9))
    with pytest.raises(SemcomError, match=r"grid\.num_data_symbols = 9"):
        NrBitLink(NrBitConfig(), grid, 0.02, tx_power_dbm=10.0)
