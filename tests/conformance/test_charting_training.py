"""Training of the charting scenario: what it is shown, how far it rolls out, what it keeps beside weights."""

import charting_setups
import numpy as np
import pytest
import torch

from scenarios.charting.config import PAPER, ChartingConfig
from scenarios.charting.data import Sequences
from scenarios.charting.dissimilarity import adp_dissimilarity, fuse, geodesic_dissimilarity, time_scale
from scenarios.charting.features import delay_taps
from scenarios.charting.geodesics import training_dissimilarities, training_rows
from scenarios.charting.measures import classical_chart
from scenarios.charting.models import NUM_CALIBRATION
from scenarios.charting.scenario import training_job
from scenarios.charting.sources import load_sequences
from scenarios.charting.training import train_model
from semcom.jepa import Jepa


@pytest.fixture(scope="module")
def config() -> ChartingConfig:
    return charting_setups.config()


@pytest.fixture(scope="module")
def data(config):
    return load_sequences(config, 0)


@pytest.mark.parametrize("longest", [1, 2, 3, 9])
def test_rollouts_grow_from_three_steps_to_the_longest_and_never_shrink(config, data, monkeypatch, longest):
    lengths, loss = [], Jepa.loss

    def noted(self, observation, condition, num_steps, *arguments):
        lengths.append(num_steps)
        return loss(self, observation, condition, num_steps, *arguments)

    monkeypatch.setattr(Jepa, "loss", noted)
    training = config.training.model_copy(update={"rollout_steps": longest})
    train_model("w-jepa", 0, data, config.model_copy(update={"training": training}).training_inputs())
    assert lengths[0] == min(3, longest)
    assert max(lengths) == longest
    assert (np.diff(lengths) >= 0).all()
    # The longest ones have the second half to themselves.
    assert set(lengths[len(lengths) // 2 :]) == {longest}


def test_the_dissimilarity_is_fused_of_angles_delays_and_time(config, data):
    train, num_points = data.train, 70
    found = training_dissimilarities(train, data.interval_s, num_points, 8)
    assert torch.equal(found.rows, training_rows(train, num_points))
    user, step = np.divmod(found.rows.numpy(), train.num_steps)
    csi = torch.stack([train.csi[u, t] for u, t in zip(user.tolist(), step.tolist(), strict=True)])
    adp = adp_dissimilarity(delay_taps(csi, 8).numpy())
    gap_s = np.where(user[:, None] == user, np.abs(step[:, None] - step) * data.interval_s, np.inf)
    gap_s = gap_s.astype(np.float32)
    geodesic = geodesic_dissimilarity(fuse(adp, gap_s, time_scale(adp, gap_s)))
    np.testing.assert_allclose(found.geodesic.numpy(), geodesic / geodesic.mean(), rtol=1e-5)


def test_training_points_are_spread_over_all_trajectories(data):
    rows = training_rows(data.train, 27)
    assert len(rows) == 27
    assert set((rows // data.train.num_steps).tolist()) == set(range(data.train.num_trajectories))
    total = data.train.num_trajectories * data.train.num_steps
    assert torch.equal(training_rows(data.train, 10**6), torch.arange(total))


@pytest.mark.parametrize("preset", [ChartingConfig(), PAPER])
def test_time_is_fused_however_sparse_the_points_of_a_preset_are(preset, config, data):
    """In the paper preset two neighbouring points of a trajectory are nearly four seconds apart."""
    scene, num_points = preset.data.scene, preset.training.num_dissimilarity_points
    spacing = 0.7 * scene.num_trajectories * scene.num_steps / num_points
    # The recorded walks, as sparse: every point is used, and time runs so much faster.
    found = training_dissimilarities(data.train, spacing * scene.interval_s, 10**6, 8)
    assert bool(torch.isfinite(found.geodesic).all())
    slow = config.model_copy(update={"training": config.training.model_copy(update={"num_steps": 10})})
    sparse = type(data)(
        data.train, data.validation, data.test, spacing * scene.interval_s, data.num_rows, knows_velocity=True
    )
    assert np.isfinite(classical_chart("isomap", slow, sparse)).all()


def test_a_model_keeps_the_scales_of_its_data_and_embeddings_to_fit_codecs_to(config, data):
    weights = charting_setups.trained()[training_job(config, "w-jepa", 0).key]
    speed = data.train.velocity_m_s.square().sum(dim=-1).mean().sqrt()
    torch.testing.assert_close(weights["speed_m_s"], speed)
    # Along a line walked at constant speed v for T steps, the way deviates by v dt sqrt((T^2 - 1) / 12).
    num_steps = data.train.num_steps
    spread_m = speed * data.interval_s * ((num_steps**2 - 1) / 12) ** 0.5
    torch.testing.assert_close(weights["scale_m"], spread_m, rtol=1e-3, atol=0)
    assert weights["calibration"].shape == (NUM_CALIBRATION, 2, config.model.embedding_dim)
    assert bool(weights["calibration"].isfinite().all())


def test_users_who_stand_are_no_reason_to_divide_by_zero(config, data):
    def standing(part: Sequences) -> Sequences:
        return Sequences(part.csi, part.position_m, torch.zeros_like(part.velocity_m_s))

    still = type(data)(
        standing(data.train), standing(data.validation), standing(data.test), data.interval_s, data.num_rows,
        knows_velocity=True,
    )  # fmt: skip
    model, log = train_model("w-jepa", 0, still, config.training_inputs())
    assert float(model.speed_m_s) == float(model.scale_m) == 1
    assert all(np.isfinite(row["total"]) for row in log if "total" in row)


def test_the_log_ends_with_diagnostics_on_validation_data(config, data):
    for name, measured in (("w-jepa", {"rank_me", "error_ratio"}), ("supervised", {"rank_me"})):
        _, log = train_model(name, 0, data, config.training_inputs())
        assert log[-2].keys() == {"stage", "step"} | measured
        assert [row["stage"] for row in log[-2:]] == ["validation", "score"]


def test_charts_are_held_to_positions_or_to_the_way_that_velocities_add_up_to(config, data):
    """Of training users, in metres; velocities tell no starting point, which the chart has to find itself."""
    training = config.training.model_copy(
        update={
            "num_steps": 300, "num_steps_baseline": 300, "num_pairs": 64, "feature_noise_std": 0.0,
            "pretraining_share": 0.0,
        }
    )  # fmt: skip
    inputs, train = config.model_copy(update={"training": training}).training_inputs(), data.train

    def mapped_m(name: str) -> torch.Tensor:
        model, _ = train_model(name, 0, data, inputs)
        with torch.no_grad():
            return model.chart(model.embed(train.csi)) * model.scale_m

    def size_m(difference: torch.Tensor) -> float:
        return float(difference.square().sum(dim=-1).mean().sqrt())

    from_centre_m = train.position_m - train.position_m.flatten(0, 1).mean(dim=0)
    supervised_m = mapped_m("supervised")
    assert size_m(supervised_m - from_centre_m) < 0.3 * size_m(from_centre_m)
    assert float(supervised_m.flatten(0, 1).mean(dim=0).norm()) < 0.05 * size_m(from_centre_m)
    chart_m = mapped_m("w-jepa")
    way_m = train.position_m - train.position_m.mean(dim=1, keepdim=True)
    error_m = chart_m - chart_m.mean(dim=1, keepdim=True) - way_m
    assert size_m(error_m) < 0.3 * size_m(way_m)


def test_the_chart_of_velocities_moves_as_they_do(config, data):
    training = config.training.model_copy(update={"num_steps_baseline": 150, "pretraining_share": 0.0})
    told = config.model_copy(update={"training": training}).training_inputs()
    model, _ = train_model("odometry", 0, data, told)
    with torch.no_grad():
        chart_m = model.chart(model.embed(data.train.csi)) * model.scale_m
    gone_m = data.interval_s * data.train.velocity_m_s[:, :-1].sum(dim=1)
    missed_m = (chart_m[:, -1] - chart_m[:, 0] - gone_m).norm(dim=-1).mean()
    # Standing still misses all of the way, a chart that runs backwards twice.
    assert missed_m < 0.75 * gone_m.norm(dim=-1).mean()
