"""Screening: what a base station refuses before it aggregates, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from pydantic import BaseModel, ConfigDict, Field

from nodes.training.contracts import ClientUpdate
from nodes.training.tensors import Tensors, averaged_names, find_fault, flatten

_FEWEST = 3


class ScreeningConfig(BaseModel):
    """What is refused beyond what can't be averaged at all."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_ratio: float | None = Field(
        10.0, ge=1, description="most that an update's norm may be of the round's median norm; none: any"
    )


@dataclass(frozen=True)
class Rejected:
    """A client whose update was refused; reason: one line that names it."""

    client: int
    reason: str


def screen(
    config: ScreeningConfig, global_tensors: Tensors, version: int, updates: Sequence[ClientUpdate]
) -> tuple[list[ClientUpdate], list[Rejected]]:
    """Returns the updates which may be aggregated, and those refused, each by the clients' numbers.

    Refused are: all updates of a client that sent several; one of another version than the global model's,
    `version`; what `find_fault` finds (no samples, other names, shapes or types, NaN, infinity). Of those
    left, if they are 3 or more and max_ratio isn't none, an update is refused for its energy if
    |w - w_global| > max_ratio median_k |w_k - w_global|, over all floating-point numbers; where the median
    is 0 there is no scale, and none is refused. Flipped signs have the norm of honest updates: they are for
    a robust strategy. None may be left.
    """
    counts = Counter(update.client for update in updates)
    kept: list[ClientUpdate] = []
    rejected: list[Rejected] = []
    for update in sorted(updates, key=lambda update: update.client):
        reason = _find_reason(update, global_tensors, version, counts[update.client])
        if reason is None:
            kept.append(update)
        else:
            rejected.append(Rejected(update.client, reason))
    if config.max_ratio is not None and len(kept) >= _FEWEST:
        kept, loud = _screen_energy(config.max_ratio, global_tensors, kept)
        rejected = sorted(rejected + loud, key=lambda each: each.client)
    return kept, rejected


def _find_reason(update: ClientUpdate, global_tensors: Tensors, version: int, count: int) -> str | None:
    if count > 1:
        return f"client {update.client} sent {count} updates in one round"
    if update.version != version:
        return (
            f"client {update.client} sent an update of model version {update.version}, and the global "
            f"model's is {version}"
        )
    return find_fault(update, global_tensors)


def _screen_energy(
    max_ratio: float, global_tensors: Tensors, updates: Sequence[ClientUpdate]
) -> tuple[list[ClientUpdate], list[Rejected]]:
    names = averaged_names(global_tensors)
    start = flatten(global_tensors, names)
    norms = [float(torch.linalg.vector_norm(flatten(each.tensors, names) - start)) for each in updates]
    middle = median(norms)
    kept: list[ClientUpdate] = []
    rejected: list[Rejected] = []
    for update, norm in zip(updates, norms, strict=True):
        if middle > 0 and norm > max_ratio * middle:
            reason = (
                f"client {update.client} sent an update of norm {norm:.4g}, {norm / middle:.4g} times the "
                f"median of {middle:.4g} (max_ratio = {max_ratio:g})"
            )
            rejected.append(Rejected(update.client, reason))
        else:
            kept.append(update)
    return kept, rejected
