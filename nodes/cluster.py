"""The cluster: independent jobs and a simulation's actors on Ray, or in this process without workers.

The only file that imports ray, and only once there are workers.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from nodes.process import compute_on_one_thread, one_thread, release_freed_memory
from semcom.contracts import SemcomError

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_IN_FLIGHT = 4
_CONNECT_TIMEOUT_S = 5.0
# From 2.60 on, a cluster asks for the token in its user's home by default, and a client offers it if told.
_START_ONE = (
    "start one with `ray start --head`, set RAY_AUTH_MODE=token if it asks for a token, "
    "or leave --address out"
)


@dataclass(frozen=True)
class LanePlan:
    """What a lane's actors host: picklable callables that take the shared objects and return a host.

    A host of stations has first_grants, serve, state, load and outcome; one of devices step, state,
    load and finish (see nodes.simulation).
    """

    make_stations: Callable[[Any], Any]
    make_devices: Sequence[Callable[[Any], Any]]


class Cluster:
    """Where work runs: in this process (num_workers = 0), on local Ray workers, or on a cluster that runs.

    A context manager. address joins a running Ray cluster ("auto", "host:port" or "ray://host:port");
    without it Ray is started here, unless this process already has it, and stopped at the end. Raises
    SemcomError if the workers are negative or an address comes without workers, and on entering if Ray
    isn't installed or the cluster can't be reached.

    num_deaths counts the actors that died in this cluster's simulations and were replaced.
    """

    def __init__(self, num_workers: int = 0, address: str | None = None) -> None:
        if num_workers < 0:
            raise SemcomError(f"num_workers = {num_workers} is out of range: it takes 0 or more")
        if address is not None and num_workers == 0:
            raise SemcomError(f"address {address} was given without workers: give --workers 1 or more")
        self.num_workers = num_workers
        self.address = address
        self.num_deaths = 0
        self._ray: Any = None
        self._started_here = False
        self._lanes: list[_Lane] = []
        self._idle_actors: list[Any] = []

    def __enter__(self) -> Cluster:
        if self.num_workers == 0:
            return self
        ray = _import_ray()
        if self.address is not None:
            _check_that_something_answers(self.address)
        if not ray.is_initialized():
            _start_ray(ray, self.num_workers) if self.address is None else _join_ray(ray, self.address)
            self._started_here = True
        self._ray = ray
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for actor in self._idle_actors:
            self._ray.kill(actor)
        if self._started_here:
            self._ray.shutdown()
        self._ray, self._started_here, self._idle_actors = None, False, []

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        on_result: Callable[[int, Result], None] | None = None,
        jobs_per_worker: int | None = None,
    ) -> list[Result]:
        """Runs function(item) for every item, each on one thread, and returns the results in order.

        on_result(index, result) is called as each is done. At most num_workers run at once. The first
        exception is raised as the function raised it and the other jobs are given up. A worker's process
        ends after jobs_per_worker jobs and another takes its place: for functions that leak memory.
        """
        results: dict[int, Result] = {}

        def done(index: int, result: Result) -> None:
            results[index] = result
            if on_result:
                on_result(index, result)

        if self.num_workers == 0:
            for index, item in enumerate(items):
                with one_thread():
                    result = function(item)
                done(index, result)
        else:
            self._map_on_workers(function, items, done, jobs_per_worker)
        return [results[index] for index in range(len(items))]

    def _map_on_workers(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        done: Callable[[int, Result], None],
        jobs_per_worker: int | None,
    ) -> None:
        ray = self._connected()
        # Ray takes 0 for no limit.
        run = ray.remote(num_cpus=1, max_calls=jobs_per_worker or 0)(_run_job)
        waiting = deque(enumerate(items))
        index_of: dict[Any, int] = {}
        try:
            while waiting or index_of:
                while waiting and len(index_of) < self.num_workers:
                    index, item = waiting.popleft()
                    index_of[run.remote(function, item)] = index
                (ref, *_), _ = ray.wait(list(index_of), num_returns=1)
                # Off the list at once: to cancel a task that is just completing can abort this process.
                index = index_of.pop(ref)
                try:
                    result = ray.get(ref)
                except ray.exceptions.RayError as error:
                    _reraise(error)
                done(index, result)
        finally:
            for ref in index_of:
                ray.cancel(ref, force=False)

    def run_lanes(
        self,
        plans: Sequence[LanePlan],
        shared: Any,
        num_steps: int,
        snapshot_steps: int,
        max_restarts: int,
        on_step: Callable[[int], None] | None,
    ) -> list[list[Any]]:
        """Steps every lane num_steps times; returns for each the outcomes of its stations and its devices.

        An actor that dies is replaced, and its lane resumes from its last snapshot. Raises SemcomError
        if one dies more than max_restarts times, and whatever the hosts raise, as they raised it.
        """
        ray = self._connected()
        shared_ref = ray.put(shared)
        num_done = 0
        try:
            for number, plan in enumerate(plans):
                self._lanes.append(
                    _Lane(ray, self._hire, number, plan, shared_ref, num_steps, snapshot_steps, max_restarts)
                )
            while running := [lane for lane in self._lanes if lane.outcomes is None]:
                for lane in running:
                    lane.submit()
                ready, _ = ray.wait([lane.awaited for lane in running], num_returns=1, fetch_local=False)
                for lane in running:
                    if lane.awaited in ready:
                        lane.collect()
                while num_done < min(lane.num_done for lane in self._lanes):
                    if on_step:
                        on_step(num_done)
                    num_done += 1
            return [lane.outcomes for lane in self._lanes if lane.outcomes is not None]
        finally:
            for lane in self._lanes:
                self.num_deaths += sum(lane.num_deaths)
                self._release(lane)
            self._lanes = []

    def actor_pids(self) -> dict[str, int]:
        """Returns the process of each actor of the running simulation: "cell-0", "device-0-0", ..."""
        return {name: pid for lane in self._lanes for name, pid in lane.pids().items()}

    def _hire(self) -> Any:
        """Returns an idle actor or a new one."""
        if self._idle_actors:
            return self._idle_actors.pop()
        # Actors spend much of their time waiting for each other, so they reserve no CPU.
        return self._ray.remote(num_cpus=0, max_restarts=0)(_Actor).remote()

    def _release(self, lane: _Lane) -> None:
        """Keeps a finished lane's actors for the next simulation, since a new one takes seconds to start."""
        for actor in lane.actors:
            if lane.outcomes is None:
                self._ray.kill(actor)
            else:
                actor.clear.remote()
                self._idle_actors.append(actor)

    def _connected(self) -> Any:
        if self._ray is None:
            raise RuntimeError("a cluster with workers works inside its with block only")
        return self._ray


class _Actor:
    """The shell of one actor: it makes a host and passes messages to it and back.

    Messages travel as one pickle each: left to Ray, each of their many small arrays would be stored
    and aligned by itself, and would arrive read-only.
    """

    def build(self, make_host: Callable[[Any], Any], shared: Any) -> int:
        compute_on_one_thread()
        self._host = make_host(shared)
        return os.getpid()

    def call(self, method: str, *arguments: Any) -> bytes:
        opened = [pickle.loads(a) if isinstance(a, bytes) else a for a in arguments]
        return pickle.dumps(getattr(self._host, method)(*opened), protocol=pickle.HIGHEST_PROTOCOL)

    def call_and_acknowledge(self, method: str, *arguments: Any) -> tuple[bytes, None]:
        """The driver waits for the second value, so that the first goes from actor to actor only."""
        return self.call(method, *arguments), None

    def clear(self) -> None:
        del self._host

    def respond(self) -> None:
        """Tells the driver that the actor lives."""


@dataclass(frozen=True)
class _Awaited:
    """Something submitted: when its refs are done, step steps are done, saved or finished."""

    kind: str
    step: int
    refs: list[Any]


class _Lane:
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
            if not self._is_a_death(error):
                _reraise(error)
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
        dead = [index for index in everyone if not self._responds(self.actors[index])] or everyone
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

    def _responds(self, actor: Any) -> bool:
        try:
            self._ray.get(actor.respond.remote())
        except self._ray.exceptions.RayError:
            return False
        return True

    def _is_a_death(self, error: Exception) -> bool:
        errors = self._ray.exceptions
        # A call whose argument was to come from a dead actor fails because of that actor's error.
        cause = error.cause if isinstance(error, errors.RayTaskError) else error
        return isinstance(
            cause,
            errors.RayActorError | errors.ObjectLostError | errors.OutOfMemoryError | errors.NodeDiedError,
        )


def _run_job(function: Callable[[Any], Any], item: Any) -> Any:
    compute_on_one_thread()
    try:
        return function(item)
    finally:
        release_freed_memory()


def _reraise(error: Exception) -> NoReturn:
    """Raises what the remote code raised; Ray's text stays attached unless the user can mend the error."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, SemcomError):
        raise cause from None
    if isinstance(cause, Exception):
        raise cause from error
    raise error


def _import_ray() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
    except ImportError:
        raise SemcomError(
            "workers need Ray, which isn't installed: pip install ray, or use --workers 0"
        ) from None
    return ray


# What is the same whether Ray is started or joined. Without the first, Ray warns that it is about to
# stop hiding accelerators from jobs that reserve none; with the second, `uv run` would copy the folder.
_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def _start_ray(ray: Any, num_workers: int) -> None:
    # The workers inherit the environment and so import what this process can import.
    with _environment({**_ENVIRONMENT, "PYTHONPATH": _search_path()}):
        try:
            _init_ray(ray, address="local", num_cpus=num_workers, include_dashboard=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise SemcomError(f"Ray could not be started ({_first_line(error)}): use --workers 0") from error


def _join_ray(ray: Any, address: str) -> None:
    with _environment(_ENVIRONMENT):
        try:
            _init_ray(ray, address=address, runtime_env={"env_vars": {"PYTHONPATH": _search_path()}})
        except (OSError, RuntimeError, ValueError) as error:
            raise SemcomError(f"no Ray cluster at {address} ({_first_line(error)}): {_START_ONE}") from None


def _check_that_something_answers(address: str) -> None:
    # Ray itself would try for a minute and then log pages.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise SemcomError(f"no Ray cluster answers at {address} ({error}): {_START_ONE}") from None


def _init_ray(ray: Any, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(log_to_driver=False, logging_level="CRITICAL", **options)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _search_path() -> str:
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")
