"""Commands over the air: who is sent what, who applies what, and what it costs."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from toy_cells import ToyReceiver, make_erasure_link, toy_model

from channels.links.ideal import IdealConfig, IdealLink
from nodes.base_station import BaseStation
from nodes.contracts import Uplink
from nodes.downlink import CommandDownlink
from nodes.schedulers import PeriodicConfig, make_scheduler
from semcom.contracts import Delivery, RadioState, SemcomError
from semcom.packets import Packet, pack_packets
from semcom.rng import Streams

NUM_DEVICES, VERSION = 4, 0x1234
STREAMS = Streams(3)


class ScriptedLink:
    """Puts at most num_sent packets on the air and passes each through `fate`, which may lose it."""

    name = "scripted"

    def __init__(self, fate: Callable[[bytes], bytes | None] = lambda data: data, num_sent: int = 99) -> None:
        self.fate, self.num_sent = fate, num_sent
        self.calls: list[list[int]] = []
        self.streams: Streams | None = None

    def resource_share(self, sinr: np.ndarray | None, packet_bits: int, num_devices: int) -> np.ndarray:
        return np.zeros(num_devices)

    def transmit(
        self,
        packets: Sequence[bytes],
        devices: np.ndarray,
        radio: RadioState | None,
        step: int,
        streams: Streams,
    ) -> Delivery:
        self.calls.append(devices.tolist())
        self.streams = streams
        assert [Packet.from_bytes(packet).device for packet in packets] == devices.tolist()
        sent = np.arange(len(packets)) < self.num_sent
        payloads = [
            self.fate(packet) if on_air else None for packet, on_air in zip(packets, sent, strict=True)
        ]
        return Delivery(
            ok=np.array([payload is not None for payload in payloads]),
            sent=sent,
            payloads=payloads,
            channel_uses=np.where(sent, 144, 0),
            airtime_s=np.where(sent, 5e-4, 0.0),
            energy_j=np.where(sent, 1e-6, 0.0),
            padding_bits=np.where(sent, 8, 0),
            bits=np.where(sent, [8 * len(packet) for packet in packets], 0),
        )


def downlink_over(link: ScriptedLink | IdealLink | None) -> CommandDownlink:
    return CommandDownlink(NUM_DEVICES, link, None, STREAMS)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_without_a_link_commands_arrive_as_they_are():
    command = torch.full((NUM_DEVICES, 1), 1 / 3, dtype=torch.float64)
    downlink = downlink_over(None)
    assert downlink.send(0, command, VERSION) is command
    assert all((values == 0).all() for values in downlink.counters.values())


def test_over_a_link_they_are_sixteen_bits_a_number():
    command = column(1 / 3, -7.77, 1e-3, 19.99)
    applied = downlink_over(IdealLink(IdealConfig())).send(0, command, VERSION)
    assert torch.equal(applied, command.half().float())
    assert not torch.equal(applied, command)
    # Of two numbers each packet has 64 + 32 bits.
    downlink = downlink_over(IdealLink(IdealConfig()))
    downlink.send(0, torch.ones(NUM_DEVICES, 2), VERSION)
    assert downlink.counters["downlink_header_bits"].tolist() == [64] * NUM_DEVICES
    assert downlink.counters["downlink_payload_bits"].tolist() == [32] * NUM_DEVICES


def test_a_lost_command_leaves_the_last_one_that_arrived_and_zero_before_the_first():
    lost: set[int] = set()
    link = ScriptedLink(lambda data: None if Packet.from_bytes(data).device in lost else data)
    downlink = downlink_over(link)
    lost = {1, 3}
    assert downlink.send(0, column(1, 2, 3, 4), VERSION).flatten().tolist() == [1, 0, 3, 0]
    lost = {0, 3}
    assert downlink.send(1, column(5, 6, 7, 8), VERSION).flatten().tolist() == [1, 6, 7, 0]
    count = downlink.counters
    assert count["downlink_packets_sent"].tolist() == [2, 2, 2, 2]
    assert count["downlink_packets_lost"].tolist() == [1, 1, 0, 2]
    assert count["downlink_stale_steps"].tolist() == [1, 1, 0, 2]
    assert count["downlink_channel_uses"].tolist() == [288] * 4
    assert count["downlink_padding_bits"].tolist() == [16] * 4
    np.testing.assert_allclose(count["downlink_energy_j"], 2e-6)
    np.testing.assert_allclose(count["downlink_airtime_s"], 1e-3)


def test_only_what_a_device_does_not_apply_yet_is_sent_and_what_was_lost_again():
    lost: set[int] = set()
    link = ScriptedLink(lambda data: None if Packet.from_bytes(data).device in lost else data)
    downlink = downlink_over(link)
    lost = {2}
    downlink.send(0, column(0, 1, 2, 3), VERSION)  # the first device applies zero already
    lost = set()
    assert downlink.send(1, column(0, 1, 2, 3), VERSION).flatten().tolist() == [0, 1, 2, 3]
    # A change of less than half a step of binary16 is no other command.
    downlink.send(2, column(0, 1 + 2**-12, 2, 3 + 2**-8), VERSION)
    downlink.send(3, downlink.applied, VERSION)
    assert link.calls == [[1, 2, 3], [2], [3]]


def test_who_waited_longest_comes_first_where_resources_end():
    link = ScriptedLink(num_sent=2)
    downlink = downlink_over(link)
    for step in range(4):
        downlink.send(step, column(*(10.0 * step + device + 1 for device in range(4))), VERSION)
    assert link.calls == [[0, 1, 2, 3], [2, 3, 0, 1], [0, 1, 2, 3], [2, 3, 0, 1]]
    count = downlink.counters
    assert count["downlink_packets_offered"].tolist() == [4] * 4
    assert count["downlink_packets_sent"].tolist() == [2] * 4
    assert count["downlink_packets_lost"].sum() == 0
    assert count["downlink_stale_steps"].tolist() == [2] * 4
    assert count["downlink_header_bits"].tolist() == [128] * 4


@pytest.mark.parametrize(
    "change", [{"device": 2}, {"step": 1}, {"model_version": 7}, {"codec_id": 1}, {"payload": None}]
)
def test_a_packet_that_is_not_meant_for_the_device_is_not_applied(change):
    def tamper(data: bytes) -> bytes:
        if change == {"payload": None}:
            return data[:-1] + bytes([data[-1] ^ 1])  # the CRC sees it
        return Packet.from_bytes(data)._replace(**change).to_bytes()

    downlink = downlink_over(ScriptedLink(tamper))
    assert not downlink.send(0, column(0, 5, 0, 0), VERSION).any()
    assert downlink.counters["downlink_packets_lost"].tolist() == [0, 1, 0, 0]


def test_the_step_in_the_header_is_modulo_4096():
    seen = []
    link = ScriptedLink(lambda data: seen.append(Packet.from_bytes(data)) or data)
    applied = downlink_over(link).send(4097, column(0, 0, 0, 1), VERSION)
    assert applied[3] == 1
    assert seen[0][:4] == (3, 1, VERSION, 2)


def test_the_uplink_s_random_numbers_are_not_drawn_again():
    link = ScriptedLink()
    downlink_over(link).send(0, column(1, 2, 3, 4), VERSION)
    assert link.streams == STREAMS.substream("downlink") != STREAMS


def test_a_command_that_is_no_number_is_refused_in_one_line():
    with pytest.raises(SemcomError, match="row 2 holds NaN"):
        downlink_over(ScriptedLink()).send(0, column(1, 2, float("nan"), 4), VERSION)


def cell(probability: float) -> BaseStation:
    return BaseStation(
        NUM_DEVICES,
        20,
        make_scheduler(PeriodicConfig(interval_steps=3), NUM_DEVICES),
        make_erasure_link(0.0),
        None,
        ToyReceiver(toy_model(), NUM_DEVICES),
        STREAMS,
        downlink_link=make_erasure_link(probability),
    )


def serve(station: BaseStation, step: int) -> torch.Tensor:
    version, devices = station.receiver.model_version, station.granted
    payload = np.full(6, 1.0 + 0.1 * step, dtype=np.float32).tobytes()
    packets = pack_packets(devices.tolist(), step, version, 1, [payload] * len(devices))
    command = station.serve(step, [Uplink(devices, packets)]).command
    assert command is not None
    return command


def test_the_receiver_predicts_with_what_is_applied():
    station = cell(0.5)
    station.first_grants()
    applied = torch.zeros(NUM_DEVICES, 1)
    num_stale = 0
    for step in range(12):
        before = station.receiver.x_hat.clone()
        meant = -0.9 * (torch.full_like(before, 1.0 + 0.1 * step) if step % 3 == 0 else before)
        command = serve(station, step)
        kept = command == applied
        assert (kept | (command == meant.half().float())).all()
        num_stale += int((command != meant.half().float()).sum())
        believed = torch.full_like(before, 1.0 + 0.1 * step) if step % 3 == 0 else before
        torch.testing.assert_close(station.receiver.x_hat, 1.05 * believed + command)
        applied = command
    assert 5 < num_stale < 43
    assert num_stale == station.outcome()["downlink_stale_steps"].sum()


def test_a_restored_station_knows_what_the_devices_apply():
    whole, killed = cell(0.5), cell(0.5)
    whole.first_grants()
    for step in range(5):
        serve(whole, step)
    killed.load(pickle.loads(pickle.dumps(whole.state())))
    assert whole.downlink.applied is not None
    assert torch.equal(killed.downlink.applied, whole.downlink.applied)
    for step in range(5, 12):
        assert torch.equal(serve(killed, step), serve(whole, step))
    for name, values in whole.outcome().items():
        np.testing.assert_array_equal(killed.outcome()[name], values, err_msg=name)
