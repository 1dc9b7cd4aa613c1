"""Clients spread over several replicas of a training, led through its stages as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from nodes.training.clients import LocalResult, LocalWork, StageStart, Tensors
from nodes.training.replicas import Done, Replica
from semcom.contracts import SemcomError
from semcom.train import StageLog


class Replicas(Protocol):
    """Replicas, numbered from 0 on, wherever they are: client k is with replica k mod num_replicas."""

    @property
    def num_replicas(self) -> int:
        """How many there are."""
        ...

    def call(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Calls a method of each of the named replicas with its arguments, at once or one after the other.

        Returns the answers by the replicas' numbers; raises what the replica of the lowest number raised.
        """
        ...

    def close(self) -> None:
        """Ends all of them."""
        ...


@dataclass(frozen=True)
class LocalReplicas:
    """Replicas in this process, one after the other."""

    replicas: Sequence[Replica]

    @property
    def num_replicas(self) -> int:
        """How many there are."""
        return len(self.replicas)

    def call(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Calls a method of each of the named replicas: see Replicas."""
        return {
            number: getattr(self.replicas[number], method)(*arguments[number]) for number in sorted(arguments)
        }

    def close(self) -> None:
        """Ends all of them."""
        for replica in self.replicas:
            replica.close()


def clients_of_replica(number: int, num_replicas: int, num_clients: int) -> range:
    """The clients that a replica has: every num_replicas-th of all, from its own number on."""
    return range(number, num_clients, num_replicas)


@dataclass
class SpreadClients:
    """The clients of all replicas in one stage, as Federated asks those of one process: see Clients."""

    replicas: Replicas
    num_samples: dict[int, int] = field(default_factory=dict)

    def start(self) -> StageStart:
        """Lets every replica come to its next stage; returns that. Raises SemcomError where there is none."""
        start = self.next_stage()
        if isinstance(start, list):
            raise SemcomError("the replicas have ended their training: give all the same program")
        return start

    def next_stage(self) -> StageStart | list[Any]:
        """Lets every replica come to its next stage, which is the same for all; returns that, or all results.

        The tensors are those of replica 0. Raises SemcomError, naming the replica, where one has ended before
        others or is at another stage.
        """
        starts = self._all("next_stage")
        first = starts[0]
        if all(isinstance(start, Done) for start in starts.values()):
            return [start.result for start in starts.values()]
        for number, start in starts.items():
            if isinstance(start, Done) or isinstance(first, Done):
                ended = number if isinstance(start, Done) else 0
                raise SemcomError(f"replica {ended} has ended its training, and others have not")
            if (start.name, start.num_steps) != (first.name, first.num_steps):
                raise SemcomError(
                    f"replica {number} is at stage {start.name!r} of {start.num_steps} steps, replica 0 at "
                    f"{first.name!r} of {first.num_steps}: give all of them the same program"
                )
            self.num_samples |= start.num_samples
        num_samples = dict(sorted(self.num_samples.items()))
        return StageStart(first.name, first.num_steps, first.tensors, num_samples, first.cost)

    def train(self, work: LocalWork, clients: Sequence[int]) -> dict[int, LocalResult]:
        """Lets each of the clients train, wherever it is; returns what they send, ascending."""
        asked = {number: (work, of_it) for number, of_it in self._by_replica(clients).items()}
        results: dict[int, LocalResult] = {}
        for found in self.replicas.call("train", asked).values():
            results |= found
        return dict(sorted(results.items()))

    def turn(self, turns: Mapping[int, bytes]) -> dict[int, LocalResult]:
        """Lets clients that hold their updates back turn their latent spaces: see Clients."""
        asked = {
            number: ({client: turns[client] for client in of_it},)
            for number, of_it in self._by_replica(list(turns)).items()
        }
        results: dict[int, LocalResult] = {}
        for found in self.replicas.call("turn", asked).values():
            results |= found
        return dict(sorted(results.items()))

    def acknowledge(self, clients: Sequence[int]) -> None:
        """Lets clients know that their updates were received."""
        self.replicas.call("acknowledge", {n: (of_it,) for n, of_it in self._by_replica(clients).items()})

    def stream(self, client: int) -> torch.Tensor:
        """The state of a client's random stream."""
        number = client % self.replicas.num_replicas
        found: torch.Tensor = self.replicas.call("stream", {number: (client,)})[number]
        return found

    def state(self) -> dict[str, torch.Tensor]:
        """What the next round depends on besides the global model, of all clients."""
        merged: dict[str, torch.Tensor] = {}
        for state in self._all("state").values():
            merged |= state
        return merged

    def load(self, state: Tensors) -> None:
        """Goes on from what `state` returned, of as many replicas or others."""
        parts: dict[int, dict[str, torch.Tensor]] = {n: {} for n in range(self.replicas.num_replicas)}
        for name, tensor in state.items():
            parts[int(name.partition(".")[0]) % self.replicas.num_replicas][name] = tensor
        self.replicas.call("load", {number: (part,) for number, part in parts.items()})

    def finish(self, tensors: Tensors, stream: torch.Tensor | None, log: StageLog | None = None) -> None:
        """Ends the stage everywhere, with the same tensors, random state and rows: see Replica."""
        self._all("finish", tensors, stream, log)

    def _all(self, method: str, *arguments: Any) -> dict[int, Any]:
        found = self.replicas.call(method, dict.fromkeys(range(self.replicas.num_replicas), arguments))
        return dict(sorted(found.items()))

    def _by_replica(self, clients: Sequence[int]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for client in clients:
            found.setdefault(client % self.replicas.num_replicas, []).append(client)
        return found
