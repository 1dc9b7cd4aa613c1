"""The 5G NR uplink: packets as transport blocks whose error rates come from Sionna SYS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from channels.budget import dbm_to_w
from channels.grid import ResourceGrid
from channels.links.transport_tables import effective_sinr, transport_tables
from semcom.contracts import Delivery, RadioState, SemcomError
from semcom.rng import Streams


class NrConfig(BaseModel):
    """A PUSCH with link adaptation, at the system level (no bits are encoded)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["nr"] = "nr"
    mcs_table: Literal[1, 2] = Field(1, description="MCS table of TS 38.214, 5.1.3.1 (1: 64-QAM, 2: 256-QAM)")
    bler_target: float = Field(0.1, gt=0, lt=1, description="error rate a transport block may have at most")
    margin_db: float = Field(
        0.0, ge=0, le=20, description="taken off the wideband SINR before the MCS is chosen"
    )


@dataclass(frozen=True)
class TransportPlan:
    """How each of N packets is cut into transport blocks; every field is an array [N].

    row: its MCS, as a row of the tables. num_blocks: all but the last of them fill a slot's resource
    blocks; last_rb: the resource blocks of the last. num_rb_slots: (num_blocks - 1) R + last_rb.
    tb_bits: the sum of their sizes. wideband_sinr: the effective SINR over the carrier at that MCS.
    """

    row: np.ndarray
    num_blocks: np.ndarray
    last_rb: np.ndarray
    num_rb_slots: np.ndarray
    tb_bits: np.ndarray
    wideband_sinr: np.ndarray


class NrLink:
    """Carries packets as NR transport blocks whose error rates come from Sionna SYS.

    A packet is cut into the transport blocks of one slot each: as many as fill the whole carrier as it
    takes, and a last one on the least number of resource blocks that holds the rest. The MCS is the
    highest at which each of them stays within `bler_target` at the packet's wideband effective SINR
    (EESM) less `margin_db`; if there is none, the lowest. It is the rule of Sionna's
    InnerLoopLinkAdaptation, except that each MCS is judged on the resource blocks that it would itself
    take: that block assumes the same number for all, too many for a small packet at a high MCS.
    The device knows the step's SINR (ideal channel state information), and there is no retransmission.
    On a frequency-selective channel a few resource blocks are often worse than the carrier as a whole,
    and without a margin the losses exceed the target by far; on a flat one no margin is needed.

    A transport block then fails with the error rate at the effective SINR of the resource blocks that
    it was given, independently of the others; one failure makes the packet an erasure, there being a
    CRC on each. Power is spread over the carrier: a transport block on n of R resource blocks costs
    n / R x P x slot. Each counts as one slot of airtime, also where the grid lets it run over a slot's
    end. There is no power control.
    """

    name = "nr"

    def __init__(self, config: NrConfig, grid: ResourceGrid, step_s: float, tx_power_dbm: float) -> None:
        self.config = config
        self.grid = grid
        self.step_s = step_s
        self.tx_power_w = dbm_to_w(tx_power_dbm)
        self._rb_slots_per_step = grid.rb_slots_per_step(step_s)
        self._tables = transport_tables(config.mcs_table, grid.num_resource_blocks, grid.re_per_rb_slot)
        self._cuts: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def resource_share(self, sinr: np.ndarray | None, packet_bits: int, num_devices: int) -> np.ndarray:
        """Share of a step's RB-slots that a packet takes for each device, float64 [num_devices].

        sinr: linear [num_devices, R]. Infinity where it takes more than a step. It is exactly what
        `transmit` will ask for: devices whose shares add up to 1 or less are all sent. It holds for
        that very size; a shorter packet may in rare cases take more, when its last block is so short
        that it needs a lower MCS. Raises SemcomError if sinr is missing or has another shape.
        """
        plan = self.plan(self._checked(sinr, num_devices), np.full(num_devices, packet_bits))
        share = plan.num_rb_slots / self._rb_slots_per_step
        return np.where(plan.num_rb_slots <= self._rb_slots_per_step, share, np.inf)

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
        the radio's state is missing or its SINR has another shape than [N, R].
        """
        sinr = self._checked(None if radio is None else radio.sinr, len(packets))
        packet_bits = np.array([8 * len(packet) for packet in packets], dtype=np.int64)
        plan = self.plan(sinr, packet_bits)
        allocation = self.grid.allocate(plan.num_rb_slots, self.step_s)
        sent = np.flatnonzero(allocation.sent)
        ok = np.zeros(len(packets), dtype=bool)
        if sent.size:
            ok[sent] = self._survives(sinr, plan, allocation.first, np.asarray(devices), sent, step, streams)
        rb_slots = allocation.num_rb_slots
        rb_slot_energy_j = self.tx_power_w * self.grid.slot_s / self.grid.num_resource_blocks
        return Delivery(
            ok=ok,
            sent=allocation.sent,
            payloads=[packet if arrived else None for packet, arrived in zip(packets, ok, strict=True)],
            channel_uses=rb_slots * self.grid.re_per_rb_slot,
            airtime_s=np.where(allocation.sent, plan.num_blocks, 0) * self.grid.slot_s,
            energy_j=rb_slots * rb_slot_energy_j,
            padding_bits=np.where(allocation.sent, plan.tb_bits - packet_bits, 0),
        )

    def plan(self, sinr: np.ndarray, packet_bits: np.ndarray) -> TransportPlan:
        """Chooses the MCS and the transport blocks of N packets; sinr [N, R] linear, packet_bits [N]."""
        tables, packet = self._tables, np.arange(len(packet_bits))
        sizes, which = np.unique(packet_bits, return_inverse=True)
        cuts = [self._cut(int(size)) for size in sizes]
        num_blocks, last_rb, tb_bits = (
            np.array([cut[field] for cut in cuts], dtype=np.int64)
            .reshape(len(sizes), len(tables.mcs))
            .T[:, which]
            for field in range(3)
        )  # each [J, N]
        wideband = np.stack([effective_sinr(sinr, beta) for beta in tables.beta])
        index = tables.snr_index(wideband * 10 ** (-self.config.margin_db / 10))
        rows = np.arange(len(tables.mcs))[:, None]
        tbler = tables.tbler[rows, last_rb, index]
        tbler = np.where(num_blocks > 1, np.maximum(tbler, tables.tbler[rows, -1, index]), tbler)
        within = tbler <= self.config.bler_target
        row = np.where(within.any(axis=0), len(rows) - 1 - within[::-1].argmax(axis=0), 0)
        blocks, last = num_blocks[row, packet], last_rb[row, packet]
        return TransportPlan(
            row=row,
            num_blocks=blocks,
            last_rb=last,
            num_rb_slots=(blocks - 1) * self.grid.num_resource_blocks + last,
            tb_bits=tb_bits[row, packet],
            wideband_sinr=wideband[row, packet],
        )

    def mcs_index(self, plan: TransportPlan) -> np.ndarray:
        """MCS index of each packet of a plan, int64 [N]."""
        return self._tables.mcs[plan.row]

    def _cut(self, packet_bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number of blocks, resource blocks of the last one and their bits, each int64 [J]."""
        if packet_bits not in self._cuts:
            sizes = self._tables.tb_bits
            full_bits = sizes[:, -1]
            num_blocks = np.maximum(1, -(-packet_bits // full_bits))
            rest_bits = packet_bits - (num_blocks - 1) * full_bits
            last_rb = (sizes[:, 1:] >= rest_bits[:, None]).argmax(axis=1) + 1
            tb_bits = (num_blocks - 1) * full_bits + sizes[np.arange(len(sizes)), last_rb]
            self._cuts[packet_bits] = (num_blocks, last_rb, tb_bits)
        return self._cuts[packet_bits]

    def _survives(
        self,
        sinr: np.ndarray,
        plan: TransportPlan,
        first: np.ndarray,
        devices: np.ndarray,
        sent: np.ndarray,
        step: int,
        streams: Streams,
    ) -> np.ndarray:
        """Whether every transport block of each sent packet arrives, bool [len(sent)]."""
        tables, row, num_blocks, last_rb = (
            self._tables,
            plan.row[sent],
            plan.num_blocks[sent],
            plan.last_rb[sent],
        )
        last_first = first[sent] + (num_blocks - 1) * self.grid.num_resource_blocks
        used = self.grid.resource_block_mask(last_first, last_rb)
        narrowband = effective_sinr(sinr[sent], tables.beta[row], used)
        tbler_last = tables.tbler[row, last_rb, tables.snr_index(narrowband)]
        tbler_full = tables.tbler[row, -1, tables.snr_index(plan.wideband_sinr[sent])]
        uniform = streams.uniform("nr-tb", devices[sent].tolist(), step, (int(num_blocks.max()),)).numpy()
        block = np.arange(uniform.shape[1])
        tbler = np.where(block == num_blocks[:, None] - 1, tbler_last[:, None], tbler_full[:, None])
        return ((uniform >= tbler) | (block >= num_blocks[:, None])).all(axis=1)

    def _checked(self, sinr: np.ndarray | None, num_rows: int) -> np.ndarray:
        if sinr is None:
            raise SemcomError(
                "the nr link needs the SINR: give the scenario a channel, or use ideal or erasure"
            )
        if sinr.shape != (num_rows, self.grid.num_resource_blocks):
            raise SemcomError(
                f"sinr has shape {tuple(sinr.shape)}, the nr link expects "
                f"({num_rows}, {self.grid.num_resource_blocks}): use the same grid for channel and link"
            )
        return sinr
