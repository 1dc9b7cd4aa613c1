"""One curve of the links scenario: blocks are sent over a link at one SNR after the other and counted."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from scipy.stats import norm

from channels.catalogue import ChannelConfig, make_channel, make_link
from channels.grid import ResourceGrid
from channels.links.analog import AnalogConfig
from channels.links.nr import NrConfig, NrLink
from channels.links.nr_bit import NrBitLink
from channels.links.uncoded import count_bit_errors
from nodes.radio import radio_state
from scenarios.contracts import Point
from scenarios.links.config import LinksConfig, link_config
from semcom.codecs.analog import AnalogCodec
from semcom.contracts import Channel, Record
from semcom.packets import HEADER_BYTES, pack_packets
from semcom.rng import Streams

# Where the curves are measured on a channel without fading: the error rates that the abstraction expects.
_BLER_AWGN = (0.9, 0.7, 0.45, 0.2, 0.08, 0.025, 0.01)
# Who estimates the channel needs more, by so many dB at the last of these points and beyond.
_BEYOND_DB = (0.5, 1.0, 1.6)
# With fading, in dB around the SNR of even odds: one antenna falls from 0.9 to 0.01 over some 24 dB.
_OFFSETS_DB = (-4.0, -1.5, 1.0, 3.5, 6.0, 9.0, 12.0, 15.5, 19.0)
# No packet of a batch shall want for resources; the channel does not age meanwhile (Channel: first slot).
_STEP_S = 10.0
_BLOCKS_AT_ONCE = 1000


def measure(config: LinksConfig, point: Point) -> list[Record]:
    """Measures the curve of one point and returns its records, one or two for each SNR."""
    match point.result:
        case "bler" | "sweep":
            return list(_block_error_rates(config, point))
        case "uncoded":
            return list(_uncoded(config, point))
        case "analog":
            return list(_analog(config, point))
    raise ValueError(point.result)


def snr_points_db(
    link: NrLink | NrBitLink, packet_bytes: int, *, fading: bool, estimated: bool
) -> list[float]:
    """Returns the mean SNRs at which a link with a fixed MCS is measured, dB, to 0.05 dB."""
    plan = link.planner.plan(np.ones((1, link.grid.num_resource_blocks)), np.array([8 * packet_bytes]))
    tables = link.planner.tables
    bler = tables.tbler[plan.row[0], plan.last_rb[0]]
    grid_db = tables.snr_min_db + tables.snr_step_db * np.arange(len(bler))
    # From the right: beyond the waterfall the curve is flat, and interpolation wants ascending values.
    centre_db = float(np.interp(0.5, bler[::-1], grid_db[::-1]))
    if fading:
        return [round(centre_db + offset, 2) for offset in _OFFSETS_DB]
    tenth_db = float(np.interp(0.1, bler[::-1], grid_db[::-1]))
    width_db = (tenth_db - centre_db) / float(norm.isf(0.1))
    found = [centre_db + width_db * float(norm.isf(rate)) for rate in _BLER_AWGN]
    if estimated:
        found += [found[-1] + beyond for beyond in _BEYOND_DB]
    return list(dict.fromkeys(round(20 * value) / 20 for value in found))


def _block_error_rates(config: LinksConfig, point: Point) -> Iterator[Record]:
    """Sends every SNR's blocks over one realisation of the channel each, all links the same ones."""
    grid = _whole_carrier(config)
    told = config.point.model_dump() | dict(point.axes)
    table, index, name = int(told["mcs_table"]), int(told["mcs_index"]), str(told["channel"])
    link = make_link(link_config(point.method, table, index), grid, _STEP_S, tx_power_dbm=10.0)
    points_db = [config.point.snr_db]
    if point.result == "bler":
        # All methods are measured at the SNRs of the measured error rates.
        measured = NrLink(NrConfig(mcs_table=table, mcs_index=index), grid, _STEP_S, tx_power_dbm=10.0)
        estimated = point.method == "nr-bit-estimated"
        points_db = snr_points_db(measured, config.packet_bytes, fading=name != "awgn", estimated=estimated)
    num = ceil(config.num_blocks / len(points_db))
    for place, snr_db in enumerate(points_db):
        num_ok = channel_uses = 0
        for batch, first in enumerate(range(0, num, _BLOCKS_AT_ONCE)):
            size = min(_BLOCKS_AT_ONCE, num - first)
            # Named by cell and replicate: blocks of another SNR or batch meet other noise and fading.
            streams = Streams(point.seed, cell=place, replicate=batch)
            channel = _channel(config, name, snr_db, size, grid, streams)
            devices = np.arange(size)
            packets = [streams.numpy_generator("packet", d).bytes(config.packet_bytes) for d in range(size)]
            delivery = link.transmit(packets, devices, radio_state(channel, None, 0, devices), 0, streams)
            assert delivery.sent.all()
            # A block whose CRC passed by chance over wrong bits is no block that arrived.
            num_ok += sum(data == packet for data, packet in zip(delivery.payloads, packets, strict=True))
            channel_uses += int(delivery.channel_uses.sum())
        at = {"snr_db": snr_db} if point.result == "bler" else {}
        yield Record("links", point.method, point.seed, "bler", 1 - num_ok / num, "1", num, dict(at))
        goodput = 8 * config.packet_bytes * num_ok / channel_uses
        yield Record("links", point.method, point.seed, "goodput", goodput, "bit/use", num, dict(at))
        if point.result == "bler" and point.method == "nr":
            uses = channel_uses / num
            yield Record("links", point.method, point.seed, "channel_uses", uses, "1", num, dict(at))
            bits = 8 * config.packet_bytes + int(delivery.padding_bits[0])
            yield Record("links", point.method, point.seed, "block_bits", bits, "bit", num, dict(at))


def _whole_carrier(config: LinksConfig) -> ResourceGrid:
    """The grid with all its slots: how many of them are uplink decides nothing here."""
    return ResourceGrid(config.grid.model_copy(update={"uplink_share": 1.0}))


def _channel(
    config: LinksConfig, name: str, snr_db: float, num_devices: int, grid: ResourceGrid, streams: Streams
) -> Channel:
    settings: dict[str, Any] = {"model": name, "snr_db": snr_db}
    if name.startswith(("tdl", "cdl")):
        settings |= {"delay_spread_s": config.delay_spread_s, "speed_m_per_s": config.speed_m_per_s}
    channel_config = TypeAdapter(ChannelConfig).validate_python(settings)
    return make_channel(channel_config, grid, num_devices, 1, _STEP_S, streams)


def _uncoded(config: LinksConfig, point: Point) -> Iterator[Record]:
    fading = point.axes["channel"] == "rayleigh"
    for ebno_db in config.snr_db:
        # Named by the modulation and the channel as well, or their points would share their noise.
        name = f"uncoded-{point.method}-{point.axes['channel']}-{ebno_db}"
        num_errors, num_bits = count_bit_errors(
            point.method, ebno_db, config.num_symbols, Streams(point.seed).seed(name), fading=fading
        )
        ber, at = num_errors / num_bits, {"ebno_db": ebno_db}
        yield Record("links", point.method, point.seed, "ber", ber, "1", num_bits, dict(at))


def _analog(config: LinksConfig, point: Point) -> Iterator[Record]:
    """Sends Gaussian symbols over the analog link, one a resource element: the error of what arrives."""
    grid = _whole_carrier(config)
    # Symbols whose header is lost would be missing in the mean, and they are those in deep fades.
    link = make_link(AnalogConfig(header="ideal"), grid, _STEP_S, tx_power_dbm=10.0)
    num_devices = ceil(config.num_symbols / grid.re_per_rb_slot)
    for place, snr_db in enumerate(config.snr_db):
        total = 0.0
        for batch, first in enumerate(range(0, num_devices, _BLOCKS_AT_ONCE)):
            size = min(_BLOCKS_AT_ONCE, num_devices - first)
            streams, devices = Streams(point.seed, cell=place, replicate=batch), np.arange(size)
            shape = (2 * grid.re_per_rb_slot,)
            x = streams.normal("symbols", devices.tolist(), 0, shape).numpy() * 0.5**0.5
            payloads = [row.tobytes() for row in x.astype(">f4")]
            packets = pack_packets(devices.tolist(), 0, 0, AnalogCodec.codec_id, payloads)
            channel = _channel(config, str(point.axes["channel"]), snr_db, size, grid, streams)
            delivery = link.transmit(packets, devices, radio_state(channel, None, 0, devices), 0, streams)
            for sent, data in zip(x, delivery.payloads, strict=True):
                assert data is not None
                received = np.frombuffer(data, ">f4", offset=HEADER_BYTES)
                total += 2 * float(np.square(received - sent).mean())
        at = {"snr_db": snr_db}
        error = total / num_devices
        yield Record("links", "analog", point.seed, "distortion", error, "1", num_devices, dict(at))
