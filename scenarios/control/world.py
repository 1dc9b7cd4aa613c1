"""The world of the control scenario: a group of cart-poles in front of their cameras."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from scenarios.control.camera import CameraConfig, add_noise, render
from scenarios.control.models import Observation
from scenarios.control.plant import COMMAND_DIM, PlantBatch, PlantConfig, is_in_band, start_states
from scenarios.control.teacher import LqrTeacher, TeacherConfig
from semcom.rng import Streams


class View(NamedTuple):
    """What there is to observe for n devices: camera and commands, and the true state [n, 4] float64.

    Only the reference lines, which are granted perfect sensors, look at `state`; the frames are rendered
    when `camera()` is called.
    """

    world: ControlWorld
    step: int
    rows: np.ndarray
    state: torch.Tensor

    def camera(self) -> Observation:
        """Renders the two frames of each device, with their sensor noise."""
        return self.world.look(self.step, self.rows)


class ControlWorld:
    """K cart-poles. Before step 0 they coast for `gap` steps from their random starts, without commands.

    The cameras run in that lead-in, so that the first observation has its two frames too. Starts,
    disturbances and pixel noise come from each device's own streams: they are the same for every method.
    """

    def __init__(
        self,
        plant: PlantConfig,
        camera: CameraConfig,
        teacher: TeacherConfig,
        gap_steps: int,
        num_steps: int,
        devices: np.ndarray,
        streams: Streams,
    ) -> None:
        self.plant, self.camera_config, self.gap_steps = plant, camera, gap_steps
        self.devices, self.streams = devices.tolist(), streams
        self.teacher = LqrTeacher(plant, teacher)
        start = start_states(streams.uniform("start", self.devices, 0, (4,)), plant)
        self.batch = PlantBatch(start, plant)
        noise = streams.normal("disturbance", self.devices, 0, (num_steps + gap_steps,))
        self.disturbance_n = plant.disturbance_rms_n * noise
        self.past_state = [self.batch.state]
        self.past_command = torch.zeros(len(devices), gap_steps, COMMAND_DIM)
        idle = torch.zeros(len(devices), COMMAND_DIM)
        for step in range(gap_steps):
            self.batch.advance(idle, self.disturbance_n[:, step])
            self.past_state.append(self.batch.state)
        size = (len(devices), num_steps)
        self.in_band = np.zeros(size, dtype=bool)
        self.command_n = np.zeros(size, dtype=np.float32)
        self.teacher_command_n = np.zeros(size, dtype=np.float32)

    def observe(self, step: int, rows: np.ndarray) -> View:
        """Returns the view of the devices of `rows`."""
        return View(self, step, rows, self.batch.state[rows])

    def look(self, step: int, rows: np.ndarray) -> Observation:
        """Returns the frames of gap steps ago and of now, and the commands in between."""
        frames = [self._frame(step + ago, self.past_state[ago][rows], rows) for ago in (0, self.gap_steps)]
        return Observation(torch.stack(frames, dim=1), self.past_command[rows])

    def _frame(self, lead_step: int, state: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        picture = render(state, self.camera_config, self.plant)
        devices = [self.devices[row] for row in rows]
        noise = self.streams.normal("pixel", devices, lead_step, tuple(picture.shape[1:]))
        return add_noise(picture, noise, self.camera_config)

    def advance(self, step: int, command: torch.Tensor) -> None:
        """Applies the commands [K, 1] in N and moves all plants one step on."""
        self.teacher_command_n[:, step] = self.teacher(self.batch.state)[:, 0].numpy()
        limit = self.plant.max_force_n
        applied = command.clamp(-limit, limit).to(torch.float32)
        self.command_n[:, step] = applied[:, 0].numpy()
        self.batch.advance(applied, self.disturbance_n[:, step + self.gap_steps])
        self.past_state = [*self.past_state[1:], self.batch.state]
        self.past_command = torch.cat((self.past_command[:, 1:], applied[:, None]), dim=1)
        self.in_band[:, step] = (is_in_band(self.batch.state, self.plant) & self.batch.alive).numpy()

    def outcome(self) -> dict[str, np.ndarray]:
        """Returns in_band [K, T] bool, alive [K] bool, command_n and teacher_command_n [K, T]."""
        return {
            "in_band": self.in_band,
            "alive": self.batch.alive.numpy(),
            "command_n": self.command_n,
            "teacher_command_n": self.teacher_command_n,
        }
