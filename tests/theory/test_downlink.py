"""The downlink: what PDSCH and PUSCH have alike, maximum-ratio transmission, the split of the carrier."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import j0

from channels.catalogue import make_channel
from channels.delay_profiles import DelayProfileConfig
from channels.downlink import (
    DownlinkChannel,
    DownlinkConfig,
    check_downlink,
    downlink_grid,
    make_downlink,
    needs_a_channel,
)
from channels.grid import GridConfig, ResourceGrid
from channels.links.ideal import IdealConfig
from channels.links.nr import NrConfig
from channels.links.nr_bit import NrBitConfig, NrBitLink
from channels.response import resource_block_centres_hz
from channels.sionna_scope import sionna_scope
from nodes.radio import radio_state
from semcom.contracts import Channel, SemcomError
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())
STEP_S = 0.02


def fading(num_devices: int, num_antennas: int, snr_db: float = 0.0, speed_m_per_s: float = 0.0) -> Channel:
    config = DelayProfileConfig(
        model="tdl-a", snr_db=snr_db, num_base_station_antennas=num_antennas, speed_m_per_s=speed_m_per_s
    )
    return make_channel(config, GRID, num_devices, 10, STEP_S, Streams(4))


@pytest.mark.parametrize(("table", "num_mcs"), [(1, 29), (2, 28)])
def test_sionna_has_the_same_mcs_of_pdsch_as_of_pusch_without_transform_precoding(table, num_mcs):
    from sionna.phy.nr.utils import decode_mcs_index

    mcs = torch.arange(num_mcs, dtype=torch.int32)
    with sionna_scope(0):
        up, down, precoded = (
            decode_mcs_index(
                mcs if not transform else mcs[:28],
                table_index=table,
                is_pusch=is_pusch,
                transform_precoding=transform,
                device="cpu",
            )
            for is_pusch, transform in ((True, False), (False, False), (True, True))
        )
    for one, other in zip(up, down, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(up[1][:28], precoded[1])  # the rates: so the comparison could fail


def test_sionna_encodes_a_transport_block_of_pdsch_as_one_of_pusch():
    from sionna.phy.nr import TBEncoder

    sizes = {"target_tb_size": 1032, "num_coded_bits": 2016, "target_coderate": 0.5, "num_bits_per_symbol": 4}
    bits = torch.randint(0, 2, (3, 1032), generator=torch.Generator().manual_seed(1)).float()
    with sionna_scope(0):
        up, down, second = (
            TBEncoder(**sizes, channel_type=channel, codeword_index=index, n_rnti=7, n_id=9, device="cpu")(
                bits
            )
            for channel, index in (("PUSCH", 0), ("PDSCH", 0), ("PDSCH", 1))
        )
    assert torch.equal(up, down)
    assert not torch.equal(down, second)  # another codeword is scrambled otherwise


@pytest.mark.parametrize("num_antennas", [1, 4])
def test_maximum_ratio_transmission_adds_up_the_antennas(num_antennas):
    """Of unit-mean Rayleigh antennas the gain is Erlang distributed: the mean is M, the offset on top."""
    num_devices, offset_db = 5000, 6.0
    uplink = fading(num_devices, num_antennas)
    sinr = DownlinkChannel(uplink, offset_db).sinr(0)[:, 25]
    expected = stats.gamma(num_antennas, scale=10 ** (offset_db / 10))
    assert stats.kstest(sinr, expected.cdf).pvalue > 1e-4
    half_db_off = stats.gamma(num_antennas, scale=10 ** ((offset_db + 0.5) / 10))
    assert stats.kstest(sinr, half_db_off.cdf).pvalue < 1e-4
    assert abs(sinr.mean() - expected.mean()) < 4.5 * expected.std() / sqrt(num_devices)


def test_the_precoded_response_is_real_at_first_and_ages_as_the_channel_does():
    """At rest sqrt(g sum |h_m|^2); a fast device turns away from its precoder by J0 of the Doppler shift."""
    num_devices, time_s = 400, np.array([0.0, 2.5e-4, 5e-4])
    frequency_hz = np.tile([-3e6, 0.0, 4e6], (num_devices, 1))
    devices = np.arange(num_devices)
    still, uplink = (
        make(fading(num_devices, 2)).response(0, devices, frequency_hz, time_s)
        for make in (lambda channel: DownlinkChannel(channel, 3.0), lambda channel: channel)
    )
    assert still.shape == (num_devices, 1, 3, 3)
    power = 10**0.3 * (np.abs(uplink) ** 2).sum(axis=1)
    np.testing.assert_allclose(still[:, 0].real, np.sqrt(power), rtol=1e-4)
    np.testing.assert_allclose(still[:, 0].imag, 0, atol=1e-5)

    speed_m_per_s = 90.0
    fast = DownlinkChannel(fading(num_devices, 1, speed_m_per_s=speed_m_per_s), 0.0)
    h = fast.response(0, devices, frequency_hz, time_s)[:, 0]
    power = (np.abs(h[:, 0]) ** 2).mean()
    for index, time in enumerate(time_s):
        # E[h(t) h(0)*] / E|h|^2 = J0(2 pi f_D t), and the precoder multiplies h(t) by h(0)* / |h(0)|.
        correlation = (h[:, index] * np.abs(h[:, 0])).mean() / power
        expected = j0(2 * np.pi * speed_m_per_s * 3.5e9 / 299_792_458 * time)
        assert abs(correlation.real - expected) < 0.08
    assert expected < 0  # far from no ageing


def test_with_estimated_channels_precoded_pilots_see_what_the_data_see():
    """Over frequency-selective fading MRT of two antennas is worth what the two are in the uplink, and
    a device that estimates from the precoded DMRS loses about what the station loses by estimating."""
    num = 40
    uplink = fading(num, 2, snr_db=1.0)
    downlink = DownlinkChannel(uplink, 0.0)
    packets, devices = [bytes(range(100))] * num, np.arange(num)
    ok = {}
    for csi in ("perfect", "estimated"):
        link = NrBitLink(NrBitConfig(csi=csi, mcs_index=8), GRID, 0.5, tx_power_dbm=10.0)
        for name, channel in (("up", uplink), ("down", downlink)):
            radio = radio_state(channel, None, 0, devices)
            ok[name, csi] = link.transmit(packets, devices, radio, 0, Streams(1)).ok.mean()
    assert 0.2 < ok["up", "perfect"] < 0.95
    for csi in ("perfect", "estimated"):
        assert abs(ok["down", csi] - ok["up", csi]) < 0.2
    assert ok["down", "estimated"] > ok["down", "perfect"] - 0.35
    weaker = radio_state(DownlinkChannel(uplink, -3.0), None, 0, devices)
    link = NrBitLink(NrBitConfig(csi="perfect", mcs_index=8), GRID, 0.5, tx_power_dbm=10.0)
    assert link.transmit(packets, devices, weaker, 0, Streams(1)).ok.mean() < ok["down", "perfect"] - 0.2


def test_the_sinr_of_the_downlink_is_the_uplink_s_plus_the_offset():
    uplink = fading(6, 2)
    for offset_db in (-7.0, 0.0, 12.0):
        ratio = DownlinkChannel(uplink, offset_db).sinr(3) / uplink.sinr(3)
        np.testing.assert_allclose(ratio, 10 ** (offset_db / 10), rtol=1e-6)
    centres_hz = resource_block_centres_hz(GRID.num_resource_blocks, GRID.occupied_bandwidth_hz)
    h = DownlinkChannel(uplink, 5.0).response(3, np.arange(6), np.tile(centres_hz, (6, 1)), np.zeros(1))
    np.testing.assert_allclose(
        np.abs(h[:, 0, 0]) ** 2, DownlinkChannel(uplink, 5.0).sinr(3), rtol=1e-4, atol=1e-6
    )


def test_a_device_without_any_signal_hears_nothing():
    class Silence:
        num_devices = 2

        def sinr(self, step: int) -> np.ndarray:
            return np.zeros((2, 3), dtype=np.float32)

        def response(
            self, step: int, devices: np.ndarray, frequency_hz: np.ndarray, time_s: np.ndarray
        ) -> np.ndarray:
            return np.zeros((len(devices), 4, len(time_s), frequency_hz.shape[1]), dtype=np.complex64)

    h = DownlinkChannel(Silence(), 10.0).response(0, np.arange(2), np.zeros((2, 5)), np.zeros(3))
    assert h.shape == (2, 1, 3, 5)
    assert (h == 0).all()


def test_paired_spectrum_gives_a_carrier_and_a_shared_one_what_is_left():
    for share, slots_up, slots_down in ((1.0, 40, 40), (0.75, 30, 10), (0.9, 36, 4), (0.5, 20, 20)):
        config = GridConfig(uplink_share=share)
        assert ResourceGrid(config).slots_per_step(STEP_S) == slots_up
        assert downlink_grid(config).slots_per_step(STEP_S) == slots_down
        assert downlink_grid(config).num_resource_blocks == ResourceGrid(config).num_resource_blocks
    for share in np.linspace(0.03, 0.97, 95):
        config = GridConfig(uplink_share=float(share))
        both = ResourceGrid(config), downlink_grid(config)
        assert sum(grid.slots_per_step(STEP_S) for grid in both) in (39, 40)


def test_the_station_pays_for_its_own_power():
    config = DownlinkConfig(link=NrConfig(), tx_power_dbm=33.0)
    link = make_downlink(config, GridConfig(), STEP_S)
    assert link is not None
    radio = radio_state(DownlinkChannel(fading(1, 1, snr_db=30.0), 0.0), None, 0, np.arange(1))
    delivery = link.transmit([bytes(10)], np.arange(1), radio, 0, Streams(0))
    num_rb = delivery.channel_uses[0] / GRID.re_per_rb_slot
    expected_j = 10**0.3 * 0.5e-3 * num_rb / GRID.num_resource_blocks  # 33 dBm over the carrier for one slot
    np.testing.assert_allclose(delivery.energy_j, expected_j, rtol=1e-3)


def test_what_needs_a_channel_and_what_does_not():
    for link, needs in ((IdealConfig(), False), (NrConfig(), True), (NrBitConfig(), True)):
        assert needs_a_channel(DownlinkConfig(link=link)) == needs
    assert not needs_a_channel(DownlinkConfig())
    assert make_downlink(DownlinkConfig(), GridConfig(), STEP_S) is None


@pytest.mark.parametrize("link", [NrConfig(), NrBitConfig()])
def test_a_step_without_a_downlink_slot_is_refused_with_its_key_and_remedy(link):
    config = DownlinkConfig(link=link)
    check_downlink(config, GridConfig(uplink_share=0.9), STEP_S)
    for told in (config, DownlinkConfig(link=IdealConfig()), DownlinkConfig()):
        check_downlink(told, GridConfig(), STEP_S)
    # What uses no carrier needs no slot.
    check_downlink(DownlinkConfig(link=IdealConfig()), GridConfig(uplink_share=0.99), STEP_S)
    with pytest.raises(SemcomError, match=r"grid\.uplink_share = 0\.99 leaves no downlink slot.*lower it"):
        check_downlink(config, GridConfig(uplink_share=0.99), STEP_S)
    with pytest.raises(SemcomError, match=r"grid\.num_data_symbols = 9"):
        check_downlink(DownlinkConfig(link=NrBitConfig()), GridConfig(num_data_symbols=9), STEP_S)
