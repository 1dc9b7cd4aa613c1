"""The control scenario's world, data and metrics: what is seen, what is counted, and what must not leak."""

import numpy as np
import pytest
import torch

from scenarios.control.camera import CameraConfig
from scenarios.control.dataset import DatasetConfig, collect
from scenarios.control.metrics import nmae_by_age
from scenarios.control.plant import PlantConfig, is_inside, next_state
from scenarios.control.teacher import LqrTeacher, TeacherConfig
from scenarios.control.world import ControlWorld
from semcom.rng import Streams

PLANT, CAMERA, TEACHER = PlantConfig(), CameraConfig(), TeacherConfig()
GAP, NUM_STEPS = 3, 12


def world(devices: range, seed: int = 0) -> ControlWorld:
    return ControlWorld(PLANT, CAMERA, TEACHER, GAP, NUM_STEPS, np.array(devices), Streams(seed))


def drive(cell: ControlWorld, num_steps: int) -> list[torch.Tensor]:
    """Applies the teacher's command for some steps; returns it."""
    commands = []
    for step in range(num_steps):
        commands.append(cell.teacher(cell.batch.state))
        cell.advance(step, commands[-1])
    return commands


def test_a_device_lives_the_same_life_in_any_group():
    whole, parts = world(range(5)), [world(range(2)), world(range(2, 5))]
    for cell in (whole, *parts):
        drive(cell, 6)
    torch.testing.assert_close(whole.batch.state, torch.cat([part.batch.state for part in parts]))
    rows = np.arange(5)
    seen = [whole.look(6, rows), parts[0].look(6, rows[:2]), parts[1].look(6, rows[:3])]
    assert torch.equal(seen[0].frame, torch.cat([look.frame for look in seen[1:]]))
    torch.testing.assert_close(seen[0].past_command, torch.cat([look.past_command for look in seen[1:]]))


def test_another_seed_is_another_world():
    assert not torch.equal(world(range(3)).batch.state, world(range(3), seed=1).batch.state)


def test_the_earlier_frame_is_the_one_that_was_taken_then():
    cell, rows = world(range(3)), np.arange(3)
    then = cell.look(0, rows).frame[:, 1]
    drive(cell, GAP)
    later = cell.look(GAP, rows).frame
    assert torch.equal(later[:, 0], then)
    assert not torch.equal(later[:, 1], then)


def test_past_commands_are_those_applied_oldest_first_and_clipped():
    cell = world(range(2))
    assert not cell.look(0, np.arange(2)).past_command.any()
    for step, force in enumerate((1.0, 2.0, 50.0, -50.0)):
        cell.advance(step, torch.full((2, 1), force))
    assert cell.look(4, np.array([1])).past_command.flatten().tolist() == [2.0, 20.0, -20.0]


def test_the_outcome_counts_the_band_and_the_teachers_commands():
    cell = world(range(4))
    commands = drive(cell, NUM_STEPS)
    outcome = cell.outcome()
    np.testing.assert_allclose(outcome["teacher_command_n"], torch.cat(commands, dim=1), rtol=1e-6)
    np.testing.assert_allclose(outcome["command_n"], outcome["teacher_command_n"])
    last = (cell.batch.state[:, 0].abs() <= 0.05) & (cell.batch.state[:, 2].abs() <= 0.05)
    assert outcome["in_band"][:, -1].tolist() == last.tolist()
    assert outcome["alive"].all()


def test_a_plant_that_has_fallen_scores_nothing_any_more():
    cell = world(range(3))
    for step in range(NUM_STEPS):
        cell.advance(step, torch.tensor([[20.0], [20.0], [0.0]]))
    outcome = cell.outcome()
    fallen = ~outcome["alive"]
    assert fallen.tolist()[:2] == [True, True]
    assert not outcome["in_band"][fallen, -1].any()
    assert not bool(is_inside(cell.batch.state, PLANT)[fallen].any())


def test_nmae_by_hand():
    teacher = np.array([[0.0, 1.0, 2.0, 4.0, 9.0], [1.0, 1.0, 0.0, 0.0, 9.0], [50.0] * 5])
    error = np.array([[0.0, 0.4, 0.0, 0.8, 7.0], [0.0, -0.4, 0.4, 0.0, 7.0], [9.0] * 5])
    # The third has fallen; the fifth step begins an interval that isn't whole; the range is 4 - 0.
    found = nmae_by_age(
        {"alive": np.array([True, True, False]), "command_n": teacher + error, "teacher_command_n": teacher},
        2,
    )
    np.testing.assert_allclose(found, [(0.0 + 0.0 + 0.0 + 0.4) / 4 / 4, (0.4 + 0.8 + 0.4 + 0.0) / 4 / 4])


def test_nmae_without_a_survivor_is_not_a_number():
    nothing = {"alive": np.array([False]), "command_n": np.ones((1, 4)), "teacher_command_n": np.ones((1, 4))}
    assert np.isnan(nmae_by_age(nothing, 2)).tolist() == [True, True]


SMALL = DatasetConfig(num_trajectories=60, num_held_out=8, num_steps=60)


@pytest.fixture(scope="module")
def parts():
    camera = CameraConfig(height_px=8, width_px=16)
    return collect(SMALL, PLANT, TEACHER, camera, Streams(0))


def test_data_are_split_by_trajectory_and_drawn_apart(parts):
    train, held_out = parts
    assert train.state.shape == (60, 60, 4)
    assert held_out.frame.shape == (8, 60, 1, 8, 16)
    starts = torch.cat((train.state[:, 0], held_out.state[:, 0]))
    assert len(torch.unique(starts, dim=0)) == 68
    again, _ = collect(SMALL, PLANT, TEACHER, CameraConfig(height_px=8, width_px=16), Streams(0))
    other, _ = collect(SMALL, PLANT, TEACHER, CameraConfig(height_px=8, width_px=16), Streams(1))
    assert torch.equal(again.frame, train.frame)
    assert not torch.equal(other.state, train.state)


def test_the_evaluation_meets_no_start_that_the_training_met(parts):
    starts = world(range(64)).batch.state
    distance = (parts[0].state[:, :, None].double() - starts).abs().amax(dim=-1)
    assert distance.min() > 1e-4


def test_trajectories_obey_the_plant_up_to_the_disturbance(parts):
    state, command = parts[0].state.double(), parts[0].command[..., 0].double()
    unpushed = next_state(state[:, :-1], command[:, :-1], PLANT)
    # At the small angles of these trajectories a force F accelerates the cart by about F / (1.075 kg).
    force = (state[:, 1:, 1] - unpushed[..., 1]) / PLANT.step_s * 1.075
    num = force.numel()
    assert float(force.std()) == pytest.approx(0.5, abs=4.5 * 0.5 / (2 * num) ** 0.5 + 0.02)
    assert float((state[:, 1:, 0] - unpushed[..., 0]).abs().max()) < 1e-6


def test_the_command_does_not_give_the_state_away(parts):
    """The causal leak of docs/LOG.md: what was applied must not be what the true state asks for."""
    train = parts[0]
    applied, asked = train.command.flatten(), train.teacher_command.flatten()
    correlation = float(torch.corrcoef(torch.stack((applied, asked)))[0, 1])
    assert 0.2 < correlation < 0.9
    own = LqrTeacher(PLANT, TEACHER)(train.state).flatten()
    torch.testing.assert_close(own.float(), asked, atol=1e-2, rtol=0)
