"""An array as sub-array patches: which elements each holds, and where it lies on the array."""

from __future__ import annotations

import torch
from torch import nn

from channels.near_field import NearFieldConfig
from semcom.contracts import SemcomError


class Patches(nn.Module):
    """Divides M elements into L patches of S neighbouring ones: runs of a row, or squares of several rows.

    index: int64 [L, S], the elements of each patch. position: float32 [L, 2], its centre's column and row
    as shares of the array, from 0 to 1. grid: its rows and columns of patches.
    """

    index: torch.Tensor
    inverse: torch.Tensor
    position: torch.Tensor

    def __init__(self, config: NearFieldConfig, patch_size: int) -> None:
        """Raises SemcomError where patches of `patch_size` elements don't fill the array."""
        super().__init__()
        num_rows = config.num_rows
        num_columns = config.num_elements // num_rows
        height = 1
        while num_rows > 1 and height * height < patch_size and num_rows % (2 * height) == 0:
            height *= 2
        width = patch_size // height
        if width * height != patch_size or num_columns % width or num_rows % height:
            raise SemcomError(
                f"model.patch_size = {patch_size}: patches don't fill an array of {num_rows} rows and "
                f"{num_columns} columns, so take a divisor of {num_columns}"
            )
        grid = torch.arange(config.num_elements).view(num_rows // height, height, num_columns // width, width)
        self.grid = (num_rows // height, num_columns // width)
        index = grid.permute(0, 2, 1, 3).reshape(-1, patch_size)
        row = (index // num_columns).float().mean(dim=1) / num_rows
        column = (index % num_columns).float().mean(dim=1) / num_columns
        self.num_patches, self.patch_size = index.shape
        # Runs of a row lie one after the other: they are views, not copies.
        self._are_runs = bool((index.flatten() == torch.arange(config.num_elements)).all())
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("position", torch.stack((column, row), dim=1), persistent=False)
        self.register_buffer("inverse", index.flatten().argsort(), persistent=False)

    def split(self, elements: torch.Tensor) -> torch.Tensor:
        """Cuts values of elements [..., M] into patches [..., L, S]."""
        if self._are_runs:
            return elements.unflatten(-1, self.index.shape)
        return elements[..., self.index]

    def join(self, patches: torch.Tensor) -> torch.Tensor:
        """Puts patches [..., L, S] together again: [..., M]."""
        whole = patches.flatten(-2)
        return whole if self._are_runs else whole[..., self.inverse]
