"""The cart-pole against gymnasium's own, the teacher against Riccati, the batch against the environment."""

import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from analysis import theory
from scenarios.control.plant import CartPole, PlantBatch, PlantConfig, linear_dynamics
from scenarios.control.teacher import LqrTeacher, TeacherConfig, lqr_gain

QUIET = PlantConfig(disturbance_rms_n=0.0)


def test_each_step_equals_gymnasiums_cart_pole():
    ours, theirs = CartPole(QUIET), CartPoleEnv()
    # The equations are compared, not the limits.
    theirs.theta_threshold_radians = theirs.x_threshold = np.inf
    theirs.reset(seed=0)
    ours.reset(seed=0, options={"state": theirs.state})
    actions = np.random.Generator(np.random.PCG64(1)).integers(0, 2, size=30)
    for action in actions:
        theirs.step(int(action))
        ours.step(np.array([10.0 if action else -10.0]))
        np.testing.assert_allclose(ours.state, theirs.state, rtol=1e-12, atol=1e-12)


def test_the_batch_equals_the_environment():
    states = torch.tensor([[0.1, -0.2, 0.05, 0.3], [-0.3, 0.1, -0.1, 0.0]], dtype=torch.float64)
    batch, force = PlantBatch(states, QUIET), torch.tensor([[3.0], [-25.0]])
    single = []
    for state, command in zip(states, force, strict=True):
        environment = CartPole(QUIET)
        environment.reset(seed=0, options={"state": state.numpy()})
        environment.step(command.numpy())
        single.append(environment.state)
    batch.advance(force, torch.zeros(2))
    np.testing.assert_allclose(batch.state.numpy(), np.stack(single), rtol=1e-12)


def test_a_fallen_plant_stays_where_it_fell():
    batch = PlantBatch(torch.tensor([[0.0, 0.0, 0.52, 3.0]], dtype=torch.float64), QUIET)
    batch.advance(torch.zeros(1, 1), torch.zeros(1))
    assert not batch.alive[0]
    fell = batch.state.clone()
    batch.advance(torch.full((1, 1), 20.0), torch.zeros(1))
    assert torch.equal(batch.state, fell)


def test_the_teachers_measured_cost_is_riccatis():
    a, b = linear_dynamics(QUIET)
    teacher = TeacherConfig()
    gain, p = lqr_gain(QUIET, teacher)
    q, r = np.diag(teacher.state_cost), np.array([[teacher.command_cost]])
    np.testing.assert_allclose(gain, theory.lqr_gain(a, b, q, r), rtol=1e-8)
    start = np.array([0.1, 0.0, 0.05, 0.0])

    def cost(k: np.ndarray) -> float:
        state, total = start, 0.0
        for _ in range(2000):
            command = -k @ state
            total += state @ q @ state + command @ r @ command
            state = a @ state + b @ command
        return total

    np.testing.assert_allclose(cost(gain), start @ p @ start, rtol=1e-6)
    assert cost(1.1 * gain) > cost(gain) * (1 + 1e-4)


def test_the_redesigned_hold_is_optimal_among_held_gains():
    a, b = linear_dynamics(QUIET)
    gain, p = lqr_gain(QUIET, TeacherConfig(), hold_steps=8)
    q, r = np.diag(TeacherConfig().state_cost), np.array([[TeacherConfig().command_cost]])
    start = np.array([0.1, 0.0, 0.05, 0.0])

    def cost(k: np.ndarray) -> float:
        state, total = start, 0.0
        for step in range(1600):
            if step % 8 == 0:
                command = -k @ state
            total += state @ q @ state + command @ r @ command
            state = a @ state + b @ command
        return total

    np.testing.assert_allclose(cost(gain), start @ p @ start, rtol=1e-6)
    assert cost(gain * 1.02) > cost(gain)


def test_the_teacher_respects_the_actuator():
    command = LqrTeacher(QUIET, TeacherConfig())(torch.tensor([[5.0, 0, 0, 0], [0.01, 0, 0, 0]]))
    assert command[0].abs() == QUIET.max_force_n
    assert 0 < command[1].abs() < QUIET.max_force_n
