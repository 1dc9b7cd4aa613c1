"""The evidence that two sensors have changed places is as computed by hand, and means what it should."""

import torch

from scenarios.isac.swaps import SwapTest, accumulate


def pairs_of(num: int, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A sensor and two others: what they send, what is expected, and what they send in each other's place.

    Expected are numbers of variance 1, the residual has variance noise^2; in the other's place a sensor sends
    2 - 3 times what the other does.
    """
    generator = torch.Generator().manual_seed(seed)
    expected = torch.randn(num, 1, 2, 2, 1, generator=generator)
    expected[:, :, 0] = expected[:, :, 0, :1]
    residual = noise * torch.randn(num, 1, 2, 2, 1, generator=generator)
    residual[:, :, 0] = residual[:, :, 0, :1]
    pairs = expected + residual
    return pairs, expected, 2 - 3 * pairs.flip(2)


def test_evidence_adds_up_while_nothing_against_it_is_kept():
    evidence = torch.tensor([[-5.0, -2.0, 8.0, -4.0, 1.0, -9.0]])
    torch.testing.assert_close(accumulate(evidence, 0.5), torch.tensor([[-5, -2, 8, 4, 3, 1.5]]))
    torch.testing.assert_close(accumulate(evidence, 1), torch.tensor([[-5.0, -2, 8, 8, 9, 9]]))
    torch.testing.assert_close(accumulate(evidence, 0), torch.tensor([[-5.0, 0, 8, 0, 1, 0]]))


def test_slopes_and_residuals_are_those_that_the_sensors_have():
    num, noise = 40_000, 0.5
    test = SwapTest.fit(*pairs_of(num, noise, 1))
    # A ridge of 0.1 on numbers of variance 1; its shortfall adds to the spread, (3 / 11)^2.
    sigma = 3 * (noise**2 + 1) ** 0.5 / num**0.5
    assert float((test.slope[..., 0, 0] + 3 / 1.1).abs().max()) < 4.5 * sigma
    assert float((test.slope[..., 0, 0] + 3).abs().min()) > 4.5 * sigma  # the power check: no ridge
    assert float((test.offset - 2).abs().max()) < 4.5 * sigma
    for found, variance in ((test.variance, noise**2), (test.spread, 9 * noise**2 + (3 / 11) ** 2)):
        relative = found / variance - 1
        assert float(relative.abs().max()) < 4.5 * (2 / num) ** 0.5
        assert float((relative - 0.05).abs().min()) > 4.5 * (2 / num) ** 0.5  # the power check


def test_evidence_is_the_ratio_of_two_normal_densities():
    one = torch.ones(2, 1, 1)
    test = SwapTest(0.5 * one, 4 * one, 1 * one, 2 * one[..., None], 9 * one)
    pairs, expected = (torch.tensor(values).view(1, 1, 2, 1, 1) for values in ([3.0, -1.0], [2.0, 0.5]))
    # Swapped, 1 + 2 * 0.5 and 1 + 2 * 2 are expected; otherwise 2.5 and 1.
    swapped, own = ((3.0 - 2) ** 2 + (-1 - 5) ** 2) / 9, ((3.0 - 2.5) ** 2 + (-1.0 - 1) ** 2) / 4
    by_hand = -(swapped - own) / 2 - torch.tensor(9 / 4).log()
    torch.testing.assert_close(test.evidence(pairs, expected), by_hand.view(1, 1, 1))


def test_evidence_points_to_the_one_that_a_sensor_has_changed_places_with():
    test = SwapTest.fit(*pairs_of(4000, 0.5, 2))
    pairs, expected, swapped = pairs_of(1000, 0.5, 3)
    # It sends what it would in the second one's place, and the second one what it would in its.
    moved = pairs.clone()
    moved[:, :, 0] = swapped[:, :, 0, 1:]
    moved[:, :, 1, 1] = swapped[:, :, 1, 1]
    healthy, found = (test.evidence(sent, expected)[:, 0] for sent in (pairs, moved))
    # A likelihood ratio of x or more has probability 1 / x at most where the sensors are in their own places.
    sigma = (0.05 * 0.95 / 1000) ** 0.5
    assert float((healthy > torch.tensor(20.0).log()).float().mean()) < 0.05 + 4.5 * sigma
    assert (
        float((found[:, 1] > torch.tensor(20.0).log()).float().mean()) > 0.05 + 4.5 * sigma
    )  # the power check
    assert float((found[:, 1] > found[:, 0]).float().mean()) > 0.95
