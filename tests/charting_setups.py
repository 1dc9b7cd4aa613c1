"""A small recorded data set of the charting scenario for tests: users in line of sight of two arrays."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from channels.csi_dataset import write_dataset
from scenarios.charting.config import TINY, ChartingConfig
from scenarios.charting.lstm import LstmConfig
from scenarios.charting.scenario import SCENARIO
from scenarios.recorded import RecordedData

NUM_TRAJECTORIES, NUM_STEPS, INTERVAL_S = 12, 30, 0.2
CARRIER_HZ, BANDWIDTH_HZ, NUM_SUBCARRIERS = 3.5e9, 40e6, 8
ARRAYS_M = np.array([[-30.0, 0.0, 10.0], [5.0, 35.0, 12.0]])
SPEED_OF_LIGHT_M_S = 299_792_458.0


def line_of_sight(position_m: np.ndarray) -> np.ndarray:
    """Free-space CSI at two arrays of 2 x 2 antennas, half a wavelength apart: [..., 2, 2, 2, F]."""
    wavelength_m = SPEED_OF_LIGHT_M_S / CARRIER_HZ
    across = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    row, column = np.meshgrid([-0.25, 0.25], [-0.25, 0.25], indexing="ij")
    place_m = ARRAYS_M[:, None, None] + wavelength_m * (
        column[..., None] * across[:, None, None] + row[..., None] * np.array([0.0, 0.0, 1.0])
    )
    distance_m = np.linalg.norm(position_m[..., None, None, None, :] - place_m, axis=-1)
    baseband_hz = (np.arange(NUM_SUBCARRIERS) + 0.5) / NUM_SUBCARRIERS * BANDWIDTH_HZ - BANDWIDTH_HZ / 2
    phase = 2 * np.pi * (CARRIER_HZ + baseband_hz) * distance_m[..., None] / SPEED_OF_LIGHT_M_S
    return np.exp(-1j * phase) / distance_m[..., None]


def trajectories(num: int = NUM_TRAJECTORIES, num_steps: int = NUM_STEPS, seed: int = 7) -> dict[str, Any]:
    """Arrays of a data set by the names that write_dataset gives them: users on straight lines."""
    generator = np.random.default_rng(seed)
    start_m = np.stack([generator.uniform(-15, 15, (num, 2)).T[0], generator.uniform(-15, 15, num)], axis=1)
    angle = generator.uniform(0, 2 * np.pi, num)
    velocity_m_s = generator.uniform(1, 3, (num, 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    time_s = INTERVAL_S * np.arange(num_steps)
    position_m = np.pad(start_m[:, None] + velocity_m_s[:, None] * time_s[:, None], ((0, 0), (0, 0), (0, 1)))
    position_m[..., 2] = 1.5
    flat_m = position_m.reshape(-1, 3)
    return {
        "csi": line_of_sight(flat_m),
        "position_m": flat_m,
        "time_s": np.tile(time_s, num),
        "velocity_m_s": np.repeat(velocity_m_s, num_steps, axis=0),
        "trajectory": np.repeat(np.arange(num), num_steps),
        "carrier_hz": CARRIER_HZ,
        "bandwidth_hz": BANDWIDTH_HZ,
    }


def write(path: Path, **changed: Any) -> Path:
    """Writes the data set to a file, some of its arrays replaced, None: left out."""
    arrays = {**trajectories(), **changed}
    csi, position_m = arrays.pop("csi"), arrays.pop("position_m")
    write_dataset(path, csi, position_m, **arrays)
    return path


@cache
def recorded_file() -> Path:
    """Returns the file of the data set, written once per process and removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="semcom-charting-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write(folder / "walks.h5")


@cache
def config() -> ChartingConfig:
    """The smallest trainings that leave usable models, on the recorded file."""
    return TINY.model_copy(
        update={
            "data": RecordedData(path=recorded_file()),
            "training": TINY.training.model_copy(update={"num_steps": 20, "num_steps_baseline": 20}),
            "lstm": LstmConfig(hidden_dim=8, num_steps=20),
        }
    )


@cache
def trained(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Trains the models of `config` once per process; returns their tensors by the keys of their jobs."""
    torch.set_num_threads(1)
    jobs = SCENARIO.training_jobs(config(), seed, "central")
    return {job.key: dict(SCENARIO.train(job).tensors) for job in jobs}
