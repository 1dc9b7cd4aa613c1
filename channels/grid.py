"""The NR resource grid: how many resource blocks a carrier has, and which of them a packet gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from semcom.contracts import SemcomError

# Transmission bandwidth configuration N_RB of FR1 (TS 38.101-1, table 5.3.2-1):
# numerology mu -> {channel bandwidth in MHz: number of resource blocks}.
FR1_RESOURCE_BLOCKS: dict[int, dict[int, int]] = {
    0: {5: 25, 10: 52, 15: 79, 20: 106, 25: 133, 30: 160, 35: 188, 40: 216, 45: 242, 50: 270},
    1: {
        5: 11, 10: 24, 15: 38, 20: 51, 25: 65, 30: 78, 35: 92, 40: 106,
        45: 119, 50: 133, 60: 162, 70: 189, 80: 217, 90: 245, 100: 273,
    },
    2: {
        10: 11, 15: 18, 20: 24, 25: 31, 30: 38, 35: 44, 40: 51,
        45: 58, 50: 65, 60: 79, 70: 93, 80: 107, 90: 121, 100: 135,
    },
}  # fmt: skip

SUBCARRIERS_PER_RESOURCE_BLOCK = 12
SYMBOLS_PER_SLOT = 14


class GridConfig(BaseModel):
    """The carrier that the devices of one cell share."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    numerology: int = Field(1, ge=0, le=2, description="mu: the subcarrier spacing is 15 kHz x 2^mu")
    bandwidth_hz: float = Field(20e6, gt=0, description="channel bandwidth, one of TS 38.101-1 table 5.3.2-1")
    num_data_symbols: int = Field(
        12, ge=1, le=13, description="OFDM symbols of a slot left for data after DMRS and control (of 14)"
    )
    uplink_share: float = Field(1.0, gt=0, le=1, description="share of the slots given to the uplink")

    @model_validator(mode="after")
    def _bandwidth_is_in_the_table(self) -> GridConfig:
        row = FR1_RESOURCE_BLOCKS[self.numerology]
        if self.bandwidth_hz / 1e6 not in row:
            known = ", ".join(str(megahertz) for megahertz in row)
            raise ValueError(
                f"bandwidth_hz {self.bandwidth_hz:g} has no entry for numerology {self.numerology}: "
                f"use one of {known} MHz"
            )
        return self


@dataclass(frozen=True)
class Allocation:
    """Where N packets lie among the RB-slots of one step.

    sent [N] bool: the packet got what it asked for. first [N] int64: the number of its first RB-slot,
    -1 where it is not sent; RB-slot p is resource block p mod R of slot p div R. num_rb_slots [N]
    int64: how many it has, 0 where it is not sent.
    """

    sent: np.ndarray
    first: np.ndarray
    num_rb_slots: np.ndarray


class ResourceGrid:
    """The resource blocks and slots of one carrier, with R = num_resource_blocks.

    slot_s = 1 ms / 2^mu (TS 38.211, 4.3.2). One resource block of one slot (an RB-slot) carries
    re_per_rb_slot = 12 x num_data_symbols resource elements of data.
    """

    def __init__(self, config: GridConfig) -> None:
        self.config = config
        self.num_resource_blocks = FR1_RESOURCE_BLOCKS[config.numerology][round(config.bandwidth_hz / 1e6)]
        self.subcarrier_spacing_hz = 15e3 * 2**config.numerology
        self.slot_s = 1e-3 / 2**config.numerology
        self.re_per_rb_slot = SUBCARRIERS_PER_RESOURCE_BLOCK * config.num_data_symbols

    @property
    def occupied_bandwidth_hz(self) -> float:
        """Bandwidth of the subcarriers in use, 12 R delta_f: what the transmit power is spread over."""
        return self.num_resource_blocks * SUBCARRIERS_PER_RESOURCE_BLOCK * self.subcarrier_spacing_hz

    def slots_per_step(self, step_s: float) -> int:
        """Number of whole uplink slots in a step: floor(uplink_share x step_s / slot_s).

        Raises SemcomError if not even one fits.
        """
        # The margin keeps 0.02 / 0.0005 from being rounded down by binary fractions.
        slots = int(self.config.uplink_share * step_s / self.slot_s + 1e-9)
        if slots < 1:
            raise SemcomError(
                f"a step of {step_s:g} s holds no uplink slot of {self.slot_s:g} s: "
                "lengthen the step, raise uplink_share or raise the numerology"
            )
        return slots

    def rb_slots_per_step(self, step_s: float) -> int:
        """Number of RB-slots in a step: R x slots_per_step(step_s)."""
        return self.num_resource_blocks * self.slots_per_step(step_s)

    def allocate(self, num_rb_slots: np.ndarray, step_s: float, taken: int = 0) -> Allocation:
        """Gives N packets, in their order, the next free RB-slots of one step.

        num_rb_slots: int64 [N], what each packet needs. taken: RB-slots at the step's beginning that are
        given away already. A packet that no longer fits is left out and
        the next one is asked. The RB-slots are handed out block by block and slot after slot, and a
        request may run on into the next slot, so nothing is lost at a slot's end: packets are all
        sent exactly when their requests add up to no more than the step holds.
        """
        needs = np.asarray(num_rb_slots, dtype=np.int64)
        sent = np.zeros(needs.shape, dtype=bool)
        free = self.rb_slots_per_step(step_s) - taken
        waiting = np.flatnonzero(needs <= free)
        while waiting.size:
            admitted = np.cumsum(needs[waiting]) <= free
            prefix = waiting.size if admitted.all() else int(np.argmin(admitted))
            sent[waiting[:prefix]] = True
            free -= int(needs[waiting[:prefix]].sum())
            waiting = waiting[prefix:]
            waiting = waiting[needs[waiting] <= free]
        granted = np.where(sent, needs, 0)
        first = np.where(sent, taken + np.cumsum(granted) - granted, -1)
        return Allocation(sent=sent, first=first, num_rb_slots=granted)

    def resource_block_mask(self, first: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Marks the resource blocks of runs of RB-slots: bool [N, R].

        first, count: int64 [N], a run's first RB-slot and its length (at most R: one transport block).
        """
        num = self.num_resource_blocks
        # How far each block lies behind the first, round the carrier's end; % on a matrix takes far longer.
        behind = np.arange(num, dtype=np.int32) - (np.asarray(first) % num).astype(np.int32)[:, None]
        behind += num * (behind < 0)
        return behind < np.asarray(count)[:, None]

    def subcarrier_frequency_hz(self, resource_blocks: np.ndarray) -> np.ndarray:
        """Frequencies of resource blocks' subcarriers from the carrier's centre, float64 [N, 12 n].

        resource_blocks: int64 [N, n], their numbers.
        """
        each = np.arange(SUBCARRIERS_PER_RESOURCE_BLOCK)
        subcarrier = np.asarray(resource_blocks)[:, :, None] * SUBCARRIERS_PER_RESOURCE_BLOCK + each
        middle = (self.num_resource_blocks * SUBCARRIERS_PER_RESOURCE_BLOCK - 1) / 2
        return (subcarrier.reshape(len(subcarrier), -1) - middle) * self.subcarrier_spacing_hz
