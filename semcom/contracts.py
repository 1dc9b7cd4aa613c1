"""The contracts between the parts: what an encoder, a codec, a link and a record promise.

Shape letters, fixed everywhere: B batch, T time, L tokens, D embedding, A action, K devices,
M antennas, F subcarriers, N packets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch

    from semcom.rng import Streams


class SemcomError(Exception):
    """An error that the user can mend: its text is one line naming what, where and the remedy."""


@runtime_checkable
class Encoder(Protocol):
    """Maps an observation [B, ...] to an embedding [B, D]."""

    embedding_dim: int

    def __call__(self, observation: torch.Tensor) -> torch.Tensor: ...


@runtime_checkable
class Predictor(Protocol):
    """Maps a context embedding [B, D] and a condition [B, A] to the target's embedding [B, D]."""

    def __call__(self, context: torch.Tensor, condition: torch.Tensor) -> torch.Tensor: ...


@runtime_checkable
class Codec(Protocol):
    """Turns embeddings into real bytes and back.

    In eval mode `forward(z)` equals `decode(encode(z))`; in training mode it is differentiable by
    the straight-through estimator. `decode` raises SemcomError on a payload that it can't have made.

    `entropy_bits(z)` is the information in the payloads of N embeddings under the codec's own model, bits
    [N], and `payload_entropy_bits(payloads)` that in payloads received; without entropy coding it is the
    payload's length.
    """

    codec_id: int
    name: str

    def encode(self, z: torch.Tensor) -> list[bytes]: ...

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor: ...

    def entropy_bits(self, z: torch.Tensor) -> torch.Tensor: ...

    def payload_entropy_bits(self, payloads: Sequence[bytes]) -> torch.Tensor: ...

    def max_payload_bits(self) -> int: ...

    def __call__(self, z: torch.Tensor) -> torch.Tensor: ...


@runtime_checkable
class FittedCodec(Protocol):
    """A codec that has to learn from embeddings z [N, D] before it is used; the same each time.

    weight [D, D]: how much errors matter, z - z_hat counting as (z - z_hat)^T W (z - z_hat); only for
    a codec that was made for one, and then required. Raises SemcomError otherwise.
    """

    def fit(self, z: torch.Tensor, weight: torch.Tensor | None = None) -> None: ...


@dataclass(frozen=True)
class Delivery:
    """What became of N packets in one step.

    ok [N] bool: the packet arrived whole. payloads: its bytes, or None where it is erased.
    channel_uses [N]: complex symbols (resource elements) spent. airtime_s [N]: seconds on the air.
    energy_j [N]: transmit energy of the device. padding_bits [N]: bits added to fill transport blocks.
    bits [N]: information bits put on the air, header and payload; of an analog payload none are.
    sent [N] bool: the packet was put on the air (False: no resources were left for it in this step).
    """

    ok: np.ndarray
    sent: np.ndarray
    payloads: list[bytes | None]
    channel_uses: np.ndarray
    airtime_s: np.ndarray
    energy_j: np.ndarray
    padding_bits: np.ndarray
    bits: np.ndarray


@runtime_checkable
class Channel(Protocol):
    """The radio conditions of the K devices of one cell.

    `sinr(step)` gives the linear SINR per resource element of every device on each resource block,
    float32 [K, num_resource_blocks], with the device's power spread evenly over the carrier (a device
    that uses n of N resource blocks radiates n/N of it). It is a pure function of the step, so that a
    restarted cell sees the same radio.

    `response(step, devices, frequency_hz, time_s)` gives the complex response behind it, complex64
    [N, M, S, F]: of the N listed devices to the base station's M antennas, at the S times after the
    step's beginning and the F frequencies from the carrier's centre, float64 [N, F]. It is scaled so that
    noise and interference have unit power at each antenna and resource element:
    sinr(step)[k, r] = sum_m |response|^2 at time 0 and the centre of resource block r.
    """

    num_devices: int

    def sinr(self, step: int) -> np.ndarray: ...

    def response(
        self, step: int, devices: np.ndarray, frequency_hz: np.ndarray, time_s: np.ndarray
    ) -> np.ndarray: ...


@dataclass(frozen=True)
class RadioState:
    """What N packets meet on the air in one step; row n is the device that sends the n-th packet.

    sinr: linear, float32 [N, num_resource_blocks]. response(rows, frequency_hz, time_s) asks the channel
    for the complex response behind it, complex64 [n, M, S, F], for n of the rows, int64 (see Channel).
    """

    sinr: np.ndarray
    response: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@runtime_checkable
class Link(Protocol):
    """Carries packets over the air within one step.

    `resource_share(sinr, packet_bits, num_devices)` is asked by the scheduler: the share of one step's
    resources that a packet of that many bits takes for each device, float64 [K] (0 where the link is not
    shared; infinity where the device can't send it at all). `transmit` carries one packet for each listed
    device, in the order of their priority, until the step's resources are spent; the rows of `radio` and
    the Delivery's arrays follow that order. The links that know no radio (ideal, erasure) ignore `sinr`
    and `radio`, which may then be None.
    """

    name: str

    def resource_share(self, sinr: np.ndarray | None, packet_bits: int, num_devices: int) -> np.ndarray: ...

    def transmit(
        self,
        packets: Sequence[bytes],
        devices: np.ndarray,
        radio: RadioState | None,
        step: int,
        streams: Streams,
    ) -> Delivery: ...


@dataclass(frozen=True)
class Record:
    """One measured number: a row of records.parquet.

    `point` holds the operating point's columns (update interval, bits, erasure probability, ...).
    num_samples is the number of independent samples (episodes, devices) behind the value.
    """

    scenario: str
    method: str
    seed: int
    metric: str
    value: float
    unit: str
    num_samples: int
    point: dict[str, float | int | str]
