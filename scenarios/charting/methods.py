"""The methods of the charting scenario: charts, forecasts, and what arrays send to the central node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from scenarios.charting.models import ArrayModel
from semcom.contracts import Codec

Source = Literal["embedding", "csi", "features"]

# name: (the model that is trained for it, or None, and what it is in one line)
CHARTS: dict[str, tuple[str | None, str]] = {
    "w-jepa": ("w-jepa", "JEPA embedding, its chart held to the velocities, or to the dissimilarity"),
    "supervised": ("supervised", "the same encoders, trained on positions: the upper bound"),
    "odometry": ("odometry", "the same encoders, held to the velocities as w-jepa is, without a JEPA"),
    "siamese": ("siamese", "the same encoders, trained on the fused geodesic dissimilarity"),
    "autoencoder": ("autoencoder", "the same encoders, a bottleneck of two dimensions"),
    "pca": (None, "principal components of the features"),
    "isomap": (None, "classical scaling of the fused geodesic dissimilarity"),
    "sammon": (None, "Sammon's mapping of the fused geodesic dissimilarity"),
}

FORECASTS: dict[str, str] = {
    "w-jepa": "rolls the embedding on under the velocities to come, and charts it",
    "last-value": "the chart's last point",
    "constant-velocity": "a line through the chart's last points",
    "wiener": "linear prediction of the CSI, encoded and charted",
    "wiener-chart": "linear prediction of the chart's points",
    "lstm": "trained with positions, on what the supervised encoders make of past CSI",
    "lstm-velocity": "the same, told the velocities as w-jepa is",
    "dead-reckoning": "the mapped chart's last point and the integral of the velocities to come",
}


TOLD_VELOCITIES = ("dead-reckoning", "lstm-velocity")
"""The forecasts that are told the velocities to come, as w-jepa is; the LSTM is told positions as well."""


@dataclass(frozen=True)
class AirMethod:
    """What the arrays send, and what the central node does where nothing arrives."""

    source: Source
    between: Literal["predict", "hold"]
    summary: str


OVER_THE_AIR: dict[str, AirMethod] = {
    "w-jepa": AirMethod("embedding", "predict", "embeddings; those that are lost are predicted"),
    "hold-last": AirMethod("embedding", "hold", "embeddings; those that are lost keep their last value"),
    "csi": AirMethod("csi", "predict", "delay taps, encoded by the same encoders at the central node"),
    "features": AirMethod("features", "predict", "phase-free features, encoded at the central node"),
}


Slots = tuple[tuple[int, ...], ...]
"""The arrays that each device of a user reports on: ((0,), (1,), ...), or ((0, 1, ...),) for the user."""


def source_dim(model: ArrayModel, source: Source) -> int:
    """Numbers that are sent on one array in a report."""
    if source == "embedding":
        return model.embedding_dim
    if source == "features":
        return model.features.mean.shape[1]
    return 2 * model.features.num_antennas * model.features.num_taps


def vectors_to_send(
    model: ArrayModel, source: Source, csi: torch.Tensor, arrays: Sequence[int]
) -> torch.Tensor:
    """Turns CSI of A arrays, complex64 [n, A, M, F], into what is sent on them, float32 [n, A source_dim]."""
    parts = [_vectors(model, source, csi[:, place], array) for place, array in enumerate(arrays)]
    return torch.cat(parts, dim=1)


def _vectors(model: ArrayModel, source: Source, csi: torch.Tensor, array: int) -> torch.Tensor:
    if source == "embedding":
        return model.embed_array(csi, array)
    if source == "features":
        return model.features.raw_of(csi, array)
    return torch.view_as_real(model.features.taps_of(csi, array)).flatten(1)


def embeddings_received(
    model: ArrayModel, source: Source, vectors: torch.Tensor, arrays: Sequence[int]
) -> torch.Tensor:
    """Turns what arrived on A arrays, float32 [n, A source_dim], into their embeddings [n, A, D]."""
    parts = vectors.chunk(len(arrays), dim=1)
    found = [_embeddings(model, source, part, array) for part, array in zip(parts, arrays, strict=True)]
    return torch.stack(found, dim=1)


def _embeddings(model: ArrayModel, source: Source, vectors: torch.Tensor, array: int) -> torch.Tensor:
    if source == "embedding":
        return vectors
    features = model.features
    if source == "csi":
        taps = torch.view_as_complex(vectors.unflatten(1, (features.num_antennas, -1, 2)).contiguous())
        vectors = features.raw_of_taps(taps)
    return model.encoder.of_sensor(features.project(vectors, array), array)


@dataclass(frozen=True)
class View:
    """What n devices observe: their user's CSI at all arrays, complex64 [n, R, M, F]; their slots [n]."""

    csi: torch.Tensor
    slot: np.ndarray


class ReportSender:
    """Sends what its method makes of the observed CSI, whenever it may; each slot has its own codec."""

    def __init__(
        self, model: ArrayModel, codecs: Sequence[Codec], model_version: int, source: Source, slots: Slots
    ) -> None:
        self.model, self.codecs, self.model_version = model, codecs, model_version
        self.source, self.slots = source, slots
        self.codec_id = codecs[0].codec_id

    def encode(self, step: int, rows: np.ndarray, observation: View) -> tuple[np.ndarray, list[bytes]]:
        """Sends the reports of all `rows`."""
        payloads: list[bytes] = [b""] * len(rows)
        for slot in np.unique(observation.slot).tolist():
            places, arrays = np.flatnonzero(observation.slot == slot), self.slots[slot]
            vectors = vectors_to_send(self.model, self.source, observation.csi[places][:, arrays], arrays)
            for place, payload in zip(places.tolist(), self.codecs[slot].encode(vectors), strict=True):
                payloads[place] = payload
        return rows, payloads

    def feedback(self, step: int, delivered: np.ndarray, command: torch.Tensor) -> None:
        """Has nothing to learn."""


class ReportReceiver:
    """The central node: decodes reports, and keeps or predicts the embeddings that don't arrive.

    Its command to a device is what it now believes that device's embeddings to be, [K, A D] of A arrays.
    Device k is slot k % S of user k // S, S = len(slots). velocity_m_s [U, T, 2]: what it knows of the users'
    mean velocities in each step. A user who was never heard of has the mean embedding of the training data.
    """

    def __init__(
        self,
        model: ArrayModel,
        codecs: Sequence[Codec],
        model_version: int,
        method: AirMethod,
        velocity_m_s: torch.Tensor,
        slots: Slots,
    ) -> None:
        self.model, self.codecs, self.model_version = model, codecs, model_version
        self.codec_id = codecs[0].codec_id
        self.max_payload_bits = max(codec.max_payload_bits() for codec in codecs)
        self.source, self.between = method.source, method.between
        self.velocity_m_s, self.slots = velocity_m_s, slots
        num_users, num_arrays = len(velocity_m_s), model.num_arrays
        # By user and array: what is believed, what arrived in this step, and whether anything did yet.
        self.z = model.calibration.mean(dim=0).repeat(num_users, 1, 1)
        self.received = torch.zeros_like(self.z)
        self.arrived = torch.zeros(num_users, num_arrays, dtype=torch.bool)
        self.known = torch.zeros(num_users, dtype=torch.bool)

    def update(self, step: int, rows: np.ndarray, payloads: list[bytes]) -> np.ndarray:
        """Decodes the payloads of the devices `rows` and returns their information in bits."""
        user, slot_of = np.divmod(rows, len(self.slots))
        bits = np.zeros(len(rows))
        for slot in np.unique(slot_of).tolist():
            places, arrays = np.flatnonzero(slot_of == slot), self.slots[slot]
            codec, sent = self.codecs[slot], [payloads[place] for place in places.tolist()]
            z = embeddings_received(self.model, self.source, codec.decode(sent), arrays)
            self.received[user[places, None], arrays] = z
            self.arrived[user[places, None], arrays] = True
            bits[places] = codec.payload_entropy_bits(sent).numpy()
        return bits

    def command(self, step: int) -> torch.Tensor:
        """Returns what the node believes of each device's embeddings, [K, A D]."""
        if self.between == "predict" and step > 0 and bool(self.known.any()):
            predicted = self.model.predict(self.z, self.velocity_m_s[:, step - 1])
            self.z = torch.where(self.known[:, None, None], predicted, self.z)
        self.z = torch.where(self.arrived[..., None], self.received, self.z)
        self.known = self.known | self.arrived.any(dim=1)
        self.arrived = torch.zeros_like(self.arrived)
        return self.z.reshape(len(self.z) * len(self.slots), -1)

    def applied(self, step: int, command: torch.Tensor) -> None:
        """Has nothing to learn: reports are not steered."""
