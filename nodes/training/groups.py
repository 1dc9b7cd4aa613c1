"""Groups of clients on a cluster's actors, and what a group whose actor died has to do again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from typing import Any

from nodes.cluster import Cluster
from nodes.hosts import Call, HostPlan
from nodes.training.federated import Federated
from nodes.training.replicas import ClientSide, Program, Replica
from nodes.training.spread import SpreadClients, clients_of_replica

# Rounds that a group may have to train again: its clients' states are asked for that often, if they are not
# asked for anyway, for the checkpoint of a round.
_MOST_ROUNDS_AGAIN = 8


def train_in_groups(program: Program, trainer: Federated, num_clients: int, cluster: Cluster) -> Any:
    """Runs a training here, its clients on actors of a cluster; returns what it gives, the same as without.

    program: picklable, and the same wherever it runs. Raises what it raises, here or there, and SemcomError
    if an actor keeps dying.
    """
    with closing(ClientGroups(program, trainer, num_clients, cluster)) as groups:
        trainer.spread = groups.clients
        try:
            return program(trainer)
        finally:
            trainer.spread = None


class ClientGroups:
    """Replicas of a training on actors of a cluster: see nodes.training.spread.Replicas.

    program, picklable: the training that each of them runs. A replica whose actor dies is made anew: its
    program ends the finished stages at once, with the tensors that they ended with; in the stage that it is
    in it loads its clients' last known states, and makes the calls since then again. These states are those
    that a round's checkpoint holds, so that they cost no message of their own, and a round at most is done
    twice; without checkpoints they are asked for every few rounds.
    """

    def __init__(
        self,
        program: Program,
        trainer: Federated,
        num_clients: int,
        cluster: Cluster,
        *,
        max_restarts: int = 3,
    ) -> None:
        """There are as many replicas as the cluster has workers, but none without a client.

        Raises SemcomError, later, if an actor dies more than max_restarts times.
        """
        self.num_replicas = min(cluster.num_workers, num_clients)
        self._finished: list[list[Call]] = [[] for _ in range(self.num_replicas)]
        self._current: list[list[Call]] = [[] for _ in range(self.num_replicas)]
        side = ClientSide(trainer.config, trainer.shares, trainer.streams)
        makers = [
            partial(_make_replica, tuple(clients_of_replica(number, self.num_replicas, num_clients)))
            for number in range(self.num_replicas)
        ]
        plan = HostPlan("clients", makers, self._history, max_restarts)
        self._hosts = cluster.host(plan, (program, side))

    def clients(self) -> SpreadClients:
        """The clients of the next stage, of all groups."""
        return SpreadClients(self)

    def call(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Calls a method of each of the named replicas at once: see Replicas."""
        if method == "train":
            overdue = [number for number in arguments if self._rounds_since(number) >= _MOST_ROUNDS_AGAIN]
            if overdue:
                self.call("state", dict.fromkeys(overdue, ()))
        answers = self._hosts.call(method, arguments)
        for number, answer in answers.items():
            self._note(number, method, arguments[number], answer)
        return answers

    def close(self) -> None:
        """Ends all of them."""
        self._hosts.close()

    def _rounds_since(self, number: int) -> int:
        return sum(method == "train" for method, _ in self._current[number])

    def _note(self, number: int, method: str, arguments: tuple[Any, ...], answer: Any) -> None:
        """Keeps of a call what a replica that takes over needs."""
        current = self._current[number]
        if method == "finish":
            self._finished[number] += [("next_stage", ()), (method, arguments)]
            current.clear()
        elif method == "state":
            current[:] = [("next_stage", ()), ("load", (answer,))]
        elif method == "load":
            current[:] = [("next_stage", ()), (method, arguments)]
        elif method != "stream":
            current.append((method, arguments))

    def _history(self, number: int) -> list[Call]:
        return self._finished[number] + self._current[number]


def _make_replica(clients: tuple[int, ...], shared: tuple[Program, ClientSide]) -> Replica:
    return Replica(*shared, clients)
