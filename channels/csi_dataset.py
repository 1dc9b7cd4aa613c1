"""Data sets of channels at known places: CSI, position and, along trajectories, time and velocity.

An HDF5 file that holds one:

- `csi`: complex64 or complex128, [positions, antennas, subcarriers] for one array, or [positions, arrays,
  rows, columns, subcarriers], in which an antenna of two polarisations takes two columns.
- `position_m`: [positions, 2 or 3]. Used for evaluation, and by the methods that are called supervised.
- optional: `time_s` [positions]; `velocity_m_s` [positions, 2 or 3]; `trajectory` [positions], whole numbers:
  positions of one trajectory stand together, in the order of time.
- optional attributes of the file: `carrier_hz`, `bandwidth_hz`, `description`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CsiDataset:
    """N positions, R arrays of M antennas each, F subcarriers.

    csi: complex64 [N, R, M, F]; position_m: float64 [N, 3], the third 0 where a file has two.
    time_s: float64 [N] or None; velocity_m_s: float64 [N, 3] or None; trajectory: int64 [N], 0 throughout
    where nothing tells trajectories apart. carrier_hz and bandwidth_hz: None where they aren't known.
    """

    csi: np.ndarray
    position_m: np.ndarray
    trajectory: np.ndarray
    time_s: np.ndarray | None = None
    velocity_m_s: np.ndarray | None = None
    carrier_hz: float | None = None
    bandwidth_hz: float | None = None

    def __len__(self) -> int:
        return len(self.csi)
