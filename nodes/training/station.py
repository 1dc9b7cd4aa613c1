"""The base station of federated rounds: the global model, its versions, and what becomes of updates."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nodes.training.aggregation import AggregationConfig, aggregate, check_num_clients
from nodes.training.broadcast import Broadcast, BroadcastConfig
from nodes.training.contracts import ClientUpdate
from nodes.training.screening import ScreeningConfig, screen
from nodes.training.updates import UpdateCodec
from semcom.contracts import SemcomError
from semcom.rng import Streams

Tensors = Mapping[str, torch.Tensor]


class BaseStationSide:
    """The base station of a federated stage: the global model w, and what clients hold of it, r.

    Clients train from r, and what they send is added to r. w is what is left at the end.
    """

    def __init__(
        self,
        strategy: AggregationConfig,
        screening: ScreeningConfig,
        broadcast: BroadcastConfig,
        codec: UpdateCodec | None,
        tensors: Tensors,
        streams: Streams,
    ) -> None:
        """codec: None where there are no tensors, and nothing is ever sent."""
        self._strategy, self._screening, self._codec, self._streams = strategy, screening, codec, streams
        self.broadcast = Broadcast(broadcast, tensors) if codec else None
        self.tensors: dict[str, torch.Tensor] = dict(tensors)
        self.before: dict[str, torch.Tensor] = dict(tensors)
        self.state: dict[str, torch.Tensor] = {}

    @property
    def sent(self) -> Tensors:
        """What clients that are up to date hold: the model that they train from."""
        return self.tensors if self.broadcast is None else self.broadcast.tensors

    def take(
        self, number: int, payloads: Mapping[int, bytes], num_samples: Mapping[int, int]
    ) -> tuple[int, list[str]]:
        """Makes the next global model of a round's updates; returns how many were not used, and why.

        With none that may be used the model stays as it is.
        """
        assert self._codec is not None
        sent = self.sent
        updates = []
        reasons = []
        for client, payload in sorted(payloads.items()):
            try:
                tensors = self._codec.decode(payload, sent)
            except SemcomError as error:
                reasons.append(f"client {client}: {error}")
                continue
            updates.append(ClientUpdate(client, num_samples[client], number, tensors))
        updates, rejected = screen(self._screening, sent, number, updates)
        reasons += [each.reason for each in rejected]
        if updates:
            try:
                check_num_clients(self._strategy, len(updates))
            except SemcomError as error:
                updates = []
                reasons.append(str(error))
        self.before = dict(sent)
        if updates:
            self.tensors, self.state = aggregate(self._strategy, sent, updates, self.state)
        return len(payloads) - len(updates), reasons

    def advance(self) -> None:
        """Makes the next version of what clients are to hold."""
        if self.broadcast is not None:
            generator = self._streams.torch_generator("broadcast", step=self.broadcast.version)
            self.broadcast.advance(self.tensors, generator)

    def parts(self) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
        """All that the next round depends on: tensors, and what goes into JSON."""
        held, told = self.broadcast.state() if self.broadcast else ({}, {})
        named = (("global", self.tensors), ("before", self.before), ("strategy", self.state), ("held", held))
        tensors = {f"{part}.{name}": tensor for part, of in named for name, tensor in of.items()}
        return tensors, told

    def restore(self, tensors: Tensors, told: Mapping[str, object]) -> None:
        """Goes on from what `parts` returned."""
        parts: dict[str, dict[str, torch.Tensor]] = {"global": {}, "before": {}, "strategy": {}, "held": {}}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            if part in parts:
                parts[part][rest] = tensor
        if {name: tensor.shape for name, tensor in parts["global"].items()} != {
            name: tensor.shape for name, tensor in self.tensors.items()
        }:
            raise SemcomError("it holds another model")
        self.tensors, self.before, self.state = parts["global"], parts["before"], parts["strategy"]
        if self.broadcast is not None:
            self.broadcast.load(parts["held"], told)
