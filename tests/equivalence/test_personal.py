"""Clients with models of their own: what is shared is federated, the rest stays; one alone is central."""

import math
from dataclasses import dataclass

import pytest
import torch
from federated_setups import federated, same_tensors, shares, two_stages

from nodes.training.personal import merge, train_each
from semcom.contracts import SemcomError
from semcom.train import CENTRAL

ENCODERS = ("encoder.", "target.")


def _train(num_clients=3, scratch=None, **told):
    trainer = federated(num_clients, scratch=scratch, **told)
    return trainer, train_each(two_stages, trainer, num_clients)


@pytest.mark.parametrize(
    "told", [{"sharing": "predictor"}, {"sharing": "nothing"}, {"initialisation": "own"}]
)
def test_one_client_is_central_training_bit_for_bit(told):
    central = two_stages(CENTRAL)
    _, [alone] = _train(1, **told)
    assert same_tensors(central[0], alone[0])
    assert central[2][-1] == alone[2][-1]  # what follows draws the same numbers
    assert not same_tensors(central[0], _train(2, **told)[1][0][0])


def test_a_client_that_shares_nothing_trains_on_its_own_samples_as_one_place_would():
    trainer, results = _train(3, sharing="nothing", optimizer_state="reset")
    share = shares(3)[0]

    class Restricted:
        def starting_seed(self, seed):
            return seed

        def fit(self, stage):
            with stage.samples.only(share):
                return CENTRAL.fit(stage)

    assert same_tensors(two_stages(Restricted())[0], results[0][0])
    assert not any(
        torch.equal(results[0][0][name], results[1][0][name])
        for name in results[0][0]
        if name.endswith("weight")
    )
    ledger = trainer.ledger
    assert (ledger.bits_up, ledger.bits_down, ledger.rounds, ledger.updates_asked) == (0, 0, 0, 0)
    assert ledger.num_steps == 3 * (12 + 7)


def test_encoders_are_never_sent_and_the_rest_is_averaged():
    trainer, results = _train(3, sharing="predictor")
    first, second = results[0][0], results[1][0]
    assert same_tensors(first, second, but=ENCODERS)
    assert any(name.startswith("predictor.") for name in first)
    assert not any(
        torch.equal(first[name], second[name])
        for name in first
        if name.startswith(ENCODERS) and "weight" in name
    )
    sent = [
        tensor.numel()
        for name, tensor in first.items()
        if not name.startswith((*ENCODERS, "head."))
    ]  # fmt: skip
    bits = [_update_bits(sum(sent)) * 3 * 4, _update_bits(4) * 3 * 3]
    assert trainer.ledger.bits_up == trainer.ledger.bits_down == sum(bits)


def _update_bits(num):
    return 32 * num + 48 + math.ceil((4 * num + 6) / 1500) * 96


def test_own_weights_make_the_first_round_and_nothing_goes_down_in_it():
    trainer, results = _train(3, initialisation="own", local_steps=4)
    assert same_tensors(results[0][0], results[1][0])
    assert results[0][2][-1] == results[2][2][-1]
    assert trainer.ledger.bits_down < trainer.ledger.bits_up
    plain = federated(3, local_steps=4)
    together = two_stages(plain)
    assert not same_tensors(together[0], results[0][0])
    assert trainer.ledger.bits_up == plain.ledger.bits_up
    _, personal = _train(3, initialisation="own", sharing="nothing", local_steps=100)
    _, alike = _train(3, sharing="nothing", local_steps=100)
    assert same_tensors(personal[0][0], alike[0][0])  # client 0 has the training's own
    assert not same_tensors(personal[1][0], alike[1][0])


@pytest.mark.parametrize(
    ("stopped_in", "told"),
    [
        (("encoder", 2), {"sharing": "predictor", "update": {"kind": "top-k", "share": 0.5}}),
        (("head", 1), {"sharing": "predictor", "initialisation": "own"}),
        (("encoder", 1), {"sharing": "nothing"}),
        (("encoder", 1), {"initialisation": "own", "participation": 0.5}),
    ],
)
def test_a_stopped_training_goes_on_to_the_same_models(tmp_path, monkeypatch, stopped_in, told):
    whole_trainer, whole = _train(3, **told)
    trainer = federated(3, scratch=tmp_path, **told)
    work = trainer._work

    def stopping(number, stage, *arguments):
        if (stage.name, number) == stopped_in:
            raise KeyboardInterrupt
        return work(number, stage, *arguments)

    monkeypatch.setattr(trainer, "_work", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_each(two_stages, trainer, 3)
    again, resumed = _train(3, scratch=tmp_path, **told)
    for first, second in zip(whole, resumed, strict=True):
        assert same_tensors(first[0], second[0])
        assert (first[1], first[2][-1]) == (second[1], second[2][-1])
    assert again.ledger == whole_trainer.ledger


def test_a_checkpoint_of_another_sharing_is_refused(tmp_path):
    _train(2, scratch=tmp_path, sharing="nothing")
    with pytest.raises(SemcomError, match="delete it to train anew"):
        _train(2, scratch=tmp_path, sharing="predictor")


@pytest.mark.parametrize("told", [{"sharing": "predictor"}, {"initialisation": "own"}])
def test_clients_of_one_training_can_t_have_models_of_their_own(told):
    with pytest.raises(SemcomError, match="a training of its own for each client"):
        two_stages(federated(3, **told))


@pytest.mark.parametrize(
    "told", [{"strategy": {"kind": "fedprox", "proximal_mu": 0.5}}, {"optimizer_state": "reset"}]
)
def test_what_is_near_the_global_model_is_what_is_shared(told):
    with_it, without = (_train(2, sharing="predictor", **each)[1][1][0] for each in (told, {}))
    assert not same_tensors(with_it, without)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in with_it.values())


@dataclass
class _Trained:
    tensors: dict
    log: list


def test_results_of_all_clients_are_one():
    def result(client):
        score = {"stage": "score", "step": 0, "metric": "m", "score": float(client), "other": 2.0 * client}
        return _Trained({"w": torch.full((2,), client)}, [{"stage": "s", "step": client}, score])

    tensors, log = merge([result(client) for client in range(3)])
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "w": [0, 0], "client.0.w": [0, 0], "client.1.w": [1, 1], "client.2.w": [2, 2]
    }  # fmt: skip
    assert log[0] == {"stage": "s", "step": 0}
    assert log[1] == {"stage": "score", "step": 0, "metric": "m", "score": 1.0, "other": 2.0}
    assert [row["client"] for row in log[2:]] == [0, 1, 2]
    assert [row["score"] for row in log[2:]] == [0.0, 1.0, 2.0]
    assert all("client" not in row for row in log[:2])
