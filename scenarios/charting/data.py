"""What models learn from and are tested on: sequences of observed CSI, with noise, split by trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.spatial import cKDTree

from channels.csi_dataset import CsiDataset
from scenarios.splits import Split, cut_trajectories, split_by_block, split_by_trajectory
from semcom.contracts import SemcomError
from semcom.rng import Streams

# Of the usual interval: a predictor knows one step, whatever the clock's jitter.
_MOST_UNEVEN = 0.25


class ObservationConfig(BaseModel):
    """How well the CSI is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    snr_db: float | None = Field(
        20.0, ge=-30, le=100, description="mean power of all CSI over that of the noise on it; null: no noise"
    )


class VelocityConfig(BaseModel):
    """What the base station knows of a user's velocity, in training and in operation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: Literal["recorded", "positions", "none"] = Field(
        "recorded", description="as in the data, as differences of the positions in the data, or unknown"
    )
    noise_share: float = Field(
        0.0, ge=0, le=10, description="root mean square error of a velocity, as a share of the speed"
    )


class SplitConfig(BaseModel):
    """Which data are held out: whole trajectories, or whole blocks of the ground."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    validation_share: float = Field(0.1, gt=0, lt=1, description="positions that choices are made on")
    test_share: float = Field(0.2, gt=0, lt=1, description="positions that results are measured on")
    block_m: float | None = Field(
        None,
        gt=0,
        le=1e5,
        description="holds out square blocks of this side: trajectories go with the block of their middle",
    )
    guard_m: float = Field(
        0.0,
        ge=0,
        le=1e5,
        description="with block_m, leaves out training trajectories that come as near to one held out",
    )
    segment_steps: int | None = Field(
        None,
        ge=4,
        le=100_000,
        description="cuts recorded trajectories into pieces so long (null: as they are)",
    )


@dataclass(frozen=True)
class Sequences:
    """U trajectories of T positions each, all evenly spaced in time.

    csi: complex64 [U, T, R, M, F], as observed; position_m, float32 [U, T, 2]. velocity_m_s, float32
    [U, T, 2]: what is known of the mean velocity from position t to t + 1 (the last row repeats the one
    before it); zero if nothing is.
    """

    csi: torch.Tensor
    position_m: torch.Tensor
    velocity_m_s: torch.Tensor

    @property
    def num_trajectories(self) -> int:
        return self.csi.shape[0]

    @property
    def num_steps(self) -> int:
        return self.csi.shape[1]


@dataclass(frozen=True)
class ChartingData:
    """The three parts of a data set, and what they have in common."""

    train: Sequences
    validation: Sequences
    test: Sequences
    interval_s: float
    num_rows: int
    knows_velocity: bool

    @property
    def csi_shape(self) -> tuple[int, int, int]:
        """Arrays, antennas of each, subcarriers."""
        num_arrays, num_antennas, num_subcarriers = self.train.csi.shape[2:]
        return num_arrays, num_antennas, num_subcarriers


def add_noise(csi: torch.Tensor, snr_db: float, generator: torch.Generator) -> torch.Tensor:
    """Adds complex Gaussian noise to CSI [N, ...]: its variance is the mean of |h|^2 over all of it / SNR."""
    variance = float(csi.abs().square().mean(dtype=torch.float64)) / 10 ** (snr_db / 10)
    noise = torch.randn((*csi.shape, 2), generator=generator) * (variance / 2) ** 0.5
    return csi + torch.view_as_complex(noise)


def _interval_s(time_s: np.ndarray, rows: np.ndarray) -> float:
    """The sampling interval of trajectories, positions rows [U, T]; raises SemcomError unless it is even."""
    interval_s = np.diff(time_s[rows], axis=1)
    median_s = float(np.median(interval_s))
    uneven = np.argwhere(np.abs(interval_s / median_s - 1) > _MOST_UNEVEN)
    if len(uneven):
        piece, step = uneven[0]
        raise SemcomError(
            f"time_s is uneven: {interval_s[piece, step]:g} s after position {rows[piece, step]}, where "
            f"{median_s:g} s are usual: begin a new trajectory there, or resample"
        )
    return median_s


def mean_velocity(dataset: CsiDataset, rows: np.ndarray, source: str, interval_s: float) -> np.ndarray | None:
    """Returns the mean velocity from each position of rows [U, T] to the next, [U, T, 2]; None: unknown.

    Recorded velocities are those of the moment, and averaged between two of them (trapezoidal rule). Raises
    SemcomError where they are asked for and there are none.
    """
    if source == "none":
        return None
    if source == "recorded":
        if dataset.velocity_m_s is None:
            raise SemcomError(
                "velocity.source = recorded, and the data have no velocity_m_s: set it to positions or none"
            )
        at = dataset.velocity_m_s[rows][..., :2]
        between = (at[:, 1:] + at[:, :-1]) / 2
    else:
        between = np.diff(dataset.position_m[rows][..., :2], axis=1) / interval_s
    return np.concatenate([between, between[:, -1:]], axis=1)


def split_trajectories(
    position_m: np.ndarray, journey: np.ndarray, split: SplitConfig, streams: Streams
) -> Split:
    """Deals trajectories, position_m [U, T, 2], to training, validation and test: numbers of trajectories.

    journey [U]: which recorded trajectory each is a piece of; pieces of one stay together unless blocks of
    the ground are held out. Raises SemcomError as the two ways to split do, and where the guard leaves
    nothing to train on.
    """
    if split.block_m is None:
        return split_by_trajectory(
            journey,
            streams,
            validation_share=split.validation_share,
            test_share=split.test_share,
        )
    parts = split_by_block(
        position_m[:, position_m.shape[1] // 2],
        streams,
        block_m=split.block_m,
        validation_share=split.validation_share,
        test_share=split.test_share,
    )
    if split.guard_m == 0:
        return parts
    held_out = np.concatenate([parts.validation, parts.test])
    nearest_m = cKDTree(position_m[held_out].reshape(-1, 2)).query(position_m[parts.train])[0].min(axis=1)
    kept = parts.train[nearest_m > split.guard_m]
    if not len(kept):
        raise SemcomError(
            f"split.guard_m = {split.guard_m:g} leaves no trajectory to train on: lower it, or cut shorter "
            "pieces by split.segment_steps"
        )
    return Split(kept, parts.validation, parts.test)


def make_sequences(
    dataset: CsiDataset,
    split: SplitConfig,
    observation: ObservationConfig,
    velocity: VelocityConfig,
    streams: Streams,
) -> ChartingData:
    """Cuts, splits and observes a data set; noise and split are named by the streams.

    Raises SemcomError for data without a time axis or the velocities asked for, and too few trajectories.
    """
    if dataset.time_s is None:
        raise SemcomError("the data have no time_s: sequences can't be made of them, only charts")
    csi = torch.from_numpy(dataset.csi)
    if observation.snr_db is not None:
        csi = add_noise(csi, observation.snr_db, streams.torch_generator("csi-noise"))
    rows = cut_trajectories(dataset.trajectory, split.segment_steps)
    if rows.shape[1] < 4:
        raise SemcomError(f"trajectories of {rows.shape[1]} positions are too short: record 4 or more")
    interval_s = _interval_s(dataset.time_s, rows)
    known = mean_velocity(dataset, rows, velocity.source, interval_s)
    moved = torch.zeros(*rows.shape, 2) if known is None else torch.from_numpy(known).float()
    if velocity.noise_share > 0:
        noise = torch.randn(moved.shape, generator=streams.torch_generator("velocity-noise"))
        moved = moved + velocity.noise_share * moved.norm(dim=-1, keepdim=True) * noise / 2**0.5
    position = torch.from_numpy(dataset.position_m[..., :2]).float()
    parts = split_trajectories(position.numpy()[rows], dataset.trajectory[rows[:, 0]], split, streams)
    made = {
        name: Sequences(csi[rows[part]], position[rows[part]], moved[part])
        for name, part in (("train", parts.train), ("validation", parts.validation), ("test", parts.test))
    }
    return ChartingData(
        **made, interval_s=interval_s, num_rows=dataset.num_rows, knows_velocity=known is not None
    )
