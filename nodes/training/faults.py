"""What goes wrong in collaborative training: clients that vanish, are slow, come late, or lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from semcom.rng import Streams

Attack = Literal["sign-flip", "scaled", "random", "stale"]


class FaultConfig(BaseModel):
    """Which clients fail, and how. Shares are rounded to whole clients, which are drawn once."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dropout_probability: float = Field(
        0.0, ge=0, le=1, description="probability that a client that is asked doesn't answer in a round"
    )
    attack: Attack = Field("sign-flip", description="what malicious clients send")
    malicious_share: float = Field(0.0, ge=0, le=1, description="share of the clients that are malicious")
    attack_scale: float = Field(
        1.0, gt=0, le=1e6, description="factor of the change that a flipped, scaled or random update has"
    )
    late_share: float = Field(0.0, ge=0, lt=1, description="share of the clients that join late")
    late_round: int = Field(0, ge=0, description="round in which these join")
    step_s: float = Field(0.01, gt=0, le=3600, description="time that a training step takes a usual device")
    slowness: float = Field(
        0.0, ge=0, le=5, description="standard deviation of the logarithm of the devices' step times"
    )
    deadline_s: float | None = Field(
        None, gt=0, description="time after which a round's updates are left out; none if not given"
    )

    @model_validator(mode="after")
    def _check(self) -> FaultConfig:
        if self.attack == "scaled" and self.malicious_share > 0 and self.attack_scale == 1:
            raise ValueError("attack = scaled with attack_scale = 1 changes nothing: take another scale")
        return self


class Faults:
    """The faults of K clients: a pure function of client and round."""

    def __init__(self, config: FaultConfig, num_clients: int, streams: Streams) -> None:
        self.config, self.num_clients = config, num_clients
        self._streams = streams.substream("faults")
        order = self._streams.numpy_generator("malicious").permutation(num_clients)
        self.malicious = frozenset(order[: round(config.malicious_share * num_clients)].tolist())
        order = self._streams.numpy_generator("late").permutation(num_clients)
        self.late = frozenset(order[: round(config.late_share * num_clients)].tolist())
        normal = self._streams.numpy_generator("slowness").standard_normal(num_clients)
        self.step_s = config.step_s * np.exp(config.slowness * normal)

    def has_joined(self, client: int, round_number: int) -> bool:
        """Whether a client takes part by then."""
        return client not in self.late or round_number >= self.config.late_round

    def answering(self, clients: Sequence[int], round_number: int) -> list[int]:
        """Those of the clients that don't drop out of a round."""
        if not clients:
            return []
        u = self._streams.indexed_uniform("dropout", np.array(clients), round_number)
        return [
            client
            for client, drawn in zip(clients, u.tolist(), strict=True)
            if drawn >= self.config.dropout_probability
        ]

    def corrupt(
        self,
        client: int,
        round_number: int,
        tensors: dict[str, torch.Tensor],
        global_tensors: Mapping[str, torch.Tensor],
        stale_tensors: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """What a client sends in place of its model: the same for an honest one.

        With d = w - w_global and the scale s: sign-flip sends w_global - s d; scaled w_global + s d; random
        w_global + s |d| n / sqrt(P), n standard normal, of each tensor; stale the global model of the round
        before. Integers and booleans stay.
        """
        if client not in self.malicious:
            return tensors
        attack, scale = self.config.attack, self.config.attack_scale
        if attack == "stale":
            return {name: tensor.clone() for name, tensor in stale_tensors.items()}
        generator = self._streams.torch_generator("attack", client, round_number)
        sent = {}
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                sent[name] = tensor
                continue
            change = tensor - global_tensors[name]
            if attack == "sign-flip":
                change = -change
            elif attack == "random":
                noise = torch.randn(change.shape, generator=generator, dtype=change.dtype)
                change = noise * change.norm() / max(1, change.numel()) ** 0.5
            sent[name] = global_tensors[name] + scale * change
        return sent
