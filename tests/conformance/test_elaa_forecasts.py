"""Forecasts of moving users: shapes, what reaches them, and that they are made of what they say."""

from dataclasses import replace

import pytest
import torch
from elaa_setups import MODEL, PATCH_SIZE, PATCHES

from channels.near_field import NearFieldConfig, draw_channels
from scenarios.elaa.config import moving
from scenarios.elaa.examples import ExampleConfig, training_visibilities
from scenarios.elaa.features import Dechirper
from scenarios.elaa.forecasts import draw_goal, draw_heard, forecast
from scenarios.elaa.inputs import mirror_patches
from scenarios.elaa.jobs import TIME, TUNED, Trained, train_job
from scenarios.elaa.models import CsiModel
from scenarios.elaa.observations import observe
from scenarios.elaa.presets import TINY
from scenarios.elaa.scenario import training_job
from scenarios.elaa.tracks import Heard
from scenarios.elaa.vocabulary import FORECASTERS
from scenarios.elaa.window_examples import NUM_CELLS_AHEAD, cells_ahead, draw_window_examples
from scenarios.elaa.window_training import LearnedForecaster
from scenarios.elaa.windows import find_frame, make_window_inputs, mirror_window, window_of
from semcom.contracts import SemcomError
from semcom.rng import Streams

ARRAY = NearFieldConfig(num_elements=64, num_snapshots=11)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hear(num: int = 10, hidden: slice = slice(16, 40)) -> tuple[torch.Tensor, Heard]:
    h = draw_channels(ARRAY, num, generator(2)).h[:, :, 0]
    visible = torch.ones((num, 64), dtype=torch.bool)
    visible[:, hidden] = False
    each = [observe(h[:, t], visible, 10.0, generator(t)) for t in range(3)]
    return h, Heard(torch.stack([one.y for one in each], dim=1), visible, each[0].noise_var)


def forecaster() -> LearnedForecaster:
    torch.manual_seed(1)
    return LearnedForecaster(CsiModel(MODEL, PATCHES, window_of(3)).eval(), ARRAY, PATCH_SIZE)


@pytest.fixture(scope="module")
def tensors():
    return train_job(TIME, 0, TINY)[0]


@pytest.mark.parametrize("method", FORECASTERS)
def test_forecasts_have_the_arrays_shape_and_come_again(method, tensors):
    weights = {TIME: tensors}
    goal, h_hat = forecast(TINY, [method], 0.5, 1, 0, weights)[method]
    assert h_hat.shape == goal.shape == (TINY.data.num_test, 64)
    assert h_hat.dtype == torch.complex64
    assert torch.isfinite(torch.view_as_real(h_hat)).all()
    assert torch.equal(goal, draw_goal(TINY, "test", 1, 0))
    assert torch.equal(h_hat, forecast(TINY, [method], 0.5, 1, 0, weights)[method][1])
    assert not torch.equal(h_hat, forecast(TINY, [method], 0.5, 1, 1, weights)[method][1])


def test_the_jobs_tensors_are_what_the_forecaster_is_made_of(tensors):
    heard = draw_heard(TINY, "test", 0.5, 0)
    trained = Trained(TINY.model, TINY.array, tensors, "a test")
    model = CsiModel(TINY.model, trained.patches, window_of(3)).eval()
    model.load_state_dict({key.removeprefix(TUNED): value for key, value in tensors.items()})
    by_hand = LearnedForecaster(model, TINY.array, TINY.model.patch_size).forecast(heard, 1)
    # Where weights lie in memory may change the last digit.
    torch.testing.assert_close(trained.forecast(heard, 1), by_hand, atol=1e-5, rtol=1e-4)
    predicted = forecast(TINY, [TIME], 0.5, 1, 0, {TIME: tensors})[TIME][1]
    torch.testing.assert_close(predicted, by_hand, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(forecaster().forecast(heard, 1), by_hand, atol=1e-3)
    short = {key: value for key, value in tensors.items() if "decoder" not in key}
    with pytest.raises(SemcomError, match="a test"):
        Trained(TINY.model, TINY.array, short, "a test").forecast(heard, 1)


def test_what_is_asked_of_the_forecaster_makes_another_job_and_no_other_model():
    longer = TINY.model_copy(
        update={"evaluation": TINY.evaluation.model_copy(update={"look_aheads": (0, 3)})}
    )
    assert training_job(TINY, TIME, 0).key != training_job(longer, TIME, 0).key
    assert training_job(TINY, "mae", 0).key == training_job(longer, "mae", 0).key


def test_rows_are_independent_and_the_look_ahead_counts():
    _, heard = hear()
    learned = forecaster()
    whole = learned.forecast(heard, 2)
    torch.testing.assert_close(learned.forecast(heard[3:5], 2), whole[3:5], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(learned.forecast(heard, 4), whole, atol=1e-2)


def test_hidden_patches_never_reach_the_forecaster():
    _, heard = hear()
    patches, learned = PATCHES.split(heard.visible), forecaster()
    inputs, _ = make_window_inputs(heard, Dechirper(ARRAY), PATCHES)
    assert inputs.y.shape == (10, PATCHES.num_patches, 2 * PATCH_SIZE * 3)
    assert not bool(inputs.y[~patches.any(dim=2)].any())
    filled = inputs.y.clone()
    filled[~inputs.visible] = 5.0
    assert torch.equal(learned.model(inputs), learned.model(replace(inputs, y=filled)))
    # A turn of all snapshots' phase turns the forecast.
    turned = Heard(1j * heard.y, heard.visible, heard.noise_var)
    torch.testing.assert_close(
        learned.forecast(turned, 1), 1j * learned.forecast(heard, 1), rtol=1e-3, atol=1e-3
    )


def test_examples_are_the_channels_at_the_times_that_they_are_asked_for():
    config = ExampleConfig(num_examples=40)
    visibilities = training_visibilities(PATCH_SIZE)
    shown = draw_window_examples(ARRAY, config, visibilities, PATCHES, 3, (0, 4, 8), Streams(3))
    assert shown.time.tolist() == [-2, -1, 0, 2, 3, 4, 6, 7, 8]
    rows = torch.tensor([5, 5, 9])
    later = shown.later(rows, torch.tensor([0, 8, 4]))
    assert later.shape == (3, 3, PATCHES.num_patches, 2 * PATCH_SIZE)
    for number, (row, last) in enumerate(((5, 2), (5, 8), (9, 5))):
        assert torch.equal(later[number], shown.clean[row, last - 2 : last + 1])
    # The strongest path stands still in the frame: over eight snapshots that's most of a channel.
    now, then = shown.clean[:, 2].flatten(1), shown.clean[:, 8].flatten(1)
    sure = shown.cell % 9 > 4
    likeness = (now * then).sum(dim=1) / (now.norm(dim=1) * then.norm(dim=1))
    assert float(likeness[sure].median()) > 0.7
    again = draw_window_examples(ARRAY, config, visibilities, PATCHES, 3, (0, 4, 8), Streams(3))
    assert torch.equal(again.inputs.y, shown.inputs.y)
    kept = cells_ahead(shown.cell, torch.full((40,), 8))
    assert int(kept.max()) < NUM_CELLS_AHEAD


def test_a_mirrored_window_is_the_window_of_the_mirrored_array():
    _, heard = hear()
    inputs, frame = make_window_inputs(heard, Dechirper(ARRAY), PATCHES)
    mirrored = inputs.mirrored()
    assert torch.equal(mirrored.mirrored().y, inputs.y)
    flipped = Heard(heard.y.flip(2), heard.visible.flip(1), heard.noise_var)
    other = find_frame(flipped, Dechirper(ARRAY))
    same = (other.frame.rotation.flip(1) * frame.frame.rotation.conj()).mean(dim=1).abs() > 0.999
    assert int(same.sum()) > 5
    expected, _ = make_window_inputs(flipped, Dechirper(ARRAY), PATCHES)
    torch.testing.assert_close(mirrored.y[same], expected.y[same], rtol=0.1, atol=0.15)
    torch.testing.assert_close(mirrored.there, expected.there)
    window = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    assert torch.equal(mirror_window(window)[:, 1], mirror_patches(window[:, 1]))


def test_the_test_users_history_is_what_their_channels_were():
    heard, told = draw_heard(TINY, "test", 0.5, 0), TINY.evaluation
    assert heard.y.shape == (TINY.data.num_test, told.num_history, 64)
    assert moving(TINY).num_snapshots == told.num_history + max(told.look_aheads)
    now = draw_goal(TINY, "test", 0, 0)
    error = (heard.y[:, -1] - now)[heard.visible].abs().square().mean()
    assert float(error) == pytest.approx(0.1, rel=0.4)


def test_an_unknown_forecaster_is_refused():
    with pytest.raises(SemcomError, match="no predictor is called kalman"):
        forecast(TINY, ["kalman"], 0.5, 0, 0, {})


def test_a_window_of_one_snapshot_is_refused():
    _, heard = hear(2)
    with pytest.raises(SemcomError, match="one snapshot tells no turn"):
        find_frame(Heard(heard.y[:, :1], heard.visible, heard.noise_var), Dechirper(ARRAY))
