"""A lane of a simulation: one cell's actor and its devices' actors, in lock-step, replaced when they die."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nodes.actors import is_a_death, reraise, responds
from semcom.contracts import SemcomError

_MAX_IN_FLIGHT = 4


@dataclass(frozen=True)
class LanePlan:
    """What a lane's actors host: picklable callables that take the shared objects and return a host.

    A host of stations has first_grants, serve, state, load and outcome; one of devices step, state,
    load and finish (see nodes.simulation).
    """

    make_stations: Callable[[Any], Any]
    make_devices: Sequence[Callable[[Any], Any]]


@dataclass(frozen=True)
class _Awaited:
    """Something submitted: when its refs are done, step steps are done, saved or finished."""

    kind: str
    step: int
    refs: list[Any]


class Lane:
    """One cell actor (the first) and its device actors, stepped in lock-step with a few steps in flight.

    Ray runs an actor's calls in the order of their submission, so a snapshot submitted between two
    steps is one of that moment, in every actor.
    """

    def __init__(
        self,
        ray: Any,
        hire: Callable[[], Any],
        number: int,
        plan: LanePlan,
        shared_ref: Any,
        num_steps: int,
        snapshot_steps: int,
        max_restarts: int,
    ) -> None:
        self._ray = ray
        self._hire = hire
        self._shared_ref = shared_ref
        self._num_steps = num_steps
        self._snapshot_steps = snapshot_steps
        self._max_restarts = max_restarts
        self._makers = [plan.make_stations, *plan.make_devices]
        self._names = [f"cell-{number}", *(f"device-{number}-{i}" for i in range(len(plan.make_devices)))]
        self.num_deaths = [0] * len(self._makers)
        self.num_done = 0
        self.outcomes: list[Any] | None = None
        self._snapshot: tuple[int, list[bytes]] | None = None
        self._pids: list[Any] = [None] * len(self._makers)
        self.actors = [hire() for _ in self._makers]
        self._pending: deque[_Awaited] = deque()
        self._downlinks: Any = None
        self._next_step = 0
        self._saved_step = -1
        self._rewind([])

    @property
    def awaited(self) -> Any:
        """The ref that the driver has to wait for."""
        return self._pending[0].refs[0]

    def submit(self) -> None:
        """Submits steps, snapshots and the end until enough of them are in flight."""
        while len(self._pending) < _MAX_IN_FLIGHT and self._next_step <= self._num_steps:
            step = self._next_step
            if step == self._num_steps:
                finishes = [device.call.remote("finish", step, self._downlinks) for device in self.actors[1:]]
                outcome = self.actors[0].call.remote("outcome")
                self._pending.append(_Awaited("finished", step, [outcome, *finishes]))
            else:
                if step % self._snapshot_steps == 0 and step != self._saved_step:
                    states = [actor.call.remote("state") for actor in self.actors]
                    self._pending.append(_Awaited("saved", step, states))
                    self._saved_step = step
                uplinks = [device.call.remote("step", step, self._downlinks) for device in self.actors[1:]]
                serve = self.actors[0].call_and_acknowledge.options(num_returns=2)
                self._downlinks, acknowledged = serve.remote("serve", step, *uplinks)
                self._pending.append(_Awaited("done", step + 1, [acknowledged]))
            self._next_step += 1

    def collect(self) -> None:
        """Takes the result of what was submitted first, or replaces the actors that died."""
        awaited = self._pending[0]
        try:
            results = self._ray.get(awaited.refs)
        except self._ray.exceptions.RayError as error:
            if not is_a_death(self._ray, error):
                reraise(error)
            self._recover()
            return
        self._pending.popleft()
        if awaited.kind == "done":
            self.num_done = awaited.step
        elif awaited.kind == "saved":
            self._snapshot = (awaited.step, results)
        elif awaited.kind == "finished":
            self.outcomes = [pickle.loads(result) for result in results]

    def pids(self) -> dict[str, int]:
        """Returns the process of each actor by its name."""
        return dict(zip(self._names, self._ray.get(self._pids), strict=True))

    def _rewind(self, replaced: Sequence[int]) -> None:
        """Puts every actor back to the last snapshot, or to the beginning if there is none yet."""
        for index in replaced if self._snapshot else range(len(self.actors)):
            self._pids[index] = self.actors[index].build.remote(self._makers[index], self._shared_ref)
        if self._snapshot is None:
            self._next_step, self._saved_step = 0, -1
            self._downlinks = self.actors[0].call.remote("first_grants")
        else:
            self._next_step, states = self._snapshot
            self._saved_step = self._next_step
            loads = [actor.call.remote("load", s) for actor, s in zip(self.actors, states, strict=True)]
            self._downlinks = loads[0]
        # What fails in building is raised from here, before the calls that fail because of it.
        self._pending = deque([_Awaited("built", self._next_step, list(self._pids))])

    def _recover(self) -> None:
        everyone = range(len(self.actors))
        # If all respond, a connection broke for a moment and calls were lost: replace them all.
        dead = [index for index in everyone if not responds(self._ray, self.actors[index])] or everyone
        for index in dead:
            self.num_deaths[index] += 1
            if self.num_deaths[index] > self._max_restarts:
                raise SemcomError(
                    f"actor {self._names[index]} died {self.num_deaths[index]} times, last before step "
                    f"{self._next_step}: look at the machine's memory, or use fewer workers"
                )
            self._ray.kill(self.actors[index])
            self.actors[index] = self._hire()
        self._rewind(dead)
