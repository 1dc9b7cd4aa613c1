"""Clients spread over replicas of a training: to the bit what one process makes of them."""

import functools
import pickle
import random
import threading

import numpy as np
import pytest
import torch
from federated_setups import federated, make_stage, same_tensors, shares
from federated_setups import two_stages as program

from nodes.training.clients import LocalWork
from nodes.training.replicas import ClientSide, Done, Replica
from nodes.training.spread import LocalReplicas, SpreadClients, clients_of_replica
from semcom.contracts import SemcomError

NUM_CLIENTS = 4


def _side(trainer):
    return ClientSide(trainer.config, functools.partial(_dealt, NUM_CLIENTS), trainer.streams)


def _dealt(num_clients, samples):
    return shares(num_clients)


def _spread(trainer, num_replicas):
    """The replicas that a trainer's clients are spread over from now on."""
    of = [clients_of_replica(n, num_replicas, NUM_CLIENTS) for n in range(num_replicas)]
    replicas = LocalReplicas([Replica(program, _side(trainer), clients) for clients in of])
    trainer.spread = lambda: SpreadClients(replicas)
    return replicas


def _seed_process():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002


def _run(trainer):
    _seed_process()
    return program(trainer)


CASES = [
    {},
    {"strategy": {"kind": "fedprox", "proximal_mu": 0.1}, "participation": 0.5},
    {"update": {"kind": "top-k", "share": 0.2}, "faults": {"dropout_probability": 0.3}},
    {"alignment": "procrustes", "alignment_rounds": 2},
]


@functools.cache
def _expected(case):
    """What one process makes of a case, and what it cost."""
    trainer = federated(NUM_CLIENTS, **CASES[case])
    return *_run(trainer), trainer.ledger


@pytest.mark.parametrize(("case", "num_replicas"), [(0, 1), (0, 2), (1, 2), (2, 3), (3, 2)])
def test_replicas_train_to_the_bit_what_one_process_trains(case, num_replicas):
    told, expected = CASES[case], _expected(case)
    trainer = federated(NUM_CLIENTS, **told)
    replicas = _spread(trainer, num_replicas)
    found = _run(trainer)
    replicas.close()
    assert same_tensors(expected[0], found[0])
    assert (*found[1:], trainer.ledger) == expected[1:]
    assert not same_tensors(expected[0], _expected((case + 1) % 4)[0])


@pytest.mark.parametrize(("case", "stopped_in"), [(0, ("encoder", 2)), (1, ("head", 1)), (2, ("encoder", 1))])
def test_replicas_that_are_stopped_go_on_in_others(tmp_path, monkeypatch, case, stopped_in):
    told, expected = CASES[case], _expected(case)
    trainer = federated(NUM_CLIENTS, scratch=tmp_path, **told)
    replicas = _spread(trainer, 2)
    rounds = trainer._round

    def stopping(number, stage, *arguments):
        if (stage.name, number) == stopped_in:
            raise KeyboardInterrupt
        return rounds(number, stage, *arguments)

    monkeypatch.setattr(trainer, "_round", stopping)
    with pytest.raises(KeyboardInterrupt):
        _run(trainer)
    replicas.close()
    again = federated(NUM_CLIENTS, scratch=tmp_path, **told)
    replicas = _spread(again, 3)
    found = _run(again)
    replicas.close()
    assert same_tensors(expected[0], found[0])
    assert found[1:] == expected[1:-1]


def _replica(run=program, clients=(0, 1)):
    return Replica(run, _side(federated(NUM_CLIENTS)), clients)


def _work(start):
    return LocalWork(0, 0, 2, start.tensors, start.tensors)


def test_what_goes_in_and_out_of_a_replica_can_be_pickled():
    replica = _replica()
    start = pickle.loads(pickle.dumps(replica.next_stage()))
    assert (start.name, start.num_steps, dict(start.num_samples)) == ("encoder", 12, {0: 12, 1: 12})
    work = pickle.loads(pickle.dumps(_work(start)))
    results = pickle.loads(pickle.dumps(replica.train(work, [0])))
    assert [*results] == [0]
    replica.acknowledge([0])
    state = pickle.loads(pickle.dumps(replica.state()))
    replica.load(state)
    replica.finish(
        start.tensors, pickle.loads(pickle.dumps(replica.stream(0))), [{"stage": "told", "step": 0}]
    )
    assert replica.next_stage().name == "head"
    replica.finish(replica_tensors(replica), replica.stream(0))
    done = replica.next_stage()
    assert isinstance(done, Done)
    assert done.result[1] == [{"stage": "told", "step": 0}]
    pickle.dumps((done, _side(federated(NUM_CLIENTS)), functools.partial(program, seed=1)))


def replica_tensors(replica):
    """Some tensors of the stage that a replica is at."""
    return {"weight": torch.ones(1, 3), "bias": torch.zeros(1)}


def test_random_states_are_kept_apart():
    """Neither does the caller see what a replica draws, nor the other way round."""
    drawn = []

    def drawing(trainer):
        for _ in range(2):
            drawn.append((float(torch.rand(())), random.random(), float(np.random.rand())))  # noqa: NPY002
            trainer.fit(make_stage())

    def lead(between):
        drawn.clear()
        _seed_process()
        replica = _replica(drawing)
        for _ in range(2):
            start = replica.next_stage()
            between()
            replica.finish(start.tensors, replica.stream(0))
        replica.next_stage()
        after = (float(torch.rand(())), random.random(), float(np.random.rand()))  # noqa: NPY002
        return list(drawn), after

    def disturb():
        torch.rand(5), random.random(), np.random.rand(5)  # noqa: NPY002

    quiet, after = lead(lambda: None)
    assert quiet[0] == after  # both began from the process' state, and the caller has not moved on
    disturbed, later = lead(disturb)
    assert disturbed[0] == quiet[0]
    # make_stage seeds torch by itself; the other two have been left alone.
    assert disturbed[1] == quiet[1] != quiet[0]
    assert later != after


def test_a_replica_computes_on_as_many_threads_as_its_caller():
    seen = []

    def counting(trainer):
        while True:
            seen.append(torch.get_num_threads())
            trainer.fit(make_stage())

    before = torch.get_num_threads()
    replica = _replica(counting)
    try:
        for wanted in (1, 2, 1):
            torch.set_num_threads(wanted)
            start = replica.next_stage()
            replica.finish(start.tensors, replica.stream(0))
        assert seen == [1, 2, 1]
    finally:
        torch.set_num_threads(before)
        replica.close()


def test_errors_in_a_program_are_the_caller_s():
    def failing(trainer):
        trainer.fit(make_stage())
        raise SemcomError("the second stage has no data")

    replica = _replica(failing)
    start = replica.next_stage()
    replica.finish(start.tensors, replica.stream(0))
    with pytest.raises(SemcomError, match="second stage has no data"):
        replica.next_stage()
    with pytest.raises(SemcomError, match="has ended"):
        replica.next_stage()
    other = _replica()
    start = other.next_stage()
    with pytest.raises(KeyError, match="strange"):
        other.train(LocalWork(0, 0, 2, {"strange": torch.zeros(1)}, {}), [0])
    replica.close()
    other.close()
    assert not _threads()


def test_a_replica_is_closed_in_the_middle():
    left = []

    def minding(trainer):
        try:
            trainer.fit(make_stage())
        finally:
            left.append(True)

    for steps in (0, 1, 2):
        replica = _replica(minding)
        if steps > 0:
            start = replica.next_stage()
        if steps > 1:
            replica.finish(start.tensors, replica.stream(0))
        replica.close()
        replica.close()
        assert len(left) == steps
        assert not _threads()


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "replica"]


def test_a_replica_is_asked_in_order_and_for_its_own():
    replica = _replica()
    with pytest.raises(SemcomError, match="next_stage first"):
        replica.state()
    start = replica.next_stage()
    with pytest.raises(SemcomError, match="finish it before"):
        replica.next_stage()
    with pytest.raises(SemcomError, match=r"client 3 is not with this replica, which has \[0, 1\]"):
        replica.train(_work(start), [0, 3])
    replica.close()


def test_replicas_of_different_programs_are_refused():
    def other(trainer):
        return trainer.fit(make_stage(num_steps=13))

    replicas = LocalReplicas([_replica(clients=(0, 2)), _replica(other, (1, 3))])
    with pytest.raises(SemcomError, match="replica 1 is at stage 'encoder' of 13 steps, replica 0"):
        SpreadClients(replicas).start()
    replicas.close()
    replicas = LocalReplicas([_replica(clients=(0, 2)), _replica(lambda trainer: None, (1, 3))])
    with pytest.raises(SemcomError, match="replica 1 has ended"):
        SpreadClients(replicas).start()
    replicas.close()
