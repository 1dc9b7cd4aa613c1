"""What a base station refuses before it aggregates: each fault by itself, and liars among honest clients."""

from math import sqrt

import pytest
import torch
from pydantic import ValidationError

from nodes.training.aggregation import FedAvg, MultiKrum, aggregate
from nodes.training.contracts import ClientUpdate
from nodes.training.screening import Rejected, ScreeningConfig, screen

VERSION = 6
START = {"w": torch.zeros(2, 2), "b": torch.zeros(3), "steps": torch.tensor(0)}


def model(scale: float = 1.0, **changed: torch.Tensor) -> dict[str, torch.Tensor]:
    """A model at a distance of 5 |scale| from the start."""
    w = scale * torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    return {"w": w, "b": scale * torch.tensor([0.0, 4.0, 0.0]), "steps": torch.tensor(9), **changed}


def update(client: int, tensors=None, *, num_samples: int = 10, version: int = VERSION) -> ClientUpdate:
    return ClientUpdate(client, num_samples, version, model() if tensors is None else tensors)


def moved(client: int, distance: float) -> ClientUpdate:
    return update(client, model(distance / 5))


def numbers(updates: list[ClientUpdate]) -> list[int]:
    return [each.client for each in updates]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (update(7, model(w=torch.tensor([[0, torch.nan], [0, 0]]))), "client 7 sent NaN or infinity in 'w'"),
        (update(7, model(b=torch.tensor([0, 0, torch.inf]))), "client 7 sent NaN or infinity in 'b'"),
        (
            update(7, {"w": torch.zeros(2, 2), "b": torch.zeros(3)}),
            "client 7 sent no tensor 'steps', which the global model has",
        ),
        (update(7, model(c=torch.zeros(1))), "client 7 sent a tensor 'c', which the global model has not"),
        (
            update(7, model(b=torch.zeros(1, 3))),
            "client 7 sent a tensor 'b' of shape [1, 3], and the global model's is [3]",
        ),
        (
            update(7, model(b=torch.zeros(3).double())),
            "client 7 sent 'b' as torch.float64, and the global model's is torch.float32",
        ),
        (
            update(7, version=VERSION - 1),
            "client 7 sent an update of model version 5, and the global model's is 6",
        ),
        (
            update(7, version=VERSION + 1),
            "client 7 sent an update of model version 7, and the global model's is 6",
        ),
        (
            update(7, num_samples=0),
            "client 7 sent an update of 0 samples, and it takes one or more to count",
        ),
        (
            moved(7, 60.0),
            "client 7 sent an update of norm 60, 12 times the median of 5 (max_ratio = 10)",
        ),
    ],
)
def test_each_fault_is_refused_for_what_it_is(bad, reason):
    honest = [update(client) for client in (9, 3, 5)]
    kept, rejected = screen(ScreeningConfig(), START, VERSION, [bad, *honest])
    assert numbers(kept) == [3, 5, 9]
    assert rejected == [Rejected(7, reason)]
    # A client of the same number that sends what it should is kept.
    kept, rejected = screen(ScreeningConfig(), START, VERSION, [update(7), *honest])
    assert numbers(kept) == [3, 5, 7, 9]
    assert rejected == []


def test_a_client_that_sends_twice_is_refused_twice_whatever_it_sent():
    updates = [update(4), moved(2, 4.0), update(4, num_samples=0), update(3)]
    reason = "client 4 sent 2 updates in one round"
    for order in (updates, updates[::-1]):
        kept, rejected = screen(ScreeningConfig(), START, VERSION, order)
        assert numbers(kept) == [2, 3]
        assert rejected == [Rejected(4, reason), Rejected(4, reason)]


def test_energy_is_measured_against_the_median_norm():
    # Of norms 1, 2, 4 and 13 the median is 3: 12 is the most at a ratio of 4.
    updates = [moved(client, norm) for client, norm in enumerate((4.0, 13.0, 1.0, 2.0))]
    kept, rejected = screen(ScreeningConfig(max_ratio=4), START, VERSION, updates)
    assert numbers(kept) == [0, 2, 3]
    assert [each.client for each in rejected] == [1]
    assert screen(ScreeningConfig(max_ratio=4.4), START, VERSION, updates)[1] == []
    assert screen(ScreeningConfig(max_ratio=None), START, VERSION, updates)[1] == []
    # The norm is that of the change: seen from a model near client 1's, the others are far away.
    there = {**model(13 / 5 + 0.1), "steps": torch.tensor(0)}
    assert numbers(screen(ScreeningConfig(max_ratio=1.5), there, VERSION, updates)[0]) == [0, 1, 2, 3]


def test_energy_takes_three_clients_that_are_otherwise_sound():
    # Of two clients the louder is at most at twice the median: a lower ratio would refuse it.
    loud, config = moved(0, 5000.0), ScreeningConfig(max_ratio=1.5)
    assert numbers(screen(config, START, VERSION, [loud])[0]) == [0]
    assert numbers(screen(config, START, VERSION, [loud, update(1)])[0]) == [0, 1]
    assert numbers(screen(config, START, VERSION, [loud, update(1), update(2)])[0]) == [1, 2]
    kept, rejected = screen(config, START, VERSION, [loud, update(1), update(2, version=0)])
    assert numbers(kept) == [0, 1]
    assert [each.client for each in rejected] == [2]


def test_without_a_scale_no_update_is_too_loud():
    updates = [moved(0, 0.0), moved(1, 0.0), moved(2, 1e-6)]
    assert numbers(screen(ScreeningConfig(), START, VERSION, updates)[0]) == [0, 1, 2]


def test_of_a_round_with_nothing_left_every_client_is_named():
    updates = [update(8, version=0), update(2, num_samples=0)]
    kept, rejected = screen(ScreeningConfig(), START, VERSION, updates)
    assert kept == []
    assert [each.client for each in rejected] == [2, 8]
    assert "client 2 sent an update of 0 samples" in rejected[0].reason
    assert "client 8 sent an update of model version 0" in rejected[1].reason
    assert screen(ScreeningConfig(), START, VERSION, []) == ([], [])


def test_screening_takes_the_loud_and_leaves_flipped_signs_to_krum():
    num_numbers, generator = 400, torch.Generator().manual_seed(0)
    start = {"w": torch.randn(num_numbers, generator=generator)}
    rows = start["w"] + 1 + 0.1 * torch.randn((10, num_numbers), generator=generator)
    rows[3] = start["w"] + 100 * (rows[3] - start["w"])
    for flipped in (0, 6):
        rows[flipped] = 2 * start["w"] - rows[flipped]
    updates = [ClientUpdate(client, 1, VERSION, {"w": row}) for client, row in enumerate(rows)]

    def mean_step(config, updates) -> float:
        return float((aggregate(config, start, updates, {})[0]["w"] - start["w"]).mean())

    kept, rejected = screen(ScreeningConfig(), start, VERSION, updates)
    assert [each.client for each in rejected] == [3]
    assert len(kept) == 9
    # Without screening (100 + 7 - 2) / 10 of the step, with it (7 - 2) / 9, and with Krum besides all of it.
    sigma = 0.1 / sqrt(num_numbers)
    assert abs(mean_step(FedAvg(), updates) - 10.5) < 4.5 * 100 * sigma
    assert abs(mean_step(FedAvg(), kept) - 5 / 9) < 4.5 * sigma
    krum = MultiKrum(num_malicious_nodes=2, num_nodes_to_select=5)
    assert abs(mean_step(krum, kept) - 1) < 4.5 * sigma


def test_the_ratio_has_a_range():
    for ratio in (0.5, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            ScreeningConfig(max_ratio=ratio)
    with pytest.raises(ValidationError):
        ScreeningConfig(ratio=2)
