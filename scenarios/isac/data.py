"""What models learn from and are tested on: sequences of frames and CSI as observed, split by sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from channels.sensing_dataset import SensingDataset
from scenarios.splits import Split, cut_trajectories, split_by_trajectory
from semcom.contracts import SemcomError
from semcom.rng import Streams

MIN_STEPS = 4


class ObservationConfig(BaseModel):
    """How well sensors measure; recorded data have the noise of their sensors, and get this on top."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    csi_snr_db: float | None = Field(
        30.0, ge=-30, le=100, description="mean power of all CSI over that of the noise on it; null: no noise"
    )
    random_phase: bool = Field(
        True, description="each CSI has an unknown phase of its own, as unsynchronised receivers have it"
    )
    camera_noise_std: float = Field(
        0.02, ge=0, le=1, description="noise of a pixel, as a share of the brightest value"
    )


class SplitConfig(BaseModel):
    """Which sequences are held out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    validation_share: float = Field(0.1, gt=0, lt=1, description="steps that alarms are calibrated on")
    test_share: float = Field(0.2, gt=0, lt=1, description="steps that results are measured on")
    segment_steps: int | None = Field(
        None, ge=MIN_STEPS, le=100_000, description="cuts sequences into pieces so long (null: as they are)"
    )


@dataclass(frozen=True)
class Sequences:
    """U sequences of T steps each.

    frame: uint8 [U, T, C, 3, height, width]; csi: complex64 [U, T, R, F], both as observed; position_m:
    float32 [U, T, P, 2], NaN for who is not there; visible_share: float32 [U, T, C, P], NaN where unknown.
    """

    frame: torch.Tensor
    csi: torch.Tensor
    position_m: torch.Tensor
    visible_share: torch.Tensor

    @property
    def num_sequences(self) -> int:
        return self.frame.shape[0]

    def without_observations(self) -> Sequences:
        """The labels alone, which are light to send: of no camera and no receiver."""
        return replace(self, frame=self.frame[:, :, :0].clone(), csi=self.csi[:, :, :0].clone())

    @property
    def num_steps(self) -> int:
        return self.frame.shape[1]


@dataclass(frozen=True)
class SensingData:
    """The three parts of a data set."""

    train: Sequences
    validation: Sequences
    test: Sequences
    interval_s: float

    @property
    def num_cameras(self) -> int:
        return self.train.frame.shape[2]

    @property
    def num_receivers(self) -> int:
        return self.train.csi.shape[2]


def make_sequences(
    dataset: SensingDataset, split: SplitConfig, observation: ObservationConfig, streams: Streams
) -> SensingData:
    """Cuts, splits and observes a data set; noise and split are named by the streams.

    Raises SemcomError for sequences of different lengths (see SplitConfig.segment_steps) or too few.
    """
    rows = cut_trajectories(dataset.sequence, split.segment_steps)
    if rows.shape[1] < MIN_STEPS:
        raise SemcomError(f"sequences of {rows.shape[1]} steps are too short: record {MIN_STEPS} or more")
    frame = observe_frames(torch.from_numpy(dataset.frame), observation, streams)
    csi = observe_csi(torch.from_numpy(dataset.csi), observation, streams)
    position = torch.from_numpy(dataset.position_m).float()
    num_cameras, num_pedestrians = frame.shape[1], position.shape[1]
    visible = (
        torch.full((len(dataset), num_cameras, num_pedestrians), float("nan"))
        if dataset.visible_share is None
        else torch.from_numpy(dataset.visible_share).float()
    )
    parts = split_sequences(dataset.sequence[rows[:, 0]], split, streams)

    def taken(part: np.ndarray) -> Sequences:
        at = torch.from_numpy(rows[part])
        return Sequences(frame[at], csi[at], position[at], visible[at])

    interval_s = float(np.median(np.diff(dataset.time_s[rows], axis=1)))
    return SensingData(taken(parts.train), taken(parts.validation), taken(parts.test), interval_s)


def split_sequences(sequence: np.ndarray, split: SplitConfig, streams: Streams) -> Split:
    """Deals recorded or generated sequences to the parts: pieces of one, by its number [U], stay together.

    Raises SemcomError for fewer than three of them, and for shares that leave nothing to train on.
    """
    num = len(np.unique(sequence))
    if num < 3:
        raise SemcomError(
            f"there {'is 1 sequence' if num == 1 else f'are {num} sequences'}, and training, validation and "
            "test need one each: raise data.room.num_sequences, or cut a recording into more"
        )
    return split_by_trajectory(
        sequence, streams, validation_share=split.validation_share, test_share=split.test_share
    )


def observe_frames(frame: torch.Tensor, observation: ObservationConfig, streams: Streams) -> torch.Tensor:
    """Adds a camera's noise to frames, uint8 [N, C, height, width, 3]; returns [N, C, 3, height, width]."""
    frame = frame.permute(0, 1, 4, 2, 3).contiguous()
    if observation.camera_noise_std == 0:
        return frame
    generator = streams.torch_generator("camera-noise")
    for part in frame.split(256):
        noise = torch.randn(part.shape, generator=generator)
        part.copy_((part + 255 * observation.camera_noise_std * noise).round().clamp(0, 255))
    return frame


def observe_csi(csi: torch.Tensor, observation: ObservationConfig, streams: Streams) -> torch.Tensor:
    """Adds noise and unknown phases to CSI, complex64 [N, R, F]."""
    if observation.csi_snr_db is not None:
        power = float(csi.abs().square().mean(dtype=torch.float64)) / 10 ** (observation.csi_snr_db / 10)
        noise = torch.randn((*csi.shape, 2), generator=streams.torch_generator("csi-noise"))
        csi = csi + (power / 2) ** 0.5 * torch.view_as_complex(noise)
    if observation.random_phase:
        generator = streams.torch_generator("csi-phase")
        turn = 2 * torch.pi * torch.rand(csi.shape[:2], generator=generator)
        csi = csi * torch.polar(torch.ones_like(turn), turn)[..., None]
    return csi
