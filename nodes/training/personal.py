"""Federated trainings in which each client ends with a model of its own, or starts with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from nodes.training.federated import Federated
from nodes.training.replicas import ClientSide, Program, Replica
from nodes.training.spread import LocalReplicas, SpreadClients
from semcom.contracts import SemcomError
from semcom.train import StageLog

_MOST_CLIENTS = 256
_Row = Mapping[str, float | int | str]


class Result(Protocol):
    """What a training gives: tensors and rows."""

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]: ...

    @property
    def log(self) -> Sequence[_Row]: ...


def train_each(program: Program, trainer: Federated, num_clients: int) -> list[Any]:
    """Lets each client run the program, in this process, with what is shared federated by the trainer.

    What a program computes between two stages it computes with its own encoder, and so of its own embeddings.
    Parts that are shared begin as those of client 0, unless clients start from weights of their own: then
    nothing goes down in the first round of a stage, and compressed updates are differences to client 0's
    starting weights, which a seed tells to all. Returns the programs' results, by client.
    """
    if num_clients > _MOST_CLIENTS:
        raise SemcomError(
            f"collaboration.num_clients = {num_clients}: with sharing = {trainer.config.sharing} and "
            f"initialisation = {trainer.config.initialisation} each runs a training of its own, at most "
            f"{_MOST_CLIENTS} do"
        )
    side = ClientSide(trainer.config, trainer.shares, trainer.streams)
    replicas = LocalReplicas([Replica(program, side, (client,)) for client in range(num_clients)])
    try:
        clients = SpreadClients(replicas)
        while not isinstance(start := clients.next_stage(), list):
            tensors, log = trainer.run(start, clients)
            # With all shared the programs stay alike in what they draw, too.
            stream = clients.stream(0) if trainer.config.sharing == "all" else None
            clients.finish(tensors, stream, log)
        return start
    finally:
        replicas.close()


def merge(results: Sequence[Result]) -> tuple[dict[str, torch.Tensor], StageLog]:
    """The results of all clients as one: client 0's tensors, and each client's as client.K.NAME beside them.

    The log is client 0's, with the row "score" as the mean over clients (of what is a number), and one more
    such row for each client, which names it in the column "client".
    """
    tensors = dict(results[0].tensors)
    for client, result in enumerate(results):
        tensors |= {f"client.{client}.{name}": tensor.clone() for name, tensor in result.tensors.items()}
    scores = [next((row for row in result.log if row["stage"] == "score"), None) for result in results]
    log: StageLog = []
    for row in results[0].log:
        if row["stage"] == "score":
            known = [dict(score) for score in scores if score is not None]
            log.append(_mean(known))
            log += [{**score, "client": client} for client, score in enumerate(known)]
        else:
            log.append(dict(row))
    return tensors, log


def _mean(rows: Sequence[_Row]) -> dict[str, float | int | str]:
    mean: dict[str, float | int | str] = dict(rows[0])
    for name, first in rows[0].items():
        if isinstance(first, float):
            mean[name] = sum(float(row[name]) for row in rows) / len(rows)
    return mean
