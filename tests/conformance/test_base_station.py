"""The base station checks, counts and commands as it says."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from toy_cells import (
    CODEC_ID,
    GAIN,
    PAYLOAD_BITS,
    ToyChannel,
    ToyLink,
    ToyReceiver,
    make_erasure_link,
    toy_model,
)

from nodes.base_station import COUNTERS, BaseStation
from nodes.contracts import Uplink
from nodes.downlink import DOWNLINK_COUNTERS
from nodes.schedulers import PeriodicConfig, RoundRobinConfig, make_scheduler
from semcom.contracts import Delivery, Link, RadioState
from semcom.packets import HEADER_BITS, Packet, pack_packets
from semcom.rng import Streams

NUM_DEVICES, NUM_STEPS = 4, 6
STREAMS = Streams(3)


class TamperingLink:
    """Delivers everything on resources without end, after `tamper` had its way with each packet."""

    name = "tampering"

    def __init__(self, tamper: Callable[[bytes], bytes | None], num_sent: int | None = None) -> None:
        self.tamper = tamper
        self.num_sent = num_sent

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
        sent = np.arange(len(packets)) < (len(packets) if self.num_sent is None else self.num_sent)
        payloads = [self.tamper(packet) if s else None for packet, s in zip(packets, sent, strict=True)]
        return Delivery(
            ok=np.array([payload is not None for payload in payloads]),
            sent=sent,
            payloads=payloads,
            channel_uses=np.full(len(packets), 10),
            airtime_s=np.full(len(packets), 1e-3),
            energy_j=np.full(len(packets), 1e-5),
            padding_bits=np.full(len(packets), 2),
            bits=np.where(sent, [8 * len(packet) for packet in packets], 0),
        )


def station(link: Link) -> BaseStation:
    return BaseStation(
        NUM_DEVICES,
        NUM_STEPS,
        make_scheduler(PeriodicConfig(), NUM_DEVICES),
        link,
        None,
        ToyReceiver(toy_model(), NUM_DEVICES),
        STREAMS,
    )


def uplink_of(
    devices: Sequence[int], step: int, version: int, codec_id: int = CODEC_ID, x: float = 2.0
) -> Uplink:
    payload = np.full(PAYLOAD_BITS // 32, x, dtype=np.float32).tobytes()
    packets = pack_packets(devices, step, version, codec_id, [payload] * len(devices))
    return Uplink(np.array(devices, dtype=np.int64), packets)


def test_every_counter_is_an_array_over_the_devices():
    outcome = station(make_erasure_link(0)).outcome()
    assert list(outcome) == list(COUNTERS)
    for name, values in outcome.items():
        assert values.shape == (NUM_DEVICES,)
        fractional = ("entropy_bits", "airtime_s", "energy_j", "downlink_airtime_s", "downlink_energy_j")
        assert values.dtype == (np.float64 if name in fractional else np.int64)


def test_bits_and_packets_are_counted_exactly():
    cell = station(TamperingLink(lambda packet: packet))
    version = cell.receiver.model_version
    assert cell.first_grants().granted.tolist() == [0, 1, 2, 3]
    down = cell.serve(0, [uplink_of([2, 3], 0, version), uplink_of([0], 0, version)])
    assert down.delivered.tolist() == [True, False, True, True]
    down = cell.serve(1, [uplink_of([], 1, version), uplink_of([0], 1, version)])
    expected = {
        "packets_granted": [3, 3, 3, 3],  # the third one is for step 2
        "packets_offered": [2, 0, 1, 1],
        "packets_sent": [2, 0, 1, 1],
        "packets_delivered": [2, 0, 1, 1],
        "packets_erased": [0, 0, 0, 0],
        "packets_corrupt": [0, 0, 0, 0],
        "packets_refused": [0, 0, 0, 0],
        "header_bits": [128, 0, 64, 64],
        "payload_bits": [2 * 192, 0, 192, 192],
        "entropy_bits": [2 * 191.5, 0, 191.5, 191.5],
        "padding_bits": [4, 0, 2, 2],
        "channel_uses": [20, 0, 10, 10],
        "age_steps": [0, 1 + 2, 0 + 1, 0 + 1],
        "airtime_s": [2e-3, 0, 1e-3, 1e-3],
        "energy_j": [2e-5, 0, 1e-5, 1e-5],
    }
    outcome = cell.outcome()
    assert outcome.keys() == expected.keys() | DOWNLINK_COUNTERS.keys()
    # Without a link of its own the downlink costs nothing.
    assert all((outcome[name] == 0).all() for name in DOWNLINK_COUNTERS)
    for name, values in expected.items():
        np.testing.assert_array_equal(outcome[name], values, err_msg=name)
    assert HEADER_BITS == 64


def test_a_packet_that_found_no_resources_costs_no_bits_and_is_no_loss():
    cell = station(TamperingLink(lambda packet: packet, num_sent=1))
    cell.first_grants()
    down = cell.serve(0, [uplink_of([0, 2], 0, cell.receiver.model_version)])
    assert down.delivered.tolist() == [True, False, False, False]
    outcome = cell.outcome()
    assert outcome["packets_offered"].tolist() == [1, 0, 1, 0]
    for name in ("packets_sent", "packets_delivered"):
        assert outcome[name].tolist() == [1, 0, 0, 0]
    assert outcome["packets_erased"].sum() == 0
    assert outcome["header_bits"].tolist() == [64, 0, 0, 0]
    assert outcome["payload_bits"].tolist() == [192, 0, 0, 0]
    assert outcome["entropy_bits"].tolist() == [191.5, 0, 0, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"model_version": 0xABC},
        {"codec_id": CODEC_ID + 1},
        {"device": 3},
        {"step": 4095},
    ],
)
def test_a_packet_that_is_not_the_expected_one_is_refused_and_counted(change):
    cell = station(TamperingLink(lambda data: Packet.from_bytes(data)._replace(**change).to_bytes()))
    cell.first_grants()
    down = cell.serve(0, [uplink_of([1], 0, cell.receiver.model_version)])
    assert not down.delivered.any()
    assert down.command is not None
    assert not down.command.any()
    outcome = cell.outcome()
    assert outcome["packets_refused"].tolist() == [0, 1, 0, 0]
    assert outcome["packets_sent"].tolist() == [0, 1, 0, 0]
    assert outcome["packets_delivered"].sum() == outcome["packets_corrupt"].sum() == 0


@pytest.mark.parametrize("tamper", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:5]])
def test_a_corrupt_packet_is_counted_and_not_used(tamper):
    cell = station(TamperingLink(tamper))
    cell.first_grants()
    down = cell.serve(0, [uplink_of([1, 2], 0, cell.receiver.model_version)])
    assert not down.delivered.any()
    assert cell.outcome()["packets_corrupt"].tolist() == [0, 1, 1, 0]
    assert cell.outcome()["packets_refused"].sum() == 0


def test_without_a_delivery_the_command_comes_from_the_prediction():
    lost = False
    cell = station(TamperingLink(lambda data: None if lost else data))
    version = cell.receiver.model_version
    cell.first_grants()
    first = cell.serve(0, [uplink_of([0, 1, 2, 3], 0, version)])
    torch.testing.assert_close(first.command, torch.full((4, 1), -0.9 * 2.0))
    lost = True
    second = cell.serve(1, [uplink_of([0, 1, 2, 3], 1, version, x=7.0)])
    assert not second.delivered.any()
    torch.testing.assert_close(second.command, torch.full((4, 1), -0.9 * (GAIN * 2.0 - 0.9 * 2.0)))
    assert cell.outcome()["packets_erased"].tolist() == [1, 1, 1, 1]


def test_packets_go_on_the_air_in_the_order_of_the_grants():
    order = []

    def note(data: bytes) -> bytes:
        order.append(Packet.from_bytes(data).device)
        return data

    cell = station(TamperingLink(note))
    cell.first_grants()
    cell.granted = np.array([3, 0, 2, 1])
    version = cell.receiver.model_version
    cell.serve(0, [uplink_of([0, 1], 0, version), uplink_of([2, 3], 0, version)])
    assert order == [3, 0, 2, 1]


def test_what_is_granted_on_a_shared_link_fits_and_stops_with_the_last_step():
    channel = ToyChannel(NUM_DEVICES, STREAMS)
    receiver = ToyReceiver(toy_model(), NUM_DEVICES)
    cell = BaseStation(
        NUM_DEVICES,
        NUM_STEPS,
        make_scheduler(RoundRobinConfig(), NUM_DEVICES),
        ToyLink(300.0),
        channel,
        receiver,
        STREAMS,
    )
    granted = cell.first_grants().granted
    for step in range(NUM_STEPS):
        uplink = uplink_of(sorted(granted.tolist()), step, receiver.model_version)
        granted = cell.serve(step, [uplink]).granted  # the link asserts that everything fits
    assert granted.size == 0
    outcome = cell.outcome()
    assert outcome["packets_granted"].sum() == outcome["packets_delivered"].sum() > 0
