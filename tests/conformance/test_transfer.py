"""Bulk transfers: what arrives is what was sent, segment by segment, over every link in both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import TypeAdapter

from channels.block_fading import BlockFadingConfig
from channels.catalogue import LINKS, LinkConfig, make_channel, make_link
from channels.downlink import DownlinkChannel, DownlinkConfig, make_downlink, needs_a_channel
from channels.grid import GridConfig, ResourceGrid
from channels.links.erasure import ErasureConfig, ErasureLink
from channels.links.ideal import IdealConfig, IdealLink
from channels.links.nr import NrConfig, NrLink
from nodes.transfer import TRANSFER_CODEC_ID, TransferConfig, TransferReport, transfer
from semcom.contracts import Channel, Delivery, Link, RadioState, SemcomError
from semcom.packets import Packet
from semcom.rng import Streams

GRID = GridConfig()
STEP_S = 0.02
STREAMS = Streams(5)
NUM_DEVICES = 6


def channel_of(snr_db: float) -> Channel:
    config = BlockFadingConfig(model="rayleigh", snr_db=snr_db, num_base_station_antennas=2)
    return make_channel(config, ResourceGrid(GRID), NUM_DEVICES, 1000, STEP_S, STREAMS)


def two_ways(name: str, snr_db: float) -> dict[str, tuple[Link, Channel | None]]:
    """The link of this name and its channel, upwards and downwards."""
    # One MCS for all, so that a segment is lost in the steps in which the channel is too bad for it.
    settings = {"mcs_index": 10} if name in ("nr", "nr-bit") else {}
    link: LinkConfig = TypeAdapter(LinkConfig).validate_python({"kind": name, **settings})
    down = DownlinkConfig(link=link, snr_offset_db=1.0)
    uplink = channel_of(snr_db) if needs_a_channel(down) else None
    back = make_downlink(down, GRID, STEP_S)
    assert back is not None
    return {
        "up": (make_link(link, ResourceGrid(GRID), STEP_S, 10.0), uplink),
        "down": (back, None if uplink is None else DownlinkChannel(uplink, down.snr_offset_db)),
    }


def model_update(num_weights: int, seed: int = 1) -> bytes:
    weights = torch.randn(num_weights, generator=torch.Generator().manual_seed(seed))
    return safetensors.torch.save({"encoder.weight": weights})


def send(
    payloads: Sequence[bytes],
    devices: Sequence[int],
    link: Link,
    channel: Channel | None = None,
    name: str = "test",
    first_step: int = 0,
    streams: Streams = STREAMS,
    **settings: float,
) -> TransferReport:
    return transfer(
        payloads,
        np.array(devices),
        link,
        channel,
        streams,
        TransferConfig.model_validate(settings),
        step_s=STEP_S,
        name=name,
        first_step=first_step,
        model_version=77,
    )


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("name", [name for name in LINKS if name != "analog"])
def test_a_model_update_arrives_bit_for_bit_over_every_link(name, direction):
    link, channel = two_ways(name, snr_db=0.0)[direction]
    update = model_update(600)
    report = send([update], [4], link, channel, segment_bytes=100, max_steps=60)
    assert report.ok.tolist() == [True]
    assert report.payloads == [update]
    weights = safetensors.torch.load(report.payloads[0])["encoder.weight"]
    assert torch.equal(weights, torch.randn(600, generator=torch.Generator().manual_seed(1)))
    num_segments = ceil(len(update) / 100)
    assert report.packets_sent[0] == num_segments + report.packets_lost[0]
    if name == "ideal":
        assert report.packets_lost[0] == 0
        assert report.num_steps[0] == 1
    else:
        assert report.packets_lost[0] > 0
        assert report.num_steps[0] > 1
    assert report.duration_s[0] == report.num_steps[0] * STEP_S
    assert (report.header_bits == report.packets_sent * (64 + 32)).all()
    assert report.payload_bits[0] >= 8 * len(update)
    assert (report.energy_j[0] > 0) == (channel is not None)
    again = send([update], [4], link, channel, segment_bytes=100, max_steps=60)
    assert again.num_steps == report.num_steps
    np.testing.assert_array_equal(again.energy_j, report.energy_j)


class WatchedLink:
    """Passes every packet through `fate`, which may lose it; a packet takes 1 / per_step of a step."""

    name = "watched"

    def __init__(self, fate: Callable[[Packet], bytes | None], per_step: float = np.inf) -> None:
        self.fate, self.per_step = fate, per_step
        self.seen: list[Packet] = []

    def resource_share(self, sinr: np.ndarray | None, packet_bits: int, num_devices: int) -> np.ndarray:
        return np.full(num_devices, 1 / self.per_step)

    def transmit(
        self,
        packets: Sequence[bytes],
        devices: np.ndarray,
        radio: RadioState | None,
        step: int,
        streams: Streams,
    ) -> Delivery:
        assert len(packets) <= self.per_step
        assert len(set(devices.tolist())) == len(devices)  # each row draws for itself
        read = [Packet.from_bytes(packet) for packet in packets]
        assert [packet.device for packet in read] == (devices % 65536).tolist()
        self.seen += read
        payloads = [self.fate(packet) for packet in read]
        num = len(packets)
        return Delivery(
            ok=np.array([payload is not None for payload in payloads]),
            sent=np.ones(num, dtype=bool),
            payloads=payloads,
            channel_uses=np.full(num, 144),
            airtime_s=np.full(num, 5e-4),
            energy_j=np.full(num, 1e-6),
            padding_bits=np.full(num, 3),
            bits=np.array([8 * len(packet) for packet in packets]),
        )


def head(packet: Packet) -> tuple[int, int]:
    """Whether a segment is the last, and its number."""
    value = int.from_bytes(packet.payload[:4], "big")
    return value >> 31, value & 0x7FFFFFFF


def test_the_analog_link_does_not_take_bytes_for_numbers():
    link, channel = two_ways("analog", snr_db=0.0)["up"]
    with pytest.raises(SemcomError, match=r"codec\.kind=analog"):
        send([model_update(600)], [4], link, channel, segment_bytes=100, max_steps=60)


def test_the_segments_are_numbered_in_their_bits_and_only_what_was_lost_is_sent_again():
    def lose_the_third_once(packet: Packet) -> bytes | None:
        lost = head(packet)[1] == 2 and packet.step == 4095
        return None if lost else packet.to_bytes()

    link = WatchedLink(lose_the_third_once)
    payload = bytes(range(256)) * 2
    report = send([payload], [9], link, first_step=4095, segment_bytes=120)
    assert report.payloads == [payload]
    sent = [(p.device, p.step, p.model_version, p.codec_id, *head(p), len(p.payload) - 4) for p in link.seen]
    fields = (77, TRANSFER_CODEC_ID)
    assert sent == [
        (9, 4095, *fields, 0, 0, 120),
        (9, 4095, *fields, 0, 1, 120),
        (9, 4095, *fields, 0, 2, 120),
        (9, 4095, *fields, 0, 3, 120),
        (9, 4095, *fields, 1, 4, 32),
        (9, 0, *fields, 0, 2, 120),  # the step is counted modulo 4096
    ]
    assert report.num_steps.tolist() == [2]
    assert report.packets_sent.tolist() == [6]
    assert report.packets_lost.tolist() == [1]
    assert report.header_bits.tolist() == [6 * 96]
    assert report.payload_bits.tolist() == [8 * (512 + 120)]
    assert report.padding_bits.tolist() == [18]
    assert report.channel_uses.tolist() == [864]
    np.testing.assert_allclose(report.airtime_s, 3e-3)
    np.testing.assert_allclose(report.energy_j, 6e-6)


@pytest.mark.parametrize(
    "change", [{"device": 3}, {"step": 5}, {"model_version": 78}, {"codec_id": 2}, {"payload": None}]
)
def test_a_packet_that_is_not_the_expected_one_is_a_loss(change):
    def tamper_in_the_first_step(packet: Packet) -> bytes:
        if packet.step > 0:
            return packet.to_bytes()
        if change == {"payload": None}:
            return packet.to_bytes()[:-1] + b"\0"
        return packet._replace(**change).to_bytes()

    report = send([b"some bytes"], [4], WatchedLink(tamper_in_the_first_step))
    assert report.payloads == [b"some bytes"]
    assert report.packets_lost.tolist() == [1]


def test_devices_take_turns_and_the_step_is_as_full_as_it_may_be():
    link = WatchedLink(Packet.to_bytes, per_step=8)
    payloads = [bytes(50), bytes(20), bytes(90)]
    report = send(payloads, [5, 0, 2], link, segment_bytes=10, load=0.75)
    assert report.payloads == payloads
    per_step = [[p.device for p in link.seen if p.step == step] for step in range(3)]
    assert per_step == [[5, 0, 2, 5, 0, 2], [2, 5, 2, 5, 2, 5], [2, 2, 2, 2]]
    assert report.num_steps.tolist() == [2, 1, 3]
    np.testing.assert_allclose(report.duration_s, [0.04, 0.02, 0.06])


def test_an_empty_payload_arrives_too():
    report = send([b"", b"x"], [1, 2], IdealLink(IdealConfig()))
    assert report.payloads == [b"", b"x"]
    assert report.packets_sent.tolist() == [1, 1]
    assert report.payload_bits.tolist() == [0, 8]
    assert send([], [], IdealLink(IdealConfig())).ok.shape == (0,)


def test_what_is_not_whole_after_the_last_step_is_given_up_and_reported():
    update = model_update(100)
    report = send([update, b"x"], [0, 1], ErasureLink(ErasureConfig(probability=1.0)), max_steps=3)
    assert report.ok.tolist() == [False, False]
    assert report.payloads == [None, None]
    assert report.num_steps.tolist() == [3, 3]
    assert report.packets_lost.tolist() == report.packets_sent.tolist() == [6, 3]
    # On a channel so bad that no packet fits into a step, time passes and nothing is spent.
    link = NrLink(NrConfig(), ResourceGrid(GRID.model_copy(update={"bandwidth_hz": 5e6})), 1e-3, 10.0)
    config = BlockFadingConfig(model="awgn", snr_db=-20)
    channel = make_channel(config, link.grid, 1, 10, 1e-3, STREAMS)
    report = send([bytes(2000)], [0], link, channel, segment_bytes=1000, max_steps=4)
    assert not report.ok[0]
    assert report.num_steps[0] == 4
    assert report.packets_sent[0] == report.channel_uses[0] == 0


def test_segments_of_one_step_fail_independently():
    """Of 4,000 segments in one step a fifth is lost; with one draw for all it would be all or none."""
    link = ErasureLink(ErasureConfig(probability=0.2))
    report = send([bytes(4000)], [3], link, segment_bytes=1, max_steps=1)
    sigma = (0.2 * 0.8 * 4000) ** 0.5
    assert abs(report.packets_lost[0] - 800) < 4.5 * sigma
    assert abs(report.packets_lost[0] - 800 * 10**0.05) > 4.5 * sigma / 4.5
    other = send([bytes(4000)], [3], link, segment_bytes=1, max_steps=1, name="another")
    assert other.packets_lost[0] != report.packets_lost[0]


def test_harq_needs_room_in_the_step():
    """At this MCS and SNR every block fails at first and hardly any with its second transmission, for which
    a step that is full of first ones has no resources."""
    link = NrLink(NrConfig(mcs_index=10, max_retransmissions=1), ResourceGrid(GRID), STEP_S, 10.0)
    channel = make_channel(
        BlockFadingConfig(model="awgn", snr_db=1.2), ResourceGrid(GRID), 1, 100, STEP_S, STREAMS
    )
    payload = bytes(60_000)
    full, roomy = (
        send([payload], [0], link, channel, segment_bytes=100, load=load, max_steps=6) for load in (1.0, 0.4)
    )
    assert roomy.payloads == [payload]
    assert roomy.packets_lost[0] < 0.05 * roomy.packets_sent[0]
    assert not full.ok[0]
    assert full.packets_lost[0] > 0.95 * full.packets_sent[0]


def test_what_cannot_be_a_transfer_is_refused_in_one_line():
    with pytest.raises(SemcomError, match="2 devices with 1 payloads"):
        send([b"x"], [0, 1], IdealLink(IdealConfig()))
    with pytest.raises(SemcomError, match="listed twice"):
        send([b"x", b"y"], [1, 1], IdealLink(IdealConfig()))
    with pytest.raises(SemcomError, match="device = 70000 is out of range"):
        send([b"x"], [70_000], IdealLink(IdealConfig()))
