"""The methods of the sensing scenario: what sensors send, and how the base station fills what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from scenarios.isac.heads import Scene
from scenarios.isac.jpeg import JpegCodec
from scenarios.isac.memo import Memo
from scenarios.isac.models import CAMERA, SensingModel
from semcom.contracts import Codec, SemcomError
from semcom.set_predictor import fill_in

Fill = Literal["predict", "fuse", "zero", "mean", "last"]

ARRIVED, INPAINTED, PRIOR = 1.0, 0.0, -1.0
"""What the base station says of an embedding: it arrived, it was filled in, or it is the prior.

It is the prior where nothing arrived from any sensor in all the steps that the method looks at: those of the
predictor's window, the present one alone (zero, mean), or all that there were (last).
"""


@dataclass(frozen=True)
class SensingMethod:
    """Which trained model a method uses, how it fills what is missing, and what cameras send."""

    model: str
    fill: Fill
    summary: str
    frames: Literal["embedding", "jpeg"] = "embedding"
    is_whole: bool = False


METHODS: dict[str, SensingMethod] = {
    "inpainting": SensingMethod("inpainting", "predict", "JEPA; what is missing is predicted from the rest"),
    "image-only": SensingMethod("image-only", "predict", "JEPA of cameras alone; no radio"),
    "supervised": SensingMethod("supervised", "predict", "the same networks, trained on labels and pixels"),
    "masked-head": SensingMethod(
        "inpainting", "fuse", "embeddings of the JEPA; predictor and heads trained on labels"
    ),
    "zero-fill": SensingMethod("inpainting", "zero", "JEPA; what is missing is zero"),
    "mean-fill": SensingMethod("inpainting", "mean", "JEPA; what is missing is the training mean"),
    "last-value": SensingMethod("inpainting", "last", "JEPA; what is missing keeps its last value"),
    "oracle": SensingMethod(
        "inpainting", "predict", "JEPA; nothing is ever missing: the reference", is_whole=True
    ),
    "jpeg": SensingMethod("inpainting", "predict", "JPEG frames and embeddings of CSI", frames="jpeg"),
    "jpeg-cameras": SensingMethod("image-only", "predict", "JPEG frames alone, no radio", frames="jpeg"),
}

AnyCodec = Codec | JpegCodec


@dataclass(frozen=True)
class View:
    """What n sensors observe: frames [n, 3, H, W] for cameras, CSI [n, F] for receivers; NaN-free.

    sensor [n]: which sensor each row is; place [n]: its row in `frame` or `csi`.
    """

    frame: torch.Tensor
    csi: torch.Tensor
    sensor: np.ndarray
    place: np.ndarray


class SensorSender:
    """Encodes what each sensor observes with that sensor's encoder and codec; sends it in every step.

    silent: sensors that send nothing from step `outage_step` on. Receivers send in every
    receiver_interval_steps-th step only, beginning with the first. embedded: what the model made of batches
    of frames before, shared with others that meet the same ones.
    """

    def __init__(
        self,
        model: SensingModel,
        codecs: Sequence[AnyCodec],
        model_version: int,
        codec_id: int,
        silent: frozenset[int],
        outage_step: int,
        embedded: Memo[torch.Tensor],
        receiver_interval_steps: int = 1,
    ) -> None:
        self.embedded = embedded
        self.model, self.codecs, self.model_version = model, codecs, model_version
        self.codec_id, self.silent, self.outage_step = codec_id, silent, outage_step
        self.receiver_interval_steps = receiver_interval_steps

    def encode(self, step: int, rows: np.ndarray, observation: View) -> tuple[np.ndarray, list[bytes]]:
        """Sends the embeddings of all `rows` but those that are silent."""
        payloads: dict[int, bytes] = {}
        for sensor in np.unique(observation.sensor).tolist():
            if sensor in self.silent and step >= self.outage_step:
                continue
            if self.model.modality[sensor] != CAMERA and step % self.receiver_interval_steps:
                continue
            which = np.flatnonzero(observation.sensor == sensor)
            sent = self._payloads(observation, sensor, observation.place[which])
            payloads |= dict(zip(which.tolist(), sent, strict=True))
        order = sorted(payloads)
        return rows[order], [payloads[index] for index in order]

    def feedback(self, step: int, delivered: np.ndarray, command: torch.Tensor) -> None:
        """Has nothing to learn."""

    def _payloads(self, view: View, sensor: int, place: np.ndarray) -> list[bytes]:
        codec = self.codecs[sensor]
        if self.model.modality[sensor] == CAMERA:
            frame = view.frame[place]
            if isinstance(codec, JpegCodec):
                return codec.encode(frame.permute(0, 2, 3, 1).numpy())
            return codec.encode(_embed_once(self.embedded, self.model, frame, sensor))
        assert not isinstance(codec, JpegCodec)
        return codec.encode(self.model.embed_receiver(view.csi[place], sensor - self.model.num_cameras))


class SceneReceiver:
    """The base station: decodes what arrives in time, and completes the set of embeddings.

    Device k is sensor k % S of room k // S. Its command to a device is what it now believes that sensor's
    embedding to be and a number that says why (ARRIVED, INPAINTED, PRIOR): [K, D + 1]. embedded: what the
    model made of batches of frames before, shared with others that meet the same ones.
    """

    def __init__(
        self,
        model: SensingModel,
        codecs: Sequence[AnyCodec],
        model_version: int,
        codec_id: int,
        fill: Fill,
        num_rooms: int,
        embedded: Memo[torch.Tensor],
    ) -> None:
        self.embedded = embedded
        self.model, self.codecs, self.model_version = model, codecs, model_version
        self.codec_id, self.fill, self.num_rooms = codec_id, fill, num_rooms
        self.max_payload_bits = max(
            8 * codec.max_payload_bytes() if isinstance(codec, JpegCodec) else codec.max_payload_bits()
            for codec in codecs
        )
        shape = (num_rooms, model.config.num_lags, model.num_sensors)
        self.context = torch.zeros(*shape, model.embedding_dim)
        self.arrived = torch.zeros(shape, dtype=torch.bool)
        # Before a sensor was ever heard, its last value is the training mean.
        self.last = model.mean.expand(num_rooms, -1, -1).clone()
        self.ever_heard = torch.zeros(num_rooms, dtype=torch.bool)
        self.step = -1

    def update(self, step: int, rows: np.ndarray, payloads: list[bytes]) -> np.ndarray:
        """Decodes what arrived; returns the information in each payload, bits [n]."""
        self._begin(step)
        bits = np.zeros(len(rows))
        room, sensors = np.divmod(rows, self.model.num_sensors)
        for sensor in np.unique(sensors).tolist():
            which = np.flatnonzero(sensors == sensor)
            codec, some = self.codecs[sensor], [payloads[index] for index in which]
            if isinstance(codec, JpegCodec):
                frame = torch.from_numpy(codec.decode(some)).permute(0, 3, 1, 2)
                z = _embed_once(self.embedded, self.model, frame, sensor)
                bits[which] = [8 * len(payload) for payload in some]
            else:
                z = codec.decode(some)
                bits[which] = codec.payload_entropy_bits(some).numpy()
            self.context[room[which], 0, sensor] = self.last[room[which], sensor] = self.model.padded(z)
            self.arrived[room[which], 0, sensor] = True
        self.ever_heard[room] = True
        return bits

    def command(self, step: int) -> torch.Tensor:
        """Returns the completed embeddings and where they come from, [K, D + 1]."""
        self._begin(step)
        completed = complete(self.model, self.fill, self.context, self.arrived, self.last)
        origin = torch.where(self.arrived[:, 0], ARRIVED, INPAINTED)
        origin = torch.where(self._is_informed()[:, None], origin, PRIOR)
        return torch.cat((completed, origin[..., None]), dim=-1).flatten(0, 1)

    def applied(self, step: int, command: torch.Tensor) -> None:
        """Has nothing to learn: sensors are not steered."""

    def _is_informed(self) -> torch.Tensor:
        """Tells of which rooms anything arrived in the steps that the method looks at, bool [num_rooms]."""
        if self.fill == "last":
            return self.ever_heard
        steps = self.arrived if self.fill in ("predict", "fuse") else self.arrived[:, :1]
        return steps.flatten(1).any(dim=1)

    def _begin(self, step: int) -> None:
        """Makes room for a new step, and for those left out before it, in which nothing has arrived yet."""
        if step < self.step:
            raise SemcomError(
                f"step {step} comes after step {self.step}: give a base station steps in the order of time"
            )
        passed = min(step - self.step, self.context.shape[1])
        self.step = step
        if passed:
            self.context = _later(self.context, passed)
            self.arrived = _later(self.arrived, passed)


def _embed_once(
    embedded: Memo[torch.Tensor], model: SensingModel, frame: torch.Tensor, camera: int
) -> torch.Tensor:
    """Embeds frames of one camera, uint8 [n, 3, H, W], unless this very batch was embedded before."""
    question = b"%d/%d/" % (camera, len(frame)) + frame.numpy().tobytes()
    return embedded.answer(question, lambda: model.embed_camera(frame, camera))


def _later(window: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Shifts a window [N, W, ...], newest first, by so many steps, which are zero."""
    return torch.cat(
        (torch.zeros_like(window[:, :num_steps]), window[:, : window.shape[1] - num_steps]), dim=1
    )


def complete(
    model: SensingModel, fill: Fill, context: torch.Tensor, arrived: torch.Tensor, last: torch.Tensor
) -> torch.Tensor:
    """Completes the newest step of context [N, W, S, D], of which arrived [N, W, S] is known: [N, S, D].

    last [N, S, D]: the last value that arrived from each sensor, or its mean.
    """
    if fill == "predict":
        filled = model.predictor(context, arrived)
    elif fill == "fuse":
        filled = model.fusion(context, arrived)
    elif fill == "last":
        filled = last
    else:
        filled = torch.zeros_like(last) if fill == "zero" else model.mean.expand_as(last)
    return fill_in(context, arrived, filled)


def read_scene(model: SensingModel, fill: Fill, z: torch.Tensor) -> Scene:
    """Reads the scene off completed embeddings z [N, S, D], by the heads that know what completed them."""
    if fill == "predict":
        return model.read(z)
    return model.read_fused(z) if fill == "fuse" else model.read_filled(z)
