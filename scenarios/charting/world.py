"""The world of the charting scenario: users on their trajectories, heard by the arrays."""

from __future__ import annotations

import numpy as np
import torch

from scenarios.charting.methods import View


class ChartingWorld:
    """Plays back the CSI of U test trajectories; device k is slot k % num_slots of user k // num_slots.

    csi: complex64 [U, T, R, M, F], as observed. What the central node tells a device, its belief of the
    device's embeddings, is written down: the outcome "belief", float32 [K, T, report_dim].
    """

    def __init__(self, csi: torch.Tensor, devices: np.ndarray, num_slots: int, report_dim: int) -> None:
        self.csi = csi
        self.user, self.slot = np.divmod(devices, num_slots)
        self.belief = np.zeros((len(devices), csi.shape[1], report_dim), dtype=np.float32)

    def observe(self, step: int, rows: np.ndarray) -> View:
        """Returns the CSI that the devices of `rows` measure in this step."""
        return View(self.csi[self.user[rows], step], self.slot[rows])

    def advance(self, step: int, command: torch.Tensor) -> None:
        """Writes down what the central node believes, [K, report_dim]."""
        self.belief[:, step] = command.numpy()

    def outcome(self) -> dict[str, np.ndarray]:
        """Returns what was believed in every step."""
        return {"belief": self.belief}
