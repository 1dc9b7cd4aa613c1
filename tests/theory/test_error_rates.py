"""The measured error rates of code blocks: a sane shape, and what the bit-true link does."""

from math import sqrt

import numpy as np
import pytest
from radio_states import still_radio

from channels.grid import GridConfig, ResourceGrid
from channels.links.error_rates import block_error_rate, waterfall_db
from channels.links.measure_error_rates import fit
from channels.links.nr import NrConfig, NrLink
from channels.links.nr_bit import NrBitConfig, NrBitLink
from channels.links.transport_tables import transport_tables
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())
NUM_RB, RE_PER_RB = GRID.num_resource_blocks, GRID.re_per_rb_slot


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_the_centre_lies_above_capacity_and_rises_with_the_rate(bits):
    rates = {2: (0.2, 0.7), 4: (0.3, 0.7), 6: (0.4, 0.92), 8: (0.62, 0.92)}[bits]
    rate = np.linspace(*rates, 30)
    for size in (32, 100, 500, 3000, 8448):
        centre_db, width_db = waterfall_db(bits, rate, np.full(30, size))
        assert (centre_db > 10 * np.log10(2 ** (bits * rate) - 1)).all()
        assert (np.diff(centre_db) > 0).all()
        assert ((width_db > 0.05) & (width_db < 2.5)).all()
    # A longer block turns from failing to arriving within fewer decibels.
    _, width_db = waterfall_db(bits, np.full(3, 0.65), np.array([32, 512, 8448]))
    assert (np.diff(width_db) < 0).all()


def test_half_of_the_blocks_fail_at_the_centre_and_the_fit_finds_it():
    centre_db, width_db = waterfall_db(2, np.array([0.5]), np.array([300]))
    rate, size = np.array([0.5]), np.array([300])
    assert block_error_rate(2, rate, size, centre_db)[0] == pytest.approx(0.5)
    assert block_error_rate(2, rate, size, centre_db + 1.2816 * width_db)[0] == pytest.approx(0.1, abs=1e-4)
    snr_db = np.linspace(-1, 1, 5) * width_db + centre_db
    sent = np.full(5, 20_000)
    failed = np.random.default_rng(1).binomial(sent, block_error_rate(2, rate, size, snr_db))
    found_db, found_width_db = fit(snr_db, sent, failed)
    assert found_db == pytest.approx(centre_db[0], abs=0.02)
    assert found_width_db == pytest.approx(width_db[0], rel=0.05)


@pytest.mark.parametrize("table", [1, 2])
def test_every_mcs_fails_less_with_more_power(table):
    tables = transport_tables(table, NUM_RB, RE_PER_RB, "measured")
    assert (np.diff(tables.tbler[:, 1:], axis=-1) <= 0).all()
    assert (tables.tbler[:, 1:, 0] > 0.99).all()
    assert (tables.tbler[:, 1:, -1] < 1e-3).all()


@pytest.mark.parametrize(
    ("table", "mcs", "num_bytes"),
    [(1, 3, 40), (1, 10, 100), (1, 16, 20), (1, 22, 60), (2, 12, 90), (2, 23, 50)],
)
def test_the_bit_true_link_fails_as_often(table, mcs, num_bytes):
    # The two agree within 0.05 or 0.3 dB; half a dB away they would not.
    num, size = 160, np.array([8 * num_bytes])
    settings = {"mcs_table": table, "mcs_index": mcs}
    planner = NrLink(NrConfig.model_validate(settings), GRID, 1.0, 10.0).planner
    plan = planner.plan(np.ones((1, NUM_RB), np.float32), size)
    curve = planner.tables.tbler[plan.row[0], plan.last_rb[0]]
    snr_db = planner.tables.snr_min_db + planner.tables.snr_step_db * np.arange(curve.size)
    middle = int(np.abs(curve - 0.5).argmin())
    radio = still_radio(np.full((num, NUM_RB), 10 ** (snr_db[middle] / 10), np.float32), GRID)
    link = NrBitLink(NrBitConfig.model_validate({**settings, "csi": "perfect"}), GRID, 1.0, 10.0)
    packets = [np.random.default_rng(i).bytes(num_bytes) for i in range(num)]
    rate = 1 - link.transmit(packets, np.arange(num), radio, 0, Streams(2)).ok.mean()

    def within(shift_db: float) -> bool:
        at = middle + round(shift_db / planner.tables.snr_step_db)
        low, high = curve[at + 6], curve[at - 6]
        sigma = sqrt(0.25 / num)
        return bool(min(low, curve[at] - 0.05) - 3 * sigma < rate < max(high, curve[at] + 0.05) + 3 * sigma)

    assert within(0.0)
    assert not within(-1.2)
    assert not within(1.2)
