"""Which elements of an extremely large array see a user: amplitude factors for each element."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from channels.near_field import NearFieldConfig
from semcom.contracts import SemcomError

VISIBLE_ABOVE = 0.5
"""An element is visible where its amplitude factor is above this: it loses less than 6 dB, which is what a
knife edge takes right at the border of its geometric shadow."""


class FullVisibility(BaseModel):
    """All elements see the user."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["full"] = "full"


class BlockVisibility(BaseModel):
    """One or two runs of whole sub-arrays are hidden, so that a share of the array is left."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["blocks"] = "blocks"
    share: float = Field(0.5, gt=0, le=1, description="share of the array that is visible")
    subarray_size: int = Field(16, ge=1, le=4096, description="elements of a sub-array, one after the other")


VisibilityConfig = Annotated[FullVisibility | BlockVisibility, Field(discriminator="kind")]


def draw_visibility(
    config: VisibilityConfig, array_config: NearFieldConfig, num: int, generator: torch.Generator
) -> torch.Tensor:
    """Draws amplitude factors in [0, 1] of each element for `num` users, float32 [N, M].

    An element is visible where its factor is above VISIBLE_ABOVE. Raises SemcomError for settings by which
    no element would be visible.
    """
    if config.kind == "full":
        return torch.ones((num, array_config.num_elements))
    return _blocks(config, array_config.num_elements, num, generator)


def _blocks(config: BlockVisibility, num_elements: int, num: int, generator: torch.Generator) -> torch.Tensor:
    """One run or two, as likely; then lengths and places uniform over what is possible."""
    num_parts = num_elements // config.subarray_size
    if num_elements % config.subarray_size:
        raise SemcomError(
            f"subarray_size = {config.subarray_size} doesn't divide num_elements = {num_elements}: change one"
        )
    num_left = round(config.share * num_parts)
    if num_left == 0:
        raise SemcomError(
            f"share = {config.share:g} of {num_parts} sub-arrays leaves no visible element: raise share"
        )
    num_hidden = num_parts - num_left
    drawn = torch.rand((num, 4), dtype=torch.float64, generator=generator)
    # Two runs need two hidden sub-arrays and a visible one between them.
    is_double = (drawn[:, 0] < 0.5) & (num_hidden > 1)
    first = torch.where(is_double, 1 + (drawn[:, 1] * (num_hidden - 1)).floor(), num_hidden)
    # How much is visible before the first run and before the second: two different numbers of 0 to num_left.
    one, other = (drawn[:, 2] * (num_left + 1)).floor(), (drawn[:, 3] * num_left).floor()
    other += other >= one
    begin, gap = torch.where(is_double, torch.minimum(one, other), one), (other - one).abs()
    part = torch.arange(num_parts)
    begin, first, gap = begin[:, None], first[:, None], gap[:, None]
    second = begin + first + gap
    is_hidden = (part >= begin) & (part < begin + first)
    is_hidden |= is_double[:, None] & (part >= second) & (part < second + num_hidden - first)
    return (~is_hidden).to(torch.float32).repeat_interleave(config.subarray_size, dim=1)
