"""What a client group needs to be made anew: with hosts that die before every call, without Ray."""

import pickle
from contextlib import closing

import pytest
import torch
from dying import NUM_CLIENTS, dealt, two_stages
from federated_setups import federated

from nodes.actors import pack
from nodes.cluster import Cluster
from nodes.training.groups import ClientGroups, train_in_groups
from scenarios.charting.config import TINY
from scenarios.charting.scenario import SCENARIO
from scenarios.settings import apply_overrides
from scenarios.training import is_spread

TOLD = {"update": {"kind": "top-k", "share": 0.2}, "faults": {"dropout_probability": 0.3}}


class MortalHosts:
    """Hosts in this process; unless they live, whichever is called is made anew before, as the plan says."""

    def __init__(self, plan, shared, live):
        self.plan, self.shared, self.live = plan, shared, live
        self.hosts, self.histories = {}, []

    def call(self, method, arguments):
        return {number: self._call(number, method, of_one) for number, of_one in arguments.items()}

    def _call(self, number, method, arguments):
        calls = pickle.loads(pack(list(self.plan.history(number))))
        self.histories.append([name for name, _ in calls])
        if number not in self.hosts or not self.live:
            if number in self.hosts:
                self.hosts[number].close()
            self.hosts[number] = self.plan.makers[number](pickle.loads(pack(self.shared)))
            for name, told in calls:
                getattr(self.hosts[number], name)(*told)
        return pickle.loads(pack(getattr(self.hosts[number], method)(*pickle.loads(pack(arguments)))))

    def close(self):
        for host in self.hosts.values():
            host.close()


class MortalCluster:
    """A cluster of such hosts."""

    def __init__(self, num_workers, live=False):
        self.num_workers, self.live = num_workers, live

    def host(self, plan, shared):
        self.made = MortalHosts(plan, shared, self.live)
        return self.made


def _trainer(scratch=None, **told):
    trainer = federated(NUM_CLIENTS, scratch=scratch, **told)
    trainer.shares = dealt
    return trainer


@pytest.mark.parametrize(
    ("keeps_rounds", "told"),
    [(True, TOLD), (False, {**TOLD, "alignment": "procrustes", "alignment_rounds": 2})],
)
def test_groups_that_die_before_every_call_change_nothing(tmp_path, keeps_rounds, told):
    """Streams, moments and what codecs left out, in two stages; with the states of checkpoints or without."""
    alone, trainer = _trainer(**told), _trainer(tmp_path if keeps_rounds else None, **told)
    expected = two_stages(alone)
    cluster = MortalCluster(2)
    tensors, log = train_in_groups(two_stages, trainer, NUM_CLIENTS, cluster)
    assert tensors.keys() == expected[0].keys()
    assert all(torch.equal(tensors[name], expected[0][name]) for name in tensors)
    assert log == expected[1]
    assert trainer.ledger == alone.ledger
    histories = cluster.made.histories
    if keeps_rounds:
        assert ["next_stage", "finish", "next_stage", "load", "train", "acknowledge"] in histories
        assert max(history.count("train") for history in histories) == 1


def test_without_checkpoints_no_more_than_a_few_rounds_are_done_again():
    trainer = _trainer(local_steps=1)
    cluster = MortalCluster(2, live=True)
    train_in_groups(two_stages, trainer, NUM_CLIENTS, cluster)
    assert max(history.count("train") for history in cluster.made.histories) == 8
    assert trainer.spread is None


@pytest.mark.parametrize(
    ("num_workers", "expected"), [(2, [(0, 2, 4), (1, 3)]), (9, [(k,) for k in range(5)])]
)
def test_clients_are_dealt_to_groups_and_none_is_empty(num_workers, expected):
    cluster = MortalCluster(num_workers)
    with closing(ClientGroups(two_stages, _trainer(), 5, cluster)) as groups:
        assert groups.num_replicas == len(expected)
        assert [make((two_stages, None)).clients for make in cluster.made.plan.makers] == expected


def test_which_jobs_are_led_from_here():
    def spread(mode, num_workers, **overrides):
        config = apply_overrides(TINY, {f"collaboration.federated.{k}": v for k, v in overrides.items()})
        return is_spread(SCENARIO.training_jobs(config, 0, mode)[0], Cluster(num_workers))

    assert spread("federated", 2)
    assert not spread("federated", 0)
    assert not spread("central", 2)
    assert not spread("split", 2)
    assert not spread("federated", 2, sharing="nothing")
