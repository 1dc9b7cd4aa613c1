"""The links scenario's curves say what they should: error rates that fall, goodput of what arrives."""

import numpy as np
import pytest

from analysis import theory
from scenarios.contracts import Point
from scenarios.links.config import LinksConfig
from scenarios.links.curves import measure

CONFIG = LinksConfig(num_blocks=2800, num_symbols=100_000, snr_db=(4.0,))


def curve(point: Point, metric: str) -> np.ndarray:
    return np.array([row.value for row in measure(CONFIG, point) if row.metric == metric])


@pytest.mark.parametrize(("mcs_table", "mcs_index"), [(1, 13), (2, 22)])
def test_on_awgn_blocks_fail_as_often_as_the_points_were_chosen_for(mcs_table, mcs_index):
    point = Point("bler", "nr", 0, {"channel": "awgn", "mcs_table": mcs_table, "mcs_index": mcs_index})
    bler = curve(point, "bler")
    chosen = np.array([0.9, 0.7, 0.45, 0.2, 0.08, 0.025, 0.01])
    # 400 blocks a point, and SNRs rounded to 0.05 dB where a tenth moves the rate by 0.1.
    assert (np.abs(bler - chosen) < 4.5 * np.sqrt(chosen * (1 - chosen) / 400) + 0.05).all()
    uses = curve(point, "channel_uses")[0]
    np.testing.assert_allclose(curve(point, "goodput"), 8 * CONFIG.packet_bytes * (1 - bler) / uses)


def test_uncoded_and_analog_points_lie_on_their_closed_forms():
    ber = curve(Point("uncoded", "qpsk", 0, {"channel": "awgn"}), "ber")[0]
    expected = float(theory.ber_qpsk_awgn(4.0))
    sigma = np.sqrt(expected * (1 - expected) / CONFIG.num_symbols)
    assert abs(ber - expected) < 4.5 * sigma < abs(ber - float(theory.ber_qpsk_awgn(4.5)))
    error = curve(Point("analog", "analog", 0, {"channel": "awgn"}), "distortion")[0]
    # An exponential square has its mean as its deviation.
    expected = float(theory.mmse_awgn(4.0))
    sigma = expected / np.sqrt(CONFIG.num_symbols)
    assert abs(error - expected) < 4.5 * sigma < abs(error - float(theory.mmse_awgn(4.5)))
