"""Forecasts: a resumed training is an uninterrupted one, and points asked together are those asked alone."""

import pytest
import torch
from elaa_setups import PATCH_SIZE, PATCHES, small_inputs

import semcom.train
from channels.near_field import NearFieldConfig
from nodes.cluster import Cluster
from scenarios.contracts import Point
from scenarios.elaa import forecasts
from scenarios.elaa.examples import ExampleConfig, training_visibilities
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.observations import Observed
from scenarios.elaa.path_refinement import Prior, refine
from scenarios.elaa.path_search import path_search
from scenarios.elaa.presets import TINY
from scenarios.elaa.scenario import SCENARIO
from scenarios.elaa.tracks import Heard, Motion, MotionPrior, refine_motion
from scenarios.elaa.window_examples import draw_window_examples
from scenarios.elaa.window_training import train_window_model
from semcom.rng import Streams
from semcom.train import Central

ARRAY = NearFieldConfig(num_elements=64, num_snapshots=5)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    shown = draw_window_examples(
        ARRAY,
        ExampleConfig(num_examples=64),
        training_visibilities(PATCH_SIZE),
        PATCHES,
        3,
        (0, 2),
        Streams(0),
    )
    whole, log = train_window_model(0, shown, (0, 2), PATCHES, small_inputs())
    other, _ = train_window_model(1, shown, (0, 2), PATCHES, small_inputs())

    class StopError(Exception):
        pass

    save = semcom.train.save_state

    def save_and_stop(path, training, log):
        save(path, training, log)
        if path.stem == "decoder":
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(semcom.train, "save_state", save_and_stop)
        with pytest.raises(StopError):
            train_window_model(0, shown, (0, 2), PATCHES, small_inputs(), Central(tmp_path))
    resumed, again = train_window_model(0, shown, (0, 2), PATCHES, small_inputs(), Central(tmp_path))
    same = [torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True)]
    assert all(same)
    assert [row["stage"] for row in log] == [row["stage"] for row in again]
    assert not all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))


def forget() -> None:
    """Nothing is left of what was found before."""
    for found in vars(forecasts).values():
        if hasattr(found, "cache_clear"):
            found.cache_clear()


def test_look_aheads_that_are_asked_together_are_those_asked_alone():
    points = [
        Point("ahead", method, 0, {"look_ahead": ahead, "visible_share": 0.5, "snr_db": 10.0})
        for ahead in (0, 1)
        for method in ("last-value", "wiener", "s-omp", "nomp-track")
    ]
    together = SCENARIO.simulate(TINY, points, {}, Cluster())
    alone = []
    for point in reversed(points):
        forget()
        alone += SCENARIO.simulate(TINY, [point], {}, Cluster())
    assert together == alone[::-1]
    assert together[0] != together[4]


def test_moving_paths_of_one_snapshot_are_paths():
    """Refined over a single snapshot, with a prior that nothing turns, they are what NOMP's steps make."""
    line = LineArray.of(ARRAY)
    prior = Prior(1.0, 0.1, 0.07, 0.002)
    generator = torch.Generator().manual_seed(0)
    y = line.response(torch.tensor([0.2, -0.4]), torch.tensor([0.1, 0.05]))
    y = y + 0.1 * torch.randn(y.shape, dtype=torch.complex64, generator=generator)
    observed = Observed(y, torch.ones_like(y, dtype=torch.bool), torch.full((2,), 0.01))
    start, _ = path_search(line, 4.0, 0.8).strongest(y, observed.visible)
    found, left = refine(line, prior, start, observed, 6)
    still = Motion(start, torch.zeros(2, 1), torch.zeros(2))
    heard = Heard(y[:, None], observed.visible, observed.noise_var)
    moving, rest = refine_motion(line, MotionPrior(prior, 1e-8, 1e-14), still, heard, 6)
    torch.testing.assert_close(moving.paths.gain, found.gain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(moving.paths.inverse_m, found.inverse_m, rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(rest[:, 0], left, rtol=1e-2, atol=1e-3)
