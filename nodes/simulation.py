"""Runs many cells step by step, in this process or on a cluster's actors, with the same results.

The two hosts below do all the work. Without workers one of each is stepped here; with workers the cells
are dealt to lanes, each a cell actor and its device actors, and lanes never wait for each other.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from nodes.base_station import BaseStation
from nodes.cluster import Cluster
from nodes.contracts import CellOutcome, CellSpec, Downlink, Shared, Uplink
from nodes.device import DeviceGroup
from nodes.lanes import LanePlan
from nodes.process import one_thread
from nodes.schedulers import make_scheduler
from semcom.contracts import SemcomError


def simulate(
    cells: Sequence[CellSpec],
    num_steps: int,
    cluster: Cluster,
    *,
    shared: Shared | None = None,
    snapshot_steps: int = 50,
    max_restarts: int = 3,
    on_step: Callable[[int], None] | None = None,
) -> list[CellOutcome]:
    """Runs all cells for num_steps control steps and returns their outcomes, in order.

    The outcomes don't depend on the cluster: devices are batched by CellSpec.group_size alone, every
    actor computes on one thread, and random numbers are named by device and step. shared is sent to
    each actor once. Every snapshot_steps steps the actors' states are saved; a lane in which an actor
    dies is rolled back to its last snapshot. on_step(step) is called when all cells have done a step.

    Raises SemcomError if num_steps or snapshot_steps is below 1 or an actor dies more than max_restarts
    times, and whatever the cells' own parts raise.
    """
    for name, value in (("num_steps", num_steps), ("snapshot_steps", snapshot_steps)):
        if value < 1:
            raise SemcomError(f"{name} = {value} is out of range: a simulation takes 1 or more")
    if not cells:
        return []
    shared = {} if shared is None else shared
    if cluster.num_workers == 0:
        results = [_run_here(cells, num_steps, shared, on_step)]
    else:
        plans = plan_lanes(cells, num_steps, cluster.num_workers)
        results = cluster.run_lanes(plans, shared, num_steps, snapshot_steps, max_restarts, on_step)
    counters: dict[int, dict[str, np.ndarray]] = {}
    worlds: dict[GroupKey, dict[str, np.ndarray]] = {}
    for of_stations, *of_devices in results:
        counters |= of_stations
        for of_groups in of_devices:
            worlds |= of_groups
    return [
        CellOutcome(
            counters[cell], _concatenated([worlds[cell, group] for group in range(len(spec.groups()))])
        )
        for cell, spec in enumerate(cells)
    ]


GroupKey = tuple[int, int]
"""A group: the number of its cell in the simulation, and its own in the cell."""


class StationHost:
    """The base stations of some cells, by the cells' numbers."""

    def __init__(self, specs: Mapping[int, CellSpec], num_steps: int, shared: Shared) -> None:
        self._shared = shared
        self._downlinks: dict[int, Downlink] = {}
        self._stations = {
            cell: BaseStation(
                spec.num_devices,
                num_steps,
                make_scheduler(spec.scheduler, spec.num_devices),
                spec.make_link(),
                spec.make_channel() if spec.make_channel else None,
                spec.make_receiver(shared),
                spec.streams,
                spec.make_downlink() if spec.make_downlink else None,
                spec.make_downlink_channel() if spec.make_downlink_channel else None,
            )
            for cell, spec in specs.items()
        }

    def first_grants(self) -> dict[int, Downlink]:
        """Returns the downlinks before the first step."""
        self._downlinks = {cell: station.first_grants() for cell, station in self._stations.items()}
        return self._downlinks

    @torch.no_grad()
    def serve(self, step: int, *uplinks: Mapping[GroupKey, Uplink]) -> dict[int, Downlink]:
        """Serves one step of every cell; uplinks: what each device host sent."""
        of_cell: dict[int, list[Uplink]] = {cell: [] for cell in self._stations}
        for sent in uplinks:
            for (cell, _), uplink in sent.items():
                of_cell[cell].append(uplink)
        self._downlinks = {
            cell: station.serve(step, of_cell[cell]) for cell, station in self._stations.items()
        }
        return self._downlinks

    def state(self) -> bytes:
        """Returns the stations' states and the last downlinks, without the shared objects."""
        states = {cell: station.state() for cell, station in self._stations.items()}
        return save((states, self._downlinks), self._shared)

    def load(self, state: bytes) -> dict[int, Downlink]:
        """Takes over what `state` returned, and returns the downlinks of the step before."""
        states, self._downlinks = restore(state, self._shared)
        for cell, station in self._stations.items():
            station.load(states[cell])
        return self._downlinks

    def outcome(self) -> dict[int, dict[str, np.ndarray]]:
        """Returns each station's outcome."""
        return {cell: station.outcome() for cell, station in self._stations.items()}


class DeviceHost:
    """Some groups of devices, of one cell or of several."""

    def __init__(self, specs: Mapping[int, CellSpec], keys: Sequence[GroupKey], shared: Shared) -> None:
        self._shared = shared
        self._groups: dict[GroupKey, DeviceGroup] = {}
        for cell, group in keys:
            devices = specs[cell].groups()[group]
            world, sender = specs[cell].make_world(shared, devices), specs[cell].make_sender(shared, devices)
            self._groups[cell, group] = DeviceGroup(devices, world, sender)

    @torch.no_grad()
    def step(self, step: int, downlinks: Mapping[int, Downlink]) -> dict[GroupKey, Uplink]:
        """Steps every group; downlinks: by cell, those of the step before."""
        return {key: group.step(step, downlinks[key[0]]) for key, group in self._groups.items()}

    def state(self) -> bytes:
        """Returns the groups' states, without the shared objects."""
        return save({key: group.state() for key, group in self._groups.items()}, self._shared)

    def load(self, state: bytes) -> None:
        """Takes over what `state` returned."""
        states = restore(state, self._shared)
        for key, group in self._groups.items():
            group.load(states[key])

    @torch.no_grad()
    def finish(
        self, num_steps: int, downlinks: Mapping[int, Downlink]
    ) -> dict[GroupKey, dict[str, np.ndarray]]:
        """Applies the last downlinks and returns each group's outcome."""
        return {key: group.finish(num_steps, downlinks[key[0]]) for key, group in self._groups.items()}


def plan_lanes(cells: Sequence[CellSpec], num_steps: int, num_workers: int) -> list[LanePlan]:
    """Deals cells to lanes and groups to device hosts: to the least loaded, the largest first.

    There are min(num_workers, number of cells) lanes and at most num_workers device hosts, dealt to the
    lanes in turn; a host that would have no group is left out.
    """
    num_lanes = min(num_workers, len(cells))
    sizes = {cell: spec.num_devices for cell, spec in enumerate(cells)}
    plans = []
    for lane, numbers in enumerate(_deal(sizes, num_lanes)):
        specs = {cell: cells[cell] for cell in numbers}
        groups = {
            (cell, group): len(devices)
            for cell, spec in specs.items()
            for group, devices in enumerate(spec.groups())
        }
        num_hosts = len(range(lane, num_workers, num_lanes))
        keys_of_host = [keys for keys in _deal(groups, num_hosts) if keys]
        plans.append(
            LanePlan(
                make_stations=partial(StationHost, specs, num_steps),
                make_devices=[
                    partial(DeviceHost, {cell: specs[cell] for cell, _ in keys}, keys)
                    for keys in keys_of_host
                ],
            )
        )
    return plans


def save(state: Any, shared: Shared) -> bytes:
    """Pickles a state; what belongs to `shared` is written as its name."""
    file = io.BytesIO()
    _Pickler(file, {id(value): name for name, value in _names(shared).items()}).dump(state)
    return file.getvalue()


def restore(state: bytes, shared: Shared) -> Any:
    """Returns what `save` was given, with this process's own `shared` objects in their places."""
    return _Unpickler(io.BytesIO(state), _names(shared)).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, name_of: Mapping[int, Any]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._name_of = name_of

    def persistent_id(self, obj: Any) -> Any:
        return self._name_of.get(id(obj))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, named: Mapping[Any, Any]) -> None:
        super().__init__(file)
        self._named = named

    def persistent_load(self, pid: Any) -> Any:
        return self._named[pid]


def _names(shared: Shared) -> dict[tuple[str, ...], Any]:
    """Names the shared objects, the modules and tensors within them, and the tensors of mappings."""
    named: dict[tuple[str, ...], Any] = {}
    for key, value in shared.items():
        if isinstance(value, nn.Module):
            named |= {(key, "module", path): part for path, part in value.named_modules()}
            named |= {(key, "tensor", path): tensor for path, tensor in value.named_parameters()}
            named |= {(key, "tensor", path): tensor for path, tensor in value.named_buffers()}
        elif isinstance(value, Mapping):
            named |= {
                (key, "item", str(name)): item
                for name, item in value.items()
                if isinstance(item, torch.Tensor | nn.Module)
            }
        named[(key,)] = value
    return named


def _run_here(
    cells: Sequence[CellSpec], num_steps: int, shared: Shared, on_step: Callable[[int], None] | None
) -> list[Any]:
    specs = dict(enumerate(cells))
    keys = [(cell, group) for cell, spec in specs.items() for group in range(len(spec.groups()))]
    with one_thread():
        devices, stations = DeviceHost(specs, keys, shared), StationHost(specs, num_steps, shared)
        downlinks = stations.first_grants()
        for step in range(num_steps):
            downlinks = stations.serve(step, devices.step(step, downlinks))
            if on_step:
                on_step(step)
        return [stations.outcome(), devices.finish(num_steps, downlinks)]


def _deal(sizes: Mapping[Any, int], num_hands: int) -> list[list[Any]]:
    hands: list[list[Any]] = [[] for _ in range(num_hands)]
    loads = [0] * num_hands
    for key in sorted(sizes, key=lambda key: (-sizes[key], key)):
        least = loads.index(min(loads))
        hands[least].append(key)
        loads[least] += sizes[key]
    return [sorted(hand) for hand in hands]


def _concatenated(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
