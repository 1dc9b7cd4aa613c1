"""The downlink: its settings, its share of the carrier, and its channel, the uplink's by reciprocity."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from channels.catalogue import LinkConfig, check_link, make_link, uses_a_channel
from channels.grid import GridConfig, ResourceGrid
from channels.links.analog import AnalogConfig
from semcom.contracts import Channel, Link, SemcomError


class NoDownlinkConfig(BaseModel):
    """No downlink is simulated: commands reach every device at once, exactly as computed, and are free."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["none"] = "none"


class DownlinkConfig(BaseModel):
    """How commands reach the devices: over which link, and how much stronger it is than the uplink.

    The defaults are those of a station of 24 dBm that hears with a noise figure of 5 dB, and devices of
    10 dBm and 9 dB: (24 - 10) - (9 - 5) = 10 dB.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    link: Annotated[NoDownlinkConfig | LinkConfig, Field(discriminator="kind")] = NoDownlinkConfig()
    snr_offset_db: float = Field(
        10.0,
        ge=-50,
        le=80,
        description="downlink SNR over uplink SNR: the station's power over a device's, less a device's "
        "noise figure over the station's",
    )
    tx_power_dbm: float = Field(
        24.0, ge=-50, le=60, description="the station's power over the whole carrier, for the energy alone"
    )


def needs_a_channel(config: DownlinkConfig) -> bool:
    """Whether the downlink needs a channel, and its packets share the resources of a carrier."""
    return not isinstance(config.link, NoDownlinkConfig) and uses_a_channel(config.link)


def downlink_grid(config: GridConfig) -> ResourceGrid:
    """Returns the downlink's resources; the `uplink_share` of the result is the downlink's own.

    uplink_share = 1 is paired spectrum (FDD): the downlink has a carrier of the same size to itself. Below
    that the two share one carrier in time (TDD), and the downlink has the slots that are left.
    """
    share = config.uplink_share
    return ResourceGrid(config if share == 1 else config.model_copy(update={"uplink_share": 1 - share}))


def check_downlink(config: DownlinkConfig, grid: GridConfig, step_s: float) -> None:
    """Raises SemcomError for a downlink that can't work beside this uplink; imports no Sionna."""
    if isinstance(config.link, NoDownlinkConfig):
        return
    if isinstance(config.link, AnalogConfig):
        raise SemcomError(
            "downlink.link.kind = analog carries numbers, and commands are bytes: take nr or nr-bit"
        )
    own = downlink_grid(grid)
    if needs_a_channel(config):
        try:
            own.slots_per_step(step_s)
        except SemcomError:
            raise SemcomError(
                f"grid.uplink_share = {grid.uplink_share:g} leaves no downlink slot of {own.slot_s:g} s in a "
                f"step of {step_s:g} s: lower it, or give the downlink a carrier of its own by "
                "grid.uplink_share=1"
            ) from None
    check_link(config.link, own, step_s)


def make_downlink(config: DownlinkConfig, grid: GridConfig, step_s: float) -> Link | None:
    """Makes the downlink's link on its own resources, or None where no downlink is simulated.

    It is a link of the catalogue as it stands. TS 38.214 gives PDSCH and PUSCH without transform precoding
    the same MCS tables 1 and 2 (5.1.3.1, which 6.1.4.1 refers to) and the same transport block sizes
    (5.1.3.2); of one codeword and one layer, TS 38.211 and 38.212 give them the same CRC, LDPC code,
    scrambling sequence (7.3.1.1 and 6.3.1.1) and, for mapping type A over a whole slot, the same DMRS
    symbols and sequence (7.4.1.1 and 6.4.1.1). tests/theory/test_downlink.py compares what Sionna has of
    both. Not modelled: the PDCCH that announces each block, and the HARQ-ACK, which is free and exact.
    """
    if isinstance(config.link, NoDownlinkConfig):
        return None
    return make_link(config.link, downlink_grid(grid), step_s, config.tx_power_dbm)


class DownlinkChannel:
    """The channel back: the station precodes by maximum-ratio transmission, a device has one antenna.

    With the uplink's response h_m(f, t) to M antennas, the precoder of subcarrier f, of unit power and
    fixed for the step, is w_m(f) = conj(h_m(f, 0)) / |h(f, 0)|. What the device sees is

        h'(f, t) = sqrt(g) sum_m h_m(f, t) w_m(f),    SINR = g sum_m |h_m(f, 0)|^2 at time 0,

    for data and DMRS alike, so that its estimate is one of h' itself; as the channel ages within the slot
    the precoder no longer matches. g is snr_offset_db: see DownlinkConfig; power is spread evenly over the
    carrier in both directions.

    Reciprocity holds in TDD; in FDD, where the two carriers fade apart, it is an assumption, and so are a
    station that knows h and devices that meet the uplink's interference. M = 1 in the response.
    """

    def __init__(self, uplink: Channel, snr_offset_db: float) -> None:
        self.num_devices = uplink.num_devices
        self._uplink = uplink
        self._gain = 10 ** (snr_offset_db / 10)

    def sinr(self, step: int) -> np.ndarray:
        """See Channel: linear, float32 [K, num_resource_blocks]."""
        return (self._gain * self._uplink.sinr(step)).astype(np.float32)

    def response(
        self, step: int, devices: np.ndarray, frequency_hz: np.ndarray, time_s: np.ndarray
    ) -> np.ndarray:
        """See Channel: complex64 [N, 1, S, F]."""
        times_s = np.concatenate(([0.0], time_s))
        h = self._uplink.response(step, devices, frequency_hz, times_s).astype(np.complex128)
        known, h = h[:, :, :1], h[:, :, 1:]
        norm = np.linalg.norm(known, axis=1, keepdims=True)
        precoder = known.conj() / np.where(norm > 0, norm, 1)
        return (self._gain**0.5 * (h * precoder).sum(axis=1, keepdims=True)).astype(np.complex64)
