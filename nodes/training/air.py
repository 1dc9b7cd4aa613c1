"""The air between clients and their base station: links and channels both ways, and what time it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nodes.transfer import TransferConfig, TransferReport, transfer
from semcom.contracts import Channel, Link
from semcom.rng import Streams

Way = Literal["up", "down"]


@dataclass(frozen=True)
class Air:
    """The radio that models travel by, both ways: see nodes.transfer; step_s is the length of its steps.

    num_steps: the steps after which channels begin anew, for those that were recorded; None: they never do.
    """

    uplink: Link
    downlink: Link
    uplink_channel: Channel | None = None
    downlink_channel: Channel | None = None
    step_s: float = 0.001
    num_steps: int | None = None

    def carry(
        self,
        way: Way,
        payloads: Sequence[bytes],
        clients: Sequence[int],
        streams: Streams,
        config: TransferConfig,
        *,
        at_s: float,
        name: str | None = None,
        model_version: int = 0,
    ) -> TransferReport:
        """Carries one payload to or from each of the clients, from the time `at_s` of the training on."""
        link, channel = (
            (self.uplink, self.uplink_channel) if way == "up" else (self.downlink, self.downlink_channel)
        )
        # Sums of times are off by roundings: a step that has begun to within these has begun.
        first_step = int(at_s / self.step_s + 1e-6)
        if self.num_steps is not None:
            first_step %= max(1, self.num_steps - config.max_steps + 1)
        return transfer(
            payloads,
            np.array(clients, dtype=np.int64),
            link,
            channel,
            streams,
            config,
            step_s=self.step_s,
            name=name or way,
            first_step=first_step,
            model_version=model_version % (1 << 16),
        )
