"""A group of devices: one batch of a cell's devices, with their world and the sending side of a method."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodes.contracts import Downlink, Sender, Uplink, World
from semcom.packets import pack_packets


class DeviceGroup:
    """Observes, encodes and sends for the granted devices, and applies the commands to all of them.

    devices: their numbers in the cell, int64, consecutive.
    """

    def __init__(self, devices: np.ndarray, world: World, sender: Sender) -> None:
        self.devices = devices
        self.world = world
        self.sender = sender

    def step(self, step: int, downlink: Downlink) -> Uplink:
        """Applies the downlink of the step before, then returns the packets of this step.

        Raises SemcomError if a header field doesn't fit its bits (more than 65536 devices in a cell).
        """
        self._apply(step - 1, downlink)
        first, granted = self.devices[0], downlink.granted
        rows = np.sort(granted[(granted >= first) & (granted <= self.devices[-1])]) - first
        payloads: list[bytes] = []
        if rows.size:
            rows, payloads = self.sender.encode(step, rows, self.world.observe(step, rows))
        devices = self.devices[rows]
        packets = pack_packets(
            devices.tolist(), step, self.sender.model_version, self.sender.codec_id, payloads
        )
        return Uplink(devices, packets)

    def finish(self, num_steps: int, downlink: Downlink) -> dict[str, np.ndarray]:
        """Applies the downlink of the last step, num_steps - 1, and returns the world's outcome."""
        self._apply(num_steps - 1, downlink)
        return self.world.outcome()

    def state(self) -> dict[str, Any]:
        """Returns all that changes from step to step, picklable, as live objects: pickle it at once."""
        return {"world": self.world, "sender": self.sender}

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.world = state["world"]
        self.sender = state["sender"]

    def _apply(self, step: int, downlink: Downlink) -> None:
        if downlink.command is None:
            return
        rows = slice(int(self.devices[0]), int(self.devices[-1]) + 1)
        # A copy: the receiver may keep the commands it gave, and must see the same however it is run.
        command = downlink.command[rows].clone()
        self.sender.feedback(step, downlink.delivered[rows], command)
        self.world.advance(step, command)
