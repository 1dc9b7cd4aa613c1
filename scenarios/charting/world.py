"""The world of the charting scenario: users on their trajectories, heard by arrays, which are the devices."""

from __future__ import annotations

import numpy as np
import torch

from scenarios.charting.methods import View


class ChartingWorld:
    """Plays back the CSI of U test trajectories; device k is array k % R, which hears user k // R.

    csi: complex64 [U, T, R, M, F], as observed. What the central node tells a device, its belief of the
    device's embedding, is written down: the outcome "belief", float32 [K, T, D].
    """

    def __init__(self, csi: torch.Tensor, devices: np.ndarray, embedding_dim: int) -> None:
        self.csi = csi
        self.user, self.array = np.divmod(devices, csi.shape[2])
        self.belief = np.zeros((len(devices), csi.shape[1], embedding_dim), dtype=np.float32)

    def observe(self, step: int, rows: np.ndarray) -> View:
        """Returns the CSI that the devices of `rows` measure in this step."""
        user, array = self.user[rows], self.array[rows]
        return View(self.csi[user, step, array], array)

    def advance(self, step: int, command: torch.Tensor) -> None:
        """Writes down what the central node believes, [K, D]."""
        self.belief[:, step] = command.numpy()

    def outcome(self) -> dict[str, np.ndarray]:
        """Returns what was believed in every step."""
        return {"belief": self.belief}
