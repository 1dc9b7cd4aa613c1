"""Transport blocks on their way through one step: what is sent, what is sent again, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from channels.grid import ResourceGrid
from channels.links.transport_plan import TransportPlan
from semcom.contracts import Delivery


class HarqTrial:
    """N packets of B transport blocks at most, attempt by attempt until the step's resources are spent.

    Call `grant`, send, `settle`, and again for each retransmission. A packet is granted all of its open
    blocks or none; one that is not granted a retransmission is lost.

    open [N, B] bool: blocks that have not arrived. block: 0 .. B - 1. last_first [N] int64: the number
    of the first RB-slot of the packet's last block at its latest transmission (see Allocation).
    """

    def __init__(self, plan: TransportPlan, grid: ResourceGrid, step_s: float) -> None:
        num_packets = len(plan.num_blocks)
        self.block = np.arange(int(plan.num_blocks.max(initial=1)))
        self.open = self.block < plan.num_blocks[:, None]
        self.last_first = np.zeros(num_packets, dtype=np.int64)
        self._plan, self._grid, self._step_s = plan, grid, step_s
        self._sent = np.zeros(num_packets, dtype=bool)
        self._waiting = np.ones(num_packets, dtype=bool)
        self._rb_slots = np.zeros(num_packets, dtype=np.int64)
        self._num_blocks_sent = np.zeros(num_packets, dtype=np.int64)

    def grant(self) -> np.ndarray:
        """Gives the open blocks the step's next free RB-slots; returns the packets that send, int64."""
        waiting = np.flatnonzero(self._waiting & self.open.any(axis=1))
        num_last = self.open[waiting, self._plan.num_blocks[waiting] - 1].astype(np.int64)
        num_full = self.open[waiting].sum(axis=1) - num_last
        full_rb_slots = num_full * self._grid.num_resource_blocks
        needs = full_rb_slots + num_last * self._plan.last_rb[waiting]
        allocation = self._grid.allocate(needs, self._step_s, taken=int(self._rb_slots.sum()))
        self._waiting[waiting[~allocation.sent]] = False
        active = waiting[allocation.sent]
        self.last_first[active] = (allocation.first + full_rb_slots)[allocation.sent]
        self._sent[active] = True
        self._rb_slots[active] += needs[allocation.sent]
        self._num_blocks_sent[active] += (num_full + num_last)[allocation.sent]
        return active

    def settle(self, active: np.ndarray, arrived: np.ndarray) -> None:
        """Notes which blocks of the active packets arrived, bool [n, B]."""
        self.open[active] &= ~arrived

    def delivery(self, received: Sequence[bytes], packet_bits: np.ndarray, tx_power_w: float) -> Delivery:
        """Returns what became of the packets.

        received: the bytes of each, which count where all blocks arrived; packet_bits [N].
        """
        ok = self._sent & ~self.open.any(axis=1)
        rb_slot_energy_j = tx_power_w * self._grid.slot_s / self._grid.num_resource_blocks
        return Delivery(
            ok=ok,
            sent=self._sent,
            payloads=[data if arrived else None for data, arrived in zip(received, ok, strict=True)],
            channel_uses=self._rb_slots * self._grid.re_per_rb_slot,
            airtime_s=self._num_blocks_sent * self._grid.slot_s,
            energy_j=self._rb_slots * rb_slot_energy_j,
            padding_bits=np.where(self._sent, self._plan.tb_bits - packet_bits, 0),
            bits=np.where(self._sent, packet_bits, 0),
        )
