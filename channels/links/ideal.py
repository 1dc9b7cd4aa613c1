"""The link that delivers everything: the upper bound that a radio can only approach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from semcom.contracts import Delivery, RadioState
from semcom.rng import Streams


class IdealConfig(BaseModel):
    """A link without losses and without a radio."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["ideal"] = "ideal"


class IdealLink:
    """Delivers every packet whole.

    It knows no radio: `sinr` is ignored, no resources are shared, and channel uses, airtime, energy
    and padding are all 0.
    """

    name = "ideal"

    def __init__(self, config: IdealConfig) -> None:
        self.config = config

    def resource_share(self, sinr: np.ndarray | None, packet_bits: int, num_devices: int) -> np.ndarray:
        """Share of a step that a packet takes: 0 for every device, float64 [num_devices]."""
        return np.zeros(num_devices)

    def transmit(
        self,
        packets: Sequence[bytes],
        devices: np.ndarray,
        radio: RadioState | None,
        step: int,
        streams: Streams,
    ) -> Delivery:
        """Delivers all N packets; see Delivery for the fields."""
        num_packets = len(packets)
        return Delivery(
            ok=np.ones(num_packets, dtype=bool),
            sent=np.ones(num_packets, dtype=bool),
            payloads=list(packets),
            channel_uses=np.zeros(num_packets, dtype=np.int64),
            airtime_s=np.zeros(num_packets),
            energy_j=np.zeros(num_packets),
            padding_bits=np.zeros(num_packets, dtype=np.int64),
            bits=np.array([8 * len(packet) for packet in packets], dtype=np.int64),
        )
