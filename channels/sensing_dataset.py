"""Data sets of a sensed room: camera frames, CSI, and where everybody was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SensingDataset:
    """N time steps of C cameras, R receivers with F subcarriers and up to P pedestrians.

    frame: uint8 [N, C, height, width, 3]; csi: complex64 [N, R, F]; position_m: float32 [N, P, 2], NaN for
    who is not there; visible_share: float32 [N, C, P], see RoomWorld.frames, or None where nobody knows;
    sequence: int64 [N]: steps of one sequence stand together, in the order of time; time_s: float64 [N].
    """

    frame: np.ndarray
    csi: np.ndarray
    position_m: np.ndarray
    sequence: np.ndarray
    time_s: np.ndarray
    visible_share: np.ndarray | None = None
    carrier_hz: float | None = None
    bandwidth_hz: float | None = None

    def __len__(self) -> int:
        return len(self.frame)
