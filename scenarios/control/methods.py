"""The methods of the control scenario: what a device sends, and what the base station makes of it.

A method is a Sender and a Receiver. Those that send embeddings differ only in whose encoder they use and
in what the base station does between deliveries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from scenarios.control.models import MotionModel, Observation
from scenarios.control.plant import COMMAND_DIM, STATE_DIM, PlantConfig, next_state
from scenarios.control.teacher import LqrTeacher, TeacherConfig
from scenarios.control.world import View
from semcom.contracts import Codec, SemcomError

RAW_CODEC_ID = 0
"""Of payloads that no embedding codec made: raw frames, true states."""


@dataclass(frozen=True)
class Method:
    """One method. model: the trained model it needs, if any. between: what follows when nothing arrives.

    source: what is sent. "predict" rolls the predictor on, "hold" repeats the last command, "zero" sends
    none, "identity" takes the last embedding for the present one, "model" rolls the true dynamics on.
    redesigned: the controller is the LQR for commands that are held for the update interval.
    """

    model: Literal["jepa", "supervised", "autoencoder"] | None
    source: Literal["embedding", "frames", "state"]
    between: Literal["predict", "hold", "zero", "identity", "model"]
    event_triggered: bool = False
    redesigned: bool = False
    summary: str = ""


METHODS = {
    "jepa": Method("jepa", "embedding", "predict", summary="JEPA embedding, predictor, semantic actor"),
    "jepa-event": Method(
        "jepa",
        "embedding",
        "predict",
        event_triggered=True,
        summary="sends only when the base station's command would be off",
    ),
    "supervised": Method("supervised", "embedding", "hold", summary="encoder and actor trained end to end"),
    "autoencoder": Method("autoencoder", "embedding", "hold", summary="embedding trained to rebuild frames"),
    "hold-last": Method("jepa", "embedding", "hold", summary="JEPA embedding, last command held"),
    "zero-command": Method("jepa", "embedding", "zero", summary="JEPA embedding, no force in between"),
    "identity-predictor": Method("jepa", "embedding", "identity", summary="last JEPA embedding kept"),
    "raw-frames": Method("supervised", "frames", "hold", summary="frames sent, encoded at the base station"),
    "state-feedback": Method(None, "state", "hold", summary="true state at every step, perfect links"),
    "teacher-hold": Method(None, "state", "hold", summary="true state, the teacher's command held"),
    "state-hold": Method(
        None, "state", "hold", redesigned=True, summary="true state, LQR redesigned for the held interval"
    ),
    "true-model": Method(None, "state", "model", summary="true state, true dynamics rolled out"),
}
REFERENCES = ("state-feedback", "teacher-hold", "state-hold", "true-model")


def embed(model: MotionModel, observation: Observation) -> torch.Tensor:
    """Encodes an observation of n devices into embeddings [n, D]."""
    features = model.stem(observation.frame.flatten(0, 1)).unflatten(0, (-1, 2))
    past = observation.past_command.flatten(1) / model.command_scale_n
    return model.encoder.combine(features[:, 1], features[:, 0], past)


def _predict(model: MotionModel, z: torch.Tensor, command_n: torch.Tensor) -> torch.Tensor:
    """Rolls embeddings [n, D] one step on under the commands [n, 1]."""
    assert model.predictor is not None
    return model.predictor(z, command_n / model.command_scale_n)


class EmbeddingSender:
    """Encodes the frames and sends the coded embedding whenever it may."""

    def __init__(self, model: MotionModel, codec: Codec, model_version: int) -> None:
        self.model, self.codec, self.model_version = model, codec, model_version
        self.codec_id = codec.codec_id

    def encode(self, step: int, rows: np.ndarray, observation: View) -> tuple[np.ndarray, list[bytes]]:
        """Sends the embeddings of all `rows`."""
        return rows, self.codec.encode(embed(self.model, observation.camera()))

    def feedback(self, step: int, delivered: np.ndarray, command: torch.Tensor) -> None:
        """Has nothing to learn."""


class EventSender:
    """Runs a copy of the base station's predictor and sends when its command would be off by too much.

    It sends if |actor(z) - actor(z_hat)| > threshold_n, z being its embedding as the codec passes it on
    and z_hat the base station's prediction, and always until a packet of its has arrived. The copy follows
    the base station at every step, granted or not: the downlink tells it what was delivered, and both know
    which commands it applies.
    """

    def __init__(
        self, model: MotionModel, codec: Codec, model_version: int, num_devices: int, threshold_n: float
    ) -> None:
        self.model, self.codec, self.model_version = model, codec, model_version
        self.codec_id = codec.codec_id
        self.threshold_n = threshold_n
        self.known = torch.zeros(num_devices, dtype=torch.bool)
        self.sent = torch.zeros(num_devices, model.encoder.embedding_dim)
        # What the base station will believe in the present step if nothing arrives in it.
        self.z = _predict(model, torch.zeros_like(self.sent), torch.zeros(num_devices, COMMAND_DIM))

    def encode(self, step: int, rows: np.ndarray, observation: View) -> tuple[np.ndarray, list[bytes]]:
        """Sends the embeddings of those rows whose command would be off, and of those never heard of."""
        z = embed(self.model, observation.camera())
        self.sent[rows] = self.codec(z)
        error_n = self.model.command_scale_n * (
            self.model.actor(self.sent[rows]) - self.model.actor(self.z[rows])
        )
        due = (error_n.abs()[:, 0] > self.threshold_n) | ~self.known[rows]
        return rows[due.numpy()], self.codec.encode(z[due]) if bool(due.any()) else []

    def feedback(self, step: int, delivered: np.ndarray, command: torch.Tensor) -> None:
        """Takes over what the base station now believes, and predicts the next step as it will."""
        arrived = torch.from_numpy(delivered)
        self.known |= arrived
        self.z = _predict(self.model, torch.where(arrived[:, None], self.sent, self.z), command)


class EmbeddingReceiver:
    """Decodes embeddings; between deliveries it predicts, holds, sends zero, or keeps the last embedding."""

    def __init__(
        self,
        model: MotionModel,
        codec: Codec,
        model_version: int,
        num_devices: int,
        between: Literal["predict", "hold", "zero", "identity"],
    ) -> None:
        self.model, self.codec, self.model_version = model, codec, model_version
        self.codec_id, self.max_payload_bits = codec.codec_id, codec.max_payload_bits()
        self.between = between
        self.z = torch.zeros(num_devices, model.encoder.embedding_dim)
        self.known = torch.zeros(num_devices, dtype=torch.bool)
        self.arrived = torch.zeros(num_devices, dtype=torch.bool)
        self.embedding = torch.zeros_like(self.z)
        # What was meant, which is held and sent again if it was lost, and what the devices applied.
        self.meant = torch.zeros(num_devices, COMMAND_DIM)
        self.last_command = torch.zeros(num_devices, COMMAND_DIM)

    def update(self, step: int, rows: np.ndarray, payloads: list[bytes]) -> np.ndarray:
        """Decodes the payloads of the devices `rows` and returns their information in bits."""
        self.embedding[rows] = self.codec.decode(payloads)
        self.arrived[rows] = True
        return self.codec.payload_entropy_bits(payloads).numpy()

    def command(self, step: int) -> torch.Tensor:
        """Returns the commands [K, 1] in N; a device never heard of gets none."""
        if self.between == "predict":
            self.z = _predict(self.model, self.z, self.last_command)
        self.z = torch.where(self.arrived[:, None], self.embedding, self.z)
        self.known |= self.arrived
        acted = self.model.actor(self.z) * self.model.command_scale_n
        command = torch.where(self.known[:, None], acted, torch.zeros_like(acted))
        if self.between in ("hold", "zero"):
            rest = self.meant if self.between == "hold" else torch.zeros_like(command)
            command = torch.where(self.arrived[:, None], command, rest)
        limit = 4 * self.model.command_scale_n
        self.meant = command.clamp(-limit, limit)
        self.arrived = torch.zeros_like(self.arrived)
        return self.meant

    def applied(self, step: int, command: torch.Tensor) -> None:
        """Takes the commands [K, 1] under which the next step is predicted."""
        self.last_command = command


class FrameSender:
    """Sends the two frames of the observation as they are, 8 bits a pixel and colour."""

    def __init__(self, model_version: int) -> None:
        self.model_version, self.codec_id = model_version, RAW_CODEC_ID

    def encode(self, step: int, rows: np.ndarray, observation: View) -> tuple[np.ndarray, list[bytes]]:
        """Sends the frames of all `rows`."""
        frames = observation.camera().frame.flatten(1).numpy()
        return rows, [frame.tobytes() for frame in frames]

    def feedback(self, step: int, delivered: np.ndarray, command: torch.Tensor) -> None:
        """Has nothing to learn."""


def frame_payload_bits(frame_shape: tuple[int, int, int]) -> int:
    """Bits of two raw frames [colors, height, width] of 8 bits a pixel."""
    return 2 * 8 * int(np.prod(frame_shape))


class FrameReceiver:
    """Encodes received frames itself, without any quantisation, and holds the last command in between."""

    def __init__(
        self, model: MotionModel, model_version: int, num_devices: int, frame_shape: tuple[int, int, int]
    ) -> None:
        self.model, self.model_version, self.codec_id = model, model_version, RAW_CODEC_ID
        self.frame_shape = frame_shape
        self.max_payload_bits = frame_payload_bits(frame_shape)
        self.last_command = torch.zeros(num_devices, COMMAND_DIM)
        self.past_command = torch.zeros(num_devices, model.encoder.gap_steps, COMMAND_DIM)

    def update(self, step: int, rows: np.ndarray, payloads: list[bytes]) -> np.ndarray:
        """Encodes the frames of the devices `rows`, with the commands that were applied in between."""
        for payload in payloads:
            if 8 * len(payload) != self.max_payload_bits:
                raise SemcomError(
                    f"a raw frame payload has {len(payload)} bytes, the camera makes "
                    f"{self.max_payload_bits // 8}: sender and receiver need the same camera"
                )
        pixels = np.frombuffer(b"".join(payloads), dtype=np.uint8).reshape(len(rows), 2, *self.frame_shape)
        observation = Observation(torch.from_numpy(pixels.copy()), self.past_command[rows])
        acted = self.model.actor(embed(self.model, observation)) * self.model.command_scale_n
        limit = 4 * self.model.command_scale_n
        self.last_command[rows] = acted.clamp(-limit, limit)
        return np.full(len(rows), self.max_payload_bits)

    def command(self, step: int) -> torch.Tensor:
        """Returns the commands [K, 1] in N."""
        return self.last_command.clone()

    def applied(self, step: int, command: torch.Tensor) -> None:
        """Takes the commands [K, 1] for the observations of the steps to come."""
        self.past_command = torch.cat((self.past_command[:, 1:], command[:, None]), dim=1)


class StateSender:
    """Sends the true state as four float64 numbers: the sender of the reference lines."""

    model_version, codec_id = 0, RAW_CODEC_ID

    def encode(self, step: int, rows: np.ndarray, observation: View) -> tuple[np.ndarray, list[bytes]]:
        """Sends the states of all `rows`."""
        return rows, [state.tobytes() for state in observation.state.numpy()]

    def feedback(self, step: int, delivered: np.ndarray, command: torch.Tensor) -> None:
        """Has nothing to learn."""


class StateReceiver:
    """LQR on true states: held for `hold_steps` with the gain redesigned for it, or on the true model."""

    model_version, codec_id = 0, RAW_CODEC_ID
    max_payload_bits = 64 * STATE_DIM

    def __init__(
        self, plant: PlantConfig, teacher: TeacherConfig, num_devices: int, hold_steps: int, *, roll_out: bool
    ) -> None:
        self.plant, self.roll_out = plant, roll_out
        self.lqr = LqrTeacher(plant, teacher, 1 if roll_out else hold_steps)
        self.believed = torch.zeros(num_devices, STATE_DIM, dtype=torch.float64)
        self.arrived = torch.zeros(num_devices, dtype=torch.bool)
        self.last_command = torch.zeros(num_devices, COMMAND_DIM, dtype=torch.float64)

    def update(self, step: int, rows: np.ndarray, payloads: list[bytes]) -> np.ndarray:
        """Takes the states of the devices `rows`."""
        states = np.frombuffer(b"".join(payloads), dtype=np.float64).reshape(len(rows), STATE_DIM)
        self.believed[rows] = torch.from_numpy(states.copy())
        self.arrived[rows] = True
        return np.full(len(rows), self.max_payload_bits)

    def command(self, step: int) -> torch.Tensor:
        """Returns the commands [K, 1] in N."""
        command = self.lqr(self.believed)
        if not self.roll_out:
            command = torch.where(self.arrived[:, None], command, self.last_command)
        self.arrived = torch.zeros_like(self.arrived)
        self.last_command = command
        return command

    def applied(self, step: int, command: torch.Tensor) -> None:
        """Rolls the true model on under the commands [K, 1], if it is to."""
        if self.roll_out:
            self.believed = next_state(self.believed, command[:, 0].to(torch.float64), self.plant)
