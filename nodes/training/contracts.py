"""The contract of collaborative training: what a client sends to the base station after a round."""

from __future__ import annotations

from dataclasses import dataclass

import torch


# Tensors have no one truth value, so that two updates can't be compared field by field.
@dataclass(frozen=True, eq=False)
class ClientUpdate:
    """A client's model after its local training: the model itself, not what changed in it.

    client: the client's number; it sends one update in a round. num_samples: how many samples it trained on,
    its weight in a mean. version: of the global model that it started from. tensors: the model's, named as in
    a state dict, with the names, shapes and types of the global model's.
    """

    client: int
    num_samples: int
    version: int
    tensors: dict[str, torch.Tensor]
