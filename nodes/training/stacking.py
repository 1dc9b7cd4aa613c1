"""What thousands of clients keep, stacked for a checkpoint: few large tensors in place of many small ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def stack(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns tensors named CLIENT.REST as one for each REST, type and shape, over n clients [n, ...].

    A stack is named NUMBER.REST, and beside it NUMBER has the clients' numbers, int64 [n].
    """
    alike: dict[tuple[str, torch.dtype, torch.Size], dict[int, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        client, rest = name.split(".", 1)
        alike.setdefault((rest, tensor.dtype, tensor.shape), {})[int(client)] = tensor
    stacked: dict[str, torch.Tensor] = {}
    for number, ((rest, _, _), by_client) in enumerate(alike.items()):
        stacked[str(number)] = torch.tensor(list(by_client))
        stacked[f"{number}.{rest}"] = torch.stack(list(by_client.values()))
    return stacked


def unstack(stacked: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns what `stack` was given, each tensor with memory of its own."""
    tensors: dict[str, torch.Tensor] = {}
    for name, rows in stacked.items():
        number, _, rest = name.partition(".")
        if rest:
            clients = stacked[number].tolist()
            # A random stream can't be set to a view.
            tensors |= {f"{client}.{rest}": row.clone() for client, row in zip(clients, rows, strict=True)}
    return tensors
