"""The links against their error rates, the standard's block sizes and the conservation of resources."""

from math import sqrt

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from radio_states import still_radio

from analysis import theory
from channels.catalogue import make_link
from channels.grid import FR1_RESOURCE_BLOCKS, GridConfig, ResourceGrid
from channels.links.erasure import ErasureConfig
from channels.links.nr import NrConfig, NrLink
from channels.links.nr_bit import NrBitConfig, NrBitLink
from channels.links.transport_tables import KNOWN_MCS, effective_sinr, transport_tables
from channels.sionna_scope import sionna_scope
from semcom.contracts import SemcomError
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())
RE_PER_RB = 144
HALF_DB = 10**0.05


def nr_link(step_s: float = 0.02, **settings: float | str) -> NrLink:
    """A link with Sionna's error rates and rule, which Sionna's own objects confirm, unless told."""
    config = NrConfig.model_validate({"error_rates": "sionna", "mcs_rule": "highest", **settings})
    return NrLink(config, GRID, step_s, tx_power_dbm=10.0)


def flat(num_rows: int, snr_db: float) -> np.ndarray:
    return np.full((num_rows, GRID.num_resource_blocks), 10 ** (snr_db / 10), dtype=np.float32)


def sionna_tbler(mcs: int, snr_db: float, num_rb: int) -> float:
    """The transport block error rate as Sionna's own default object gives it."""
    from sionna.sys import PHYAbstraction

    with sionna_scope(0):
        *_, tbler, _ = PHYAbstraction()(
            torch.tensor([mcs], dtype=torch.int32),
            sinr_eff=torch.tensor([10 ** (snr_db / 10)]),
            num_allocated_re=torch.tensor([num_rb * RE_PER_RB]),
        )
    return float(tbler)


def loss_rate(link: NrLink, packet_bits: int, snr_db: float, num_devices: int, num_steps: int) -> float:
    packets, devices = [bytes(packet_bits // 8)] * num_devices, np.arange(num_devices)
    lost = 0
    for step in range(num_steps):
        delivery = link.transmit(
            packets, devices, still_radio(flat(num_devices, snr_db), GRID), step, Streams(11)
        )
        assert delivery.sent.all()
        lost += int((~delivery.ok).sum())
    return lost / (num_devices * num_steps)


def test_erasures_have_the_stated_rate_and_no_memory():
    num_devices, num_steps, probability = 4000, 30, 0.2
    link = make_link(ErasureConfig(probability=probability), GRID, 0.02, 10.0)
    packets, devices = [b"x"] * num_devices, np.arange(num_devices)
    lost = np.array([~link.transmit(packets, devices, None, t, Streams(1)).ok for t in range(num_steps)])
    sigma = sqrt(probability * (1 - probability) / lost.size)
    assert abs(lost.mean() - probability) < 4.5 * sigma
    assert abs(lost.mean() - probability * HALF_DB) > 4.5 * sigma
    burst = (lost[:-2] & lost[1:-1] & lost[2:]).any(axis=0).mean()
    expected = theory.burst_probability(num_steps, 3, probability)
    sigma = sqrt(expected * (1 - expected) / num_devices)
    assert abs(burst - expected) < 4.5 * sigma
    assert abs(burst - theory.burst_probability(num_steps, 3, probability * HALF_DB)) > 4.5 * sigma


@pytest.mark.parametrize(("probability", "ok"), [(0.0, True), (1.0, False)])
def test_erasures_at_the_ends_are_certain(probability, ok):
    link = make_link(ErasureConfig(probability=probability), GRID, 0.02, 10.0)
    assert (link.transmit([b"x"] * 500, np.arange(500), None, 0, Streams(1)).ok == ok).all()


@pytest.mark.parametrize(("packet_bits", "snr_db"), [(160, 4.1), (1000, 9.3)])
def test_nr_loses_transport_blocks_at_sionnas_rate(packet_bits, snr_db):
    num_devices, num_steps = 2000, 20
    link = nr_link(step_s=0.5)
    plan = link.planner.plan(flat(1, snr_db), np.array([packet_bits]))
    mcs, num_rb = int(link.planner.mcs_index(plan)[0]), int(plan.last_rb[0])
    assert plan.num_blocks[0] == 1
    expected = sionna_tbler(mcs, snr_db, num_rb)
    assert 0.001 < expected <= 0.1
    sigma = sqrt(expected * (1 - expected) / (num_devices * num_steps))
    rate = loss_rate(link, packet_bits, snr_db, num_devices, num_steps)
    assert abs(rate - expected) < 4.5 * sigma
    for half_db_off in (snr_db - 0.5, snr_db + 0.5):
        assert abs(rate - sionna_tbler(mcs, half_db_off, num_rb)) > 4.5 * sigma


def test_nr_loses_a_packet_when_any_of_its_transport_blocks_fails():
    num_devices, num_steps, packet_bits, snr_db = 100, 60, 40_000, 3.2
    link = nr_link(step_s=1.0)
    plan = link.planner.plan(flat(1, snr_db), np.array([packet_bits]))
    mcs, last_rb, num_blocks = (
        int(link.planner.mcs_index(plan)[0]),
        int(plan.last_rb[0]),
        int(plan.num_blocks[0]),
    )
    assert num_blocks > 2
    survives = (1 - sionna_tbler(mcs, snr_db, 51)) ** (num_blocks - 1) * (
        1 - sionna_tbler(mcs, snr_db, last_rb)
    )
    assert 0.01 < 1 - survives < 0.5
    sigma = sqrt(survives * (1 - survives) / (num_devices * num_steps))
    rate = loss_rate(link, packet_bits, snr_db, num_devices, num_steps)
    assert abs(rate - (1 - survives)) < 4.5 * sigma
    # The power check: one block fewer.
    assert abs(rate - (1 - survives / (1 - sionna_tbler(mcs, snr_db, 51)))) > 4.5 * sigma


def test_nr_fails_on_the_resource_blocks_that_it_was_given():
    link = nr_link(step_s=0.5)
    sinr = flat(400, 15.0)
    sinr[:, 7] = 1e-2
    delivery = link.transmit([bytes(20)] * 400, np.arange(400), still_radio(sinr, GRID), 0, Streams(2))
    plan = link.planner.plan(sinr, np.full(400, 160))
    first = np.cumsum(plan.num_rb_slots) - plan.num_rb_slots
    faded = ((7 - first) % 51) < plan.num_rb_slots
    assert 0 < faded.sum() < 100
    assert not delivery.ok[faded].any()
    assert delivery.ok[~faded].mean() > 0.85


def test_harq_adds_up_the_sinr_and_pays_for_each_transmission():
    # At an SNR where nearly every first transmission fails, the loss after two is that at twice the SNR.
    num_devices, num_steps, mcs, packet_bits = 400, 20, 10, 800
    snr_db = 0.25
    once = nr_link(mcs_index=mcs)
    plan = once.planner.plan(flat(1, snr_db), np.array([packet_bits]))
    num_rb = int(plan.last_rb[0])
    first, second, wrong = (sionna_tbler(mcs, snr_db + gain_db, num_rb) for gain_db in (0, 3.01, 3.51))
    assert first > 0.99
    assert 0.05 < second < 0.9
    twice = nr_link(step_s=0.5, mcs_index=mcs, max_retransmissions=1)
    sigma = sqrt(second * (1 - second) / (num_devices * num_steps))
    rate = loss_rate(twice, packet_bits, snr_db, num_devices, num_steps)
    assert abs(rate - second) < 4.5 * sigma
    assert abs(rate - wrong) > 4.5 * sigma
    packets = [bytes(packet_bits // 8)] * 50
    radio = still_radio(flat(50, snr_db), GRID)
    delivery = nr_link(step_s=0.5, mcs_index=mcs, max_retransmissions=15).transmit(
        packets, np.arange(50), radio, 0, Streams(1)
    )
    assert delivery.ok.all()
    assert (delivery.channel_uses >= 2 * num_rb * RE_PER_RB).mean() > 0.9
    np.testing.assert_allclose(delivery.airtime_s / 0.0005, delivery.channel_uses / (num_rb * RE_PER_RB))


def test_a_block_fails_twice_with_the_error_rate_of_both_transmissions_together():
    # Short blocks turn slowly: 0.8 of the first transmissions fail, and 0.5 % of both. Were the
    # second drawn as if the first had not failed, the product of the two rates would come out.
    num_devices, num_steps, packet_bits = 2000, 200, 40
    link = nr_link(step_s=0.5, mcs_index=3, error_rates="measured", max_retransmissions=1)
    num_rb = int(link.planner.plan(flat(1, 0.0), np.array([packet_bits])).last_rb[0])
    tables = link.planner.tables
    curve = tables.tbler[0, num_rb]
    snr_db = tables.snr_min_db + tables.snr_step_db * int(np.abs(curve - 0.8).argmin())
    first, both = curve[tables.snr_index(np.array([1.0, 2.0]) * 10 ** (snr_db / 10))]
    sigma = sqrt(both * (1 - both) / (num_devices * num_steps))
    rate = loss_rate(link, packet_bits, snr_db, num_devices, num_steps)
    assert abs(rate - both) < 4.5 * sigma
    assert abs(rate - first * both) > 4.5 * sigma


@pytest.mark.parametrize("kind", ["nr", "nr-bit"])
def test_a_retransmission_meets_the_resource_blocks_that_follow(kind):
    # The first resource blocks are in a deep fade, those after them are not.
    settings = {"mcs_index": 10, "max_retransmissions": 1}
    link = NrLink(NrConfig(**settings), GRID, 0.02, 10.0)
    if kind == "nr-bit":
        link = NrBitLink(NrBitConfig(**settings, csi="perfect"), GRID, 0.02, 10.0)
    num_rb = int(link.planner.plan(flat(1, 20.0), np.array([800])).last_rb[0])
    sinr = flat(1, 20.0)
    sinr[:, :num_rb] = 1e-3
    delivery = link.transmit([bytes(100)], np.arange(1), still_radio(sinr, GRID), 0, Streams(1))
    assert delivery.ok.all()
    assert delivery.channel_uses.tolist() == [2 * num_rb * RE_PER_RB]


def test_a_retransmission_that_no_longer_fits_is_a_loss():
    # One slot of 51 resource blocks: the first transmissions leave no room for a second.
    link = nr_link(step_s=0.0005, mcs_index=10, max_retransmissions=3)
    num_rb = int(link.planner.plan(flat(1, 0.25), np.array([800])).last_rb[0])
    num = 51 // num_rb
    assert (num + 1) * num_rb > 51
    radio = still_radio(flat(num, 0.25), GRID)
    delivery = link.transmit([bytes(100)] * num, np.arange(num), radio, 0, Streams(1))
    assert delivery.sent.all()
    assert not delivery.ok.any()
    assert (delivery.channel_uses == num_rb * RE_PER_RB).all()


@pytest.mark.parametrize(
    ("table", "mcs", "rates", "message"),
    [
        (1, 2, "sionna", "take 3 to 27"),
        (1, 2, "measured", "take 3 to 28"),
        (2, 1, "measured", "take 2 to 27"),
        (2, 20, "sionna", "take measured"),
    ],
)
def test_an_mcs_without_error_rates_is_refused(table, mcs, rates, message):
    for config in (NrConfig, NrBitConfig):
        with pytest.raises(ValidationError, match=message):
            config.model_validate({"mcs_table": table, "mcs_index": mcs, "error_rates": rates})


@pytest.mark.parametrize(("rates", "table"), KNOWN_MCS)
def test_the_tables_hold_the_mcs_that_are_said_to_be_known(rates, table):
    first, last = KNOWN_MCS[rates, table]
    mcs = transport_tables(table, GRID.num_resource_blocks, RE_PER_RB, rates).mcs
    assert mcs.tolist() == list(range(first, last + 1))


def test_a_margin_buys_reliability_with_resources():
    packets, devices, radio = [bytes(500)] * 200, np.arange(200), still_radio(flat(200, 3.2), GRID)
    plain = nr_link(step_s=0.5).transmit(packets, devices, radio, 0, Streams(2))
    careful = nr_link(step_s=0.5, margin_db=3.0).transmit(packets, devices, radio, 0, Streams(2))
    assert careful.ok.all()
    assert not plain.ok.all()
    assert (careful.channel_uses > plain.channel_uses).all()


@pytest.mark.parametrize(
    ("mcs", "num_rb", "tb_bits"),
    [
        (3, 1, 64),  # N_info = 144 x 2 x 251/1024 = 70.6, in steps of 8
        (3, 51, 3624),  # 3600.3 in steps of 32: 3584, next in the table 3624
        (9, 20, 3824),  # 3819.4 in steps of 32: 3808, next in the table 3824
        (10, 20, 3840),  # 3825.0 > 3824: max(3840, 64 round(59.4)), one code block
        (27, 51, 38936),  # 39158.4: 1024 round(38.2) = 38912, 5 code blocks: 40 x 974 - 24
    ],
)
def test_transport_block_sizes_by_hand(mcs, num_rb, tb_bits):
    """TS 38.214, 5.1.3.2, worked by hand for 12 x 12 resource elements a resource block."""
    tables = transport_tables(1, GRID.num_resource_blocks, RE_PER_RB)
    row = int(np.flatnonzero(tables.mcs == mcs)[0])
    assert tables.tb_bits[row, num_rb] == tb_bits


def test_packets_take_the_fewest_resource_blocks_that_hold_them():
    link, tables = nr_link(), transport_tables(1, GRID.num_resource_blocks, RE_PER_RB)
    packet_bits = np.random.default_rng(1).integers(1, 120_000, 300)
    plan = link.planner.plan(10 ** np.random.default_rng(2).uniform(-1, 2.5, (300, 51)), packet_bits)
    full = (plan.num_blocks - 1) * tables.tb_bits[plan.row, -1]
    held = full + tables.tb_bits[plan.row, plan.last_rb]
    np.testing.assert_array_equal(held, plan.tb_bits)
    assert (held >= packet_bits).all()
    assert (full + tables.tb_bits[plan.row, plan.last_rb - 1] < packet_bits).all()


def test_an_mcs_is_lowered_as_far_as_the_packet_takes_no_more_resources():
    num = 400
    packet_bits = np.random.default_rng(3).integers(1, 1500, num)
    sinr = 10 ** np.random.default_rng(4).uniform(-1, 3, (num, 51))
    highest, fitting = (
        NrLink(NrConfig.model_validate({"mcs_rule": rule}), GRID, 10.0, 10.0).planner
        for rule in ("highest", "fitting")
    )
    before, after = highest.plan(sinr, packet_bits), fitting.plan(sinr, packet_bits)
    np.testing.assert_array_equal(after.num_rb_slots, before.num_rb_slots)
    assert (after.row <= before.row).all()
    assert (after.row < before.row).mean() > 0.2
    # On flat channels, where one SINR serves for all MCS, none that fits fails less.
    tables, snr = fitting.tables, sinr[:, :1].repeat(51, axis=1)
    plan = fitting.plan(snr, packet_bits)
    for packet, bits in enumerate(packet_bits):
        if plan.num_blocks[packet] == 1:
            at, most_rb = tables.snr_index(snr[packet, 0]), plan.last_rb[packet]
            fewest = [(row, np.flatnonzero(sizes >= bits)[:1]) for row, sizes in enumerate(tables.tb_bits)]
            rates = [tables.tbler[row, rb[0], at] for row, rb in fewest if rb.size and rb[0] <= most_rb]
            assert tables.tbler[plan.row[packet], most_rb, at] == min(rates)
    # A small packet in a good channel: the lowest MCS that one resource block holds it with.
    plan = fitting.plan(flat(1, 25.0), np.array([144]))
    sizes = tables.tb_bits[:, 1]
    assert plan.num_rb_slots[0] == 1
    assert fitting.mcs_index(plan)[0] == tables.mcs[np.flatnonzero(sizes >= 144)[0]]
    radio, packets = still_radio(flat(2000, 13.0), GRID), [bytes(18)] * 2000
    losses = [
        1 - NrLink(NrConfig.model_validate({"mcs_rule": rule}), GRID, 10.0, 10.0).transmit(
            packets, np.arange(2000), radio, 0, Streams(1)
        ).ok.mean()
        for rule in ("highest", "fitting")
    ]  # fmt: skip
    assert losses[1] < 0.1 * losses[0]


def test_effective_sinr_is_sionnas_eesm():
    from sionna.sys import EESM

    sinr = 10 ** np.random.default_rng(3).uniform(-1.5, 1.5, (25, 51))
    used = np.random.default_rng(4).random((25, 51)) < 0.5
    mcs = torch.arange(3, 28, dtype=torch.int32)
    beta = transport_tables(1, GRID.num_resource_blocks, RE_PER_RB).beta
    masked = torch.tensor(np.where(used, sinr, 0.0)).T[None, :, :, None]
    expected = EESM(precision="double", device="cpu")(masked, mcs, 1).numpy()
    # Single-precision exponentials: 1e-6 of the SINR is four millionths of a decibel.
    np.testing.assert_allclose(effective_sinr(sinr, beta, used), expected, rtol=1e-6)
    of_all = effective_sinr(sinr, beta[:, None])
    np.testing.assert_allclose(of_all[3], effective_sinr(sinr, np.full(25, beta[3])), rtol=1e-6)
    # Sionna's sum underflows above some 25 dB at the lowest MCS; this one returns a flat SINR as it is.
    np.testing.assert_allclose(
        effective_sinr(np.array([[900.0, 900.0, 901.0]]), np.array([1.6]))[0], 900.2, atol=0.5
    )


def test_link_adaptation_is_sionnas_where_every_mcs_takes_the_same_resources():
    from sionna.sys import InnerLoopLinkAdaptation, PHYAbstraction

    snr_db = np.arange(-8.0, 30.0, 0.5) + 0.02
    link = nr_link()
    plan = link.planner.plan(np.repeat(10 ** (snr_db[:, None] / 10), 51, axis=1), np.full(snr_db.size, 64))
    assert (plan.num_rb_slots == 1).all()
    with sionna_scope(0):
        adaptation = InnerLoopLinkAdaptation(PHYAbstraction(), bler_target=0.1)
        expected = adaptation(
            sinr_eff=torch.tensor(10 ** (snr_db / 10)),
            num_allocated_re=torch.full((snr_db.size,), RE_PER_RB),
            mcs_table_index=1,
            mcs_category=0,
        )
    np.testing.assert_array_equal(link.planner.mcs_index(plan), expected.numpy())
    assert len(set(expected.tolist())) > 15


def test_allocation_conserves_resource_blocks_and_keeps_the_priority():
    rng = np.random.default_rng(5)
    for _ in range(20):
        needs = rng.integers(1, 300, 60)
        needs[rng.integers(60)] = 10_000
        allocation = GRID.allocate(needs, step_s=0.02)
        free, sent = 51 * 40, []
        for need in needs:
            sent.append(need <= free)
            free -= need if sent[-1] else 0
        np.testing.assert_array_equal(allocation.sent, sent)
        taken = np.concatenate(
            [np.arange(f, f + n) for f, n in zip(allocation.first, allocation.num_rb_slots, strict=True) if n]
        )
        assert np.unique(taken).size == taken.size == needs[allocation.sent].sum() <= 51 * 40
        assert taken.max() < 51 * 40
        assert (allocation.first[~allocation.sent] == -1).all()


def test_a_transport_blocks_resource_blocks_wrap_into_the_next_slot():
    mask = GRID.resource_block_mask(np.array([49, 102]), np.array([4, 51]))
    assert np.flatnonzero(mask[0]).tolist() == [0, 1, 49, 50]
    assert mask[1].all()


def test_shares_up_to_one_are_all_sent_and_no_more():
    link = nr_link(step_s=0.005)
    sinr = 10 ** np.random.default_rng(6).uniform(-0.5, 2.5, (400, 51)).astype(np.float32)
    share = link.resource_share(sinr, 800, 400)
    num_fitting = int((np.cumsum(share) <= 1 + 1e-12).sum())
    assert 10 < num_fitting < 390
    for num_packets, everything in ((num_fitting, True), (num_fitting + 1, False)):
        delivery = link.transmit(
            [bytes(100)] * num_packets,
            np.arange(num_packets),
            still_radio(sinr[:num_packets], GRID),
            0,
            Streams(1),
        )
        assert delivery.sent.all() == everything
        assert delivery.sent[:num_fitting].all()
        np.testing.assert_allclose(
            delivery.channel_uses[:num_fitting], share[:num_fitting] * 10 * 51 * RE_PER_RB, rtol=1e-12
        )
    assert link.resource_share(sinr[:1], 10_000_000, 1)[0] == np.inf


def test_the_cost_of_a_packet_by_hand():
    # 32,768 bits at 25 dB: MCS 27 holds 38,936 bits in a slot; 43 resource blocks are enough.
    link = nr_link(step_s=0.001)
    delivery = link.transmit([bytes(4096)] * 3, np.arange(3), still_radio(flat(3, 25.0), GRID), 0, Streams(1))
    assert delivery.sent.tolist() == [True, True, False]
    assert delivery.channel_uses.tolist() == [43 * RE_PER_RB, 43 * RE_PER_RB, 0]
    np.testing.assert_allclose(delivery.airtime_s, [0.0005, 0.0005, 0])
    np.testing.assert_allclose(delivery.energy_j, [0.01 * 0.0005 * 43 / 51] * 2 + [0])
    assert delivery.padding_bits[2] == 0
    assert (delivery.padding_bits[:2] == 32_776 - 32_768).all()


def test_grid_by_hand():
    assert GRID.num_resource_blocks == 51
    assert ResourceGrid(GridConfig(numerology=0)).num_resource_blocks == 106
    assert GRID.slots_per_step(0.02) == 40
    assert ResourceGrid(GridConfig(uplink_share=0.2)).slots_per_step(0.02) == 8
    with pytest.raises(SemcomError, match="no uplink slot"):
        GRID.slots_per_step(0.0004)
    with pytest.raises(ValueError, match="use one of"):
        GridConfig(bandwidth_hz=21e6)


@pytest.mark.parametrize(
    ("numerology", "megahertz", "guard_khz"),
    [
        (0, 20, 452.5),
        (0, 50, 692.5),
        (1, 20, 805),
        (1, 40, 905),
        (1, 100, 845),
        (2, 20, 1330),
        (2, 100, 1370),
    ],
)
def test_resource_blocks_leave_the_guard_bands_of_the_standard(numerology, megahertz, guard_khz):
    """TS 38.101-1, table 5.3.3-1: half of what the resource blocks leave, less half a subcarrier."""
    grid = ResourceGrid(GridConfig(numerology=numerology, bandwidth_hz=megahertz * 1e6))
    left_hz = megahertz * 1e6 - grid.occupied_bandwidth_hz - grid.subcarrier_spacing_hz
    assert left_hz / 2 == pytest.approx(guard_khz * 1e3)


def test_every_carrier_of_the_table_can_be_made():
    for numerology, row in FR1_RESOURCE_BLOCKS.items():
        for megahertz in row:
            grid = ResourceGrid(GridConfig(numerology=numerology, bandwidth_hz=megahertz * 1e6))
            assert 0.78 < grid.occupied_bandwidth_hz / (megahertz * 1e6) < 0.99
