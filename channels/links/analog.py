"""The analog link: the numbers of an embedding as I/Q symbols, without a code, over the equalised channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from channels.budget import dbm_to_w
from channels.grid import SYMBOLS_PER_SLOT, ResourceGrid
from channels.links.nr import NrConfig
from channels.links.transport_plan import TransportPlan, TransportPlanner
from channels.links.transport_tables import effective_sinr
from semcom.codecs.analog import BYTES_PER_SYMBOL, AnalogCodec, over_equalised_channel
from semcom.contracts import Delivery, RadioState, SemcomError
from semcom.packets import HEADER_BITS, HEADER_BYTES, Packet
from semcom.rng import Streams

_ELEMENTS_AT_ONCE = 2_000_000


class AnalogConfig(BaseModel):
    """Embeddings as I/Q symbols without a code (DeepJSCC), their header as a transport block."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["analog"] = "analog"
    num_resource_blocks: int = Field(
        1, ge=1, le=273, description="resource blocks that the symbols fill, repeated as often as they fit"
    )
    equaliser: Literal["lmmse", "zero-forcing"] = Field(
        "lmmse", description="least mean squared error, or unbiased; the channel is known"
    )
    header: Literal["coded", "ideal"] = Field(
        "coded", description="headers as transport blocks, or without error and cost, as DeepJSCC assumes"
    )
    header_bler_target: float = Field(
        0.01, gt=0, lt=1, description="error rate that a header may have, which goes as a transport block"
    )


class AnalogLink:
    """Sends the numbers in a packet as symbols; they arrive with the channel's noise on them.

    The payload is read as I and Q of n symbols with E |x|^2 = 1 (AnalogCodec). They are laid on
    num_resource_blocks x 12 subcarriers and the data symbols of a slot and begun anew until these are
    full, so each goes over k or k + 1 resource elements; the receiver knows the channel and combines
    antennas and repetitions: see over_equalised_channel, whose gain is the sum of |h|^2 over them.

    The header (who, when, which weights) has to arrive exactly: it goes as a transport block on
    resource blocks of its own, as `nr` would send it, and a packet whose header fails is an erasure. The
    header's CRC is renewed for the payload that arrived, as an analog payload has no check. An `ideal`
    header always arrives and takes no resources.

    Energy counts the power that the packet's symbols really have, airtime one slot for the header and one
    for the symbols. No bit of the payload is counted: `bits` are the header's.

    Raises SemcomError for more resource blocks than the grid has.
    """

    name = "analog"

    def __init__(self, config: AnalogConfig, grid: ResourceGrid, step_s: float, tx_power_dbm: float) -> None:
        check_size(config, grid)
        self.config = config
        self.grid = grid
        self.step_s = step_s
        self.tx_power_w = dbm_to_w(tx_power_dbm)
        self._has_header = int(config.header == "coded")
        header = NrConfig(bler_target=config.header_bler_target)
        self.planner = TransportPlanner(grid, step_s, header, must_encode=False, link_name=self.name)

    def resource_share(self, sinr: np.ndarray | None, packet_bits: int, num_devices: int) -> np.ndarray:
        """Share of a step's RB-slots that a packet takes for each device, float64 [num_devices].

        sinr: linear [num_devices, R]. Raises SemcomError if sinr is missing or has another shape.
        """
        header = self.planner.resource_share(sinr, HEADER_BITS, num_devices)
        if not self._has_header:
            header = np.zeros(num_devices)
        share = header + self.config.num_resource_blocks / self.planner.rb_slots_per_step
        return np.where(share <= 1, share, np.inf)

    def transmit(
        self,
        packets: Sequence[bytes],
        devices: np.ndarray,
        radio: RadioState | None,
        step: int,
        streams: Streams,
    ) -> Delivery:
        """Sends N packets of one step in their order, the i-th from devices[i]; see Delivery.

        Packets for which no resources are left are not sent and cost nothing. Raises SemcomError if
        the radio's state is missing or its SINR has another shape than [N, R], and for a payload that is
        no sequence of I/Q symbols or has more of them than fit.
        """
        radio = self.planner.radio(radio, len(packets))
        devices = np.asarray(devices, dtype=np.int64)
        symbols = [self._symbols(packet) for packet in packets]
        plan = self.planner.plan(radio.sinr, np.full(len(packets), HEADER_BITS))
        header_rb, payload_rb = plan.num_rb_slots * self._has_header, self.config.num_resource_blocks
        allocation = self.grid.allocate(header_rb + payload_rb, self.step_s)
        arrived = allocation.sent.copy()
        if self._has_header:
            arrived &= self._header_arrives(plan, allocation.first, radio, devices, step, streams)
        received: list[bytes | None] = [None] * len(packets)
        num_symbols = np.array([len(of_packet) for of_packet in symbols], dtype=np.int64)
        for num in np.unique(num_symbols[arrived]).tolist():
            rows = np.flatnonzero(arrived & (num_symbols == num))
            for part in self._parts(rows):
                gain = self._gain(radio, part, allocation.first[part] + header_rb[part], num)
                # Where there is no path nothing arrives, and zero forcing would divide by it.
                heard = (gain > 0).all(axis=1)
                arrived[part[~heard]] = False
                part, gain = part[heard], gain[heard]
                if not part.size:
                    continue
                x = torch.from_numpy(np.stack([symbols[row] for row in part]))
                noise = streams.normal("analog-noise", devices[part].tolist(), step, (num, 2))
                biased = self.config.equaliser == "lmmse"
                x_hat = over_equalised_channel(x, torch.from_numpy(gain), noise.double(), biased=biased)
                for row, numbers in zip(part.tolist(), x_hat.numpy().astype(">f4"), strict=True):
                    packet = Packet.from_bytes(packets[row])
                    received[row] = packet._replace(payload=numbers.tobytes()).to_bytes()
        sent = allocation.sent
        power = np.array([self._mean_power(x) for x in symbols])
        energy_j = self.tx_power_w * self.grid.slot_s / self.grid.num_resource_blocks
        return Delivery(
            ok=arrived,
            sent=sent,
            payloads=received,
            channel_uses=allocation.num_rb_slots * self.grid.re_per_rb_slot,
            airtime_s=np.where(sent, (self._has_header + 1) * self.grid.slot_s, 0.0),
            energy_j=np.where(sent, energy_j * (header_rb + payload_rb * power), 0.0),
            padding_bits=np.where(sent, self._has_header * (plan.tb_bits - HEADER_BITS), 0),
            bits=np.where(sent, HEADER_BITS, 0),
        )

    def _symbols(self, packet: bytes) -> np.ndarray:
        """I and Q of a packet's symbols, float64 [n, 2]."""
        size = len(packet) - HEADER_BYTES
        if size < 0 or size % BYTES_PER_SYMBOL or Packet.from_bytes(packet).codec_id != AnalogCodec.codec_id:
            raise SemcomError(
                f"the analog link carries I/Q numbers, not a packet of {len(packet)} bytes of another codec: "
                "take codec.kind=analog"
            )
        numbers = np.frombuffer(packet, ">f4", offset=HEADER_BYTES).astype(np.float64).reshape(-1, 2)
        check_symbols(self.config, self.grid, len(numbers))
        return numbers

    def _header_arrives(
        self,
        plan: TransportPlan,
        first: np.ndarray,
        radio: RadioState,
        devices: np.ndarray,
        step: int,
        streams: Streams,
    ) -> np.ndarray:
        """Whether each header's only transport block arrives, bool [N]; it is drawn as `nr` draws."""
        tables = self.planner.tables
        used = self.grid.resource_block_mask(first, plan.last_rb)
        index = tables.snr_index(effective_sinr(radio.sinr, tables.beta[plan.row], used))
        uniform = streams.indexed_uniform("analog-header", devices, step)
        return uniform >= tables.tbler[plan.row, plan.last_rb, index]

    def _mean_power(self, x: np.ndarray) -> float:
        """Mean of |x|^2 over the elements; the first symbols may lie on one more of them than the others."""
        if not len(x):
            return 0.0
        room = self.config.num_resource_blocks * self.grid.re_per_rb_slot
        return float((x**2).sum(axis=1)[np.arange(room) % len(x)].mean())

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        elements = self.config.num_resource_blocks * self.grid.re_per_rb_slot
        size = max(1, _ELEMENTS_AT_ONCE // elements)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _gain(self, radio: RadioState, rows: np.ndarray, first: np.ndarray, num_symbols: int) -> np.ndarray:
        """Sum of |h|^2 over the antennas and elements that carry each symbol, float64 [n, num_symbols]."""
        grid = self.grid
        used = (first[:, None] + np.arange(self.config.num_resource_blocks)) % grid.num_resource_blocks
        frequency_hz = grid.subcarrier_frequency_hz(used)
        time_s = np.arange(grid.config.num_data_symbols) * grid.slot_s / SYMBOLS_PER_SLOT
        power = (np.abs(radio.response(rows, frequency_hz, time_s)).astype(np.float64) ** 2).sum(axis=1)
        power = power.reshape(len(rows), -1)
        cycles = -(-power.shape[1] // max(num_symbols, 1))
        padded = np.zeros((len(rows), cycles * num_symbols))
        padded[:, : power.shape[1]] = power[:, : padded.shape[1]]
        return padded.reshape(len(rows), cycles, num_symbols).sum(axis=1)


def check_size(config: AnalogConfig, grid: ResourceGrid) -> None:
    """Raises SemcomError for more resource blocks than the grid has."""
    if config.num_resource_blocks > grid.num_resource_blocks:
        raise SemcomError(
            f"link.num_resource_blocks = {config.num_resource_blocks} is more than the grid's "
            f"{grid.num_resource_blocks}: take that many at most, or a larger grid.bandwidth_hz"
        )


def check_symbols(config: AnalogConfig, grid: ResourceGrid, num_symbols: int) -> None:
    """Raises SemcomError for more symbols than the resource elements of a packet."""
    room = config.num_resource_blocks * grid.re_per_rb_slot
    if num_symbols > room:
        raise SemcomError(
            f"{num_symbols} symbols don't fit on the {room} resource elements of an analog packet: "
            f"set link.num_resource_blocks = {-(-num_symbols // grid.re_per_rb_slot)}"
        )
