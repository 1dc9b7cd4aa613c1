"""The base station of one cell: grants, receives, checks, counts, and commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nodes.contracts import Downlink, Receiver, Uplink
from nodes.downlink import DOWNLINK_COUNTERS, CommandDownlink
from nodes.radio import radio_state
from nodes.schedulers import Scheduler
from semcom.contracts import Channel, Link, SemcomError
from semcom.packets import HEADER_BITS, STEP_MODULUS, Packet
from semcom.rng import Streams

COUNTERS: dict[str, str] = {
    "packets_granted": "grants to send",
    "packets_offered": "packets handed to the link",
    "packets_sent": "packets put on the air: delivered + erased + corrupt + refused",
    "packets_delivered": "packets that arrived and were accepted",
    "packets_erased": "packets that the link lost",
    "packets_corrupt": "packets that arrived truncated or failed their CRC",
    "packets_refused": "whole packets of another device, step, model version or codec than expected",
    "header_bits": "header bits put on the air",
    "payload_bits": "payload bits put on the air",
    "entropy_bits": "information in the payloads that were accepted, by the codec's estimate",
    "padding_bits": "bits that the link added to fill its transport blocks",
    "channel_uses": "resource elements spent",
    "age_steps": "sum over the steps of the age of information at the step's end",
    "airtime_s": "time on the air",
    "energy_j": "transmit energy",
} | DOWNLINK_COUNTERS
_FRACTIONAL = ("entropy_bits", "airtime_s", "energy_j")


class BaseStation:
    """Serves the K devices of one cell step by step.

    The age of information of a device is the number of steps since the newest embedding that was
    accepted from it was sent: 0 in the step in which it arrives, and counted from the step before the
    first until then (1 at the end of step 0 if nothing arrived).
    """

    def __init__(
        self,
        num_devices: int,
        num_steps: int,
        scheduler: Scheduler,
        link: Link,
        channel: Channel | None,
        receiver: Receiver,
        streams: Streams,
        downlink_link: Link | None = None,
        downlink_channel: Channel | None = None,
    ) -> None:
        self.num_devices = num_devices
        self.num_steps = num_steps
        self.scheduler = scheduler
        self.link = link
        self.channel = channel
        self.receiver = receiver
        self.streams = streams
        self.downlink = CommandDownlink(num_devices, downlink_link, downlink_channel, streams)
        self.age = np.zeros(num_devices, dtype=np.int64)
        self.granted = np.empty(0, dtype=np.int64)
        self.counters = {
            name: np.zeros(num_devices, dtype=np.float64 if name in _FRACTIONAL else np.int64)
            for name in COUNTERS
            if name not in DOWNLINK_COUNTERS
        }
        # The link carries whole bytes.
        self._packet_bits = HEADER_BITS + 8 * -(-receiver.max_payload_bits // 8)
        self._radio: tuple[int, np.ndarray] | None = None

    def first_grants(self) -> Downlink:
        """Returns the downlink before the first step: who may send in step 0, and no command."""
        self.granted = self._grant(0)
        return Downlink(None, np.zeros(self.num_devices, dtype=bool), self.granted)

    def serve(self, step: int, uplinks: Sequence[Uplink]) -> Downlink:
        """Carries the packets and the commands of one step over the air; returns what the devices learn."""
        rows, payloads = self._receive(step, uplinks)
        if rows.size:
            self.counters["entropy_bits"][rows] += self.receiver.update(step, rows, payloads)
        applied = self.downlink.send(step, self.receiver.command(step), self.receiver.model_version)
        self.receiver.applied(step, applied)
        delivered = np.zeros(self.num_devices, dtype=bool)
        delivered[rows] = True
        self.age += 1
        self.age[rows] = 0
        self.counters["age_steps"] += self.age
        # A channel is made for num_steps steps: don't ask it for one more.
        self.granted = self._grant(step + 1) if step + 1 < self.num_steps else self.granted[:0]
        return Downlink(applied, delivered, self.granted)

    def outcome(self) -> dict[str, np.ndarray]:
        """Returns the totals of COUNTERS for each device: int64 [K], fractions float64 [K]."""
        return self.counters | self.downlink.counters

    def state(self) -> dict[str, Any]:
        """Returns all that changes from step to step, picklable, as live objects: pickle it at once."""
        return {
            "scheduler": self.scheduler,
            "receiver": self.receiver,
            "age": self.age,
            "granted": self.granted,
            "counters": self.counters,
            "downlink": self.downlink.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.scheduler = state["scheduler"]
        self.receiver = state["receiver"]
        self.age = state["age"]
        self.granted = state["granted"]
        self.counters = state["counters"]
        self.downlink.load(state["downlink"])

    def _sinr(self, step: int) -> np.ndarray | None:
        if self.channel is None:
            return None
        if self._radio is None or self._radio[0] != step:
            self._radio = (step, self.channel.sinr(step))
        return self._radio[1]

    def _grant(self, step: int) -> np.ndarray:
        share = sinr = None
        if self.scheduler.shares_resources:
            sinr = self._sinr(step)
            share = self.link.resource_share(sinr, self._packet_bits, self.num_devices)
        granted = self.scheduler.grant(step, self.age, share, sinr)
        self.counters["packets_granted"][granted] += 1
        return granted

    def _receive(self, step: int, uplinks: Sequence[Uplink]) -> tuple[np.ndarray, list[bytes]]:
        """Returns the devices whose packets were accepted, ascending, and their payloads."""
        devices, packets = self._by_priority(uplinks)
        if not packets:
            return devices, []
        radio = radio_state(self.channel, self._sinr(step), step, devices)
        delivery = self.link.transmit(packets, devices, radio, step, self.streams)
        accepted: dict[int, bytes] = {}
        corrupt, refused = [], []
        for device, data in zip(devices.tolist(), delivery.payloads, strict=True):
            if data is None:
                continue
            try:
                packet = Packet.from_bytes(data)
            except SemcomError:
                corrupt.append(device)
                continue
            if self._expected(packet, device, step):
                accepted[device] = packet.payload
            else:
                refused.append(device)
        rows = np.array(sorted(accepted), dtype=np.int64)
        count = self.counters
        sent = devices[delivery.sent]
        count["packets_offered"][devices] += 1
        count["packets_sent"][sent] += 1
        count["packets_delivered"][rows] += 1
        count["packets_erased"][devices[delivery.sent & ~delivery.ok]] += 1
        if corrupt:
            count["packets_corrupt"][corrupt] += 1
        if refused:
            count["packets_refused"][refused] += 1
        count["header_bits"][sent] += HEADER_BITS
        count["payload_bits"][sent] += delivery.bits[delivery.sent] - HEADER_BITS
        count["padding_bits"][devices] += delivery.padding_bits
        count["channel_uses"][devices] += delivery.channel_uses
        count["airtime_s"][devices] += delivery.airtime_s
        count["energy_j"][devices] += delivery.energy_j
        return rows, [accepted[row] for row in rows.tolist()]

    def _by_priority(self, uplinks: Sequence[Uplink]) -> tuple[np.ndarray, list[bytes]]:
        """Merges the groups' packets in the order in which their devices were granted.

        Of several packets of one device in a step the last one is put on the air, and the others are not.
        """
        packet_of: dict[int, bytes] = {}
        for uplink in uplinks:
            packet_of.update(zip(uplink.devices.tolist(), uplink.packets, strict=True))
        devices = [device for device in self.granted.tolist() if device in packet_of]
        return np.array(devices, dtype=np.int64), [packet_of[device] for device in devices]

    def _expected(self, packet: Packet, device: int, step: int) -> bool:
        return (
            packet.model_version == self.receiver.model_version
            and packet.codec_id == self.receiver.codec_id
            and packet.device == device
            and packet.step == step % STEP_MODULUS
        )
