"""Regularisers against numbers worked by hand, closed forms and algebraic equivalences."""

from math import exp, pi, sqrt

import pytest
import torch

from semcom.contracts import SemcomError
from semcom.distances import DISTANCES, cosine, l1, l2, smooth_l1
from semcom.regularizers import SigReg, VicReg

# E T for standard normal samples: E |ecf - phi|^2 = (1 - phi^2) / N, integrated against phi.
GAUSSIAN_MEAN = sqrt(2 * pi) * (1 - 1 / sqrt(3))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_normal(num_rows: int, embedding_dim: int, seed: int) -> torch.Tensor:
    return torch.randn(num_rows, embedding_dim, generator=generator(seed))


def test_vicreg_by_hand():
    # Deviations 1/2 and 2, no covariance: hinges 1/2 and 0 over two dimensions.
    z = torch.tensor([[0.5, 0.0], [-0.5, 0.0], [0.0, 2.0], [0.0, -2.0], [0.0, 0.0]]) * sqrt(2)
    terms = VicReg(epsilon=0.0)(z)
    assert float(terms["variance"]) == pytest.approx(0.25)
    assert float(terms["covariance"]) == pytest.approx(0.0, abs=1e-12)
    # Deviations and covariance 1: a hinge at 2 gives 1, two entries of 1 over two dimensions give 1.
    z = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    terms = VicReg(variance_weight=3.0, covariance_weight=5.0, gamma=2.0, epsilon=0.0)(z)
    assert float(terms["variance"]) == pytest.approx(1.0)
    assert float(terms["covariance"]) == pytest.approx(1.0)
    assert float(terms["total"]) == pytest.approx(3.0 * 1.0 + 5.0 * 1.0)


def test_vicreg_depends_on_the_covariance_alone():
    z = draw_normal(50, 6, seed=1)
    terms = VicReg()(z)
    moved = VicReg()(z + 7.0)
    shuffled = VicReg()(z.flip(0).flip(1))
    for key in ("variance", "covariance", "total"):
        torch.testing.assert_close(moved[key], terms[key], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(shuffled[key], terms[key])
    covariances = torch.cov(z.T)
    expected = (covariances.square().sum() - covariances.diagonal().square().sum()) / 6
    torch.testing.assert_close(terms["covariance"], expected)
    torch.testing.assert_close(VicReg()(2 * z)["covariance"], 16 * terms["covariance"])


def test_vicreg_pulls_a_collapsed_batch_apart():
    z = (1e-3 * draw_normal(32, 4, seed=2)).requires_grad_()
    before = z.detach().std(dim=0)
    VicReg()(z)["total"].backward()
    assert ((z.detach() - z.grad).std(dim=0) > before).all()
    constant = torch.zeros(8, 4, requires_grad=True)
    VicReg()(constant)["total"].backward()
    assert torch.isfinite(constant.grad).all()


def test_the_statistic_of_a_gaussian_has_its_closed_form():
    # Each column is a sample of its own, so the statistics are independent.
    num_samples = 4000
    statistics = SigReg().statistics(draw_normal(64, num_samples, seed=3))
    mean, sigma = float(statistics.mean()), float(statistics.std()) / sqrt(num_samples)
    assert abs(mean - GAUSSIAN_MEAN) < 4.5 * sigma
    # The power check: samples half a decibel too strong.
    louder = SigReg().statistics(10 ** (0.5 / 20) * draw_normal(64, num_samples, seed=3))
    assert abs(float(louder.mean()) - GAUSSIAN_MEAN) > 4.5 * sigma


def test_the_statistic_of_a_constant_has_its_closed_form():
    """For u = m throughout, T / N = int (1 + phi^2 - 2 phi cos(t m)) phi dt."""
    for constant in (0.0, 0.7):
        statistic = float(SigReg().statistics(torch.full((10, 1), constant)))
        integral = 1 + 1 / sqrt(3) - 2 / sqrt(2) * exp(-(constant**2) / 4)
        # The points end at t = 5, where exp(-25 / 2) is left of the window.
        assert statistic == pytest.approx(10 * sqrt(2 * pi) * integral, rel=1e-4)


def test_seventeen_points_are_as_good_as_a_fine_grid():
    z = draw_normal(100, 20, seed=4)
    torch.testing.assert_close(
        SigReg(num_points=17).statistics(z), SigReg(num_points=1001).statistics(z), rtol=5e-3, atol=1e-3
    )


def test_the_folded_rule_is_the_full_one():
    projections = draw_normal(30, 3, seed=5)
    points = torch.linspace(-5, 5, 17)
    targets = torch.exp(-points.square() / 2)
    ecf = torch.exp(1j * projections.unsqueeze(-1) * points).mean(dim=0)
    full = 30 * torch.trapezoid((ecf - targets).abs().square() * targets, points, dim=-1)
    torch.testing.assert_close(SigReg().statistics(projections), full, rtol=1e-4, atol=1e-5)


def sigreg(z: torch.Tensor) -> float:
    return float(SigReg(weight=1.0, num_slices=256)(z, generator(9))["total"])


def test_sigreg_is_low_on_a_gaussian_and_high_on_everything_else():
    num_rows, embedding_dim = 1000, 2
    gaussian = draw_normal(num_rows, embedding_dim, seed=6)
    uniform = sqrt(12) * (torch.rand(num_rows, embedding_dim, generator=generator(7)) - 0.5)
    signs = torch.randint(0, 2, (num_rows, embedding_dim), generator=generator(8)) * 2.0 - 1
    bimodal = 0.95 * signs + sqrt(1 - 0.95**2) * gaussian
    one_line = gaussian[:, :1].expand(-1, embedding_dim)
    # In two dimensions the statistics of all directions go together: 3 is far out in the tail.
    assert sigreg(gaussian) < 3
    for z in (uniform, bimodal):
        assert abs(float(z.std()) - 1) < 0.05
        assert sigreg(z) > 3
    assert sigreg(one_line) > 30
    assert sigreg(torch.zeros(num_rows, embedding_dim)) == pytest.approx(0.4089 * num_rows, rel=1e-3)


def test_vicreg_overlooks_what_sigreg_sees():
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(250, 1)
    assert float(VicReg()(signs)["total"]) == pytest.approx(0.0, abs=1e-4)
    assert sigreg(signs) > 10


def test_sigreg_directions_come_from_the_generator():
    z = draw_normal(40, 8, seed=10) * torch.arange(1.0, 9.0)
    regulariser = SigReg(num_slices=16)
    first, again, other = (regulariser(z, generator(seed))["total"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    terms = SigReg(weight=0.3, num_slices=16)(z, generator(1))
    torch.testing.assert_close(terms["total"], 0.3 * terms["epps_pulley"])


def test_descending_sigreg_turns_a_collapsed_batch_into_a_gaussian():
    z = (0.1 * draw_normal(128, 3, seed=11)).requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.05)
    directions = generator(12)
    for _ in range(150):
        optimiser.zero_grad()
        SigReg(weight=1.0, num_slices=32)(z, directions)["total"].backward()
        optimiser.step()
    covariances = torch.cov(z.detach().T)
    assert float((covariances - torch.eye(3)).abs().max()) < 0.15


@pytest.mark.parametrize("regulariser", [VicReg(), SigReg(num_slices=8)])
def test_a_batch_of_one_is_refused(regulariser):
    with pytest.raises(SemcomError, match="N of 2 or more"):
        regulariser(torch.zeros(1, 4), generator(0))


@pytest.mark.parametrize("wrong", [{"num_points": 16}, {"num_points": 1}, {"num_slices": 0}])
def test_sigreg_refuses_impossible_settings(wrong):
    with pytest.raises(SemcomError, match=next(iter(wrong))):
        SigReg(**wrong)


def test_distances_by_hand():
    prediction = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    target = torch.tensor([[3.0, 2.0], [-2.0, 0.0]])
    assert l2(prediction, target).tolist() == [2.0, 4.5]
    assert l1(prediction, target).tolist() == [1.0, 1.5]
    assert smooth_l1(prediction, target).tolist() == [0.75, 1.25]
    assert cosine(prediction, target).tolist() == pytest.approx([1 - 17 / (5 * sqrt(13)), 2.0])


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_reduce_the_embedding_alone(name):
    z, target = draw_normal(24, 5, seed=1).reshape(2, 3, 4, 5), draw_normal(24, 5, seed=2).reshape(2, 3, 4, 5)
    distance = DISTANCES[name]
    assert distance(z, target).shape == (2, 3, 4)
    torch.testing.assert_close(distance(z, target)[1, 2], distance(z[1, 2], target[1, 2]))
    torch.testing.assert_close(distance(z, z), torch.zeros(2, 3, 4), atol=1e-6, rtol=0)


def test_cosine_is_half_the_squared_distance_of_unit_vectors():
    z, target = (torch.nn.functional.normalize(draw_normal(10, 6, seed=seed), dim=-1) for seed in (3, 4))
    torch.testing.assert_close(cosine(z, target), 6 * l2(z, target) / 2)
