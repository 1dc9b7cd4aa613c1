"""Masks for training: which sensors are hidden from the predictor, and which patches from an encoder."""

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


def mask_tokens(
    num_rows: int, num_tokens: int, smallest_share: float, largest_share: float, generator: torch.Generator
) -> torch.Tensor:
    """Hides single tokens anywhere: bool [N, L], True where hidden; one of each row at least is left.

    Each row has its own share of hidden tokens, uniform on [smallest_share, largest_share].
    """
    share = smallest_share + (largest_share - smallest_share) * torch.rand(num_rows, 1, generator=generator)
    num_hidden = (share * num_tokens).round().clamp_max(num_tokens - 1)
    rank = torch.rand(num_rows, num_tokens, generator=generator).argsort(dim=1).argsort(dim=1)
    return rank < num_hidden


def mask_token_blocks(
    num_rows: int,
    height: int,
    width: int,
    num_blocks: int,
    smallest_share: float,
    largest_share: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Hides blocks of a grid of tokens (Assran et al. 2023, I-JEPA): bool [N, height * width].

    Each of num_blocks rectangles, which may overlap, covers a share of the grid that is uniform on
    [smallest_share, largest_share], in a shape like the grid's. A token of each row is left at least.
    """
    drawn = torch.rand(num_rows, num_blocks, 3, generator=generator)
    side = (smallest_share + (largest_share - smallest_share) * drawn[..., 0]).sqrt()
    line = height == 1 or width == 1
    share = (side.square() if line else side)[..., None]
    hidden = torch.ones(num_rows, num_blocks, 1, 1, dtype=torch.bool)
    for axis, size in enumerate((height, width)):
        length = (share[..., 0] * size).round().clamp(1, size)
        first = (drawn[..., 1 + axis] * (size - length + 1)).floor()
        at = torch.arange(size)
        inside = (at >= first[..., None]) & (at < (first + length)[..., None])
        hidden = hidden & (inside[..., :, None] if axis == 0 else inside[..., None, :])
    flat = hidden.any(dim=1).flatten(1)
    kept = torch.randint(0, height * width, (num_rows, 1), generator=generator)
    spared = torch.zeros_like(flat).scatter(1, kept, True)
    return flat & ~(spared & flat.all(dim=1, keepdim=True))
