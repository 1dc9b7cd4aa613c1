"""Alignment recovers rotations as exactly as noise allows; folding it into layers changes no prediction."""

from math import sqrt

import pytest
import torch
from latent_setups import close, generator, normal, random_rotation
from scipy.linalg import orthogonal_procrustes
from torch import nn

from nodes.training.alignment import Alignment, absorb, absorb_input, align
from semcom.contracts import SemcomError
from semcom.encoders import MlpEncoder
from semcom.predictors import FilmPredictor


def some_alignment(dim: int, seed: int = 0, *, shifted: bool = True) -> Alignment:
    shifts = 2 * normal(2, dim, seed=seed + 1) if shifted else torch.zeros(2, dim, dtype=torch.float64)
    return Alignment(random_rotation(dim, seed, mirrored=True), 1.7, shifts[0], shifts[1], 0.0, True)


def test_a_quarter_turn_worked_by_hand():
    z_from = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -2.0]])
    z_to = torch.tensor([[5.0, 8.0], [4.0, 7.0], [5.0, 6.0], [7.0, 7.0]])  # (x, y) to (-y, x) + (5, 7)
    found = align(z_from, z_to)
    close(found.rotation, torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double())
    close(found.shift_from, torch.tensor([0.0, -0.25]).double())
    close(found.shift_to, torch.tensor([5.25, 7.0]).double())
    close(found.apply(torch.tensor([3.0, 2.0])), torch.tensor([3.0, 10.0]), atol=1e-5)
    assert found.residual < 1e-12
    assert (found.scale, found.reflections, found.embedding_dim) == (1.0, True, 2)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("dim", [1, 3, 32])
def test_a_random_isometry_is_recovered_exactly(dim, mirrored):
    rotation = random_rotation(dim, seed=dim, mirrored=mirrored)
    z_from = normal(4 * dim, dim, seed=1) + 3
    shift = normal(dim, seed=2)
    found = align(z_from, 2.5 * z_from @ rotation + shift, scaled=True)
    close(found.rotation, rotation)
    assert found.scale == pytest.approx(2.5, rel=1e-12)
    close(found.apply(z_from), 2.5 * z_from @ rotation + shift)
    assert found.residual < 1e-20
    # Without a scale it is the same rotation, and what it leaves is (2.5 - 1)^2 / 2.5^2.
    plain = align(z_from, 2.5 * z_from @ rotation + shift)
    close(plain.rotation, rotation)
    assert plain.residual == pytest.approx(0.36, rel=1e-9)
    # As few anchors as there may be are enough: D without centring, one more with it.
    few = z_from[: dim + 1]
    close(align(few, few @ rotation + shift).rotation, rotation, atol=1e-6)
    close(align(few[:dim], few[:dim] @ rotation, centered=False).rotation, rotation, atol=1e-6)


def test_unrelated_embeddings_are_aligned_as_by_scipy():
    z_from, z_to = normal(40, 7, seed=3), normal(40, 7, seed=4)
    a, b = z_from - z_from.mean(dim=0), z_to - z_to.mean(dim=0)
    expected, trace = orthogonal_procrustes(a.numpy(), b.numpy())
    found = align(z_from, z_to, scaled=True)
    close(found.rotation, torch.from_numpy(expected))
    assert found.scale == pytest.approx(trace / float(a.square().sum()), rel=1e-12)
    # With the best scale, what is explained is the squared correlation of the two.
    explained = trace**2 / float(a.square().sum() * b.square().sum())
    assert found.residual == pytest.approx(1 - explained, rel=1e-12)
    assert align(z_from, z_to).residual > found.residual


@pytest.mark.parametrize("dim", [2, 5])
def test_without_reflections_the_least_direction_stays_mirrored(dim):
    z_from = normal(50, dim, seed=5) * torch.arange(1, dim + 1)
    z_to = z_from @ random_rotation(dim, seed=6, mirrored=True)
    found = align(z_from, z_to, reflections=False)
    assert float(torch.linalg.det(found.rotation)) == pytest.approx(1, rel=1e-9)
    # |A R - B|^2 is (2 a)^2 in the direction where A varies least, and nothing elsewhere.
    eigenvalues = torch.linalg.eigvalsh((z_from - z_from.mean(dim=0)).T @ (z_from - z_from.mean(dim=0)))
    assert found.residual == pytest.approx(float(4 * eigenvalues[0] / eigenvalues.sum()), rel=1e-9)
    assert align(z_from, z_to).residual < 1e-20
    assert not found.reflections


def test_the_rotation_errs_as_far_as_the_noise_says():
    """E |R_hat - R|^2 = sum_(i != j) e^2 / (l_i + l_j); the residual has N D less what was fitted."""
    num, dim, noise, num_trials = 60, 5, 0.02, 600
    z_from = normal(num, dim, seed=7) * torch.tensor([0.5, 1.0, 1.0, 2.0, 3.0])
    rotation = random_rotation(dim, seed=8, mirrored=True)
    a = z_from - z_from.mean(dim=0)
    eigenvalues = torch.linalg.eigvalsh(a.T @ a)
    errors, residuals = [], []
    for seed in range(num_trials):
        z_to = z_from @ rotation + noise * normal(num, dim, seed=100 + seed)
        found = align(z_from, z_to)
        errors.append((found.rotation - rotation).square().sum())
        residuals.append(found.residual * (z_to - z_to.mean(dim=0)).square().sum() / noise**2)
    pairs = noise**2 / (eigenvalues[:, None] + eigenvalues)
    expected = float(pairs.sum() - pairs.diagonal().sum())
    found_error, found_residual = torch.stack(errors), torch.stack(residuals)
    sigma = float(found_error.std()) / sqrt(num_trials)
    assert abs(float(found_error.mean()) - expected) < 4.5 * sigma
    # The power check: a decibel more of noise would be seen.
    assert abs(float(found_error.mean()) - expected * 10**0.1) > 4.5 * sigma
    left = (num - 1) * dim - dim * (dim - 1) / 2
    sigma = float(found_residual.std()) / sqrt(num_trials)
    assert abs(float(found_residual.mean()) - left) < 4.5 * sigma
    assert abs(float(found_residual.mean()) - (num - 1) * dim) > 4.5 * sigma  # a rotation was fitted


def test_inverse_and_composition():
    first, second = some_alignment(4), some_alignment(4, seed=10)
    z = normal(3, 6, 4, seed=11)
    close(first.inverse().apply(first.apply(z)), z)
    close(first.then(second).apply(z), second.apply(first.apply(z)))
    close(first.then(first.inverse()).apply(z), z)
    assert not torch.allclose(first.then(second).apply(z), first.apply(second.apply(z)))
    for made in (first.inverse(), first.then(second)):
        assert made.residual != made.residual  # nothing was fitted
    assert first.apply(z.float()).dtype == torch.float32
    rows = z.flatten(0, 1)
    assert first.unexplained_share(rows, first.apply(rows)) < 1e-20
    # Where everything is mapped to shift_to, nothing is explained.
    assert first.unexplained_share(first.shift_from.expand(18, 4), rows) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_folded_into_encoder_predictor_and_head_it_changes_no_prediction(dtype):
    torch.manual_seed(0)
    dim, condition_dim = 6, 2
    encoder, predictor = MlpEncoder(5, dim, 16), FilmPredictor(dim, condition_dim, 12)
    head = nn.Linear(dim, 3)
    for part in (encoder, predictor, head):
        part.to(dtype)
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.4)
    x, condition = torch.randn(20, 5, dtype=dtype), torch.randn(20, condition_dim, dtype=dtype)
    with torch.no_grad():
        z = encoder(x)
        z_next = predictor(z, condition)
        score = head(z_next)
    alignment = some_alignment(dim)
    encoder.linear = absorb(encoder.linear, alignment)
    encoder.out = absorb(encoder.out, alignment, shifted=False)
    predictor.layers[0] = absorb_input(predictor.layers[0], alignment)
    predictor.linear = absorb(absorb_input(predictor.linear, alignment), alignment, shifted=False)
    predictor.out = absorb(predictor.out, alignment, shifted=False)
    old_head, head = head, absorb_input(head, alignment)
    atol = 1e-4 if dtype == torch.float32 else 1e-11
    with torch.no_grad():
        close(encoder(x), alignment.apply(z), atol)
        close(predictor(encoder(x), condition), alignment.apply(z_next), atol)
        close(head(predictor(encoder(x), condition)), score, atol)
        # The power check: what is not folded is far off.
        assert float((old_head(predictor(encoder(x), condition)) - score).abs().max()) > 0.1
    assert all(parameter.dtype == dtype and parameter.requires_grad for parameter in encoder.parameters())


def test_folding_draws_nothing_and_leaves_the_layer():
    linear = nn.Linear(4, 4)
    before, state = linear.weight.detach().clone(), torch.get_rng_state()
    folded = absorb(linear, some_alignment(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(linear.weight, before)
    assert not torch.equal(folded.weight, before)


def test_encoders_that_differ_by_half_a_turn_average_to_nothing_unless_aligned():
    encoder = nn.Linear(5, 2)
    other = nn.Linear(5, 2)
    with torch.no_grad():
        other.weight.copy_(-encoder.weight)
        other.bias.copy_(-encoder.bias)
        x = torch.randn(30, 5, generator=generator(12))
        assert float((encoder(x) + other(x)).abs().max()) == 0
        aligned = absorb(other, align(other(x), encoder(x)))
        close((aligned.weight + encoder.weight) / 2, encoder.weight, 1e-5)
        close((aligned.bias + encoder.bias) / 2, encoder.bias, 1e-5)


def test_layers_that_don_t_fit_are_refused():
    with pytest.raises(SemcomError, match="out_features = 3 can't absorb an alignment of 4 dimensions"):
        absorb(nn.Linear(4, 3), some_alignment(4))
    with pytest.raises(SemcomError, match="in_features = 3 can't absorb an alignment of 4 dimensions"):
        absorb_input(nn.Linear(3, 4), some_alignment(4))
    for fold in (absorb, absorb_input):
        with pytest.raises(SemcomError, match=r"a layer without bias .* centered=False"):
            fold(nn.Linear(4, 4, bias=False), some_alignment(4))
    linear, alignment = nn.Linear(4, 4, bias=False).double(), some_alignment(4, shifted=False)
    z = normal(3, 4, seed=13)
    with torch.no_grad():
        close(absorb(linear, alignment)(z), alignment.apply(linear(z)))
        close(absorb_input(linear, alignment)(alignment.apply(z)), linear(z))
    with pytest.raises(SemcomError, match=r"embeddings \[2, 3\] for an alignment of 4 dimensions"):
        alignment.apply(torch.zeros(2, 3))


def test_anchors_that_fix_no_rotation_are_refused():
    z = normal(9, 4, seed=14)
    with pytest.raises(SemcomError, match=r"z_from is \[9, 4\] and z_to \[8, 4\]"):
        align(z, z[:8])
    with pytest.raises(SemcomError, match=r"z_from: 4 anchors for 4 dimensions .* give at least 5"):
        align(z[:4], z[:4])
    with pytest.raises(SemcomError, match=r"z_from: 3 anchors for 4 dimensions .* give at least 4"):
        align(z[:3], z[:3], centered=False)
    with pytest.raises(SemcomError, match=r"anchors \[2, 9, 4\] are no embeddings"):
        align(z.expand(2, 9, 4), z.expand(2, 9, 4))
    bad = z.clone()
    bad[6, 1] = torch.nan
    with pytest.raises(SemcomError, match="z_to: the embedding of anchor 6 is not finite"):
        align(z, bad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_degenerate_rank_is_named(dtype):
    z = normal(60, 6, seed=15).to(dtype)
    mixed = z.clone()
    mixed[:, 5] = 3 * z[:, 0] - z[:, 1] + 100  # of rank 5 but for rounding
    with pytest.raises(SemcomError, match="z_to: the anchors span 5 of 6 dimensions"):
        align(z, mixed)
    still = z.clone()
    still[:, 2:4] = 1.5
    with pytest.raises(SemcomError, match="z_from: the anchors span 4 of 6 dimensions"):
        align(still, z)
    # A direction that varies a thousand times less than the others still counts.
    small = z.clone()
    small[:, 5] *= 1e-3
    rotation = random_rotation(6, seed=16).to(dtype)
    close(align(small, small @ rotation).rotation, rotation.double(), 1e-3)
    # Each varies in both directions, but they share only one.
    h1, h2, h3 = torch.tensor([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], dtype=dtype)
    with pytest.raises(SemcomError, match="1 of 2 directions in common"):
        align(torch.stack((h1, h2), dim=1), torch.stack((h1, h3), dim=1))
