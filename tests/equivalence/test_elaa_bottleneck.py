"""The bottleneck: what it says without bytes is what comes of them, and a resumed training is the same."""

import elaa_bottleneck_setups as setups
import pytest
import torch
from elaa_setups import ARRAY, draw_some, small_inputs

import semcom.train
from scenarios.elaa.bottleneck_training import train_bottleneck
from scenarios.elaa.coding_frame import examples_in
from scenarios.elaa.inputs import to_values
from semcom.train import Central


@pytest.mark.parametrize("mean_bits", [40, 64])
def test_without_bytes_it_says_what_comes_of_them(mean_bits):
    feedback, observed = setups.feedback(mean_bits), setups.observed()
    assert torch.equal(feedback(observed), feedback.decode(feedback.encode(observed)))


def test_what_training_sees_in_batches_is_what_the_codec_sends():
    """The differentiable path in eval mode, bounds and all: rounding in step with the coder's."""
    model, shown = setups.trained(), draw_some(40, seed=9)
    feedback = setups.feedback(64)
    examples, frames = examples_in(feedback.grid, shown, model.patches)
    z = model.analyse(model.estimate(examples.inputs))
    patches = model.synthesise(model.round(z, feedback.level), examples.inputs.place, feedback.level)
    h = model.patches.join(to_values(patches)) * feedback.grid.rotation(frames)
    symbols = feedback.quantise(shown.observed)
    assert torch.equal(symbols[:, :3], frames)
    inside = ((z / feedback.step).round().long() - feedback.lowest == symbols[:, 3:]).all(dim=1)
    # All but those with a number beyond what training had, or on the edge of two cells.
    assert int(inside.sum()) > 20
    torch.testing.assert_close(feedback(shown.observed)[inside], h[inside], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stage", ["jepa", "bottleneck", "density"])
def test_a_resumed_training_equals_an_uninterrupted_one(stage, tmp_path, monkeypatch):
    examples, told = draw_some(), setups.TOLD.model_copy(update={"num_steps": 12, "num_steps_density": 10})
    whole, _ = train_bottleneck(0, examples, ARRAY, small_inputs(), told)

    class StopError(Exception):
        pass

    save = semcom.train.save_state

    def save_and_stop(path, *arguments):
        save(path, *arguments)
        if path.stem == stage:
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(semcom.train, "save_state", save_and_stop)
        with pytest.raises(StopError):
            train_bottleneck(0, examples, ARRAY, small_inputs(), told, Central(tmp_path))
    resumed, _ = train_bottleneck(0, examples, ARRAY, small_inputs(), told, Central(tmp_path))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
