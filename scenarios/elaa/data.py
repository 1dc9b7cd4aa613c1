"""The channels of one seed, to train, to tune and to test on, and what the array receives of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from channels.near_field import NearFieldConfig, draw_channels
from channels.visibility import VISIBLE_ABOVE, BlockVisibility, VisibilityConfig, draw_visibility
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.region_detection import unmask
from semcom.contracts import SemcomError
from semcom.rng import Streams

Part = Literal["training", "validation", "test"]

# A stream's step is a whole number; shares and SNRs are told apart by hundredths.
PER_STEP = 100


class DataConfig(BaseModel):
    """How many channels there are; each seed has its own, and no part shares any with another."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_training: int = Field(
        4000, ge=16, le=10_000_000, description="channels that covariances and codecs are fitted to"
    )
    num_validation: int = Field(200, ge=8, le=1_000_000, description="channels that methods are tuned on")
    num_test: int = Field(1000, ge=2, le=1_000_000, description="channels that estimates are measured on")
    num_test_others: int = Field(
        200,
        ge=2,
        le=1_000_000,
        description="channels that other sizes, forecasts, bands, reports and feedback are measured on: "
        "num_test where that is less",
    )

    def of_others(self) -> DataConfig:
        """The same with as many test channels as results other than estimates have."""
        return self.model_copy(update={"num_test": min(self.num_test, self.num_test_others)})


@dataclass(frozen=True)
class Cell:
    """One operating point: how much of the array is visible, at which SNR, and whether the mask is known."""

    visible_share: float
    snr_db: float
    mask_known: bool = True


@dataclass(frozen=True)
class Sample:
    """Channels and what was received of them: h complex64 [N, M], visible bool [N, M] as it truly was.

    Where the mask is not known, observed.visible is True everywhere.
    """

    h: torch.Tensor
    visible: torch.Tensor
    observed: Observed


@lru_cache(maxsize=8)
def draw_part(array: NearFieldConfig, part: Part, num: int, seed: int) -> torch.Tensor:
    """Draws the channels of one part of a seed's data, complex64 [N, T, M], of the first subcarrier."""
    generator = Streams(seed).torch_generator(f"elaa-channels-{part}")
    return draw_channels(array, num, generator).h[:, :, 0]


def visibility_of(config: VisibilityConfig, share: float) -> VisibilityConfig:
    """The visibility model at a share: blocks and Markov chains have one, others are as they are."""
    if share == 1:
        # Not FullVisibility, which draws nothing: examples of other shares draw from the same stream.
        return BlockVisibility(share=1.0, subarray_size=1)
    if config.kind in ("blocks", "markov"):
        return config.model_copy(update={"share": share})
    return config


def draw_visible(
    array: NearFieldConfig, visibility: VisibilityConfig, part: Part, num: int, share: float, seed: int
) -> torch.Tensor:
    """Draws which elements are visible to each channel of one part, bool [N, M]: the same at every SNR."""
    generator = Streams(seed).torch_generator(f"elaa-visibility-{part}", step=round(PER_STEP * share))
    return draw_visibility(visibility_of(visibility, share), array, num, generator) > VISIBLE_ABOVE


def draw_sample(
    array: NearFieldConfig, visibility: VisibilityConfig, data: DataConfig, part: Part, cell: Cell, seed: int
) -> Sample:
    """Draws what an operating point has of one part: its channels are the same at every point.

    Raises SemcomError for an SNR that is not finite, and where no element would be visible.
    """
    num = {"training": data.num_training, "validation": data.num_validation, "test": data.num_test}[part]
    h = draw_part(array, part, num, seed)[:, -1]
    if not 0 < cell.visible_share <= 1:
        raise SemcomError(
            f"visible share {cell.visible_share:g}: an array needs a visible element, so take a share above "
            "0 and up to 1"
        )
    visible = draw_visible(array, visibility, part, num, cell.visible_share, seed)
    noise = Streams(seed).torch_generator(
        f"elaa-noise-{part}",
        device=round(PER_STEP * cell.visible_share),
        step=round(PER_STEP * cell.snr_db) if abs(cell.snr_db) < 1e6 else 0,
    )
    hear = observe if cell.mask_known else unmask
    return Sample(h, visible, hear(h, visible, cell.snr_db, noise))
