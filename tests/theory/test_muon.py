"""Muon's steps are orthogonal matrices, those of PyTorch's own Muon, and for the matrices of linear maps."""

import pytest
import torch
from torch import nn

from semcom.contracts import SemcomError
from semcom.muon import Muon, matrices_of, orthogonalize
from semcom.train import fit


@pytest.mark.parametrize("shape", [(6, 16, 16), (3, 8, 40)])
def test_what_is_orthogonalised_keeps_its_singular_vectors(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    inside = u.mT @ orthogonalize(matrices) @ vh.mT
    values = inside.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(inside, torch.diag_embed(values), atol=1e-4, rtol=0)
    # Singular values far below the largest one are lifted less far: that is what five steps can do.
    kept = s > 0.05 * s.amax(dim=1, keepdim=True)
    assert kept.float().mean() > 0.9
    assert values[kept].min() > 0.5
    assert values.max() < 1.5
    assert (s.amax(dim=1) / s.amin(dim=1)).min() > 1.5  # the power check: they were not alike


def test_steps_are_those_of_torch_s_muon_which_rounds_to_bfloat16():
    generator = torch.Generator().manual_seed(1)
    shapes = [(12, 6), (6, 12), (6, 6), (12, 6)]
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    start = [parameter.detach().clone() for parameter in ours]
    own = Muon(ours, 0.1)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        own.step()
        reference.step()
    for mine, other, first in zip(ours, theirs, start, strict=True):
        moved = (other - first).norm()
        assert (mine - other).norm() < 0.02 * moved
        assert (mine - first).norm() > 0.5 * moved


def test_only_matrices_of_linear_maps_are_muon_s():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1), nn.Linear(4, 5))
    model[3].requires_grad_(False)
    assert [id(matrix) for matrix in matrices_of(model)] == [id(model[0].weight)]
    with pytest.raises(SemcomError, match=r"not for shape \[4\]: use AdamW"):
        Muon([model[0].bias], 0.1)


def test_a_parameter_without_a_gradient_stays():
    still, moved = (nn.Parameter(torch.eye(3)) for _ in range(2))
    moved.grad = torch.ones(3, 3)
    Muon([still, moved], 0.1).step()
    assert torch.equal(still, torch.eye(3))
    assert not torch.equal(moved, torch.eye(3))


def test_vectors_are_trained_beside_matrices():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def batch_loss(step, generator):
        x = torch.randn(16, 4, generator=generator)
        return {"total": (model(x) - x[:, :3] - 1).square().mean()}

    log = fit(model, batch_loss, 200, 0.05, torch.Generator().manual_seed(0), optimizer="muon")
    assert log[-1]["total"] < 0.01 * log[0]["total"]
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
