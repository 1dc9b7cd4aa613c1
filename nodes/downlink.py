"""The way back: carries the commands to the devices as packets, and knows which of them apply what."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nodes.radio import radio_state
from semcom.codecs.floating import Float16Codec
from semcom.contracts import Channel, Link, SemcomError
from semcom.packets import HEADER_BITS, STEP_MODULUS, Packet, pack_packets
from semcom.rng import Streams

DOWNLINK_COUNTERS: dict[str, str] = {
    "downlink_packets_offered": "commands handed to the downlink: those that a device does not apply yet",
    "downlink_packets_sent": "command packets put on the air",
    "downlink_packets_lost": "command packets that were sent and not accepted",
    "downlink_stale_steps": "steps in which the device applied another command than the one meant for it",
    "downlink_header_bits": "header bits put on the air by the station",
    "downlink_payload_bits": "payload bits put on the air by the station",
    "downlink_padding_bits": "bits that the downlink added to fill its transport blocks",
    "downlink_channel_uses": "resource elements spent by the station",
    "downlink_airtime_s": "the station's time on the air",
    "downlink_energy_j": "the station's transmit energy",
}
FRACTIONAL_DOWNLINK_COUNTERS = ("downlink_airtime_s", "downlink_energy_j")


class CommandDownlink:
    """Carries the commands of one cell to its K devices within the step.

    A command travels as a packet of its own: the 64-bit header and A numbers of 16 bits (binary16,
    Float16Codec). A device applies the last command that it received, zero before the first. Reception is
    acknowledged (HARQ-ACK) exactly and for free, so that the station knows what each device applies; it
    sends only to those whose command, as coded, differs from that. A command that was lost is thus sent
    again in the next step, unless a newer one has taken its place. The devices that have gone without
    their command for longest come first, then those of lower number; where the resources end, the others
    wait.

    Without a link every command arrives as it is and nothing is counted. The random numbers are those of
    the streams' substream "downlink": the uplink draws for the same purposes, devices and steps.
    """

    def __init__(
        self, num_devices: int, link: Link | None, channel: Channel | None, streams: Streams
    ) -> None:
        self.num_devices = num_devices
        self.link = link
        self.channel = channel
        self.streams = streams.substream("downlink")
        self.applied: torch.Tensor | None = None
        self.waited_steps = np.zeros(num_devices, dtype=np.int64)
        self.counters = {
            name: np.zeros(num_devices, np.float64 if name in FRACTIONAL_DOWNLINK_COUNTERS else np.int64)
            for name in DOWNLINK_COUNTERS
        }

    def send(self, step: int, command: torch.Tensor, model_version: int) -> torch.Tensor:
        """Sends the commands [K, A] of this step; returns those that the devices apply, [K, A].

        Over a link these are float32. Raises SemcomError for a command that is no finite number.
        """
        if self.link is None:
            return command
        codec = Float16Codec(command.shape[1])
        before = torch.zeros(command.shape) if self.applied is None else self.applied
        payloads = codec.encode(command)
        meant = codec.decode(payloads)
        due = np.flatnonzero((meant != before).any(dim=1).numpy())
        due = due[np.argsort(-self.waited_steps[due], kind="stable")]
        accepted = self._transmit(step, due, [payloads[device] for device in due], model_version, codec)
        arrived = torch.zeros(self.num_devices, dtype=torch.bool)
        arrived[accepted] = True
        # A new tensor: the one before may still be on its way to the devices.
        self.applied = torch.where(arrived[:, None], meant, before)
        stale = np.zeros(self.num_devices, dtype=bool)
        stale[due] = True
        stale[accepted] = False
        self.counters["downlink_stale_steps"] += stale
        self.waited_steps = np.where(stale, self.waited_steps + 1, 0)
        return self.applied

    def state(self) -> dict[str, Any]:
        """Returns all that changes from step to step, picklable, as live objects: pickle it at once."""
        return {"applied": self.applied, "waited_steps": self.waited_steps, "counters": self.counters}

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.applied = state["applied"]
        self.waited_steps = state["waited_steps"]
        self.counters = state["counters"]

    def _transmit(
        self, step: int, devices: np.ndarray, payloads: list[bytes], model_version: int, codec: Float16Codec
    ) -> np.ndarray:
        """Returns which of the devices accepted their packets, int64."""
        assert self.link is not None
        if not payloads:
            return devices
        packets = pack_packets(devices.tolist(), step, model_version, codec.codec_id, payloads)
        radio = radio_state(self.channel, None, step, devices)
        delivery = self.link.transmit(packets, devices, radio, step, self.streams)
        accepted = np.array(
            [
                data is not None and _is_meant_for(data, device, step, model_version, codec.codec_id)
                for device, data in zip(devices.tolist(), delivery.payloads, strict=True)
            ]
        )
        count, sent = self.counters, devices[delivery.sent]
        count["downlink_packets_offered"][devices] += 1
        count["downlink_packets_sent"][sent] += 1
        count["downlink_packets_lost"][devices[delivery.sent & ~accepted]] += 1
        count["downlink_header_bits"][sent] += HEADER_BITS
        count["downlink_payload_bits"][sent] += codec.max_payload_bits()
        count["downlink_padding_bits"][devices] += delivery.padding_bits
        count["downlink_channel_uses"][devices] += delivery.channel_uses
        count["downlink_airtime_s"][devices] += delivery.airtime_s
        count["downlink_energy_j"][devices] += delivery.energy_j
        return devices[accepted]


def _is_meant_for(data: bytes, device: int, step: int, model_version: int, codec_id: int) -> bool:
    """What a device checks: that the packet is whole, and addressed to it in this step."""
    try:
        packet = Packet.from_bytes(data)
    except SemcomError:
        return False
    return packet[:4] == (device, step % STEP_MODULUS, model_version, codec_id)
