"""The continuous cart-pole: its equations of motion, many plants as one batch, and a gymnasium environment.

State [..., 4]: cart position x (m), cart velocity (m/s), pole angle theta from upright (rad), angular
velocity (rad/s). Command [..., 1]: the horizontal force on the cart (N).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

STATE_DIM = 4
COMMAND_DIM = 1


class PlantConfig(BaseModel):
    """The cart-pole's physics, limits, disturbance and starting states."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step_s: float = Field(0.02, gt=0, le=0.1, description="control step in seconds")
    gravity_m_s2: float = Field(9.8, gt=0, description="gravity in m/s^2")
    cart_mass_kg: float = Field(1.0, gt=0, description="mass of the cart in kg")
    pole_mass_kg: float = Field(0.1, gt=0, description="mass of the pole in kg")
    pole_half_length_m: float = Field(0.5, gt=0, description="half the pole's length in m")
    max_force_n: float = Field(20.0, gt=0, description="largest force that the cart can exert in N")
    disturbance_rms_n: float = Field(0.5, ge=0, description="white disturbance force, RMS in N")
    max_position_m: float = Field(1.2, gt=0, description="an episode ends beyond this |x| in m")
    max_angle_rad: float = Field(np.pi / 6, gt=0, lt=np.pi / 2, description="... this |theta| in rad")
    start_position_m: float = Field(0.3, ge=0, description="starting |x| is uniform up to this, in m")
    start_velocity_m_s: float = Field(0.2, ge=0, description="starting cart speed, likewise, in m/s")
    start_angle_rad: float = Field(0.1, ge=0, description="starting |theta|, likewise, in rad")
    start_rate_rad_s: float = Field(0.2, ge=0, description="starting angular rate, likewise, in rad/s")
    band_position_m: float = Field(
        0.05, gt=0, description="the control score counts steps with |x| within, m"
    )
    band_angle_rad: float = Field(0.05, gt=0, description="... and |theta| within this band, in rad")


def next_state(state: torch.Tensor, force_n: torch.Tensor, config: PlantConfig) -> torch.Tensor:
    """Advances the cart-pole by one explicit Euler step (Florian 2007, eq. 23-24; Barto et al. 1983).

    Args:
        state: [..., 4] float64.
        force_n: [...] float64, the total force on the cart in N.

    Returns:
        The next state [..., 4].
    """
    _, x_dot, theta, theta_dot = state.unbind(-1)
    mass = config.cart_mass_kg + config.pole_mass_kg
    moment = config.pole_mass_kg * config.pole_half_length_m
    sin, cos = torch.sin(theta), torch.cos(theta)
    push = (force_n + moment * theta_dot * theta_dot * sin) / mass
    theta_acc = (config.gravity_m_s2 * sin - cos * push) / (
        config.pole_half_length_m * (4.0 / 3.0 - config.pole_mass_kg * cos * cos / mass)
    )
    x_acc = push - moment * theta_acc * cos / mass
    rate = torch.stack((x_dot, x_acc, theta_dot, theta_acc), dim=-1)
    return state + config.step_s * rate


def linear_dynamics(config: PlantConfig) -> tuple[np.ndarray, np.ndarray]:
    """Linearises one step about upright rest: x_(t+1) = A x_t + B u_t.

    Returns:
        A [4, 4] and B [4, 1], the exact Jacobians of `next_state` at the origin.
    """
    origin = torch.zeros(STATE_DIM, dtype=torch.float64)
    force = torch.zeros((), dtype=torch.float64)
    a, b = torch.autograd.functional.jacobian(lambda s, u: next_state(s, u, config), (origin, force))
    return a.numpy(), b.numpy()[:, None]


def start_states(uniform: torch.Tensor, config: PlantConfig) -> torch.Tensor:
    """Maps uniform numbers on [0, 1) [K, 4] to starting states [K, 4], float64."""
    reach = torch.tensor(
        [
            config.start_position_m,
            config.start_velocity_m_s,
            config.start_angle_rad,
            config.start_rate_rad_s,
        ],
        dtype=torch.float64,
    )
    return (2 * uniform - 1) * reach


def is_inside(state: torch.Tensor, config: PlantConfig) -> torch.Tensor:
    """Tells which states [..., 4] are within the limits of an episode; a NaN is not."""
    return (state[..., 0].abs() <= config.max_position_m) & (state[..., 2].abs() <= config.max_angle_rad)


def is_in_band(state: torch.Tensor, config: PlantConfig) -> torch.Tensor:
    """Tells which states [..., 4] count for the control score: |x| and |theta| within their bands."""
    return (state[..., 0].abs() <= config.band_position_m) & (state[..., 2].abs() <= config.band_angle_rad)


class PlantBatch:
    """K cart-poles as one batch; a plant that has left its limits stays where it fell and scores nothing."""

    def __init__(self, state: torch.Tensor, config: PlantConfig) -> None:
        self.config = config
        self.state = state.to(torch.float64)
        self.alive = is_inside(self.state, config)

    def advance(self, command: torch.Tensor, disturbance_n: torch.Tensor) -> None:
        """Applies a command [K, 1] in N (clipped to the actuator's range) and a disturbance [K] in N."""
        force = command[:, 0].to(torch.float64).clamp(-self.config.max_force_n, self.config.max_force_n)
        moved = next_state(self.state, force + disturbance_n.to(torch.float64), self.config)
        self.state = torch.where(self.alive[:, None], moved, self.state)
        self.alive = self.alive & is_inside(self.state, self.config)


class CartPole(gymnasium.Env[np.ndarray, np.ndarray]):
    """One cart-pole with a continuous command, as a gymnasium environment.

    Observation: the state [4] float32. Action: the force in N, [1] float32. Reward: 1 in each step that
    ends inside the band of the control score, else 0. The disturbance is drawn from the environment's
    own generator.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's own signature)

    def __init__(self, config: PlantConfig | None = None) -> None:
        self.config = config or PlantConfig()
        limit = np.array([2 * self.config.max_position_m, np.inf, 2 * self.config.max_angle_rad, np.inf])
        self.observation_space = gymnasium.spaces.Box(
            -limit.astype(np.float32), limit.astype(np.float32), dtype=np.float32
        )
        force = np.array([self.config.max_force_n], dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-force, force, dtype=np.float32)
        self.state = np.zeros(STATE_DIM)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode from a random state, or from `options["state"]` [4]."""
        super().reset(seed=seed)
        if options and "state" in options:
            self.state = np.asarray(options["state"], dtype=np.float64)
        else:
            uniform = torch.from_numpy(self.np_random.random((1, STATE_DIM)))
            self.state = start_states(uniform, self.config)[0].numpy()
        return self.state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Applies the force `action` [1] in N for one control step."""
        limit = self.config.max_force_n
        force = float(np.clip(action[0], -limit, limit))
        force += self.config.disturbance_rms_n * float(self.np_random.standard_normal())
        before = torch.from_numpy(self.state)
        after = next_state(before, torch.tensor(force, dtype=torch.float64), self.config)
        self.state = after.numpy()
        reward = float(is_in_band(after, self.config))
        return self.state.astype(np.float32), reward, not bool(is_inside(after, self.config)), False, {}
