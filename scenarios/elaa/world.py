"""The world of the array's fronthaul: users' pilots, received in part by each sub-array."""

from __future__ import annotations

import numpy as np
import torch

from scenarios.elaa.methods import Patch
from semcom.contracts import SemcomError


class SubArrayWorld:
    """Plays back what U users' pilots give at T steps; device k is sub-array k % L of user k // L.

    y: complex64 [U, T, M], 0 where hidden; visible: bool [U, T, M]; noise_var: float32 [U, T]. The sub-arrays
    are L runs of M / L neighbouring elements. What the central unit tells a device, its estimate of the
    device's channel, is written down: the outcome "belief", float32 [K, T, 2 M / L].
    Raises SemcomError for shapes that don't match, or elements that L sub-arrays can't share evenly.
    """

    def __init__(
        self,
        y: torch.Tensor,
        visible: torch.Tensor,
        noise_var: torch.Tensor,
        devices: np.ndarray,
        num_sub_arrays: int,
    ) -> None:
        if y.ndim != 3 or visible.shape != y.shape or noise_var.shape != y.shape[:2]:
            raise SemcomError(
                f"pilots {tuple(y.shape)}, visible elements {tuple(visible.shape)} and noise "
                f"{tuple(noise_var.shape)} don't match: they are [U, T, M] twice and [U, T]"
            )
        if y.shape[2] % num_sub_arrays:
            raise SemcomError(
                f"{y.shape[2]} elements can't be shared out to {num_sub_arrays} sub-arrays: take a divisor"
            )
        self.y = y.unflatten(2, (num_sub_arrays, -1))
        self.visible = visible.unflatten(2, (num_sub_arrays, -1))
        self.noise_var = noise_var
        self.user, self.place = np.divmod(devices, num_sub_arrays)
        self.belief = np.zeros((len(devices), y.shape[1], 2 * self.y.shape[3]), dtype=np.float32)

    def observe(self, step: int, rows: np.ndarray) -> Patch:
        """Returns what the sub-arrays of `rows` receive in this step."""
        user, place = self.user[rows], self.place[rows]
        return Patch(
            self.y[user, step, place],
            self.visible[user, step, place],
            self.noise_var[user, step],
            torch.from_numpy(place),
        )

    def advance(self, step: int, command: torch.Tensor) -> None:
        """Writes down what the central unit believes, [K, 2 M / L]."""
        self.belief[:, step] = command.numpy()

    def outcome(self) -> dict[str, np.ndarray]:
        """Returns what was believed in every step."""
        return {"belief": self.belief}
