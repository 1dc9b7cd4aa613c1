"""Diagnostics of collapse on batches whose rank, spread and predictability are known."""

import warnings

import pytest
import torch

from semcom.contracts import SemcomError
from semcom.diagnostics import CollapseWarning, check_collapse, deviations, error_ratio, rank_me


def draw_normal(num_rows: int, embedding_dim: int, seed: int) -> torch.Tensor:
    return torch.randn(num_rows, embedding_dim, generator=torch.Generator().manual_seed(seed))


def test_rank_me_of_known_spectra():
    orthonormal = torch.linalg.qr(draw_normal(50, 8, seed=1)).Q
    assert rank_me(orthonormal) == pytest.approx(8.0, rel=1e-5)
    # Singular values 1/2, 1/4, 1/4: the entropy is 3/2 bits.
    assert rank_me(orthonormal[:, :3] * torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(2**1.5, rel=1e-5)
    assert rank_me(5 * orthonormal) == pytest.approx(8.0, rel=1e-5)


def test_rank_me_of_full_low_and_no_rank():
    isotropic = draw_normal(4000, 16, seed=2)
    assert 15.9 < rank_me(isotropic) <= 16
    rank_one = draw_normal(200, 1, seed=3) @ draw_normal(1, 16, seed=4)
    assert rank_me(rank_one) == pytest.approx(1.0, abs=1e-4)
    assert rank_me(draw_normal(200, 3, seed=5) @ draw_normal(3, 16, seed=6)) < 3 + 1e-3
    assert rank_me(torch.ones(20, 4)) == pytest.approx(1.0, abs=1e-4)
    assert rank_me(torch.zeros(20, 4)) == 0


def test_deviations_and_error_ratio_by_hand():
    assert deviations(torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])).tolist() == [2.0, 0.0]
    target, context = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert error_ratio(torch.tensor([[1.0, 0.0]]), target, context) == pytest.approx(0.25)
    assert error_ratio(context, target, context) == 1.0
    assert error_ratio(context, context, context) == 1.0
    assert error_ratio(target, context, context) == float("inf")


def test_a_healthy_batch_is_reported_without_a_warning():
    context, change = draw_normal(500, 8, seed=7), 0.1 * draw_normal(500, 8, seed=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check_collapse(context, context + 0.5 * change, context + change, context)
    assert 7.5 < report.rank_me <= report.max_rank == 8
    assert 0.9 < report.std_min <= report.std_median < 1.1
    assert report.error_ratio == pytest.approx(0.25, rel=1e-4)


def caught(*arguments, **thresholds) -> list[str]:
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        check_collapse(*arguments, **thresholds)
    assert all(warning.category is CollapseWarning for warning in issued)
    assert all(warning.filename == __file__ for warning in issued)
    return [str(warning.message) for warning in issued]


def test_each_kind_of_collapse_gives_its_own_warning():
    healthy = draw_normal(500, 8, seed=9)
    (text,) = caught(draw_normal(500, 1, seed=10) @ torch.ones(1, 8))
    assert text.startswith("RankMe is 1.00 of 8")
    dead = healthy.clone()
    dead[:, :2] = 3.0
    (text,) = caught(dead)
    assert text.startswith("2 of 8 dimensions deviate by less than 0.01")
    (text,) = caught(healthy, healthy, healthy + 1, healthy)
    assert text.startswith("prediction error is 1.00 of the identity's")
    assert len(caught(torch.zeros(10, 8))) == 2


def test_the_thresholds_are_the_callers():
    z = draw_normal(500, 8, seed=11)
    assert caught(z) == []
    assert len(caught(z, min_rank_share=1.0)) == 1
    assert len(caught(z, min_std=2.0)) == 1
    assert len(caught(z, z + 0.5, z + 1, z, max_error_ratio=0.2)) == 1


def test_half_a_question_is_refused():
    z = draw_normal(10, 4, seed=12)
    with pytest.raises(SemcomError, match="together"):
        check_collapse(z, prediction=z, target=z)
    with pytest.raises(SemcomError, match="N of 2 or more"):
        check_collapse(z[:1])
