"""Every scenario's JEPA trains among clients; with one client it is the central training, bit for bit."""

import dataclasses
import math

import charting_setups
import isac_setups
import pytest
import torch
from federated_setups import same_tensors

from nodes.training.collaboration import CollaborationConfig
from scenarios.catalogue import load_scenario
from scenarios.control.config import TINY as CONTROL
from scenarios.elaa.presets import TINY as ELAA
from scenarios.training import train_job
from semcom.contracts import SemcomError

JEPAS = {"control": "jepa", "charting": "w-jepa", "isac": "inpainting", "elaa": "elaa-jepa"}


def _config(name, **told):
    config = {
        "control": lambda: CONTROL.model_copy(
            update={"training": CONTROL.training.model_copy(update={"num_steps": 20, "num_steps_actor": 20})}
        ),
        "charting": charting_setups.config,
        "isac": isac_setups.config,
        "elaa": lambda: ELAA,
    }[name]()
    return config.model_copy(update={"collaboration": CollaborationConfig.model_validate(told)})


def _train(name, mode, **told):
    scenario = load_scenario(name)
    config = _config(name, **told)
    job = next(job for job in scenario.training_jobs(config, 0, mode) if job.model == JEPAS[name])
    assert job.mode == mode
    return job, train_job(scenario, job, None)


@pytest.mark.parametrize("name", list(JEPAS))
def test_one_client_is_central_training_and_three_are_not(name):
    job, central = _train(name, "central")
    alone_job, alone = _train(name, "federated", num_clients=1, federated={"local_steps": 7})
    assert job.key != alone_job.key
    assert same_tensors(central.tensors, alone.tensors)
    _, three = _train(name, "federated", num_clients=3, partition={"kind": "iid"})
    assert not same_tensors(central.tensors, three.tensors)
    floats = [tensor for tensor in three.tensors.values() if tensor.is_floating_point()]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in floats)
    account = next(row for row in three.log if row["stage"] == "account")
    assert account["updates_asked"] == 3 * account["rounds"] > 0
    assert account["bits_up"] == account["bits_down"] > 0
    assert account["device_flops"] > account["device_memory_bytes"] > 0
    score = central.log[-1]
    assert score["stage"] == "score"
    assert math.isfinite(score["score"])
    assert score["score"] < 1
    # Weights are the same bit for bit; a probe's least squares rounds by where in memory its matrices lie.
    found = next(row for row in alone.log if row["stage"] == "score")
    assert found == {
        name: pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        for name, value in score.items()
    }


@pytest.mark.parametrize("name", ["charting", "elaa"])
def test_raw_data_that_were_sent_train_the_same_and_coarse_ones_do_not(name):
    job, central = _train(name, "central")
    told = {"num_clients": 3, "central": {"raw": {"kind": "quantised", "bits": 6}}}
    scenario, coarse = load_scenario(name), _config(name, **told)
    counted = train_job(scenario, dataclasses.replace(job, is_counted=True), None)
    assert same_tensors(central.tensors, counted.tensors)
    other = next(each for each in scenario.training_jobs(coarse, 0, "central") if each.model == JEPAS[name])
    assert other.key != job.key
    # Without being counted, too: weights of a key are those of its settings.
    fewer = train_job(scenario, other, None)
    assert not same_tensors(central.tensors, fewer.tensors)
    bits = [trained.log[-1]["bits_up"] for trained in (counted, fewer)]
    assert 0 < 4 * bits[1] < bits[0]
    assert "account" not in {row["stage"] for row in central.log}


@pytest.mark.parametrize("name", list(JEPAS))
def test_split_without_loss_is_central_training_and_eight_bits_are_nearly(name):
    _, central = _train(name, "central")
    whole = {"kind": "float32"}
    # As many steps as these trainings take: 20 and more.
    lossless = {"embedding": whole, "gradient": whole, "encoder": whole}
    _, alone = _train(name, "split", num_clients=1, split={**lossless, "turn_steps": 7})
    assert central.tensors.keys() == alone.tensors.keys()
    for each, wanted in central.tensors.items():
        assert torch.allclose(alone.tensors[each], wanted, rtol=0, atol=1e-5, equal_nan=True), each
    job, coarse = _train(name, "split", num_clients=1, split={"turn_steps": 7})
    assert not same_tensors(central.tensors, coarse.tensors)
    costs = [next(row for row in each.log if row["stage"] == "account") for each in (alone, coarse)]
    assert 0 < costs[1]["bits_up"] < costs[0]["bits_up"]
    assert job.config.collaboration.split.embedding.bits == 8


@pytest.mark.parametrize("name", list(JEPAS))
def test_a_central_job_does_not_hang_on_how_others_would_train_together(name):
    scenario = load_scenario(name)
    jobs = [scenario.training_jobs(_config(name, num_clients=num), 0, "central") for num in (2, 3)]
    assert [job.key for job in jobs[0]] == [job.key for job in jobs[1]]
    both = [scenario.training_jobs(_config(name, num_clients=num), 0, "federated") for num in (2, 3)]
    assert both[0][0].key != both[1][0].key


@pytest.mark.parametrize("name", list(JEPAS))
def test_too_many_clients_and_unknown_modes_are_refused(name):
    with pytest.raises(SemcomError, match="num_clients"):
        _train(name, "federated", num_clients=60_000)
    with pytest.raises(SemcomError, match="mode = 'swarm'"):
        load_scenario(name).training_jobs(_config(name), 0, "swarm")


@pytest.mark.parametrize(("name", "sharing"), [("charting", "predictor"), ("charting", "nothing")])
def test_clients_with_models_of_their_own_are_scored_one_by_one(name, sharing):
    told = {"num_clients": 2, "partition": {"kind": "iid"}, "federated": {"sharing": sharing}}
    _, trained = _train(name, "federated", **told)
    scores = [row for row in trained.log if row["stage"] == "score"]
    assert [row.get("client") for row in scores] == [None, 0, 1]
    assert scores[0]["score"] == pytest.approx((scores[1]["score"] + scores[2]["score"]) / 2)
    assert scores[1]["score"] != scores[2]["score"]
    own, other = (trained.tensors[f"client.{client}.encoder.weights.0"] for client in (0, 1))
    assert torch.equal(own, trained.tensors["encoder.weights.0"])
    assert not torch.equal(own, other)
    predictors = [trained.tensors[f"client.{client}.predictor.out.weight"] for client in (0, 1)]
    assert torch.equal(*predictors) == (sharing == "predictor")
    account = next(row for row in trained.log if row["stage"] == "account")
    assert (account["bits_up"] > 0) == (sharing == "predictor")


def test_charting_is_aligned_in_the_loop_and_others_say_that_they_can_t_be():
    aligned = {"initialisation": "own", "alignment": "procrustes"}
    told = {"num_clients": 2, "partition": {"kind": "iid"}}
    _, trained = _train("charting", "federated", **told, federated=aligned)
    _, apart = _train("charting", "federated", **told, federated={"initialisation": "own"})
    assert not same_tensors(trained.tensors, apart.tensors)
    bits = [
        next(row for row in each.log if row["stage"] == "account")["bits_up"] for each in (trained, apart)
    ]
    assert bits[0] > bits[1]
    with pytest.raises(SemcomError, match="alignment = procrustes: training stage 'jepa'"):
        _train("elaa", "federated", **told, federated=aligned)
