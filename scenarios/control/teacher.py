"""The LQR teacher: the optimal linear controller, also for a command that is held for several steps."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.linalg import solve_discrete_are

from scenarios.control.plant import PlantConfig, linear_dynamics
from semcom.contracts import SemcomError

Cost = Annotated[float, Field(ge=0)]


class TeacherConfig(BaseModel):
    """The weights of the quadratic cost sum x' Q x + u' R u, with Q diagonal."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    state_cost: tuple[Cost, Cost, Cost, Cost] = Field(
        (100.0, 1.0, 10.0, 0.5), description="Q's diagonal: x, x_dot, theta, theta_dot"
    )
    command_cost: float = Field(0.02, gt=0, description="R, per N^2")


def held_dynamics(a: np.ndarray, b: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (A, B) over num_steps steps with the command held: A^n and sum of A^i B for i < n."""
    a_n, b_n = np.eye(len(a)), np.zeros_like(b)
    for _ in range(num_steps):
        a_n, b_n = a @ a_n, a @ b_n + b
    return a_n, b_n


def held_cost(
    a: np.ndarray, b: np.ndarray, q: np.ndarray, r: np.ndarray, num_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums the per-step cost over a held command, with its cross term: x'Qx + 2 x'Nu + u'Ru.

    Returns:
        Q_n [4, 4], R_n [1, 1] and N_n [4, 1], so that the redesigned controller minimises the very cost
        of the controller that acts at every step.
    """
    dim, command_dim = b.shape
    q_n, r_n, cross = np.zeros((dim, dim)), np.zeros((command_dim, command_dim)), np.zeros((dim, command_dim))
    a_i, b_i = np.eye(dim), np.zeros_like(b)
    for _ in range(num_steps):
        q_n += a_i.T @ q @ a_i
        r_n += r + b_i.T @ q @ b_i
        cross += a_i.T @ q @ b_i
        a_i, b_i = a @ a_i, a @ b_i + b
    return q_n, r_n, cross


def lqr_gain(
    plant: PlantConfig, teacher: TeacherConfig, hold_steps: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Solves the discrete Riccati equation for commands that are held for hold_steps control steps.

    Returns:
        The gain K [1, 4] of u = -K x and the cost-to-go P [4, 4] (Anderson and Moore, 1990, ch. 2).

    Raises SemcomError where there is none: costs of zero, or a command held too long.
    """
    a, b = linear_dynamics(plant)
    q, r, cross = held_cost(a, b, np.diag(teacher.state_cost), np.array([[teacher.command_cost]]), hold_steps)
    a_n, b_n = held_dynamics(a, b, hold_steps)
    try:
        p = solve_discrete_are(a_n, b_n, q, r, s=cross)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise SemcomError(
            f"no LQR for commands that are held for {hold_steps} steps ({error}): shorten the update "
            "interval, or raise teacher.state_cost"
        ) from error
    gain = np.linalg.solve(r + b_n.T @ p @ b_n, b_n.T @ p @ a_n + cross.T)
    return gain, p


class LqrTeacher:
    """u = -K x, clipped to the actuator's range."""

    def __init__(self, plant: PlantConfig, teacher: TeacherConfig, hold_steps: int = 1) -> None:
        gain, _ = lqr_gain(plant, teacher, hold_steps)
        self.gain = torch.from_numpy(gain)
        self.max_force_n = plant.max_force_n

    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        """Maps states [..., 4] to commands [..., 1] in N, float64."""
        command = -(state.to(torch.float64) @ self.gain.T)
        return command.clamp(-self.max_force_n, self.max_force_n)
