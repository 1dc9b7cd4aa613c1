"""Masks for training: which sensors are hidden from a predictor, and which patches from an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def mask_modalities(
    num_rows: int, modality: Sequence[int], probability: float, generator: torch.Generator
) -> torch.Tensor:
    """Hides all sensors of a modality at once: bool [N, S], True where hidden.

    Each modality of a row is hidden with the given probability, independently of the others: a sensor is
    hidden as often whatever other modalities there are.
    """
    number = torch.tensor(modality)
    hidden = torch.rand(num_rows, int(number.max()) + 1, generator=generator) < probability
    return hidden[:, number]


def mask_links(
    num_rows: int, num_sensors: int, largest_probability: float, generator: torch.Generator
) -> torch.Tensor:
    """Hides single sensors, as lost packets do: bool [N, S].

    Each row has its own probability, uniform on [0, largest_probability], so that rows with few and rows
    with many losses are learned from alike.
    """
    probability = largest_probability * torch.rand(num_rows, 1, generator=generator)
    return torch.rand(num_rows, num_sensors, generator=generator) < probability


def mask_patches(
    num_rows: int, height: int, width: int, patch: int, share: float, generator: torch.Generator
) -> torch.Tensor:
    """Hides square patches of a frame: bool [N, height, width], True where hidden.

    Each patch x patch square (the last ones cut off at the edge) is hidden with probability `share`.
    """
    rows, columns = -(-height // patch), -(-width // patch)
    hidden = torch.rand(num_rows, rows, columns, generator=generator) < share
    whole = hidden.repeat_interleave(patch, dim=1).repeat_interleave(patch, dim=2)
    return whole[:, :height, :width]


def mask_runs(
    num_rows: int, num_patches: int, num_runs: int, share: tuple[float, float], generator: torch.Generator
) -> torch.Tensor:
    """Hides `num_runs` runs of neighbouring patches, each anywhere and of a share of all: bool [N, L].

    In one dimension what I-JEPA's multi-block masks are (Assran et al. 2023): runs may overlap, their length
    is uniform between the two shares, at least one patch. A row with everything hidden keeps its first patch.
    """
    low, high = (max(1, round(each * num_patches)) for each in share)
    length = torch.randint(low, high + 1, (num_rows, num_runs, 1), generator=generator)
    chance = torch.rand(num_rows, num_runs, 1, generator=generator)
    begin = (chance * (num_patches - length + 1)).long()
    patch = torch.arange(num_patches)
    hidden = ((patch >= begin) & (patch < begin + length)).any(dim=1)
    return _with_one_left(hidden)


def mask_tokens(
    num_rows: int, num_patches: int, share: tuple[float, float], generator: torch.Generator
) -> torch.Tensor:
    """Hides patches at random, in each row a share uniform between the two: bool [N, L].

    A row with everything hidden keeps its first patch.
    """
    low, high = share
    wanted = low + (high - low) * torch.rand(num_rows, 1, generator=generator)
    return _with_one_left(torch.rand(num_rows, num_patches, generator=generator) < wanted)


def _with_one_left(hidden: torch.Tensor) -> torch.Tensor:
    hidden[:, 0] &= ~hidden.all(dim=1)
    return hidden
