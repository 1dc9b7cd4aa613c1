"""The device side of federated training: clients that train copies of one model on their own samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from nodes.training.aggregation import proximal_term
from nodes.training.faults import Faults
from nodes.training.updates import UpdateCodec
from semcom.contracts import SemcomError
from semcom.rng import Streams
from semcom.train import Stage, Training, copy_into

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class LocalWork:
    """What the clients of a round are told: how they train, from which model on.

    first_step: of the schedule, the same for all. num_steps: that each takes.
    """

    round_number: int
    first_step: int
    num_steps: int
    global_tensors: Tensors
    stale_tensors: Tensors


@dataclass(frozen=True)
class LocalResult:
    """What one client made of a round: the payload of its update, and the terms of its last loss.

    memory: of the update codec, if the payload arrives. num_steps: those taken. fault: why there is no
    payload, if there is none.
    """

    payload: bytes
    memory: torch.Tensor
    terms: Mapping[str, float]
    num_steps: int
    fault: str = ""


class Clients:
    """The clients that one process hosts: one after the other trains the stage's module, on its own share.

    shares: the numbers of each client's samples, int64, by the client's number. A client keeps its random
    stream from round to round and, with optimizer_state kept, its moments. Client 0 goes on with the
    training's own stream, the others have streams of their own: a single client trains as one place would.
    """

    def __init__(
        self,
        stage: Stage,
        shares: Mapping[int, torch.Tensor],
        codec: UpdateCodec,
        streams: Streams,
        faults: Faults,
        *,
        optimizer_state: Literal["kept", "reset"] = "kept",
        proximal_mu: float = 0.0,
    ) -> None:
        self.shares, self._stage, self._codec, self._faults = dict(shares), stage, codec, faults
        self._keeps, self._mu = optimizer_state == "kept", proximal_mu
        self._streams = streams.substream("clients")
        self._global: Tensors = {}
        self._training = Training(
            stage.module,
            self._loss,
            stage.num_steps,
            stage.peak_rate,
            stage.generator,
            after_step=stage.after_step,
            optimizer=stage.optimizer,
        )
        self._fresh = self._training.state()
        self._states: dict[int, dict[str, torch.Tensor]] = {}
        self._memories: dict[int, torch.Tensor] = {}

    def _loss(self, step: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        terms = self._stage.batch_loss(step, generator)
        if self._mu == 0:
            return terms
        near = proximal_term(dict(self._stage.module.named_parameters()), self._global, self._mu)
        return {**terms, "proximal": near, "total": terms["total"] + near}

    def _state_of(self, client: int) -> dict[str, torch.Tensor]:
        if client in self._states:
            return self._states[client]
        if client == 0:
            return self._fresh
        own = self._streams.torch_generator("batches", client)
        return {**self._fresh, "generator": own.get_state()}

    def train(self, work: LocalWork, clients: Sequence[int]) -> dict[int, LocalResult]:
        """Lets each of the clients train from the global model on; returns what they send."""
        return {client: self._train_one(work, client) for client in clients}

    def _train_one(self, work: LocalWork, client: int) -> LocalResult:
        module, training = self._stage.module, self._training
        copy_into(module, work.global_tensors)
        self._global = work.global_tensors
        training.load({**self._state_of(client), "num_done": torch.tensor(work.first_step)})
        terms: Mapping[str, torch.Tensor] = {}
        memory = self._memories.get(client, self._codec.initial_memory())
        fault = ""
        try:
            with self._stage.samples.only(self.shares[client]):
                for _ in range(work.num_steps):
                    terms = training.step()
        except SemcomError as error:
            fault = f"client {client}: {error}"
        state = training.state()
        kept = state if self._keeps else {**self._fresh, "generator": state["generator"]}
        self._states[client] = kept
        told = {name: float(term.detach()) for name, term in terms.items()}
        taken = training.num_done - work.first_step
        if fault:
            return LocalResult(b"", memory, told, taken, fault)
        tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        sent = self._faults.corrupt(
            client, work.round_number, tensors, work.global_tensors, work.stale_tensors
        )
        generator = self._streams.torch_generator("rounding", client, work.round_number)
        try:
            payload, memory = self._codec.encode(sent, work.global_tensors, memory, generator)
        except SemcomError as error:
            return LocalResult(b"", memory, told, taken, f"client {client}: {error}")
        return LocalResult(payload, memory, told, taken)

    def acknowledge(self, client: int, result: LocalResult) -> None:
        """Lets a client know that its update was received, whatever the base station makes of it.

        What its codec left out is remembered from now on.
        """
        self._memories[client] = result.memory

    def state(self) -> dict[str, torch.Tensor]:
        """What the next round depends on besides the global model, by names with the client's number."""
        tensors = {
            f"{client}.training.{name}": tensor
            for client, state in self._states.items()
            for name, tensor in state.items()
        }
        return tensors | {f"{client}.memory": memory for client, memory in self._memories.items()}

    def load(self, state: Tensors) -> None:
        """Goes on from what `state` returned."""
        self._states, self._memories = {}, {}
        for name, tensor in state.items():
            client, part, *rest = name.split(".", 2)
            if part == "memory":
                self._memories[int(client)] = tensor
            else:
                self._states.setdefault(int(client), {})[rest[0]] = tensor

    def finish(self) -> None:
        """Leaves the training's own stream where client 0 has it."""
        self._stage.generator.set_state(self._state_of(0)["generator"])
