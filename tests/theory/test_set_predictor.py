"""A predictor over a set of sensors knows what arrived and nothing else; masks hide as often as they say."""

import pytest
import torch

from semcom.masks import mask_links, mask_modalities, mask_patches
from semcom.set_predictor import SetPredictor, fill_in, newest

DIMS, NUM_LAGS, NUM_ROWS = (4, 4, 2, 2, 2), 3, 6


@pytest.fixture(scope="module")
def predictor() -> SetPredictor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return SetPredictor(DIMS, NUM_LAGS, 16).eval()


def draws() -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    """Contexts, of which half has arrived, and the generator that they come from."""
    generator = torch.Generator().manual_seed(8)
    context = torch.randn(NUM_ROWS, NUM_LAGS, len(DIMS), max(DIMS), generator=generator)
    arrived = torch.rand(context.shape[:-1], generator=generator) < 0.5
    return context, arrived, generator


@torch.no_grad()
@pytest.mark.parametrize("other", ["noise", "nan", "shuffled", "infinity"])
def test_what_did_not_arrive_changes_no_bit(predictor, other):
    context, arrived, generator = draws()
    expected = predictor(context, arrived)
    replaced = {
        "noise": torch.randn(context.shape, generator=generator),
        "nan": torch.full_like(context, torch.nan),
        "infinity": torch.full_like(context, -torch.inf),
        "shuffled": context[torch.randperm(NUM_ROWS, generator=generator)].flip(2),
    }[other]
    assert torch.equal(predictor(torch.where(arrived[..., None], context, replaced), arrived), expected)
    # What did arrive does matter, each of it.
    for row, lag, sensor in arrived.nonzero().tolist():
        touched = context.clone()
        touched[row, lag, sensor, 0] += 1
        assert not torch.equal(predictor(touched, arrived)[row], expected[row])
        lost = arrived.clone()
        lost[row, lag, sensor] = False
        assert not torch.equal(predictor(context, lost)[row], expected[row])


@torch.no_grad()
def test_where_nothing_arrived_the_answer_is_one_and_the_same(predictor):
    context, arrived, _ = draws()
    prior = predictor(context, torch.zeros_like(arrived))
    assert torch.equal(prior, prior[:1].expand_as(prior))
    # A sensor that sent zeros did arrive: it says something else than silence.
    silence = predictor(torch.zeros_like(context), torch.zeros_like(arrived))
    assert torch.equal(silence, prior)
    assert not torch.allclose(predictor(torch.zeros_like(context), torch.ones_like(arrived)), prior)


@torch.no_grad()
def test_rows_know_nothing_of_each_other_and_windows_may_be_short(predictor):
    context, arrived, _ = draws()
    together = predictor(context, arrived)
    for row in range(NUM_ROWS):
        alone = predictor(context[row : row + 1], arrived[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])
    # Fewer steps than it could look at: as if nothing had arrived before.
    arrived[:, 1:] = False
    torch.testing.assert_close(predictor(context[:, :1], arrived[:, :1]), predictor(context, arrived))
    # Shorter embeddings are filled up with zeros.
    assert not together[:, 2:, 2:].any()
    assert bool(together[:, :2].all())


def test_gradients_are_finite_though_nan_stands_where_nothing_arrived(predictor):
    context, arrived, _ = draws()
    context = torch.where(arrived[..., None], context, torch.nan).requires_grad_()
    predictor(context, arrived).square().sum().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in predictor.parameters())
    assert bool(context.grad.isfinite().all())
    assert not context.grad[~arrived].any()
    predictor.zero_grad()


def test_gaps_alone_are_filled_in():
    context = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]])
    predicted = torch.tensor([[[-1.0, -2.0], [-3.0, -4.0]]])
    arrived = torch.tensor([[[False, True], [True, True]]])
    assert fill_in(context, arrived, predicted).tolist() == [[[-1, -2], [3, 4]]]


NUM_DRAWS = 20_000


def off_by(share: torch.Tensor, expected: float) -> float:
    """How many standard deviations of its mean a sample [N] of independent draws is off what is expected."""
    sample = share.double()
    return abs(float(sample.mean()) - expected) / (float(sample.std()) / len(sample) ** 0.5)


def test_modalities_are_hidden_as_often_as_asked_whatever_others_there_are():
    hidden = mask_modalities(NUM_DRAWS, (0, 0, 1, 1, 1), 0.3, torch.Generator().manual_seed(1))
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    assert torch.equal(hidden[:, 2], hidden[:, 3])
    assert torch.equal(hidden[:, 2], hidden[:, 4])
    alone = mask_modalities(NUM_DRAWS, (0, 0), 0.3, torch.Generator().manual_seed(1))
    for sample in (hidden[:, 0], hidden[:, 2], alone[:, 0]):
        assert off_by(sample, 0.3) < 4.5
        assert (
            off_by(sample, 0.3 - 0.3**2 / 2) > 4.5
        )  # the power check: one is spared if both are to be hidden
    assert off_by(hidden[:, 0] & hidden[:, 2], 0.3**2) < 4.5
    assert bool(mask_modalities(50, (0, 1), 1.0, torch.Generator().manual_seed(2)).all())
    assert not mask_modalities(50, (0, 1), 0.0, torch.Generator().manual_seed(2)).any()


def test_links_of_a_row_share_a_probability_that_is_uniform():
    hidden = mask_links(NUM_DRAWS, 6, 0.6, torch.Generator().manual_seed(1))
    assert off_by(hidden.double().mean(dim=1), 0.3) < 4.5
    assert off_by(hidden.double().mean(dim=1), 0.31) > 4.5  # the power check
    # Two of a row: E[p^2] = 0.6^2 / 3, which independent ones, 0.3^2, are not.
    both = hidden[:, 0] & hidden[:, 5]
    assert off_by(both, 0.12) < 4.5
    assert off_by(both, 0.09) > 4.5


def test_patches_are_hidden_whole_and_as_often_as_asked():
    hidden = mask_patches(2000, 40, 50, 16, 0.3, torch.Generator().manual_seed(4))
    assert hidden.shape == (2000, 40, 50)
    corners = hidden[:, ::16, ::16]
    assert corners.shape[1:] == (3, 4)
    assert torch.equal(corners.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :40, :50], hidden)
    assert off_by(corners.flatten(), 0.3) < 4.5
    assert off_by(corners.flatten(), 0.32) > 4.5  # the power check


def test_the_newest_is_the_first_that_arrived_or_else_what_was_given():
    context = torch.tensor([[[[1.0], [10.0]], [[2.0], [20.0]], [[3.0], [30.0]]]])
    arrived = torch.tensor([[[False, False], [True, False], [True, False]]])
    otherwise = torch.tensor([[-1.0], [-2.0]])
    assert newest(context, arrived, otherwise)[0, :, 0].tolist() == [2, -2]
    arrived[0, 0, 1] = True
    assert newest(context, arrived, otherwise)[0, :, 0].tolist() == [2, 10]
