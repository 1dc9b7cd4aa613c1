"""Schedulers: which devices of a cell may send in the next step, and in what order.

A shared scheduler fills one step: it takes the devices by priority and skips those whose share of the
resources no longer fits, until the shares add up to one.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from semcom.contracts import SemcomError

SCHEDULERS: dict[str, str] = {
    "periodic": "every device at a fixed interval on resources of its own, in phase or staggered",
    "round-robin": "shared resources, to the devices that have waited longest for a grant",
    "max-snr": "shared resources, to the devices with the best channel",
    "age": "shared resources, by age of information and a Lyapunov virtual queue per resource spent",
}

# A sum of thousands of shares n / N that is exactly one may round to slightly more.
_FULL = 1 + 1e-12
_NEVER = -(1 << 62)


class PeriodicConfig(BaseModel):
    """Every device at a fixed interval, whatever the resources: for dedicated links."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["periodic"] = "periodic"
    interval_steps: int = Field(1, ge=1, description="steps from one update of a device to its next")
    staggered: bool = Field(
        False, description="device k starts at step k modulo the interval, instead of all at step 0"
    )


class RoundRobinConfig(BaseModel):
    """Shared resources, to the devices that have waited longest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["round-robin"] = "round-robin"
    min_interval_steps: int = Field(1, ge=1, description="least steps from one grant of a device to its next")


class MaxSnrConfig(BaseModel):
    """Shared resources, to the devices with the best channel."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["max-snr"] = "max-snr"
    min_interval_steps: int = Field(1, ge=1, description="least steps from one grant of a device to its next")


class AgeConfig(BaseModel):
    """Shared resources, by age of information and a Lyapunov virtual queue."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["age"] = "age"
    min_interval_steps: int = Field(1, ge=1, description="least steps from one grant of a device to its next")
    max_mean_age_steps: float = Field(
        5.0, ge=0, description="the mean age of information that a device shall not exceed, in steps"
    )
    penalty_weight: float = Field(
        1.0, ge=0, description="V: weight of the sum of all ages against the queues"
    )


SchedulerConfig = Annotated[
    PeriodicConfig | RoundRobinConfig | MaxSnrConfig | AgeConfig, Field(discriminator="kind")
]


class Scheduler(Protocol):
    """Grants the steps of one cell, one after the other. Picklable: its pickle is its saved state.

    shares_resources: it needs `share`; the others may be given None.
    """

    shares_resources: bool

    def grant(
        self, step: int, age: np.ndarray, share: np.ndarray | None, sinr: np.ndarray | None
    ) -> np.ndarray:
        """Returns the devices that may send in `step`, int64, by priority.

        age [K]: steps since the newest embedding that arrived, as of the end of the step before.
        share [K]: of the step's resources that a device's packet takes (Link.resource_share).
        sinr [K, R]: linear, on each of R resource blocks.
        """
        ...


def make_scheduler(config: SchedulerConfig, num_devices: int) -> Scheduler:
    """Makes the scheduler that a configuration describes, for the devices 0 .. num_devices - 1."""
    match config:
        case PeriodicConfig():
            return PeriodicScheduler(config, num_devices)
        case RoundRobinConfig():
            return RoundRobinScheduler(config, num_devices)
        case MaxSnrConfig():
            return MaxSnrScheduler(config, num_devices)
        case AgeConfig():
            return AgeScheduler(config, num_devices)


def fill(devices: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Returns those of `devices`, in their order, that one step holds; who no longer fits is skipped.

    devices: int64, by priority; share [K]: each device's share of the step, infinite if it can't send.
    """
    free = _FULL
    chosen = []
    waiting = devices[share[devices] <= free]
    while waiting.size:
        total = np.cumsum(share[waiting])
        num_fitting = int(np.searchsorted(total, free, side="right"))
        chosen.append(waiting[:num_fitting])
        free -= float(total[num_fitting - 1])
        waiting = waiting[num_fitting:]
        waiting = waiting[share[waiting] <= free]
    return np.concatenate(chosen) if chosen else devices[:0]


class PeriodicScheduler:
    """Grants device k at the steps t with (t - phase_k) mod interval = 0; phase_k = k mod interval or 0."""

    shares_resources = False

    def __init__(self, config: PeriodicConfig, num_devices: int) -> None:
        self.config = config
        self._phase = np.arange(num_devices) % config.interval_steps if config.staggered else None
        self._all = np.arange(num_devices)

    def grant(
        self, step: int, age: np.ndarray, share: np.ndarray | None, sinr: np.ndarray | None
    ) -> np.ndarray:
        """See Scheduler."""
        now = step % self.config.interval_steps
        if self._phase is None:
            return self._all if now == 0 else self._all[:0]
        return np.flatnonzero(self._phase == now)


class _GrantLog:
    """When each device was last granted, and who may be granted again."""

    def __init__(self, num_devices: int, min_interval_steps: int) -> None:
        self.last_step = np.full(num_devices, _NEVER)
        self._min_interval_steps = min_interval_steps

    def eligible(self, step: int) -> np.ndarray:
        return np.flatnonzero(step - self.last_step >= self._min_interval_steps)


class RoundRobinScheduler:
    """Grants the devices in the order of their last grant, the oldest first, then by their number.

    With equal shares that is the classical cycle; a device that does not fit in one step is first in
    the next, and one that can't send at all holds up nobody.
    """

    shares_resources = True

    def __init__(self, config: RoundRobinConfig, num_devices: int) -> None:
        self._log = _GrantLog(num_devices, config.min_interval_steps)

    def grant(
        self, step: int, age: np.ndarray, share: np.ndarray | None, sinr: np.ndarray | None
    ) -> np.ndarray:
        """See Scheduler."""
        assert share is not None
        devices = self._log.eligible(step)
        devices = devices[np.argsort(self._log.last_step[devices], kind="stable")]
        granted = fill(devices, share)
        self._log.last_step[granted] = step
        return granted


class MaxSnrScheduler:
    """Grants the devices in the order of their SINR averaged over the carrier, the best first.

    Raises SemcomError if the cell has no channel.
    """

    shares_resources = True

    def __init__(self, config: MaxSnrConfig, num_devices: int) -> None:
        self._log = _GrantLog(num_devices, config.min_interval_steps)

    def grant(
        self, step: int, age: np.ndarray, share: np.ndarray | None, sinr: np.ndarray | None
    ) -> np.ndarray:
        """See Scheduler."""
        assert share is not None
        if sinr is None:
            raise SemcomError(
                "the max-snr scheduler needs a channel: use the nr link, or round-robin or age instead"
            )
        devices = self._log.eligible(step)
        devices = devices[np.argsort(-sinr[devices].mean(axis=1), kind="stable")]
        granted = fill(devices, share)
        self._log.last_step[granted] = step
        return granted


class AgeScheduler:
    """Keeps every device's mean age of information below a bound, by drift plus penalty.

    The age A_k(t) is the number of steps, at the end of step t, since the newest embedding that arrived
    was sent: 0 if device k's packet of step t arrived, else A_k(t - 1) + 1. The aim is to minimise the
    mean of sum_k A_k subject to mean A_k <= a for every k, with a = max_mean_age_steps. Each constraint
    has a virtual queue,

        Q_k(t + 1) = max(Q_k(t) + A_k(t) - a, 0),    Q_k(0) = 0,

    which is stable exactly when its constraint is met. Granting the set S in step t brings the ages in S
    from A_k(t - 1) + 1 to 0 if all arrive, so the drift-plus-penalty bound sum_k (Q_k(t) + V) A_k(t) is
    least for the set of greatest weight sum_{k in S} w_k,

        w_k(t) = (Q_k(t) + V) (A_k(t - 1) + 1),

    whose shares r_k of the step add up to at most 1: a knapsack, filled greedily by descending w_k / r_k
    (which is how the channel enters: a good one makes r_k small).

    Sources: virtual queues and drift plus penalty are those of M. J. Neely, Stochastic Network
    Optimization, Morgan & Claypool 2010, chapter 4; scheduling remote control by channel and age is the
    idea of A. M. Girgis et al., Time-Series JEPA for Predictive Remote Control under Capacity-Limited
    Networks, arXiv 2406.04853. The rule above is an instance of it, not that paper's own algorithm.
    """

    shares_resources = True

    def __init__(self, config: AgeConfig, num_devices: int) -> None:
        self.config = config
        self.queue = np.zeros(num_devices)
        self._log = _GrantLog(num_devices, config.min_interval_steps)

    def grant(
        self, step: int, age: np.ndarray, share: np.ndarray | None, sinr: np.ndarray | None
    ) -> np.ndarray:
        """See Scheduler; also moves the virtual queues on by the step before."""
        assert share is not None
        if step > 0:
            self.queue = np.maximum(self.queue + age - self.config.max_mean_age_steps, 0.0)
        weight = (self.queue + self.config.penalty_weight) * (age + 1)
        density = np.divide(weight, share, out=np.full(weight.shape, np.inf), where=share > 0)
        devices = self._log.eligible(step)
        devices = devices[np.argsort(-density[devices], kind="stable")]
        granted = fill(devices, share)
        self._log.last_step[granted] = step
        return granted
