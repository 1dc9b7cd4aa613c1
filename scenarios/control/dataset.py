"""Training data: trajectories of a teacher that acts on stale and wrong states, seen by the camera.

A teacher that sees the true state would leak it: its command then says where the plant is, a predictor
learns to read it there, and in closed loop, where commands come from its own predictions, it drifts.
Here the command depends on what a remote controller could know: a state with errors, refreshed every few
steps and rolled forward with the true dynamics in between, plus white exploration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field

from scenarios.control.camera import CameraConfig, add_noise, render
from scenarios.control.plant import PlantConfig, is_inside, next_state, start_states
from scenarios.control.teacher import LqrTeacher, TeacherConfig
from semcom.contracts import SemcomError
from semcom.rng import Streams

NonNegative = Annotated[float, Field(ge=0)]
_MAX_BATCHES = 50


class DatasetConfig(BaseModel):
    """How much is collected, and how the teacher is disturbed while it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_trajectories: int = Field(300, ge=8, le=100_000, description="training trajectories")
    num_held_out: int = Field(40, ge=4, le=10_000, description="trajectories kept for diagnostics")
    num_steps: int = Field(100, ge=30, le=10_000, description="steps of a trajectory")
    start_position_m: float = Field(0.4, ge=0, description="starting |x| is uniform up to this, in m")
    start_velocity_m_s: float = Field(0.3, ge=0, description="starting cart speed, in m/s")
    start_angle_rad: float = Field(0.15, ge=0, description="starting |theta|, in rad")
    start_rate_rad_s: float = Field(0.4, ge=0, description="starting angular rate, in rad/s")
    refresh_steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (2, 4, 8, 16), min_length=1, description="steps between the teacher's looks"
    )
    state_error_std: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = Field(
        (0.02, 0.15, 0.02, 0.15), description="error of a look: m, m/s, rad, rad/s"
    )
    exploration_std_n: tuple[NonNegative, ...] = Field(
        (0.5, 1.0, 2.0), min_length=1, description="white exploration force, N"
    )


@dataclass(frozen=True)
class Trajectories:
    """N trajectories of T steps.

    state [N, T, 4] float32; command [N, T, 1], the force that was applied, and teacher_command [N, T, 1],
    what the teacher would have done in the true state, both in N; frame [N, T, C, H, W] uint8.
    """

    state: torch.Tensor
    command: torch.Tensor
    teacher_command: torch.Tensor
    frame: torch.Tensor


def collect(
    dataset: DatasetConfig,
    plant: PlantConfig,
    teacher: TeacherConfig,
    camera: CameraConfig,
    streams: Streams,
) -> tuple[Trajectories, Trajectories]:
    """Collects the training and the held-out trajectories, split by trajectory."""
    return (
        _collect(dataset.num_trajectories, "train", dataset, plant, teacher, camera, streams),
        _collect(dataset.num_held_out, "held-out", dataset, plant, teacher, camera, streams),
    )


def _collect(
    num_wanted: int,
    part: str,
    dataset: DatasetConfig,
    plant: PlantConfig,
    teacher: TeacherConfig,
    camera: CameraConfig,
    streams: Streams,
) -> Trajectories:
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    num_kept = batch = 0
    while num_kept < num_wanted:
        generator = streams.torch_generator(f"dataset-{part}", step=batch)
        state, command, teacher_command = _drive(num_wanted, dataset, plant, teacher, generator)
        inside = is_inside(state, plant).all(dim=1)
        parts.append((state[inside], command[inside], teacher_command[inside]))
        num_kept, batch = num_kept + int(inside.sum()), batch + 1
        if batch == _MAX_BATCHES and num_kept < num_wanted:
            raise SemcomError(
                f"{num_kept} of {batch * num_wanted} trajectories stay within the plant's limits: lower "
                "dataset.start_*, dataset.exploration_std_n or dataset.num_steps"
            )
    state, command, teacher_command = (torch.cat(p)[:num_wanted] for p in zip(*parts, strict=True))
    frames = []
    for index, trajectory in enumerate(state):
        picture = render(trajectory, camera, plant)
        noise = streams.normal(f"dataset-{part}-pixel", [index], 0, tuple(picture.shape))[0]
        frames.append(add_noise(picture, noise, camera))
    return Trajectories(state.float(), command.float(), teacher_command.float(), torch.stack(frames))


def _drive(
    num: int,
    dataset: DatasetConfig,
    plant: PlantConfig,
    teacher: TeacherConfig,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Runs `num` plants: states [num, T, 4], commands and the teacher's own commands [num, T, 1]."""
    start = plant.model_copy(
        update={
            name: getattr(dataset, name)
            for name in ("start_position_m", "start_velocity_m_s", "start_angle_rad", "start_rate_rad_s")
        }
    )
    double = torch.float64
    lqr = LqrTeacher(plant, teacher)
    error_std = torch.tensor(dataset.state_error_std, dtype=double)
    every = torch.tensor(dataset.refresh_steps)[torch.arange(num) % len(dataset.refresh_steps)]
    exploration = torch.tensor(dataset.exploration_std_n, dtype=double)[
        torch.arange(num) % len(dataset.exploration_std_n)
    ]
    phase = torch.randint(0, int(every.max()), (num,), generator=generator)
    state = start_states(torch.rand(num, 4, generator=generator, dtype=double), start)
    believed = state
    states, commands, teacher_commands = [], [], []
    for step in range(dataset.num_steps):
        looks = ((step + phase) % every == 0) | (step == 0)
        error = error_std * torch.randn(num, 4, generator=generator, dtype=double)
        believed = torch.where(looks[:, None], state + error, believed)
        explored = exploration * torch.randn(num, generator=generator, dtype=double)
        command = (lqr(believed)[:, 0] + explored).clamp(-plant.max_force_n, plant.max_force_n)
        states.append(state)
        commands.append(command)
        teacher_commands.append(lqr(state)[:, 0])
        disturbance = plant.disturbance_rms_n * torch.randn(num, generator=generator, dtype=double)
        believed = next_state(believed, command, plant)
        state = next_state(state, command + disturbance, plant)
    return (
        torch.stack(states, dim=1),
        torch.stack(commands, dim=1)[..., None],
        torch.stack(teacher_commands, dim=1)[..., None],
    )
