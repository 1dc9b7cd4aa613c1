"""Replicas: whole trainings that stop at each stage, where others lead the rounds of their clients."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from nodes.training.clients import Clients, LocalResult, LocalWork, StageStart, Tensors
from nodes.training.federated import make_clients
from nodes.training.federated_config import FederatedConfig
from semcom.contracts import SemcomError
from semcom.rng import Streams, stream_seed
from semcom.samples import Samples
from semcom.train import DataKind, Stage, StageLog, Trainer

Program = Callable[[Trainer], Any]
"""A whole training: runs its stages by the trainer that it is given, and returns what comes of them."""


@dataclass(frozen=True)
class ClientSide:
    """What devices know of their federation, as in Federated; it can be pickled if `shares` can."""

    config: FederatedConfig
    shares: Callable[[Samples], Sequence[torch.Tensor]]
    streams: Streams


@dataclass(frozen=True)
class Done:
    """A program has ended: with what it returned."""

    result: Any


class Replica:
    """One program in a thread of its own, and some of the clients: by number, of all stages the same.

    Stages hold closures over one module and can't be sent, so whoever trains clients elsewhere runs the
    whole program there. Its life, each call from one thread, each back when its work is done:

        replica = Replica(program, side, clients)
        while isinstance(start := replica.next_stage(), StageStart):
            any number of train(work, clients), turn(turns), acknowledge(clients), stream(client), state(),
                load(state)
            replica.finish(tensors, stream, rows)
        start.result                    what the program returned

    and close() ends it before, in the middle of a stage. nodes.training.spread leads several as one.

    All that is asked and answered is plain and can be pickled. A replica begins each stage with the weights
    that its program has by then: the same in all replicas if the program draws them from its seed and
    `finish` gave all of them the same.

    Only one of the two threads computes at a time. Each has random states of torch, numpy and Python of its
    own, exchanged whenever they take turns (a program draws weights from the process-wide one), and the
    program computes on as many of torch's threads as its caller does. What the program raises, the call
    raises, and the replica has ended.
    """

    def __init__(self, program: Program, side: ClientSide, clients: Sequence[int]) -> None:
        self.clients = tuple(clients)
        self._program, self._side = program, side
        self._requests: SimpleQueue[tuple[_Request, int]] = SimpleQueue()
        self._replies: SimpleQueue[_Reply] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = self._in_stage = False

    def next_stage(self) -> StageStart | Done:
        """Runs the program up to its next stage, or to its end.

        Raises SemcomError within a stage: finish it first.
        """
        if self._in_stage:
            raise SemcomError("a replica is within a stage: finish it before the next")
        start = self._ask(_GO_ON)
        assert isinstance(start, StageStart | Done)
        self._in_stage = isinstance(start, StageStart)
        return start

    def train(self, work: LocalWork, clients: Sequence[int]) -> dict[int, LocalResult]:
        """Lets clients of its own train: see Clients. Raises SemcomError for one that is another's."""
        if strange := sorted({*clients} - {*self.clients}):
            raise SemcomError(f"client {strange[0]} is not with this replica, which has {[*self.clients]}")
        return self._serve(lambda here: here.train(work, clients))

    def turn(self, turns: Mapping[int, bytes]) -> dict[int, LocalResult]:
        """Lets clients that hold their updates back turn their latent spaces: see Clients."""
        return self._serve(lambda here: here.turn(turns))

    def acknowledge(self, clients: Sequence[int]) -> None:
        """Lets clients know that their last updates were received."""
        self._serve(lambda here: here.acknowledge(clients))

    def stream(self, client: int) -> torch.Tensor:
        """The state of a client's random stream, which a training that goes on from it draws from."""
        return self._serve(lambda here: here.stream(client))

    def state(self) -> dict[str, torch.Tensor]:
        """What the next round depends on besides the global model: see Clients."""
        return self._serve(lambda here: here.state())

    def load(self, state: Tensors) -> None:
        """Goes on from what `state` returned, of its clients or of more."""
        self._serve(lambda here: here.load(state))

    def finish(self, tensors: Tensors, stream: torch.Tensor | None, log: StageLog | None = None) -> None:
        """Ends the stage with the tensors of its module, of a state dict, but those that are private.

        stream: the random state that the program draws from in what follows, None: that of its first client.
        log: the stage's rows, for the program, if any. It goes on only with the call of next_stage.
        """
        self._serve(_Finish(tensors, stream, list(log or [])))
        self._in_stage = False

    def close(self) -> None:
        """Ends the program wherever it is, and its thread; does nothing where it has ended already."""
        if self._thread is None or self._ended:
            self._ended = True
            return
        self._ended = True
        self._requests.put((_CLOSE, torch.get_num_threads()))
        self._thread.join()

    def _serve(self, work: Callable[[Clients], Any] | _Finish) -> Any:
        if not self._in_stage:
            raise SemcomError("a replica is between two stages: call next_stage first")
        return self._ask(work)

    def _ask(self, request: _Request) -> Any:
        """Hands over to the program's thread, and waits for it to hand back."""
        if self._ended:
            raise SemcomError("a replica has ended: make another one")
        ours = _RandomState.of_process()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(ours,), name="replica", daemon=True)
            self._thread.start()
        self._requests.put((request, torch.get_num_threads()))
        try:
            reply = self._replies.get()
        except BaseException:
            # An interrupt: whatever the answer will be, nobody waits for it.
            self.close()
            raise
        finally:
            ours.restore()
        if reply.ended:
            self._ended, self._in_stage = True, False
            self._thread.join()
        if reply.error is not None:
            raise reply.error
        return reply.value

    def _run(self, random_state: _RandomState) -> None:
        """The program's thread, from its first request on."""
        here = _Serving(self._side, self.clients, self._requests, self._replies, random_state)
        try:
            here.wait()
            result = self._program(here)
        except _Closed:
            return
        except BaseException as error:
            self._replies.put(_Reply(error=error, ended=True))
        else:
            self._replies.put(_Reply(Done(result), ended=True))


@dataclass(frozen=True)
class _Finish:
    """The request to leave a stage: see Replica.finish."""

    tensors: Tensors
    stream: torch.Tensor | None
    log: StageLog


_GO_ON, _CLOSE = "go on", "close"
_Request = str | _Finish | Callable[[Clients], Any]


@dataclass(frozen=True)
class _Reply:
    value: Any = None
    error: BaseException | None = None
    ended: bool = False


class _Closed(BaseException):
    """Unwinds a program that is closed."""


class _Serving:
    """The trainer of a replica's program: it serves requests until a stage is to be left."""

    def __init__(
        self,
        side: ClientSide,
        clients: Sequence[int],
        requests: SimpleQueue[tuple[_Request, int]],
        replies: SimpleQueue[_Reply],
        random_state: _RandomState,
    ) -> None:
        self._side, self._numbers = side, clients
        self._requests, self._replies, self._random = requests, replies, random_state

    def wait(self) -> _Request:
        """Takes the next request, and with it the turn to compute."""
        request, num_threads = self._requests.get()
        if request is _CLOSE:
            raise _Closed
        self._random.restore()
        # torch counts threads for each thread of ours by itself.
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)
        return request

    def _turn(self, reply: _Reply) -> _Request:
        self._random = _RandomState.of_process()
        self._replies.put(reply)
        return self.wait()

    def fit(self, stage: Stage) -> StageLog:
        """Runs a stage: see Trainer."""
        side = self._side
        clients = make_clients(side.config, side.shares(stage.samples), side.streams, stage, self._numbers)
        request = self._turn(_Reply(clients.start()))
        while not isinstance(request, _Finish):
            assert callable(request)
            request = self._turn(_Reply(request(clients)))
        clients.finish(request.tensors, request.stream)
        self._turn(_Reply())
        return request.log

    def gather(self, kind: DataKind, data: torch.Tensor) -> torch.Tensor:
        """Returns the data, which are here already."""
        return data

    def starting_seed(self, seed: int) -> int:
        """Returns a seed of the client's own if the federation has it so; client 0's is the training's."""
        if self._side.config.initialisation == "shared":
            return seed
        return stream_seed(seed, "starting weights", device=self._numbers[0]) if self._numbers[0] else seed


@dataclass(frozen=True)
class _RandomState:
    """The process-wide random states."""

    torch: torch.Tensor
    numpy: dict[str, Any]
    python: tuple[Any, ...]

    @classmethod
    def of_process(cls) -> _RandomState:
        # Programs may call what draws from numpy's legacy state, whatever draws here.
        numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
        return cls(torch.get_rng_state(), numpy_state, random.getstate())

    def restore(self) -> None:
        torch.set_rng_state(self.torch)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)
