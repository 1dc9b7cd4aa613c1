"""The world of the sensing scenario: rooms that are played back, seen by cameras and heard by receivers."""

from __future__ import annotations

import numpy as np
import torch

from scenarios.isac.methods import View


class SensingWorld:
    """Plays back what S sensors observe in U test sequences; device k is sensor k % S of sequence k // S.

    frame: uint8 [U, T, C, 3, H, W]; csi: complex64 [U, T, R, F]: cameras are the first sensors. What the base
    station believes is written down: the outcome "belief", float32 [K, T, D + 1] (see SceneReceiver).
    """

    def __init__(
        self, frame: torch.Tensor, csi: torch.Tensor, devices: np.ndarray, num_sensors: int, width: int
    ) -> None:
        self.frame, self.csi = frame, csi
        self.room, self.sensor = np.divmod(devices, num_sensors)
        self.num_cameras = frame.shape[2]
        self.belief = np.zeros((len(devices), frame.shape[1], width), dtype=np.float32)

    def observe(self, step: int, rows: np.ndarray) -> View:
        """Returns what the sensors of `rows` measure in this step."""
        room, sensor = self.room[rows], self.sensor[rows]
        is_camera = sensor < self.num_cameras
        place = np.where(is_camera, np.cumsum(is_camera), np.cumsum(~is_camera)) - 1
        frame = self.frame[room[is_camera], step, sensor[is_camera]]
        csi = self.csi[room[~is_camera], step, sensor[~is_camera] - self.num_cameras]
        return View(frame, csi, sensor, place)

    def advance(self, step: int, command: torch.Tensor) -> None:
        """Writes down what the base station believes, [K, D + 1]."""
        self.belief[:, step] = command.numpy()

    def outcome(self) -> dict[str, np.ndarray]:
        """Returns what was believed in every step."""
        return {"belief": self.belief}
