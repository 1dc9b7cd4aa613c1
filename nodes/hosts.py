"""Hosts on actors of their own, called all at once; one whose actor dies is made anew and caught up."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nodes.actors import is_a_death, pack, reraise
from semcom.contracts import SemcomError

Call = tuple[str, tuple[Any, ...]]
"""A method's name and its arguments."""

# Ray sends a smaller argument along with each call, and stores a larger one.
_INLINE_BYTES = 100_000


@dataclass(frozen=True)
class HostPlan:
    """What each of some actors hosts.

    makers: picklable callables that take the shared object and return a host, which can be called by its
    methods' names, and closed if it has `close`. history(number): the calls that bring a new host to where
    the one of that number was before the call in hand; its answers to them are not wanted. name: of the
    actors, "name-0", "name-1", ...
    """

    name: str
    makers: Sequence[Callable[[Any], Any]]
    history: Callable[[int], Sequence[Call]]
    max_restarts: int = 3


class Hosts:
    """Hosts numbered from 0 on, one to an actor: see HostPlan.

    hire: gives an actor; dismiss: takes those that are not needed any more, with whether they can be used
    again.
    """

    def __init__(
        self,
        ray: Any,
        hire: Callable[[], Any],
        dismiss: Callable[[Hosts, bool], None],
        plan: HostPlan,
        shared_ref: Any,
    ) -> None:
        self._ray, self._hire, self._dismiss, self._plan = ray, hire, dismiss, plan
        self._shared_ref = shared_ref
        self.num_deaths = [0] * len(plan.makers)
        self.actors = [hire() for _ in plan.makers]
        self._pids: list[Any] = [None] * len(plan.makers)
        self._unchecked: list[list[Any]] = [[] for _ in plan.makers]
        self._is_calling = self._is_closed = False
        for number in range(len(plan.makers)):
            self._build(number)

    def __len__(self) -> int:
        """Number of hosts."""
        return len(self.actors)

    def call(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Calls a method of each of the named hosts at once; returns their answers by number, ascending.

        An argument that several hosts are given, the same object, is pickled and stored once. Raises what
        the host of the lowest number raised, once all have answered, and SemcomError if an actor dies more
        than max_restarts times.
        """
        self._is_calling = True
        sent = self._packed(arguments)
        awaited = {self._submit(number, method, sent[number]): number for number in sorted(sent)}
        answers: dict[int, Any] = {}
        errors: dict[int, Exception] = {}
        while awaited:
            (ref, *_), _ = self._ray.wait(list(awaited), num_returns=1)
            number = awaited.pop(ref)
            try:
                # What fails in building is raised in place of the calls that fail because of it.
                *_, answer = self._ray.get([*self._unchecked[number], ref])
            except self._ray.exceptions.RayError as error:
                if is_a_death(self._ray, error):
                    self._replace(number, method)
                    awaited[self._submit(number, method, sent[number])] = number
                else:
                    errors[number] = error
                continue
            self._unchecked[number] = []
            answers[number] = pickle.loads(answer)
        self._is_calling = False
        if errors:
            reraise(errors[min(errors)])
        return dict(sorted(answers.items()))

    def pids(self) -> dict[str, int]:
        """Returns the process of each actor by its name."""
        return {self._name(number): pid for number, pid in enumerate(self._ray.get(self._pids))}

    def close(self) -> None:
        """Closes the hosts; actors in the middle of a call are ended."""
        if not self._is_closed:
            self._is_closed = True
            self._dismiss(self, not self._is_calling)

    def _name(self, number: int) -> str:
        return f"{self._plan.name}-{number}"

    def _submit(self, number: int, method: str, sent: Sequence[Any]) -> Any:
        return self.actors[number].call.remote(method, *sent)

    def _build(self, number: int) -> None:
        self._pids[number] = self.actors[number].build.remote(self._plan.makers[number], self._shared_ref)
        self._unchecked[number] = [self._pids[number]]

    def _replace(self, number: int, method: str) -> None:
        self.num_deaths[number] += 1
        if self.num_deaths[number] > self._plan.max_restarts:
            raise SemcomError(
                f"actor {self._name(number)} died {self.num_deaths[number]} times, last in {method}: look at "
                "the machine's memory, or use fewer workers"
            )
        # It may live, if it was the connection that broke.
        self._ray.kill(self.actors[number])
        self.actors[number] = self._hire()
        self._build(number)
        if calls := self._plan.history(number):
            self._unchecked[number].append(self.actors[number].repeat.remote(pack(list(calls))))

    def _packed(self, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, list[Any]]:
        num_uses = Counter(id(each) for of_one in arguments.values() for each in of_one)
        ready: dict[int, Any] = {}
        for of_one in arguments.values():
            for each in of_one:
                if id(each) not in ready:
                    data = pack(each)
                    is_stored = num_uses[id(each)] > 1 and len(data) > _INLINE_BYTES
                    ready[id(each)] = self._ray.put(data) if is_stored else data
        return {number: [ready[id(each)] for each in of_one] for number, of_one in arguments.items()}
