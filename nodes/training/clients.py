"""The device side of federated training: clients that train copies of one model on their own samples."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from nodes.training.aggregation import proximal_term
from nodes.training.costs import FREE, StepCost, stage_cost
from nodes.training.faults import Faults
from nodes.training.turns import absorb_turn, decode_turn, encode_anchors
from nodes.training.updates import UpdateCodec
from semcom.contracts import SemcomError
from semcom.rng import Streams
from semcom.train import Stage, StageLog, Training, copy_into

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class StageStart:
    """A stage that is about to begin: its steps, the module's tensors by then, and each client's samples.

    cost: of a training step.
    """

    name: str
    num_steps: int
    tensors: Tensors
    num_samples: Mapping[int, int]
    cost: StepCost = FREE


@dataclass(frozen=True)
class LocalWork:
    """What the clients of a round are told: how they train, from which model on.

    first_step: of the schedule, the same for all. num_steps: that each takes. from_own: they begin from the
    weights that they have, and differences alone are to the global ones. aligns: they tell how they embed the
    anchors, and hold their updates back until they are told how to turn.
    """

    round_number: int
    first_step: int
    num_steps: int
    global_tensors: Tensors
    stale_tensors: Tensors
    from_own: bool = False
    aligns: bool = False


@dataclass(frozen=True)
class LocalResult:
    """What one client made of a round: the payload of its update, and the terms of its last loss.

    num_steps: those taken. fault: why there is no payload, if there is none. anchors: in its place, of a
    client that holds its update back (see encode_anchors).
    """

    payload: bytes
    terms: Mapping[str, float]
    num_steps: int
    fault: str = ""
    anchors: bytes = b""


class RoundClients(Protocol):
    """The clients of a stage, as its rounds ask them, wherever they are: see Clients."""

    def start(self) -> StageStart: ...

    def train(self, work: LocalWork, clients: Sequence[int]) -> dict[int, LocalResult]: ...

    def turn(self, turns: Mapping[int, bytes]) -> dict[int, LocalResult]: ...

    def acknowledge(self, clients: Sequence[int]) -> None: ...

    def stream(self, client: int) -> torch.Tensor: ...

    def state(self) -> dict[str, torch.Tensor]: ...

    def load(self, state: Tensors) -> None: ...

    def finish(self, tensors: Tensors, stream: torch.Tensor | None, log: StageLog | None = None) -> None: ...


class Clients:
    """The clients that one process hosts: one after the other trains the stage's module, on its own share.

    shares: the numbers of each client's samples, int64, by the client's number. A client keeps its random
    stream from round to round and, with optimizer_state kept, its moments. Client 0 goes on with the
    training's own stream, the others have streams of their own: a single client trains as one place would.
    private: names of the module's tensors that are never sent, but stay as the client leaves them; only where
    there is one client. codec: None if all of them are.
    """

    def __init__(
        self,
        stage: Stage,
        shares: Mapping[int, torch.Tensor],
        codec: UpdateCodec | None,
        streams: Streams,
        faults: Faults,
        *,
        optimizer_state: Literal["kept", "reset"] = "kept",
        proximal_mu: float = 0.0,
        private: Collection[str] = (),
    ) -> None:
        self._private = frozenset(private)
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
        self._unacknowledged: dict[int, torch.Tensor] = {}
        self._held: dict[int, tuple[LocalWork, LocalResult, dict[str, torch.Tensor]]] = {}

    @property
    def num_samples(self) -> dict[int, int]:
        """How many samples each client has, by its number."""
        return {client: len(share) for client, share in self.shares.items()}

    def start(self) -> StageStart:
        """The stage as it begins, with copies of the module's tensors that are not private."""
        stage = self._stage
        cost = stage_cost(stage, list(self.shares.values()))
        return StageStart(stage.name, stage.num_steps, self._shared(), self.num_samples, cost)

    def _shared(self) -> dict[str, torch.Tensor]:
        return {
            name: tensor.detach().clone()
            for name, tensor in self._stage.module.state_dict().items()
            if name not in self._private
        }

    def _loss(self, step: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        terms = self._stage.batch_loss(step, generator)
        if self._mu == 0:
            return terms
        near_to = {
            name: weight for name, weight in self._stage.module.named_parameters() if name in self._global
        }
        if not near_to:
            return terms
        near = proximal_term(near_to, self._global, self._mu)
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
        if not work.from_own:
            copy_into(module, work.global_tensors)
        self._global = self._shared() if work.from_own else work.global_tensors
        training.load({**self._state_of(client), "num_done": torch.tensor(work.first_step)})
        terms: Mapping[str, torch.Tensor] = {}
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
            return LocalResult(b"", told, taken, fault)
        result = LocalResult(b"", told, taken)
        if self._codec is None:
            return result
        latent, anchors = self._stage.latent, self._stage.anchors
        if work.aligns and latent is not None and anchors is not None:
            held = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
            self._held[client] = work, result, held
            with torch.no_grad():
                return replace(result, anchors=encode_anchors(anchors(), latent.num_blocks))
        return self._encode(work, client, result)

    def turn(self, turns: Mapping[int, bytes]) -> dict[int, LocalResult]:
        """Lets clients that have held their updates back turn their latent spaces; returns what they send.

        turns: by client (see find_turns), nothing for one that stays as it is. Whose space was turned begins
        with fresh moments: they are of the weights before.
        """
        return {client: self._turn_one(client, turn) for client, turn in turns.items()}

    def _turn_one(self, client: int, turn: bytes) -> LocalResult:
        work, result, held = self._held.pop(client)
        self._stage.module.load_state_dict(held)
        if turn:
            assert self._stage.latent is not None
            absorb_turn(self._stage.latent, decode_turn(turn))
            self._states[client] = {**self._fresh, "generator": self._states[client]["generator"]}
        return self._encode(work, client, result)

    def _encode(self, work: LocalWork, client: int, result: LocalResult) -> LocalResult:
        """The result with the payload of the update, which the module holds."""
        assert self._codec is not None
        sent = self._faults.corrupt(
            client, work.round_number, self._shared(), work.global_tensors, work.stale_tensors
        )
        memory = self._memories.get(client, self._codec.initial_memory())
        generator = self._streams.torch_generator("rounding", client, work.round_number)
        try:
            payload, memory = self._codec.encode(sent, work.global_tensors, memory, generator)
        except SemcomError as error:
            return replace(result, fault=f"client {client}: {error}")
        self._unacknowledged[client] = memory
        return replace(result, payload=payload)

    def acknowledge(self, clients: Sequence[int]) -> None:
        """Lets clients know that their last updates were received, whatever the base station makes of them.

        What their codecs left out is remembered from now on.
        """
        for client in clients:
            self._memories[client] = self._unacknowledged.pop(client)

    def state(self) -> dict[str, torch.Tensor]:
        """What the next round depends on besides the global model, by names with the client's number."""
        tensors = {
            f"{client}.training.{name}": tensor
            for client, state in self._states.items()
            for name, tensor in state.items()
        }
        for client in self.shares if self._private else ():
            held = self._stage.module.state_dict()
            tensors |= {f"{client}.private.{name}": held[name].clone() for name in self._private}
        return tensors | {f"{client}.memory": memory for client, memory in self._memories.items()}

    def load(self, state: Tensors) -> None:
        """Goes on from what `state` returned."""
        self._states, self._memories = {}, {}
        private: dict[str, torch.Tensor] = {}
        for name, tensor in state.items():
            client, part, *rest = name.split(".", 2)
            if part == "memory":
                self._memories[int(client)] = tensor
            elif part == "private":
                private[name.split(".", 2)[2]] = tensor
            else:
                self._states.setdefault(int(client), {})[rest[0]] = tensor
        if private.keys() != self._private:
            raise SemcomError("it was left by clients that shared other parts of the model")
        self._stage.module.load_state_dict(private, strict=False)

    def stream(self, client: int) -> torch.Tensor:
        """The state of a client's random stream; client 0's is the training's own."""
        return self._state_of(client)["generator"]

    def finish(self, tensors: Tensors, stream: torch.Tensor | None, log: StageLog | None = None) -> None:
        """Leaves the stage's module with these tensors, and the training's own stream in this state.

        None: in that of its first client. log is nothing to them.
        """
        self._stage.module.load_state_dict(dict(tensors), strict=not self._private)
        self._stage.generator.set_state(self.stream(min(self.shares)) if stream is None else stream)
