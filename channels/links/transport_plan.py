"""Link adaptation: which MCS and which transport blocks of one slot a packet is cut into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from channels.grid import ResourceGrid
from channels.links.transport_tables import (
    ErrorRates,
    TransportTables,
    effective_sinr,
    transport_tables,
)
from semcom.contracts import RadioState, SemcomError


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


McsRule = Literal["fitting", "highest"]


class Adaptation(Protocol):
    """The settings of link adaptation: those of `nr` and `nr-bit`."""

    @property
    def mcs_table(self) -> int: ...

    @property
    def mcs_index(self) -> int | None: ...

    @property
    def bler_target(self) -> float: ...

    @property
    def margin_db(self) -> float: ...

    @property
    def mcs_rule(self) -> McsRule: ...

    @property
    def error_rates(self) -> ErrorRates: ...


class TransportPlanner:
    """Plans the transport blocks of a PUSCH carrier; the same for every link that carries them.

    A packet is cut into the transport blocks of one slot each: as many as fill the whole carrier as it
    takes, and a last one on the least number of resource blocks that holds the rest. The MCS is the
    highest at which each of them stays within `bler_target` at the packet's wideband effective SINR
    (EESM) less `margin_db`; if there is none, the lowest. It is the rule of Sionna's
    InnerLoopLinkAdaptation, except that each MCS is judged on the resource blocks that it would itself
    take: that block assumes the same number for all, too many for a small packet at a high MCS. The rule
    `fitting` then takes, of all MCS that need no more RB-slots than this one, the one that fails least: a
    small packet fills its last resource block with redundancy instead of padding; `highest` stays at it.
    mcs_index fixes the MCS instead. must_encode leaves out what Sionna can't encode. The device knows the
    step's SINR (ideal channel state information).

    Raises SemcomError if a step holds no slot.
    """

    def __init__(
        self,
        grid: ResourceGrid,
        step_s: float,
        config: Adaptation,
        *,
        must_encode: bool,
        link_name: str,
    ) -> None:
        self.grid = grid
        self.rb_slots_per_step = grid.rb_slots_per_step(step_s)
        self.tables: TransportTables = transport_tables(
            config.mcs_table, grid.num_resource_blocks, grid.re_per_rb_slot, config.error_rates
        )
        codable = self.tables.codable
        self._usable = codable if must_encode else np.ones_like(codable)
        self._bler_target = config.bler_target
        self._margin = 10 ** (-config.margin_db / 10)
        self._link_name = link_name
        self._mcs_rule = config.mcs_rule
        self._fixed_mcs = config.mcs_index
        # The rows of the tables to choose from: all of them, or that of the fixed MCS.
        self._rows = np.flatnonzero((self.tables.mcs == config.mcs_index) | (config.mcs_index is None))
        self._cuts: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def resource_share(self, sinr: np.ndarray | None, packet_bits: int, num_devices: int) -> np.ndarray:
        """Share of a step's RB-slots that a packet takes for each device, float64 [num_devices].

        sinr: linear [num_devices, R]. Infinity where it takes more than a step. It is exactly what the
        first transmission will ask for: devices whose shares add up to 1 or less are all sent. It holds
        for that very size; a shorter packet may in rare cases take more, when its last block is so short
        that it needs a lower MCS. Raises SemcomError if sinr is missing or has another shape.
        """
        plan = self.plan(self._checked(sinr, num_devices), np.full(num_devices, packet_bits))
        share = plan.num_rb_slots / self.rb_slots_per_step
        return np.where(plan.num_rb_slots <= self.rb_slots_per_step, share, np.inf)

    def radio(self, radio: RadioState | None, num_packets: int) -> RadioState:
        """Returns the radio's state if its SINR is there for N packets on this grid, else SemcomError."""
        self._checked(None if radio is None else radio.sinr, num_packets)
        assert radio is not None
        return radio

    def plan(self, sinr: np.ndarray, packet_bits: np.ndarray) -> TransportPlan:
        """Chooses the MCS and the transport blocks of N packets; sinr [N, R] linear, packet_bits [N]."""
        tables, rows = self.tables, self._rows
        sizes, which = np.unique(packet_bits, return_inverse=True)
        cuts = [self._cut(int(size)) for size in sizes]
        num_blocks, last_rb, tb_bits = (
            np.array([cut[field] for cut in cuts], dtype=np.int64)
            .reshape(len(sizes), len(tables.mcs))[:, rows]
            .T[:, which]
            for field in range(3)
        )  # each [J, N]
        wideband = effective_sinr(sinr, tables.beta[rows, None])
        index = tables.snr_index(wideband * self._margin)
        each = rows[:, None]
        tbler = tables.tbler[each, last_rb, index]
        if (num_blocks > 1).any():
            tbler = np.where(num_blocks > 1, np.maximum(tbler, tables.tbler[each, -1, index]), tbler)
        usable = self._usable[each, last_rb] & (self._usable[each, -1] | (num_blocks == 1))
        if self._fixed_mcs is not None and not usable.all():
            raise SemcomError(
                f"link.mcs_index = {self._fixed_mcs} has too low a code rate for blocks this "
                "long (Sionna's LDPC code repeats no bits): take a higher MCS or a smaller "
                "grid.bandwidth_hz"
            )
        within = (tbler <= self._bler_target) & usable
        lowest = usable.argmax(axis=0)
        chosen = np.where(within.any(axis=0), len(rows) - 1 - within[::-1].argmax(axis=0), lowest)
        packet = np.arange(len(packet_bits))
        num_rb_slots = (num_blocks - 1) * self.grid.num_resource_blocks + last_rb
        if self._mcs_rule == "fitting":
            no_larger = usable & (num_rb_slots <= num_rb_slots[chosen, packet])
            chosen = np.where(no_larger, tbler, np.inf).argmin(axis=0)
        at = chosen, packet
        return TransportPlan(
            row=rows[chosen],
            num_blocks=num_blocks[at],
            last_rb=last_rb[at],
            num_rb_slots=num_rb_slots[at],
            tb_bits=tb_bits[at],
            wideband_sinr=wideband[at],
        )

    def mcs_index(self, plan: TransportPlan) -> np.ndarray:
        """MCS index of each packet of a plan, int64 [N]."""
        return self.tables.mcs[plan.row]

    def _cut(self, packet_bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number of blocks, resource blocks of the last one and their bits, each int64 [J]."""
        if packet_bits not in self._cuts:
            sizes = self.tables.tb_bits
            full_bits = sizes[:, -1]
            num_blocks = np.maximum(1, -(-packet_bits // full_bits))
            rest_bits = packet_bits - (num_blocks - 1) * full_bits
            last_rb = (sizes[:, 1:] >= rest_bits[:, None]).argmax(axis=1) + 1
            tb_bits = (num_blocks - 1) * full_bits + sizes[np.arange(len(sizes)), last_rb]
            self._cuts[packet_bits] = (num_blocks, last_rb, tb_bits)
        return self._cuts[packet_bits]

    def _checked(self, sinr: np.ndarray | None, num_rows: int) -> np.ndarray:
        name = self._link_name
        if sinr is None:
            raise SemcomError(
                f"the {name} link needs the SINR: give the scenario a channel, or use ideal or erasure"
            )
        if sinr.shape != (num_rows, self.grid.num_resource_blocks):
            raise SemcomError(
                f"sinr has shape {tuple(sinr.shape)}, the {name} link expects "
                f"({num_rows}, {self.grid.num_resource_blocks}): use the same grid for channel and link"
            )
        return sinr
