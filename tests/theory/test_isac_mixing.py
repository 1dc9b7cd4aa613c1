"""Scenes made of two: whom they bring together, and that they look and sound like both."""

import isac_setups
import numpy as np
import pytest
import torch
from isac_setups import task

from channels.room import RoomConfig, Walk
from channels.room_analytic import AnalyticRoom
from scenarios.isac.features import CsiNormaliser
from scenarios.isac.mixing import ALONE, Draw, Partners, mix_content, mix_csi, mix_labels

NAN = float("nan")
NUM_STEPS = isac_setups.config().data.room.num_steps


def test_nobody_is_brought_together_with_himself():
    there = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 1, 0]], dtype=torch.bool)
    rows = torch.arange(5).repeat(200)
    partner = Partners(there).draw(rows, 1.0, torch.Generator().manual_seed(0))
    found = {row: set(partner[rows == row].tolist()) for row in range(5)}
    # Rows 0 and 1 are disjoint, as are 0 and 4. A room of three takes nobody more, an empty one anybody.
    assert found == {0: {1, 4}, 1: {0}, 2: {ALONE}, 3: {0, 1, 2, 4}, 4: {0}}


def test_the_share_that_is_mixed_is_that_asked_for():
    there, num, share = torch.eye(3, dtype=torch.bool), 20_000, 0.3
    rows = torch.arange(num) % 3
    partner = Partners(there).draw(rows, share, torch.Generator().manual_seed(0))
    found = float((partner != ALONE).float().mean())
    sigma = (share * (1 - share) / num) ** 0.5
    assert abs(found - share) < 4.5 * sigma
    assert abs(found - 1.1 * share) > 4.5 * sigma  # the power check
    # Both of the others alike.
    first = partner[(rows == 0) & (partner != ALONE)]
    assert abs(float((first == 1).float().mean()) - 0.5) < 4.5 * 0.5 / len(first) ** 0.5


def test_a_pixel_shows_what_differs_more_from_the_background():
    content = torch.tensor([[[[0.0, 3.0]], [[0.0, 0.0]], [[1.0, 0.0]]]])
    other = torch.tensor([[[[0.0, 1.0]], [[-2.0, 1.0]], [[0.0, 0.5]]]])
    # The first pixel: 1 against 2; the second: 3 against 2.5. All colours come from one of the two.
    mixed = mix_content(content, other)
    assert mixed[0, :, 0, 0].tolist() == [0.0, -2.0, 0.0]
    assert mixed[0, :, 0, 1].tolist() == [3.0, 0.0, 0.0]


def test_the_people_of_both_are_there_and_who_hides_whom_is_not_known():
    position_m = torch.tensor([[[1.0, 1.0], [NAN, NAN], [NAN, NAN]]])
    other_m = torch.tensor([[[NAN, NAN], [2.0, 3.0], [NAN, NAN]]])
    together_m, visible = mix_labels(position_m, torch.ones(1, 3, 2), other_m)
    torch.testing.assert_close(
        together_m, torch.tensor([[[1.0, 1.0], [2.0, 3.0], [NAN, NAN]]]), equal_nan=True
    )
    assert bool(visible.isnan().all())


def test_csi_of_two_is_nearly_what_two_walks_would_have_made():
    """Two bodies apart, in the analytic world: what is left of the error is what they do to each other."""
    config = RoomConfig(world="analytic", num_receivers=9, max_pedestrians=2, furniture=())
    room = AnalyticRoom(config)
    generator = np.random.default_rng(0)
    near = generator.uniform([0.8, 0.8], [2.4, 3.2], (60, 2))
    far = generator.uniform([3.6, 0.8], [5.2, 3.2], (60, 2))
    nobody = np.full((60, 2), np.nan)

    def csi(first: np.ndarray, second: np.ndarray) -> torch.Tensor:
        position_m = np.stack([first, second], axis=1)
        heading_rad = np.where(np.isnan(position_m[..., 0]), np.nan, 0.0)
        return torch.from_numpy(room.csi(Walk(position_m, heading_rad)))

    empty, one, other, both = csi(nobody, nobody), csi(near, nobody), csi(nobody, far), csi(near, far)
    mixed = mix_csi(one, other, empty)
    error = float((mixed - both).norm())
    assert error < 0.4 * float((one - both).norm())
    assert error < 0.4 * float((other - both).norm())


def test_csi_is_turned_into_the_phase_of_its_mean():
    generator = torch.Generator().manual_seed(0)
    made = CsiNormaliser(2, 8, 4)
    made.mean_csi.copy_(torch.randn(2, 8, dtype=torch.complex64, generator=generator))
    turn = torch.polar(torch.ones(5, 2), 2 * torch.pi * torch.rand(5, 2, generator=generator))
    torch.testing.assert_close(
        made.turned(made.mean_csi * turn[..., None]), made.mean_csi.expand(5, -1, -1), atol=1e-5, rtol=0
    )


def test_steps_of_two_are_shown_with_what_both_hold():
    made = task(mix_share=1.0, jpeg_share=0.0)
    draw = made.scenes.draw(40, 1.0)
    assert 0 < len(draw.mixed) < 40  # of two people at most: rooms of two take nobody more
    first, second = Draw.alone(draw.rows[draw.mixed]), Draw.alone(draw.partner[draw.mixed])
    for of in (made.scenes.content, made.scenes.content_seen):
        expected = mix_content(made.scenes.content(first), made.scenes.content(second))
        assert torch.equal(of(draw)[draw.mixed], expected)
    position_m, visible = made.scenes.labels(draw)
    num_there = [(~made.scenes.labels(part)[0].isnan().any(dim=-1)).sum(dim=1) for part in (first, second)]
    assert torch.equal((~position_m[draw.mixed].isnan().any(dim=-1)).sum(dim=1), num_there[0] + num_there[1])
    assert bool(visible[draw.mixed].isnan().all())
    # A step alone is shown as it is, its CSI too: mixed with the empty room it would be the same.
    alone = torch.nonzero(draw.partner == ALONE)[:, 0]
    assert torch.equal(made.scenes.content(draw)[alone], made.scenes.content(Draw.alone(draw.rows[alone])))
    numbers = made.scenes.numbers(draw)
    assert torch.equal(numbers[alone], made.scenes.numbers(Draw.alone(draw.rows[alone])))
    assert not torch.equal(numbers[draw.mixed], made.scenes.numbers(first))


@pytest.mark.parametrize(("share", "num", "expected"), [(0.5, 6, 0.5), (0.5, 0, 0.0), (0.0, 6, 0.0)])
def test_a_share_of_the_windows_is_of_walks_made_of_two(share, num, expected):
    made = task(mix_share=share, num_mixed_walks=num)
    made.encoder.eval()
    context, newest, draw = made.windows(400)
    found = float((draw.partner != ALONE).float().mean())
    assert abs(found - expected) < 4.5 * (expected * (1 - expected) / 400) ** 0.5 + 1e-9
    assert (len(made.pairs.rows), len(made.z_mixed)) == ((num, num) if share else (0, 0))
    # What the newest step holds is what the encoders make of it, and the labels are of it.
    with torch.no_grad():
        z = made.encoder((made.scenes.content(draw), made.scenes.numbers(draw)))
    torch.testing.assert_close(newest, z, atol=1e-4, rtol=1e-4)
    assert bool((draw.rows % NUM_STEPS == draw.partner % NUM_STEPS)[draw.mixed].all())
    assert context.shape == (400, 2, *newest.shape[1:])


def test_walks_of_two_bring_nobody_together_with_himself():
    made = task(mix_share=0.5, num_mixed_walks=20)
    there = ~made.train.position_m.isnan().any(dim=-1).all(dim=1)
    both = there[made.pairs.rows] & there[made.pairs.partner]
    assert len(both) == 20
    assert not bool(both.any())
