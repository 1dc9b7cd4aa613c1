"""A consensus of many clients: exact where they agree, as far off as noise says, whoever comes first."""

from itertools import pairwise
from math import sqrt

import pytest
import torch
from latent_setups import close, normal, random_rotation

from nodes.training.alignment import align
from nodes.training.consensus import align_all
from semcom.contracts import SemcomError


def clients_of(
    configuration: torch.Tensor, num: int, noise: float, seed: int = 0, *, mirrored: bool = False
) -> dict[int, torch.Tensor]:
    """Noisy views of one configuration, each in its own frame, of clients 3, 5, 7 and so on."""
    dim = configuration.shape[1]
    views = {}
    for number in range(num):
        seen = configuration + noise * normal(*configuration.shape, seed=1000 * seed + 10 + number)
        is_mirrored = mirrored and number % 2 == 1
        rotation = random_rotation(dim, seed=1000 * seed + 100 + number, mirrored=is_mirrored)
        views[3 + 2 * number] = seen @ rotation + number
    return views


@pytest.mark.parametrize("reflections", [False, True])
def test_many_clients_agree_exactly_where_they_are_one_configuration(reflections):
    for seed in range(6):
        clients = clients_of(normal(20, 4, seed=17 + seed), 5, 0.0, seed, mirrored=reflections)
        found = align_all(clients, reflections=reflections)
        assert found.residual < 1e-12
        close(found.reference, clients[3])
        close(found.alignments[3].rotation, torch.eye(4).double())
        for number, alignment in found.alignments.items():
            close(alignment.apply(clients[number]), clients[3])
            assert alignment.residual < 1e-20
        determinants = torch.stack([torch.linalg.det(each.rotation) for each in found.alignments.values()])
        assert bool((determinants < 0).any()) == reflections


def test_the_consensus_does_not_depend_on_the_clients_order_and_only_turns_with_their_numbers():
    clients = clients_of(normal(30, 4, seed=18), 6, 0.3)
    found = align_all(clients)
    reverse = align_all(dict(reversed(clients.items())))
    assert torch.equal(found.reference, reverse.reference)
    assert all(torch.equal(found.alignments[k].rotation, reverse.alignments[k].rotation) for k in clients)
    renumbered = align_all({20 - number: z for number, z in clients.items()})
    assert align(renumbered.reference, found.reference).residual < 1e-10
    assert renumbered.residual == pytest.approx(found.residual, rel=1e-9)
    # The power check: they are not the same, and one client less is another configuration.
    assert not torch.allclose(renumbered.reference, found.reference, atol=0.1)
    fewer = align_all({number: z for number, z in clients.items() if number != 7})
    assert align(fewer.reference, found.reference).residual > 1e-4


@pytest.mark.parametrize("scaled", [False, True])
def test_each_round_brings_clients_nearer_and_past_one_s_own_frame(scaled):
    clients = {number: normal(12, 5, seed=50 + number) for number in range(6)}  # nothing in common
    shares = [align_all(clients, scaled=scaled, max_iterations=num).residual for num in range(1, 12)]
    assert all(after <= before + 1e-12 for before, after in pairwise(shares))
    assert shares[-1] < shares[0] - 1e-3
    done = align_all(clients, scaled=scaled)
    assert done.residual <= shares[-1] + 1e-12
    size = sum(float((z - z.mean(dim=0)).square().sum()) for z in clients.values())
    left, kept = 0.0, 0.0
    for number, z in clients.items():
        left += float((done.alignments[number].apply(z) - done.reference).square().sum())
        kept += done.alignments[number].scale ** 2 * float((z - z.mean(dim=0)).square().sum())
    assert left / size == pytest.approx(done.residual, rel=1e-9)
    assert kept == pytest.approx(size, rel=1e-9)
    in_one_frame = torch.stack([align(z, clients[2]).apply(z) for z in clients.values()])
    spread = (in_one_frame - in_one_frame.mean(dim=0)).square().sum()
    assert done.residual < float(spread) / size


def test_scales_are_recovered_up_to_a_common_one():
    clients = clients_of(normal(20, 3, seed=19), 4, 0.0)
    factors = dict(zip(clients, [1.0, 2.0, 0.5, 4.0], strict=True))
    found = align_all({number: factors[number] * z for number, z in clients.items()}, scaled=True)
    assert found.residual < 1e-12
    product = [found.alignments[number].scale * factors[number] for number in clients]
    assert product == pytest.approx([product[0]] * 4, rel=1e-6)
    assert align_all({number: factors[number] * z for number, z in clients.items()}).residual > 0.1


def test_what_is_left_of_noisy_clients_has_the_degrees_of_freedom_that_were_not_fitted():
    num, dim, num_clients, noise, num_trials = 30, 4, 5, 0.05, 120
    lefts = []
    for seed in range(num_trials):
        clients = clients_of(normal(num, dim, seed=19), num_clients, noise, 1 + seed)
        size = sum(float((z - z.mean(dim=0)).square().sum()) for z in clients.values())
        lefts.append(align_all(clients).residual * size / noise**2)
    left = torch.tensor(lefts)
    # K means and K - 1 rotations were fitted, and the reference: (N - 1) D.
    expected = (num_clients - 1) * ((num - 1) * dim - dim * (dim - 1) / 2)
    sigma = float(left.std()) / sqrt(num_trials)
    assert abs(float(left.mean()) - expected) < 4.5 * sigma
    assert abs(float(left.mean()) - (num_clients - 1) * (num - 1) * dim) > 4.5 * sigma  # the power check


def test_a_consensus_names_the_client_that_it_refuses():
    clients = clients_of(normal(9, 4, seed=20), 3, 0.1)
    with pytest.raises(SemcomError, match=r"client 7 has anchors \[8, 4\], client 3 \[9, 4\]"):
        align_all({**clients, 7: clients[7][:8]})
    bad = clients[5].clone()
    bad[2, 0] = torch.inf
    with pytest.raises(SemcomError, match="client 5: the embedding of anchor 2 is not finite"):
        align_all({**clients, 5: bad})
    with pytest.raises(SemcomError, match=r"client 5: the anchors span 0 of 4 dimensions .* collapsed"):
        align_all({**clients, 5: torch.ones(9, 4)})
    with pytest.raises(SemcomError, match="client 3: 4 anchors for 4 dimensions"):
        align_all({number: z[:4] for number, z in clients.items()})
    with pytest.raises(SemcomError, match="no client's anchors"):
        align_all({})
    alone = align_all({4: clients[5]})
    close(alone.reference, clients[5])
    assert alone.residual < 1e-12
