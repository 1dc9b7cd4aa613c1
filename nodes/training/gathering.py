"""Gathering: data that lie with devices go up to the base station, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from nodes.training.air import Air
from nodes.training.ledger import Ledger
from nodes.training.updates import UpdateCodec, UpdateCodecConfig
from nodes.transfer import TransferConfig
from semcom.contracts import SemcomError
from semcom.rng import Streams


class DataCoder(Protocol):
    """Data of any number of samples as bytes, and back."""

    def encode(self, data: torch.Tensor, generator: torch.Generator) -> bytes: ...

    def decode(self, payload: bytes, like: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class EmbeddingCoder:
    """Embeddings through the codec of what crosses in a split training."""

    config: UpdateCodecConfig

    def encode(self, data: torch.Tensor, generator: torch.Generator) -> bytes:
        """Returns the bytes of embeddings [n, ...]."""
        codec, zero = UpdateCodec(self.config, {"data": data}), {"data": torch.zeros_like(data)}
        return codec.encode({"data": data}, zero, codec.initial_memory(), generator)[0]

    def decode(self, payload: bytes, like: torch.Tensor) -> torch.Tensor:
        """Returns embeddings of like's shape."""
        zero = {"data": torch.zeros_like(like)}
        return UpdateCodec(self.config, zero).decode(payload, zero)["data"]


@dataclass
class Gathering:
    """Brings data of all samples up, an equal run of them from each client, and counts what that costs.

    Runs are not the clients' shares, by which no more than airtime and energy would differ. where: of the
    settings of `transfer`, for messages.
    """

    num_clients: int
    streams: Streams
    air: Air
    transfer: TransferConfig
    ledger: Ledger
    where: str
    num_done: int = 0

    def gather(self, kind: str, data: torch.Tensor, coder: DataCoder) -> torch.Tensor:
        """Returns what arrives of data [N, ...]; `kind` is for the message.

        Raises SemcomError naming the client whose data did not arrive.
        """
        if not data.numel():
            return data
        name = f"gather {kind} {self.num_done}"
        self.num_done += 1
        parts = data.tensor_split(min(self.num_clients, len(data)))
        payloads = [
            coder.encode(part, self.streams.torch_generator(name, client))
            for client, part in enumerate(parts)
        ]
        report = self.air.carry(
            "up",
            payloads,
            range(len(parts)),
            self.streams,
            self.transfer,
            at_s=self.ledger.duration_s,
            name=name,
        )
        self.ledger.add_up(report)
        self.ledger.duration_s += float(report.duration_s.max(initial=0.0))
        arrived = []
        for client, (payload, part) in enumerate(zip(report.payloads, parts, strict=True)):
            if payload is None:
                raise SemcomError(
                    f"client {client}: its {kind} data ({len(payloads[client])} bytes) did not arrive in "
                    f"{self.transfer.max_steps} steps: raise {self.where}.max_steps or take another "
                    "collaboration.link"
                )
            arrived.append(coder.decode(payload, part))
        return torch.cat(arrived)
