"""Bulk transfers: payloads of many bytes, such as model updates, sent in segments until they are whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from channels.links.ideal import IdealLink
from nodes.radio import radio_state
from nodes.schedulers import fill
from semcom.contracts import Channel, Delivery, Link, SemcomError
from semcom.packets import HEADER_BITS, STEP_MODULUS, Packet, check_device
from semcom.rng import Streams

TRANSFER_CODEC_ID = 15
"""Of packets that hold a segment; no codec has it."""

_LAST = 1 << 31
_NUMBER_BYTES = 4
SEGMENT_HEADER_BITS = HEADER_BITS + 8 * _NUMBER_BYTES
"""Of each packet: the header, a bit that marks the last segment, and the segment's number in 31 bits."""


class TransferConfig(BaseModel):
    """How a payload is cut, how full a step may be, and when to give up."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    segment_bytes: int = Field(
        400,
        ge=1,
        le=65_000,
        description="data in a packet; a long one takes several transport blocks and needs them all",
    )
    load: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of a step for first transmissions; the rest is HARQ's, which has none at 1",
    )
    max_steps: int = Field(1000, ge=1, description="steps after which what is not whole is given up")


@dataclass(frozen=True)
class TransferReport:
    """What became of N payloads; all but `payloads` are arrays [N].

    ok bool: the payload arrived whole. payloads: its bytes, or None. num_steps int64: the steps until it was
    whole, or until it was given up; duration_s: the time that these took. packets_sent, packets_lost int64:
    segments put on the air, and those of them that did not arrive. header_bits (SEGMENT_HEADER_BITS of each),
    payload_bits, padding_bits, channel_uses int64, airtime_s, energy_j: as in Delivery, lost ones included.
    """

    ok: np.ndarray
    payloads: list[bytes | None]
    num_steps: np.ndarray
    duration_s: np.ndarray
    packets_sent: np.ndarray
    packets_lost: np.ndarray
    header_bits: np.ndarray
    payload_bits: np.ndarray
    padding_bits: np.ndarray
    channel_uses: np.ndarray
    airtime_s: np.ndarray
    energy_j: np.ndarray


def transfer(
    payloads: Sequence[bytes],
    devices: np.ndarray,
    link: Link,
    channel: Channel | None,
    streams: Streams,
    config: TransferConfig,
    *,
    step_s: float,
    name: str,
    first_step: int = 0,
    model_version: int = 0,
) -> TransferReport:
    """Carries one payload to or from each of N different devices, over as many steps as it takes.

    The direction is that of the link and its channel. Each payload is cut into segments of segment_bytes, and
    each segment is a packet: the 64-bit header (with the step it is sent in), 31 bits of segment number, one
    that says whether it is the last, and the data. In every step the devices take turns with their next
    missing segments until the step is as full as `load` allows; reception is acknowledged exactly and for
    free, and what was lost is sent again in a later step. The steps belong to the transfer alone.

    `name` tells this transfer's random numbers from those of others at the same steps; the n-th segment of a
    device in a step draws as device + 65536 n, so that its segments fail independently. A payload that is
    not whole after max_steps is reported with ok = False, never raised: a round of training goes on without
    it. Raises SemcomError if payloads and devices differ in number or a device is listed twice.
    """
    if len(payloads) != len(devices):
        raise SemcomError(f"{len(devices)} devices with {len(payloads)} payloads: give each device one")
    if len(np.unique(devices)) != len(devices):
        raise SemcomError("a device is listed twice in one transfer: join its payloads, or send one by one")
    for device in devices.tolist():
        check_device(device)
    if isinstance(link, IdealLink):
        return _ideal_report(payloads, config, step_s)
    streams = streams.substream(f"transfer {name}")
    segments = [_cut(payload, config.segment_bytes) for payload in payloads]
    missing = [list(range(len(parts))) for parts in segments]
    receivers = [_Reassembly() for _ in payloads]
    totals = _Totals(len(payloads))
    packet_bits = HEADER_BITS + 8 * max((len(parts[0]) for parts in segments), default=0)
    for step in range(first_step, first_step + config.max_steps):
        waiting = np.array([index for index, numbers in enumerate(missing) if numbers], dtype=np.int64)
        if not waiting.size:
            break
        totals.num_steps[waiting] += 1
        sinr = None if channel is None else channel.sinr(step)
        share = np.zeros(len(payloads))
        share[waiting] = link.resource_share(
            None if sinr is None else sinr[devices[waiting]], packet_bits, len(waiting)
        )
        owner, place = _turns(np.roll(waiting, -step), missing, share / config.load)
        if not owner.size:
            continue
        rows = [(index, missing[index][at]) for index, at in zip(owner.tolist(), place.tolist(), strict=True)]
        fields = [(int(devices[index]), step, model_version, TRANSFER_CODEC_ID) for index, _ in rows]
        packets = [
            Packet(*header, segments[index][number]).to_bytes()
            for header, (index, number) in zip(fields, rows, strict=True)
        ]
        radio = radio_state(channel, sinr, step, devices[owner])
        delivery = link.transmit(packets, devices[owner] + (place << 16), radio, step, streams)
        arrived = np.array(
            [
                data is not None and receivers[index].take(data, header)
                for data, header, (index, _) in zip(delivery.payloads, fields, rows, strict=True)
            ]
        )
        for index, number in (row for row, ok in zip(rows, arrived, strict=True) if ok):
            missing[index].remove(number)
        totals.add(owner, packets, arrived, delivery)
    return totals.report([receiver.payload() for receiver in receivers], step_s)


def _ideal_report(payloads: Sequence[bytes], config: TransferConfig, step_s: float) -> TransferReport:
    """What there is to report of an ideal link: all arrives in one step, and nothing has to be cut for it."""
    size = np.array([len(payload) for payload in payloads], dtype=np.int64)
    num_segments = np.maximum(1, -(-size // config.segment_bytes))
    one, zero = np.ones_like(size), np.zeros_like(size)
    return TransferReport(
        ok=np.ones(len(size), dtype=bool),
        payloads=list(payloads),
        num_steps=one,
        duration_s=one * step_s,
        packets_sent=num_segments,
        packets_lost=zero,
        header_bits=SEGMENT_HEADER_BITS * num_segments,
        payload_bits=8 * size,
        padding_bits=zero,
        channel_uses=zero,
        airtime_s=np.zeros(len(size)),
        energy_j=np.zeros(len(size)),
    )


class _Totals:
    """What each payload's segments have cost so far."""

    def __init__(self, num_payloads: int) -> None:
        self.num_steps, self.sent, self.lost, self.payload, self.padding, self.uses = (
            np.zeros(num_payloads, dtype=np.int64) for _ in range(6)
        )
        self.airtime_s, self.energy_j = np.zeros(num_payloads), np.zeros(num_payloads)

    def add(
        self, owner: np.ndarray, packets: Sequence[bytes], arrived: np.ndarray, delivery: Delivery
    ) -> None:
        """Counts the packets of one step; owner: the number of each packet's payload."""
        sent = delivery.sent
        num_bits = 8 * np.fromiter(map(len, packets), np.int64, len(packets))
        for total, rows, values in (
            (self.sent, sent, sent),
            (self.lost, sent, sent & ~arrived),
            (self.payload, sent, num_bits - SEGMENT_HEADER_BITS),
            (self.padding, sent, delivery.padding_bits),
            (self.uses, sent, delivery.channel_uses),
            (self.airtime_s, sent, delivery.airtime_s),
            (self.energy_j, sent, delivery.energy_j),
        ):
            np.add.at(total, owner[rows], values[rows])

    def report(self, received: list[bytes | None], step_s: float) -> TransferReport:
        """Returns the totals beside what arrived."""
        return TransferReport(
            ok=np.array([payload is not None for payload in received], dtype=bool),
            payloads=received,
            num_steps=self.num_steps,
            duration_s=self.num_steps * step_s,
            packets_sent=self.sent,
            packets_lost=self.lost,
            header_bits=SEGMENT_HEADER_BITS * self.sent,
            payload_bits=self.payload,
            padding_bits=self.padding,
            channel_uses=self.uses,
            airtime_s=self.airtime_s,
            energy_j=self.energy_j,
        )


class _Reassembly:
    """The receiving end of one payload: it knows nothing but the packets that it is given."""

    def __init__(self) -> None:
        self._parts: dict[int, bytes] = {}
        self._num_parts: int | None = None

    def take(self, data: bytes, expected: tuple[int, int, int, int]) -> bool:
        """Takes a packet if it is whole and of the expected device, step, model version and codec."""
        try:
            packet = Packet.from_bytes(data)
        except SemcomError:
            return False
        device, step, version, codec_id = expected
        if packet[:4] != (device, step % STEP_MODULUS, version, codec_id):
            return False
        head = int.from_bytes(packet.payload[:_NUMBER_BYTES], "big")
        number = head % _LAST
        self._parts[number] = packet.payload[_NUMBER_BYTES:]
        if head & _LAST:
            self._num_parts = number + 1
        return True

    def payload(self) -> bytes | None:
        """Returns the payload if no segment is missing."""
        if len(self._parts) != self._num_parts:
            return None
        return b"".join(self._parts[number] for number in range(self._num_parts))


def _cut(payload: bytes, segment_bytes: int) -> list[bytes]:
    """The packets' payloads: number and data of each segment; an empty payload is one segment too."""
    starts = range(0, max(len(payload), 1), segment_bytes)
    last = len(starts) - 1
    return [
        (number | (_LAST if number == last else 0)).to_bytes(_NUMBER_BYTES, "big")
        + payload[start : start + segment_bytes]
        for number, start in enumerate(starts)
    ]


def _turns(
    order: np.ndarray, missing: Sequence[Sequence[int]], share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which missing segments go on the air: the owner, and the place in the owner's list, int64 each.

    The owners in `order` take turns; share: of the step that one segment takes for each owner.
    """
    most = [
        min(len(missing[owner]), int(1 / share[owner]) + 1 if share[owner] > 0 else len(missing[owner]))
        for owner in order.tolist()
    ]
    owners, places = np.repeat(order, most), np.concatenate([np.arange(num) for num in most])
    rank = np.repeat(np.arange(len(order)), most)
    by_turn = np.lexsort((rank, places))
    chosen = fill(by_turn, share[owners])
    return owners[chosen], places[chosen]
