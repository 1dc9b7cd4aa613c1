"""The packet erasure link: each packet is lost with one fixed probability, whatever the radio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from semcom.contracts import Delivery, RadioState
from semcom.rng import Streams


class ErasureConfig(BaseModel):
    """A link that loses each packet independently."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["erasure"] = "erasure"
    probability: float = Field(0.1, ge=0, le=1, description="probability that a packet is lost")


class ErasureLink:
    """Loses a packet when its device's own uniform number u of this step has u < p.

    Losses are independent over devices and steps. At equal streams the packets lost at p are among
    those lost at p' > p, so curves over p compare like with like. It knows no radio: `radio` is
    ignored, no resources are shared, and channel uses, airtime, energy and padding are all 0.
    """

    name = "erasure"

    def __init__(self, config: ErasureConfig) -> None:
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
        """Sends N packets, the i-th from devices[i]; see Delivery for the fields."""
        num_packets = len(packets)
        uniform = streams.uniform("erasure", np.asarray(devices).tolist(), step).numpy()
        ok = uniform >= self.config.probability
        return Delivery(
            ok=ok,
            sent=np.ones(num_packets, dtype=bool),
            payloads=[packet if arrived else None for packet, arrived in zip(packets, ok, strict=True)],
            channel_uses=np.zeros(num_packets, dtype=np.int64),
            airtime_s=np.zeros(num_packets),
            energy_j=np.zeros(num_packets),
            padding_bits=np.zeros(num_packets, dtype=np.int64),
            bits=np.array([8 * len(packet) for packet in packets], dtype=np.int64),
        )
