"""Named tensors as vectors: which of a model's are averaged, many models side by side, and what is amiss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from nodes.training.contracts import ClientUpdate
from semcom.contracts import SemcomError

Tensors = Mapping[str, torch.Tensor]

_BLOCK_ENTRIES = 1 << 24
"""Numbers in a block of columns: 128 MiB as float64."""


def averaged_names(tensors: Tensors) -> list[str]:
    """Returns the names of the floating-point tensors, which are averaged; counters and flags are not.

    Raises SemcomError for a complex tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise SemcomError(f"the model's {name!r} is complex: keep its real and imaginary part as two")
    return [name for name, tensor in tensors.items() if tensor.is_floating_point()]


def flatten(tensors: Tensors, names: Sequence[str]) -> torch.Tensor:
    """Returns the P numbers of the named tensors, one tensor after the other, float64 [P]."""
    if not names:
        return torch.zeros(0, dtype=torch.float64)
    return torch.cat([tensors[name].detach().reshape(-1) for name in names]).double()


def unflatten(vector: torch.Tensor, names: Sequence[str], like: Tensors) -> dict[str, torch.Tensor]:
    """Returns what `flatten` joined, vector [P], as tensors of like's shapes and types; none is a view."""
    parts = vector.split([like[name].numel() for name in names])
    return {
        name: part.reshape(like[name].shape).to(like[name].dtype, copy=True)
        for name, part in zip(names, parts, strict=True)
    }


def column_blocks(models: Sequence[Tensors], names: Sequence[str]) -> Iterator[torch.Tensor]:
    """Yields the flattened tensors of n models in blocks of w columns, float64 [n, w], w as memory allows.

    The blocks side by side are [flatten(model) for model in models], so that a rule for columns never needs
    all of them at once.
    """
    width = max(1, _BLOCK_ENTRIES // max(1, len(models)))
    pieces: list[tuple[str, int, int]] = []
    free = width
    for name in names:
        start, size = 0, models[0][name].numel()
        while start < size:
            stop = min(size, start + free)
            pieces.append((name, start, stop))
            free, start = free - (stop - start), stop
            if free == 0:
                yield _gather(models, pieces)
                pieces, free = [], width
    if pieces:
        yield _gather(models, pieces)


def _gather(models: Sequence[Tensors], pieces: Sequence[tuple[str, int, int]]) -> torch.Tensor:
    num_columns = sum(stop - start for _, start, stop in pieces)
    block = torch.empty((len(models), num_columns), dtype=torch.float64)
    for row, model in zip(block, models, strict=True):
        row.copy_(torch.cat([model[name].detach().reshape(-1)[start:stop] for name, start, stop in pieces]))
    return block


def find_fault(update: ClientUpdate, global_tensors: Tensors) -> str | None:
    """Says in one line, which names the client, why its update can't be averaged; None where it can.

    Faults are no samples, other names, shapes or types than the global model's, and NaN or infinity.
    """
    who = f"client {update.client}"
    if update.num_samples < 1:
        return f"{who} sent an update of {update.num_samples} samples, and it takes one or more to count"
    for name in sorted(global_tensors.keys() ^ update.tensors.keys()):
        if name in global_tensors:
            return f"{who} sent no tensor {name!r}, which the global model has"
        return f"{who} sent a tensor {name!r}, which the global model has not"
    for name, expected in global_tensors.items():
        given = update.tensors[name]
        if given.shape != expected.shape:
            shapes = f"{list(given.shape)}, and the global model's is {list(expected.shape)}"
            return f"{who} sent a tensor {name!r} of shape {shapes}"
        if given.dtype != expected.dtype:
            return f"{who} sent {name!r} as {given.dtype}, and the global model's is {expected.dtype}"
    names = averaged_names(global_tensors)
    # A float64 sum of float32 numbers is finite where all of them are, and quicker than a look at each.
    row = [update.tensors[name].detach().reshape(-1) for name in names]
    if row and not math.isfinite(float(torch.cat(row).sum(dtype=torch.float64))):
        for name in names:
            if not bool(update.tensors[name].isfinite().all()):
                return f"{who} sent NaN or infinity in {name!r}"
    return None
