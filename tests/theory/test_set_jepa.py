"""The JEPA over a set of sensors, worked by hand."""

import copy

import pytest
import torch
from torch import nn

from semcom.distances import l2
from semcom.regularizers import VicReg
from semcom.set_jepa import SetJepa
from semcom.targets import EmaTarget

DIMS = (3, 1)


class _Scaled(nn.Module):
    """Embeddings are the observation times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, observation):
        return self.weight * observation


class _Constant(nn.Module):
    """Predicts the same of every sensor, whatever arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(2, 3))

    def forward(self, context, arrived):
        return self.value.expand(len(context), -1, -1)


def jepa(**weights) -> SetJepa:
    encoder = _Scaled()
    regularizer = VicReg(**({"variance_weight": 0.0, "covariance_weight": 0.0} | weights))
    return SetJepa(encoder, _Constant(), regularizer, l2, DIMS, target=EmaTarget(encoder, 0.5, 0.5))


def test_only_wanted_sensors_count_and_only_their_own_dimensions():
    observation = torch.tensor([[[1.0, 2, 3], [4, 100, 100]], [[0, 0, 6], [2, 100, 100]]])
    wanted = torch.tensor([[True, True], [False, True]])
    terms, z, predicted = jepa().loss(observation, observation, wanted, wanted, torch.Generator())
    # (1 + 4 + 9) / 3, 16 and 4: what stands beyond the second sensor's one dimension is not looked at.
    assert terms["prediction"].item() == pytest.approx((14 / 3 + 16 + 4) / 3)
    assert terms["total"].item() == pytest.approx(terms["prediction"].item())
    torch.testing.assert_close(z, observation)
    assert not predicted.any()
    nobody = jepa().loss(observation, observation, wanted, torch.zeros_like(wanted), torch.Generator())[0]
    assert nobody["prediction"].item() == 0


def test_the_regulariser_looks_at_each_sensor_for_itself():
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(64, 2, 3, generator=generator)
    everything = torch.ones(64, 2, dtype=torch.bool)
    terms, z, _ = jepa(variance_weight=1.0, covariance_weight=0.5).loss(
        observation, observation, everything, everything, generator
    )
    alone = [
        VicReg(1.0, 0.5)(z[:, sensor, :dim], generator)["total"].item() for sensor, dim in enumerate(DIMS)
    ]
    whole = VicReg(1.0, 0.5)(z.flatten(1), generator)["total"].item()
    regulariser = terms["total"].item() - terms["prediction"].item()
    assert regulariser == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert regulariser != pytest.approx(whole, rel=1e-3)


def test_targets_come_from_the_average_and_send_no_gradient():
    model = jepa()
    observation = torch.ones(4, 2, 3)
    everything = torch.ones(4, 2, dtype=torch.bool)
    model.loss(observation, observation, everything, everything, torch.Generator())[0]["total"].backward()
    # Predictions are constants and targets have no gradient: nothing reaches the encoder but the regulariser.
    assert model.encoder.weight.grad is None or model.encoder.weight.grad.item() == 0
    assert model.predictor.value.grad[0].abs().sum() > 0
    assert model.predictor.value.grad[1, 1:].abs().sum() == 0
    before = copy.deepcopy(model.target.encoder.weight)
    with torch.no_grad():
        model.encoder.weight.fill_(3.0)
    model.update_target(0)
    assert before.item() == 1
    assert model.target.encoder.weight.item() == pytest.approx(2.0)
