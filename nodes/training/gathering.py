"""Gathering: data that lie with devices go up to the base station, once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nodes.training.federated import Air
from nodes.training.ledger import Ledger
from nodes.training.updates import UpdateCodec, UpdateCodecConfig
from nodes.transfer import TransferConfig, transfer
from semcom.contracts import SemcomError
from semcom.rng import Streams


@dataclass
class Gathering:
    """Brings data of all samples up, an equal run of them from each client, and counts what that costs."""

    num_clients: int
    streams: Streams
    air: Air
    transfer: TransferConfig
    ledger: Ledger
    num_done: int = 0

    def gather(self, kind: str, data: torch.Tensor, codec: UpdateCodecConfig) -> torch.Tensor:
        """Returns what arrives of data [N, ...], in the same form.

        Integers go as they are, floating-point and complex numbers through the codec; `kind` is for the
        message. Raises SemcomError naming the client whose data did not arrive.
        """
        name = f"gather {self.num_done}"
        self.num_done += 1
        real = torch.view_as_real(data) if data.is_complex() else data
        parts = real.contiguous().chunk(self.num_clients)
        payloads = [
            self._encode(part, codec, self.streams.torch_generator(name, client))
            for client, part in enumerate(parts)
        ]
        report = transfer(
            payloads,
            np.arange(len(parts)),
            self.air.uplink,
            self.air.uplink_channel,
            self.streams.substream(name),
            self.transfer,
            step_s=self.air.step_s,
            name="up",
        )
        self.ledger.add_up(report)
        self.ledger.duration_s += float(report.duration_s.max(initial=0.0))
        arrived = []
        for client, (payload, part) in enumerate(zip(report.payloads, parts, strict=True)):
            if payload is None:
                raise SemcomError(
                    f"client {client}: {kind} data of {len(payloads[client])} bytes did not arrive within "
                    f"{self.transfer.max_steps} steps: raise transfer.max_steps, or take a better link"
                )
            arrived.append(self._decode(payload, part, codec))
        whole = torch.cat(arrived)
        return torch.view_as_complex(whole) if data.is_complex() else whole

    @staticmethod
    def _encode(part: torch.Tensor, codec: UpdateCodecConfig, generator: torch.Generator) -> bytes:
        if not part.is_floating_point():
            return part.numpy().tobytes()
        coder, zero = UpdateCodec(codec, {"data": part}), torch.zeros_like(part)
        return coder.encode({"data": part}, {"data": zero}, coder.initial_memory(), generator)[0]

    @staticmethod
    def _decode(payload: bytes, like: torch.Tensor, codec: UpdateCodecConfig) -> torch.Tensor:
        if not like.is_floating_point():
            return torch.frombuffer(bytearray(payload), dtype=like.dtype).reshape(like.shape)
        zero = {"data": torch.zeros_like(like)}
        return UpdateCodec(codec, zero).decode(payload, zero)["data"]
