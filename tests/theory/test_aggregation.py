"""What each strategy makes of its clients' models, against numbers worked by hand."""

import pickle
from fractions import Fraction
from math import sqrt

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load, save
from scipy.stats import trim_mean

from nodes.training import krum, tensors
from nodes.training.aggregation import (
    AggregationConfig,
    FedAdam,
    FedAvg,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
    aggregate,
    proximal_term,
    step_to_mean,
)
from nodes.training.averaging import WeightedMean
from nodes.training.contracts import ClientUpdate
from semcom.contracts import SemcomError

STRATEGIES = [
    FedAvg(),
    FedProx(proximal_mu=0.1),
    FedAdam(),
    FedMedian(),
    FedTrimmedAvg(),
    Krum(num_malicious_nodes=1),
    MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3),
]


def update_of(client: int, values, num_samples: int = 1, **others: torch.Tensor) -> ClientUpdate:
    return ClientUpdate(client, num_samples, 0, {"w": torch.as_tensor(values), **others})


def updates_of(rows, num_samples=None) -> list[ClientUpdate]:
    counts = num_samples or [1] * len(rows)
    rows = [torch.as_tensor(row, dtype=torch.float32) for row in rows]
    return [update_of(client, row, num) for client, (row, num) in enumerate(zip(rows, counts, strict=True))]


def new_weights(config, updates, start=None, state=None) -> torch.Tensor:
    start = {"w": torch.zeros_like(updates[0].tensors["w"]) if start is None else start}
    return aggregate(config, start, updates, state or {})[0]["w"]


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_fedavg_weighs_clients_by_their_samples():
    updates = updates_of([[1.0, 2.0], [3.0, 6.0], [0.0, 10.0]], [1, 3, 4])
    # (1 + 9 + 0) / 8 and (2 + 18 + 40) / 8
    assert new_weights(FedAvg(), updates).tolist() == [1.25, 7.5]
    assert new_weights(FedProx(proximal_mu=3), updates).tolist() == [1.25, 7.5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_of_a_single_client_fedavg_is_its_model_bit_for_bit(dtype):
    limits = torch.finfo(dtype)
    extremes = torch.tensor([-0.0, limits.smallest_normal / 4, limits.max], dtype=torch.float64)
    values = torch.cat([draw(100, seed=0).double() / 7, extremes]).to(dtype)
    sent = {"w": values, "steps": torch.tensor(17), "on": torch.tensor([True, False])}
    start = {name: torch.zeros_like(tensor) for name, tensor in sent.items()}
    model, state = aggregate(FedAvg(), start, [ClientUpdate(4, 3, 0, sent)], {})
    assert state == {}
    assert list(model) == list(start)
    for name, tensor in sent.items():
        assert model[name].dtype == tensor.dtype
        assert model[name].reshape(-1).view(torch.uint8).equal(tensor.reshape(-1).view(torch.uint8))
        assert model[name].data_ptr() != tensor.data_ptr()
    # The power check: a float64 number times 3 samples, divided by 3, is not always that number.
    numbers = values[:100].double()
    assert (numbers * 3 / 3).equal(numbers) == (dtype != torch.float64)


def test_the_mean_is_exact_whatever_the_order_and_the_groups_of_clients():
    generator = np.random.default_rng(0)
    counts = generator.integers(1, 5000, 60).tolist()
    rows = (draw(60, 50, seed=1) * 10 ** (3 * draw(60, 1, seed=2))).float()
    # Large numbers that cancel: what is left is small.
    rows[1::2] = -rows[::2]
    counts[1::2] = counts[::2]
    rows[0] += draw(50, seed=3)
    updates = updates_of(rows, counts)
    start = {"w": torch.zeros(50)}
    exact = torch.tensor(
        [
            float(sum(Fraction(float(x)) * n for x, n in zip(column, counts, strict=True)) / sum(counts))
            for column in rows.T
        ],
        dtype=torch.float64,
    )
    vectors, plain = [], []
    for order in (np.arange(60), np.arange(60)[::-1], *(generator.permutation(60) for _ in range(5))):
        means = [WeightedMean(start) for _ in range(3)]
        for place, index in enumerate(order):
            means[place % 3].add(updates[index])
        whole = pickle.loads(pickle.dumps(means[2]))
        whole.merge(means[0])
        whole.merge(means[1])
        torch.testing.assert_close(whole.vector(), exact, rtol=4e-16, atol=0)
        vectors.append(whole.vector())
        assert whole.result()["w"].equal(exact.float())
        assert whole.num_clients == 60
        assert whole.num_samples == sum(counts)
        total = torch.zeros(50, dtype=torch.float64)
        for index in order:
            total += rows[index].double() * counts[index]
        plain.append(total / sum(counts))
        assert new_weights(FedAvg(), [updates[index] for index in order]).equal(exact.float())
    assert all(vector.equal(vectors[0]) for vector in vectors)
    assert not all(vector.equal(plain[0]) for vector in plain)  # the power check


@pytest.mark.parametrize("config", STRATEGIES, ids=lambda config: config.kind)
def test_no_strategy_depends_on_the_order_of_arrival_or_changes_what_it_was_given(config):
    updates = [
        update_of(client, values, 1 + client % 3, steps=torch.tensor(client))
        for client, values in enumerate(draw(7, 11, seed=4))
    ]
    start = {"w": draw(11, seed=5), "steps": torch.tensor(99)}
    given = [start, *(each.tensors for each in updates)]
    before = [{name: tensor.clone() for name, tensor in each.items()} for each in given]
    forward = aggregate(config, start, updates, {})
    backward = aggregate(config, start, updates[::-1], {})
    for each, copy in zip(given, before, strict=True):
        assert all(tensor.equal(copy[name]) for name, tensor in each.items())
    for one, other in zip(forward, backward, strict=True):
        assert list(one) == list(other)
        assert all(one[name].equal(other[name]) for name in one)
    assert forward[0]["w"].dtype == torch.float32
    assert not forward[0]["w"].equal(start["w"])
    pointers = {tensor.data_ptr() for each in given for tensor in each.values()}
    assert not any(tensor.data_ptr() in pointers for tensor in forward[0].values())


def test_counters_and_flags_are_those_of_the_client_with_the_most_samples():
    updates = [
        update_of(
            client, [float(client)], samples, steps=torch.tensor(10 * client), on=torch.tensor(client == 1)
        )
        for client, samples in ((3, 5), (2, 1), (1, 5), (0, 4))
    ]
    start = {"w": torch.zeros(1), "steps": torch.tensor(0), "on": torch.tensor(False)}
    for config in (FedAvg(), FedAdam(), FedMedian(), FedTrimmedAvg()):
        model, _ = aggregate(config, start, updates, {})
        assert (int(model["steps"]), bool(model["on"])) == (10, True)  # of clients 1 and 3 the lower
        assert (model["steps"].dtype, model["on"].dtype) == (torch.int64, torch.bool)
    # Krum's come with the weights: with two neighbours each, clients 1 and 2 tie, and 1 comes first.
    assert int(aggregate(Krum(), start, updates, {})[0]["steps"]) == 10


def test_two_rounds_of_fedadam_by_hand():
    plain = FedAdam(eta=1, beta_1=0.5, beta_2=0.75, tau=1, bias_correction=False)
    corrected = plain.model_copy(update={"bias_correction": True})
    start = torch.zeros(1, dtype=torch.float64)
    for config, first_eta, second_eta in (
        (plain, 1, 1),
        (corrected, sqrt(1 - 0.75**2) / (1 - 0.5**2), sqrt(1 - 0.75**3) / (1 - 0.5**3)),
    ):
        # The mean of 1 and 3 is 2: m = 1, v = 1, so the step is 1 / (1 + 1).
        updates = [update_of(0, start + 1), update_of(1, start + 3)]
        model, state = aggregate(config, {"w": start}, updates, {})
        assert float(model["w"]) == pytest.approx(first_eta / 2, rel=1e-15)
        assert {name: float(value) for name, value in state.items()} == {
            "num_rounds": 1,
            "first_moment.w": 1,
            "second_moment.w": 1,
        }
        # The next mean lies 4 farther: m = 0.5 + 2, v = 0.75 + 4. The state goes through a file.
        again = [update_of(0, model["w"] + 4)]
        state = load(save(state))
        second, state = aggregate(config, model, again, state)
        step = second_eta * 2.5 / (sqrt(4.75) + 1)
        assert float(second["w"] - model["w"]) == pytest.approx(step, rel=1e-14)
        assert int(state["num_rounds"]) == 2


def test_fedadam_without_memory_steps_by_eta_towards_the_mean():
    config = FedAdam(eta=0.25, beta_1=0, beta_2=0, tau=1e-12)
    start = torch.tensor([1.0, 1.0, 1.0])
    moved = new_weights(config, updates_of([[3.0, -5.0, 1.0]]), start)
    torch.testing.assert_close(moved, torch.tensor([1.25, 0.75, 1.0]))


def test_a_state_of_another_model_is_refused():
    updates = updates_of([[1.0, 2.0]])
    _, state = aggregate(FedAdam(), {"w": torch.zeros(2)}, updates, {})
    other = [ClientUpdate(0, 1, 0, {"v": torch.zeros(2)})]
    with pytest.raises(SemcomError, match=r"^FedAdam's state is of another model, see 'first_moment.v'"):
        aggregate(FedAdam(), {"v": torch.zeros(2)}, other, state)
    with pytest.raises(SemcomError, match=r"see 'first_moment.w': start without a state$"):
        aggregate(FedAdam(), {"w": torch.zeros(1)}, updates_of([[1.0]]), state)


@pytest.mark.parametrize("config", [FedAvg(), FedProx(), FedAdam()], ids=lambda config: config.kind)
def test_clients_can_be_added_as_they_come(config):
    updates, start = updates_of(draw(9, 5, seed=6), list(range(1, 10))), {"w": draw(5, seed=7)}
    mean = WeightedMean(start)
    for each in updates[::-1]:
        mean.add(each)
    streamed, state = step_to_mean(config, start, mean, {})
    whole, whole_state = aggregate(config, start, updates, {})
    assert streamed["w"].equal(whole["w"])
    assert all(state[name].equal(value) for name, value in whole_state.items())


def test_the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle():
    rows = [[5.0, 1.0], [1.0, 2.0], [2.0, 8.0], [9.0, 3.0]]
    assert new_weights(FedMedian(), updates_of(rows, [1, 1, 1, 100])).tolist() == [3.5, 2.5]
    assert new_weights(FedMedian(), updates_of(rows[:3], [1, 100, 1])).tolist() == [2.0, 2.0]
    assert new_weights(FedMedian(), updates_of(rows[:1])).tolist() == rows[0]


def test_the_trimmed_mean_leaves_out_both_ends():
    rows = [[1.0, 0.0], [2.0, 7.0], [4.0, 8.0], [6.0, 9.0], [1000.0, -1000.0]]
    # One of five at either end: (2 + 4 + 6) / 3 and (0 + 7 + 8) / 3.
    assert new_weights(FedTrimmedAvg(beta=0.2), updates_of(rows, [9, 1, 1, 1, 1])).tolist() == [4.0, 5.0]
    assert new_weights(FedTrimmedAvg(beta=0.4), updates_of(rows)).tolist() == [4.0, 7.0]
    # A fifth of four is no client at all.
    assert new_weights(FedTrimmedAvg(beta=0.2), updates_of(rows[:4])).tolist() == [3.25, 6.0]
    assert new_weights(FedTrimmedAvg(beta=0.4999999999), updates_of(rows[:2])).tolist() == [1.5, 3.5]


@pytest.mark.parametrize("beta", [0.1, 0.2, 0.3, 0.45])
def test_the_trimmed_mean_is_scipy_s(beta):
    rows = draw(20, 30, seed=8)
    expected = torch.from_numpy(trim_mean(rows.double().numpy(), beta)).float()
    torch.testing.assert_close(new_weights(FedTrimmedAvg(beta=beta), updates_of(rows)), expected)


def test_the_share_that_is_trimmed_is_that_of_the_decimal_number():
    rows = torch.arange(100.0)[:, None] ** 2
    assert int(0.29 * 100) == 28
    expected = float(rows[29:71].mean())
    assert float(new_weights(FedTrimmedAvg(beta=0.29), updates_of(rows))) == pytest.approx(expected, rel=1e-6)


def test_column_wise_rules_work_through_large_models_in_blocks(monkeypatch):
    shapes = {"a": (3, 4), "b": (1,), "c": (7,), "empty": (0, 5)}
    updates = [
        ClientUpdate(client, 1, 0, {name: draw(*shape, seed=10 * client) for name, shape in shapes.items()})
        for client in range(6)
    ]
    start = {name: torch.zeros(shape) for name, shape in shapes.items()}
    whole = [aggregate(config, start, updates, {})[0] for config in STRATEGIES]
    for num_entries in (1, 6 * 5, 6 * 12):
        monkeypatch.setattr(tensors, "_BLOCK_ENTRIES", num_entries)
        for config, expected in zip(STRATEGIES, whole, strict=True):
            model, _ = aggregate(config, start, updates, {})
            assert all(model[name].equal(expected[name]) for name in shapes)
    medians = torch.stack([each.tensors["a"] for each in updates]).numpy()
    assert np.allclose(whole[3]["a"], np.median(medians, axis=0), rtol=1e-6)


# Five clients on a line, one may lie: a score is the sum of squared distances to 5 - 1 - 2 = 2 neighbours.
LINE = [[0.0], [1.0], [3.0], [4.5], [100.0]]
LINE_SCORES = [1 + 9, 1 + 4, 2.25 + 4, 2.25 + 12.25, 95.5**2 + 97**2]


def test_krum_s_scores_by_hand():
    models = [each.tensors for each in updates_of(LINE)]
    for origin in (0.0, 4.0):
        scores = krum.krum_scores(models, ["w"], {"w": torch.tensor([origin])}, num_malicious=1)
        assert scores.tolist() == pytest.approx(LINE_SCORES, rel=1e-12)


def test_krum_takes_the_model_with_the_least_score():
    updates = updates_of(LINE, [1, 1, 3, 1, 1])
    # One neighbour more would make it 3.0, one fewer 0.0.
    assert new_weights(Krum(num_malicious_nodes=1), updates).tolist() == [1.0]
    assert new_weights(MultiKrum(num_malicious_nodes=1), updates).tolist() == [1.0]
    # The two least are 1.0 and 3.0, of 1 and 3 samples.
    config = MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2)
    assert new_weights(config, updates).tolist() == [2.5]
    config = MultiKrum(num_malicious_nodes=0, num_nodes_to_select=5)
    assert new_weights(config, updates).equal(new_weights(FedAvg(), updates))


def test_of_clients_with_the_same_score_krum_takes_the_lowest_number():
    # Unit vectors are all sqrt(2) apart, wherever they are measured from.
    updates = [update_of(10 - row, values) for row, values in enumerate(torch.eye(6))]
    start = torch.full((6,), 0.25)
    assert new_weights(Krum(num_malicious_nodes=1), updates, start).equal(torch.eye(6)[5])
    both = new_weights(MultiKrum(num_nodes_to_select=2), updates, start)
    assert both.tolist() == [0, 0, 0, 0, 0.5, 0.5]


def test_distances_in_stripes_are_those_of_pairs(monkeypatch):
    rows = draw(40, 6, seed=9)
    models = [each.tensors for each in updates_of(rows)]
    monkeypatch.setattr(krum, "_ROWS", 16)
    distances = krum.squared_distances(models, ["w"], {"w": torch.ones(6)})
    expected = torch.cdist(rows.double(), rows.double()).square().numpy()
    assert np.allclose(distances, expected, rtol=1e-10, atol=1e-12)
    assert (distances == distances.T).all()
    assert (np.diag(distances) == 0).all()


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        (Krum(), 3),
        (Krum(num_malicious_nodes=4), 11),
        (MultiKrum(num_malicious_nodes=2, num_nodes_to_select=3), 7),
        (MultiKrum(num_malicious_nodes=1, num_nodes_to_select=9), 10),
    ],
)
def test_krum_says_how_many_clients_it_needs(config, needed):
    rows = draw(needed, 2, seed=10)
    new_weights(config, updates_of(rows))
    with pytest.raises(SemcomError, match=rf"takes {needed} clients or more, and {needed - 1} take part"):
        new_weights(config, updates_of(rows[1:]))


# Ten clients moved by (1, 1, ...) and a little noise; what the two last send is flipped.
def flipped_updates(num_numbers: int = 400) -> tuple[torch.Tensor, torch.Tensor, list[ClientUpdate]]:
    start = draw(num_numbers, seed=11)
    rows = start + 1 + 0.1 * draw(10, num_numbers, seed=12)
    rows[8:] = 2 * start - rows[8:]
    return start, rows, updates_of(rows)


def test_a_fifth_of_the_clients_flips_signs():
    start, rows, updates = flipped_updates()
    step = {
        name: float((new_weights(config, updates, start) - start).mean())
        for name, config in {
            "mean": FedAvg(),
            "median": FedMedian(),
            "trimmed": FedTrimmedAvg(beta=0.2),
            "krum": Krum(num_malicious_nodes=2),
            "multikrum": MultiKrum(num_malicious_nodes=2, num_nodes_to_select=6),
        }.items()
    }
    # Of the mean 8 - 2 tenths are left. The order statistics of 8 normal numbers (Teichroew 1956, table I;
    # means 1.4236, 0.8522, 0.4728 and 0.1525, and their negatives) say what the others lose of 0.1: the
    # median is the mean of the fourth and the third least, the trimmed mean that of all but the two greatest.
    sigma = 0.1 / sqrt(400)
    assert abs(step["mean"] - 0.6) < 4.5 * sigma
    assert abs(step["median"] - (1 - 0.1 * (0.1525 + 0.4728) / 2)) < 4.5 * sigma
    assert abs(step["trimmed"] - (1 - 0.1 * (1.4236 + 0.8522) / 6)) < 4.5 * sigma
    assert abs(step["krum"] - 1) < 4.5 * sigma
    assert abs(step["multikrum"] - 1) < 4.5 * sigma
    # The honest models alone are averaged, and six of them.
    models = [each.tensors for each in updates]
    order = np.argsort(krum.krum_scores(models, ["w"], {"w": start}, 2))
    assert set(order[8:].tolist()) == {8, 9}
    config = MultiKrum(num_malicious_nodes=2, num_nodes_to_select=6)
    honest = rows[order[:6].tolist()].double().mean(dim=0).float()
    torch.testing.assert_close(new_weights(config, updates, start), honest)


def test_a_client_scaled_by_a_hundred_moves_the_mean_alone():
    start = draw(400, seed=13)
    rows = start + 1 + 0.1 * draw(10, 400, seed=14)
    rows[0] = start + 100 * (rows[0] - start)
    updates = updates_of(rows)
    assert float((new_weights(FedAvg(), updates, start) - start).mean()) > 10
    for config in (FedMedian(), FedTrimmedAvg(beta=0.1), Krum(num_malicious_nodes=1)):
        assert abs(float((new_weights(config, updates, start) - start).mean()) - 1) < 0.05


START = {"w": torch.zeros(2, 2), "steps": torch.tensor(0)}
GOOD = {"w": torch.ones(2, 2), "steps": torch.tensor(3)}


@pytest.mark.parametrize("config", STRATEGIES, ids=lambda config: config.kind)
@pytest.mark.parametrize(
    ("tensors_of_7", "num_samples", "words"),
    [
        ({"w": GOOD["w"]}, 1, "client 7 sent no tensor 'steps', which the global model has"),
        ({**GOOD, "v": GOOD["w"]}, 1, "client 7 sent a tensor 'v', which the global model has not"),
        (
            {**GOOD, "w": torch.ones(4)},
            1,
            r"client 7 sent a tensor 'w' of shape \[4\], and the global model's",
        ),
        ({**GOOD, "steps": torch.tensor(3.0)}, 1, "client 7 sent 'steps' as torch.float32, and the global"),
        ({**GOOD, "w": torch.tensor([[1, torch.nan], [1, 1]])}, 1, "client 7 sent NaN or infinity in 'w'"),
        ({**GOOD, "w": torch.tensor([[1, -torch.inf], [1, 1]])}, 1, "client 7 sent NaN or infinity in 'w'"),
        (GOOD, 0, "client 7 sent an update of 0 samples"),
        (GOOD, -2, "client 7 sent an update of -2 samples"),
    ],
)
def test_a_faulty_update_is_refused_by_the_client_s_number(config, tensors_of_7, num_samples, words):
    updates = [ClientUpdate(client, 1, 0, GOOD) for client in range(6)]
    aggregate(config, START, [*updates, ClientUpdate(7, 1, 0, GOOD)], {})
    with pytest.raises(SemcomError, match=f"^{words}") as caught:
        aggregate(config, START, [*updates, ClientUpdate(7, num_samples, 0, tensors_of_7)], {})
    assert "\n" not in str(caught.value)


def test_a_client_has_one_update_and_a_round_at_least_one():
    update = ClientUpdate(5, 1, 0, GOOD)
    with pytest.raises(SemcomError, match=r"^client 5 sent two updates in one round"):
        aggregate(FedAvg(), START, [update, ClientUpdate(4, 1, 0, GOOD), update], {})
    one, other = WeightedMean(START), WeightedMean(START)
    one.add(update)
    other.add(update)
    with pytest.raises(SemcomError, match=r"^client 5 sent two updates in one round"):
        one.merge(other)
    for config in STRATEGIES:
        with pytest.raises(SemcomError, match="no update to aggregate"):
            aggregate(config, START, [], {})
    with pytest.raises(SemcomError, match="no update to average"):
        WeightedMean(START).result()
    with pytest.raises(SemcomError, match=r"^the model's 'z' is complex"):
        WeightedMean({"z": torch.zeros(1, dtype=torch.complex64)})


def test_a_mean_of_one_client_stays_that_client_s_when_means_are_merged():
    update = update_of(3, torch.tensor([0.1, -0.0], dtype=torch.float64), 3)
    one, none = WeightedMean(update.tensors), WeightedMean(update.tensors)
    one.add(update)
    none.merge(one)
    none.merge(WeightedMean(update.tensors))
    assert none.result()["w"].view(torch.int64).equal(update.tensors["w"].view(torch.int64))


def test_the_proximal_term_and_its_gradient_by_hand():
    start = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0), "steps": torch.tensor(4)}
    parameters = {
        "w": torch.tensor([2.0, 4.0], requires_grad=True),
        "b": torch.tensor(5.0, requires_grad=True),
    }
    term = proximal_term(parameters, start, 0.5)
    term.backward()
    assert float(term.detach()) == 0.25 * (1 + 4 + 4)
    assert parameters["w"].grad.tolist() == [0.5, 1.0]
    assert float(parameters["b"].grad) == 1.0
    with pytest.raises(SemcomError, match=r"^the global model has no 'head' of shape \[3\]"):
        proximal_term({"head": torch.zeros(3)}, start, 0.5)


def test_settings_go_by_flower_s_names_and_defaults():
    read = TypeAdapter(AggregationConfig).validate_python
    defaults = {
        "fedavg": {},
        "fedprox": {"proximal_mu": 0.0},
        "fedadam": {"eta": 0.1, "eta_l": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
        "fedmedian": {},
        "fedtrimmedavg": {"beta": 0.2},
        "krum": {"num_malicious_nodes": 0},
        "multikrum": {"num_malicious_nodes": 0, "num_nodes_to_select": 1},
    }
    for kind, values in defaults.items():
        config = read({"kind": kind})
        extra = {"bias_correction": True} if kind == "fedadam" else {}
        assert config.model_dump() == {"kind": kind, **values, **extra}
        assert read(config.model_dump()) == config
    for bad in (
        {"kind": "fedsgd"},
        {"kind": "fedavg", "beta": 0.1},
        {"kind": "fedtrimmedavg", "beta": 0.5},
        {"kind": "krum", "num_malicious_nodes": -1},
        {"kind": "multikrum", "num_nodes_to_select": 0},
        {"kind": "fedadam", "tau": 0},
    ):
        with pytest.raises(ValidationError):
            read(bad)
