"""The contracts of the nodes: what a cell is made of, and the messages between its two sides.

A cell is one base station with K devices and one method. Its devices are stepped in groups, batches of at
most `group_size`; `devices` numbers them within the cell and `rows` within their group.

One control step t, from left to right:

    world.observe -> sender.encode -> Uplink -> link -> receiver.update -> receiver.command
                  -> downlink's link -> receiver.applied -> Downlink

and, as the next step begins, sender.feedback and world.advance. Without a downlink's link every command
arrives as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from nodes.schedulers import SchedulerConfig
from semcom.contracts import Channel, Link
from semcom.rng import Streams

Shared = Mapping[str, Any]
"""Read-only objects that many cells use, by name: models above all.

Each actor holds one copy. What a world, a sender or a receiver takes from it (an object, a module's
submodule or tensor, a mapping's tensor) is not saved with their state but found again by its name, so
it must never be changed.
"""


class World(Protocol):
    """The surroundings of one group's devices.

    Picklable, so its class stands in a module that can be imported: its pickle is its saved state.
    """

    def observe(self, step: int, rows: np.ndarray) -> Any:
        """Returns what the devices of `rows` (int64, ascending, at least one) observe in this step."""
        ...

    def advance(self, step: int, command: torch.Tensor) -> None:
        """Applies the commands [K, A] of this step to the K devices and moves on to the next step."""
        ...

    def outcome(self) -> dict[str, np.ndarray]:
        """Returns what the metrics need after the last step: arrays with leading dimension K."""
        ...


class Sender(Protocol):
    """The device side of a method, for one group. Picklable: its pickle is its saved state."""

    codec_id: int
    model_version: int

    def encode(self, step: int, rows: np.ndarray, observation: Any) -> tuple[np.ndarray, list[bytes]]:
        """Returns which of `rows` do send (an event-triggered sender leaves some out) and their payloads."""
        ...

    def feedback(self, step: int, delivered: np.ndarray, command: torch.Tensor) -> None:
        """Learns at the end of the step what was delivered, bool [K], and the commands applied [K, A]."""
        ...


class Receiver(Protocol):
    """The base station's side of a method, for one cell. Picklable: its pickle is its saved state.

    max_payload_bits is announced to the scheduler, which adds the header.
    """

    codec_id: int
    model_version: int
    max_payload_bits: int

    def update(self, step: int, rows: np.ndarray, payloads: list[bytes]) -> np.ndarray:
        """Takes the payloads that arrived from the devices `rows` (int64, ascending, at least one).

        Returns the codec's estimate of the information in each, bits, [n]: see `Codec.payload_entropy_bits`.
        """
        ...

    def command(self, step: int) -> torch.Tensor:
        """Returns the commands [K, A] meant for this step, from predictions where nothing arrived."""
        ...

    def applied(self, step: int, command: torch.Tensor) -> None:
        """Learns after `command` which commands [K, A] the devices really apply in this step.

        A device whose command was lost applies an older one. Predictions roll on from here, with what
        is applied; the tensor is shared, so it is not to be written into.
        """
        ...


@dataclass(frozen=True)
class Uplink:
    """What the devices of one group send in one step: N packets, the i-th from devices[i] (int64 [N])."""

    devices: np.ndarray
    packets: list[bytes]


@dataclass(frozen=True)
class Downlink:
    """What the base station tells its K devices at the end of a step.

    command [K, A]: those that the devices apply, or None before the first step. delivered [K] bool: the
    device's packet arrived and was accepted. granted: the devices that may send in the next step, int64,
    by priority.
    """

    command: torch.Tensor | None
    delivered: np.ndarray
    granted: np.ndarray

    def __reduce__(self) -> tuple[Any, ...]:
        # A tensor pickles ten times slower than an array, and there is one for each cell and step.
        command = None if self.command is None else self.command.detach().numpy()
        return _unpickled_downlink, (command, self.delivered, self.granted)


def _unpickled_downlink(command: np.ndarray | None, delivered: np.ndarray, granted: np.ndarray) -> Downlink:
    return Downlink(None if command is None else torch.from_numpy(command), delivered, granted)


@dataclass(frozen=True)
class CellSpec:
    """How to make one cell; the `make_*` are picklable callables, called where the cell will live.

    make_world and make_sender are called once for each group, with the shared objects and the group's
    devices (int64, consecutive); make_receiver with the shared objects. Link and channel are functions
    of the step and hold no state to save. Where cells share a channel, let make_channel return the same
    object (`functools.lru_cache`), and it is evaluated once for all of them. streams: the link's.

    make_downlink: the link that carries the commands, on resources and a channel of its own; without it
    every command arrives as it is.
    """

    num_devices: int
    group_size: int
    streams: Streams
    scheduler: SchedulerConfig
    make_world: Callable[[Shared, np.ndarray], World]
    make_sender: Callable[[Shared, np.ndarray], Sender]
    make_receiver: Callable[[Shared], Receiver]
    make_link: Callable[[], Link]
    make_channel: Callable[[], Channel] | None = None
    make_downlink: Callable[[], Link | None] | None = None
    make_downlink_channel: Callable[[], Channel] | None = None

    def groups(self) -> list[np.ndarray]:
        """Returns the devices of each group: consecutive, at most group_size, whatever the workers."""
        devices = np.arange(self.num_devices)
        return np.split(devices, range(self.group_size, self.num_devices, self.group_size))


@dataclass(frozen=True)
class CellOutcome:
    """What came of one cell, by the names of arrays with leading dimension K.

    counters: the base station's (see BaseStation.outcome); world: the worlds', groups in order.
    """

    counters: dict[str, np.ndarray]
    world: dict[str, np.ndarray]
