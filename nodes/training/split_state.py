"""What the devices of a split training hold, which version of it, and a training's progress on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nodes.training.ledger import Ledger
from nodes.training.split_parts import MOMENTS
from semcom.rng import Streams
from semcom.tensor_files import damaged, read_progress, write_progress
from semcom.train import StageLog, Training

Tensors = Mapping[str, torch.Tensor]


class Devices:
    """The devices' part of a model as each device has it, with its version and its optimiser's moments.

    newest: as the base station has it, by the number `version`. A device is up to date if it holds that
    version, trained on or not. held_by: what a device and the base station both know that it holds, which
    differences are made from.
    """

    def __init__(
        self,
        tensors: Tensors,
        prefixes: tuple[str, ...],
        training_state: Tensors,
        streams: Streams,
        *,
        hands_moments_over: bool = False,
    ) -> None:
        """prefixes: of the names of the moments of the device's weights in a training's state.

        hands_moments_over: they are part of what devices hold, by names that begin with MOMENTS.
        """
        self._hands_over = hands_moments_over
        self.newest: dict[str, torch.Tensor] = dict(tensors)
        self.version = 0
        self._prefixes, self._streams = prefixes, streams
        self._first_generator = training_state["generator"]
        self._version_of: dict[int, int] = {}
        self._held: dict[int, dict[str, torch.Tensor]] = {}
        self._local: dict[int, dict[str, torch.Tensor]] = {}
        self._moments: dict[int, dict[str, torch.Tensor]] = {}
        self._generator: dict[int, torch.Tensor] = {}
        self._trained: set[int] = set()

    def is_up_to_date(self, client: int) -> bool:
        """Whether a device holds the newest version."""
        return self._version_of.get(client) == self.version

    def held_by(self, client: int) -> dict[str, torch.Tensor] | None:
        """What a device is known to hold; None if it was never sent anything."""
        return self._held.get(client)

    def tensors_of(self, client: int) -> dict[str, torch.Tensor]:
        """A device's own tensors."""
        return self._local[client]

    def install(self, client: int, tensors: dict[str, torch.Tensor]) -> None:
        """Gives a device what arrived of the newest version."""
        self._held[client], self._local[client] = tensors, tensors
        self._version_of[client] = self.version

    def adopt(self, client: int, tensors: dict[str, torch.Tensor]) -> None:
        """Takes what arrived of a device's tensors as the newest version, which the device goes on from."""
        self.newest, self._held[client] = tensors, tensors
        self.version += 1
        self._version_of[client] = self.version
        self._trained.clear()

    def renew(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes tensors as the newest version, which no device has yet."""
        self.newest = tensors
        self.version += 1
        self._trained.clear()

    def trained(self) -> list[int]:
        """The devices that have trained on since the newest version was made, ascending."""
        return sorted(self._trained)

    def keep(self, client: int, tensors: dict[str, torch.Tensor], training_state: Tensors) -> None:
        """Keeps a device's tensors, moments and random stream after its turn."""
        moments = {name: tensor for name, tensor in training_state.items() if name.startswith(self._prefixes)}
        if self._hands_over:
            tensors = tensors | {MOMENTS + name: tensor for name, tensor in moments.items()}
        else:
            self._moments[client] = moments
        self._local[client] = tensors
        self._generator[client] = training_state["generator"]
        self._trained.add(client)

    def generator_of(self, client: int) -> torch.Tensor:
        """The state of a device's random stream; device 0 has the training's own."""
        if client in self._generator:
            return self._generator[client]
        if client == 0:
            return self._first_generator
        return self._streams.torch_generator("batches", client).get_state()

    def state_of(self, client: int, training_state: Tensors) -> dict[str, torch.Tensor]:
        """A training's state with a device's moments and random stream in it."""
        station = {
            name: tensor for name, tensor in training_state.items() if not name.startswith(self._prefixes)
        }
        moments = {
            name.removeprefix(MOMENTS): tensor
            for name, tensor in self._local.get(client, {}).items()
            if name.startswith(MOMENTS)
        }
        kept = self._moments.get(client, {})
        return {**station, **moments, **kept, "generator": self.generator_of(client)}

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
        """All of it: tensors by name, and what goes into JSON beside them."""
        tensors = {f"newest.{name}": tensor for name, tensor in self.newest.items()}
        for part, of_client in (("held", self._held), ("local", self._local), ("moments", self._moments)):
            for client, named in of_client.items():
                tensors |= {f"{part}.{client}.{name}": tensor for name, tensor in named.items()}
        tensors |= {f"generator.{client}.state": tensor for client, tensor in self._generator.items()}
        told: dict[str, object] = {
            "version": self.version,
            "versions": {str(client): version for client, version in self._version_of.items()},
            "trained": self.trained(),
        }
        return tensors, told

    def load(self, tensors: Tensors, told: Mapping[str, object]) -> None:
        """Goes on from what `state` returned."""
        parts: dict[str, dict[int, dict[str, torch.Tensor]]] = {"held": {}, "local": {}, "moments": {}}
        self.newest, self._generator = {}, {}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            if part == "newest":
                self.newest[rest] = tensor
                continue
            client, rest = rest.split(".", 1)
            if part == "generator":
                self._generator[int(client)] = tensor
            else:
                parts[part].setdefault(int(client), {})[rest] = tensor
        self._held, self._local, self._moments = parts["held"], parts["local"], parts["moments"]
        self.version = int(str(told["version"]))
        versions, trained = told["versions"], told["trained"]
        assert isinstance(versions, dict)
        assert isinstance(trained, list)
        self._version_of = {int(client): int(version) for client, version in versions.items()}
        self._trained = {int(client) for client in trained}


def save_progress(
    path: Path,
    module: nn.Module,
    training: Training,
    devices: Devices,
    ledger: Ledger,
    counters: Mapping[str, object],
    log: StageLog,
) -> None:
    """Writes all that the next round depends on to one safetensors file, atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= {f"training.{name}": tensor for name, tensor in training.state().items()}
    held, told = devices.state()
    tensors |= {f"devices.{name}": tensor for name, tensor in held.items()}
    told |= {"counters": dict(counters), "log": log, "ledger": asdict(ledger)}
    write_progress(path, tensors, told)


def load_progress(
    path: Path, module: nn.Module, training: Training, devices: Devices, ledger: Ledger
) -> tuple[dict[str, Any], StageLog]:
    """Restores what `save_progress` wrote; returns the counters and the log.

    Raises SemcomError for a damaged file, or one of another model.
    """
    tensors, told = read_progress(path)
    try:
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "training": {}, "devices": {}}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = tensor
        module.load_state_dict(parts["model"])
        training.load(parts["training"])
        devices.load(parts["devices"], told)
        ledger.__dict__.update(told["ledger"])
        return dict(told["counters"]), list(told["log"])
    except Exception as error:
        raise damaged(path, error) from error
