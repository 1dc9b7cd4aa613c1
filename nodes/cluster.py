"""The cluster: independent jobs, a simulation's actors and hosts on Ray, or jobs here without workers.

The only file that imports ray, and only once there are workers.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from nodes.actors import Actor, reraise
from nodes.hosts import HostPlan, Hosts
from nodes.joining import check_that_something_answers, join_ray, start_ray
from nodes.lanes import Lane, LanePlan
from nodes.process import compute_on_one_thread, one_thread, release_freed_memory
from semcom.contracts import SemcomError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Cluster:
    """Where work runs: in this process (num_workers = 0), on local Ray workers, or on a cluster that runs.

    A context manager. address joins a running Ray cluster ("auto", "host:port" or "ray://host:port");
    without it Ray is started here, unless this process already has it, and stopped at the end. Raises
    SemcomError if the workers are negative or an address comes without workers, and on entering if Ray
    isn't installed or the cluster can't be reached.

    num_deaths counts the actors of this cluster's simulations and hosts that died and were replaced.
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
        self._lanes: list[Lane] = []
        self._hosts: list[Hosts] = []
        self._idle_actors: list[Any] = []

    def __enter__(self) -> Cluster:
        if self.num_workers == 0:
            return self
        ray = _import_ray()
        if self.address is not None:
            check_that_something_answers(self.address)
        if not ray.is_initialized():
            start_ray(ray, self.num_workers) if self.address is None else join_ray(ray, self.address)
            self._started_here = True
        self._ray = ray
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for hosts in list(self._hosts):
            hosts.close()
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
                    reraise(error)
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
                    Lane(ray, self._hire, number, plan, shared_ref, num_steps, snapshot_steps, max_restarts)
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
                self._release(lane.actors, lane.outcomes is not None)
            self._lanes = []

    def host(self, plan: HostPlan, shared: Any) -> Hosts:
        """Makes hosts on actors of their own; who asks for them closes them. It takes workers.

        An actor that dies is replaced, its host made anew, and the plan's history repeated there.
        """
        ray = self._connected()
        hosts = Hosts(ray, self._hire, self._dismiss, plan, ray.put(shared))
        self._hosts.append(hosts)
        return hosts

    def actor_pids(self) -> dict[str, int]:
        """Returns the process of each actor of what runs: "cell-0", "device-0-0", "clients-0", ..."""
        running: list[Lane | Hosts] = [*self._lanes, *self._hosts]
        return {name: pid for each in running for name, pid in each.pids().items()}

    def _hire(self) -> Any:
        """Returns an idle actor or a new one."""
        if self._idle_actors:
            return self._idle_actors.pop()
        # Actors spend much of their time waiting for each other, so they reserve no CPU.
        return self._ray.remote(num_cpus=0, max_restarts=0)(Actor).remote()

    def _release(self, actors: Sequence[Any], are_idle: bool) -> None:
        """Keeps actors for what comes next, since a new one takes seconds to start, unless they are busy."""
        for actor in actors:
            if are_idle:
                actor.clear.remote()
                self._idle_actors.append(actor)
            else:
                self._ray.kill(actor)

    def _dismiss(self, hosts: Hosts, are_idle: bool) -> None:
        self._hosts.remove(hosts)
        self.num_deaths += sum(hosts.num_deaths)
        self._release(hosts.actors, are_idle)

    def _connected(self) -> Any:
        if self._ray is None:
            raise RuntimeError("a cluster with workers works inside its with block only")
        return self._ray


def _run_job(function: Callable[[Any], Any], item: Any) -> Any:
    compute_on_one_thread()
    try:
        return function(item)
    finally:
        release_freed_memory()


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
