"""A resumed training equals an uninterrupted one; a JEPA's loss follows from its parts."""

import pytest
import torch
from torch import nn

from semcom.contracts import SemcomError
from semcom.distances import DISTANCES
from semcom.jepa import Jepa
from semcom.predictors import FilmPredictor
from semcom.regularizers import VicReg
from semcom.train import fit


def _train(path, num_steps, total=20, optimizer="adamw"):
    torch.manual_seed(3)
    model = nn.Linear(3, 2)

    def batch_loss(step, generator):
        if step >= num_steps:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=generator)
        return {"total": (model(x) - x[:, :2]).square().mean()}

    generator = torch.Generator().manual_seed(5)
    try:
        fit(
            model,
            batch_loss,
            total,
            1e-2,
            generator,
            checkpoint=path,
            checkpoint_every=7,
            optimizer=optimizer,
        )
    except KeyboardInterrupt:
        return model
    return model


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, optimizer):
    whole = _train(tmp_path / "whole.safetensors", 20, optimizer=optimizer)
    interrupted = _train(tmp_path / "parts.safetensors", 11, optimizer=optimizer)
    assert not torch.equal(whole.weight, interrupted.weight)
    resumed = _train(tmp_path / "parts.safetensors", 20, optimizer=optimizer)
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    _train(tmp_path / "a.safetensors", 20)
    other = nn.Linear(4, 2)
    with pytest.raises(SemcomError, match=r"weight has shape \(2, 3\), the model needs \(2, 4\)"):
        fit(other, lambda s, g: {}, 30, 1e-2, torch.Generator(), checkpoint=tmp_path / "a.safetensors")


def test_the_loss_is_prediction_plus_regulariser():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 9, 4, generator=generator)
    condition = torch.randn(5, 9, 1, generator=generator)
    regularizer = VicReg(2.0, 0.1)
    jepa = Jepa(nn.Identity(), FilmPredictor(4, 1, 8), regularizer, DISTANCES["l2"])
    terms = jepa.loss(z, condition, 2, 3, generator)
    # A predictor that starts at zero repeats the context.
    repeated = torch.stack([(z[:, :3] - z[:, k : k + 3]).square().mean() for k in (1, 2)]).mean()
    torch.testing.assert_close(terms["prediction"], repeated)
    total = repeated + regularizer(z.flatten(0, 1), generator)["total"]
    torch.testing.assert_close(terms["total"], total)
