"""The 5G NR uplink: packets as transport blocks whose error rates come from Sionna SYS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from channels.budget import dbm_to_w
from channels.grid import ResourceGrid
from channels.links.harq import HarqTrial
from channels.links.transport_plan import McsRule, TransportPlan, TransportPlanner
from channels.links.transport_tables import ErrorRates, check_mcs, effective_sinr
from semcom.contracts import Delivery, RadioState
from semcom.rng import Streams


class NrConfig(BaseModel):
    """A PUSCH with link adaptation, at the system level (no bits are encoded)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["nr"] = "nr"
    mcs_table: Literal[1, 2] = Field(1, description="MCS table of TS 38.214, 5.1.3.1 (1: 64-QAM, 2: 256-QAM)")
    mcs_index: int | None = Field(None, ge=0, le=28, description="one MCS for all, without link adaptation")
    bler_target: float = Field(0.1, gt=0, lt=1, description="error rate a transport block may have at most")
    margin_db: float = Field(
        0.0, ge=0, le=20, description="taken off the wideband SINR before the MCS is chosen"
    )
    mcs_rule: McsRule = Field(
        "fitting",
        description="highest: the highest MCS within the target; fitting: then lowered while it fits",
    )
    error_rates: ErrorRates = Field(
        "measured",
        description="of code blocks: measured with Sionna PHY, or Sionna SYS's coarse table (docs/LOG.md)",
    )
    max_retransmissions: int = Field(
        0, ge=0, le=15, description="HARQ: how often a failed transport block is sent again within its step"
    )

    @model_validator(mode="after")
    def _there_are_error_rates(self) -> NrConfig:
        check_mcs(self.mcs_table, self.mcs_index, self.error_rates)
        return self


class NrLink:
    """Carries packets as NR transport blocks whose error rates come from Sionna SYS.

    TransportPlanner says how a packet is cut, and with which MCS. On a frequency-selective channel a few
    resource blocks are often worse than the carrier as a whole, and without a margin the losses exceed
    the target by far; on a flat one no margin is needed.

    A transport block fails with the error rate at the effective SINR of the resource blocks that it was
    given, independently of the others; one failure makes the packet an erasure, there being a CRC on
    each. With HARQ, failed blocks are sent again, up to max_retransmissions times, on what resources the
    step has left, and chase combining adds up the effective SINRs: a block that failed at s fails again at
    s' > s with probability BLER(s') / BLER(s). The step's channel does not change meanwhile.

    Power is spread over the carrier: a transport block on n of R resource blocks costs n / R x P x slot.
    Each transmission counts as one slot of airtime, also where the grid lets it run over a slot's end.
    There is no power control.
    """

    name = "nr"

    def __init__(self, config: NrConfig, grid: ResourceGrid, step_s: float, tx_power_dbm: float) -> None:
        self.config = config
        self.grid = grid
        self.step_s = step_s
        self.tx_power_w = dbm_to_w(tx_power_dbm)
        self.planner = TransportPlanner(grid, step_s, config, must_encode=False, link_name=self.name)

    def resource_share(self, sinr: np.ndarray | None, packet_bits: int, num_devices: int) -> np.ndarray:
        """Share of a step's RB-slots that a packet takes for each device: see TransportPlanner."""
        return self.planner.resource_share(sinr, packet_bits, num_devices)

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
        sinr, devices = self.planner.radio(radio, len(packets)).sinr, np.asarray(devices, dtype=np.int64)
        packet_bits = np.array([8 * len(packet) for packet in packets], dtype=np.int64)
        plan = self.planner.plan(sinr, packet_bits)
        trial = HarqTrial(plan, self.grid, self.step_s)
        # Error rate of each block at what it has gathered so far, and that gathered SINR.
        rate, gathered = np.ones(trial.open.shape), np.zeros(trial.open.shape)
        for attempt in range(1 + self.config.max_retransmissions):
            active = trial.grant()
            if not active.size:
                break
            gathered[active] += self._effective_sinr(sinr, plan, trial, active)
            before, rate[active] = rate[active].copy(), self._error_rate(plan, active, gathered[active])
            # Named by the block, so that nobody's luck depends on how many blocks others have.
            uniform = np.stack(
                [
                    streams.indexed_uniform(f"nr-tb-{attempt}-{block}", devices[active], step)
                    for block in trial.block
                ],
                axis=1,
            )
            trial.settle(active, uniform * before >= rate[active])
        return trial.delivery(packets, packet_bits, self.tx_power_w)

    def _effective_sinr(
        self, sinr: np.ndarray, plan: TransportPlan, trial: HarqTrial, active: np.ndarray
    ) -> np.ndarray:
        """Effective SINR of every block of the active packets, [n, B]: full ones see the whole carrier."""
        beta = self.planner.tables.beta[plan.row[active]]
        used = self.grid.resource_block_mask(trial.last_first[active], plan.last_rb[active])
        narrowband = effective_sinr(sinr[active], beta, used)
        is_last = trial.block == plan.num_blocks[active, None] - 1
        return np.where(is_last, narrowband[:, None], plan.wideband_sinr[active, None])

    def _error_rate(self, plan: TransportPlan, active: np.ndarray, sinr: np.ndarray) -> np.ndarray:
        tables = self.planner.tables
        row, index = plan.row[active, None], tables.snr_index(sinr)
        is_last = np.arange(sinr.shape[1]) == plan.num_blocks[active, None] - 1
        return np.where(
            is_last, tables.tbler[row, plan.last_rb[active, None], index], tables.tbler[row, -1, index]
        )
