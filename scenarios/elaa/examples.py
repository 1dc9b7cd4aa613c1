"""Examples that the learned estimators are trained on: channels, masks and noise of all levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from channels.near_field import NearFieldConfig, draw_channels
from channels.visibility import VISIBLE_ABOVE, BlockVisibility, VisibilityConfig, draw_visibility
from scenarios.elaa.features import Dechirper, Frame
from scenarios.elaa.inputs import Inputs, make_inputs, to_numbers
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.patches import Patches
from semcom.masks import mask_token_blocks, mask_tokens
from semcom.rng import Streams
from semcom.samples import Samples

MaskSource = Literal["visibility", "blocks", "random"]
SHARES = (1.0, 0.75, 0.5, 0.25)
TRAINING_SHARES = (*SHARES, 0.5, 0.25, 0.25)
"""What is mostly hidden is hardest to tell: a half is seen twice as often as more, a quarter thrice."""
_SHARE_CELLS, _SNR_CELLS, _SNR_STEP_DB, _LEAST_SNR_DB = 9, 9, 5.0, -5.0
NUM_CELLS = _SHARE_CELLS * _SNR_CELLS


class ExampleConfig(BaseModel):
    """What the learned estimators are trained on; one model for all shares and SNRs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_examples: int = Field(32_000, ge=16, le=10_000_000, description="training channels")
    num_path_examples: int = Field(
        24_000, ge=16, le=10_000_000, description="other channels, to train the hybrid's network on"
    )
    min_snr_db: float = Field(-5, ge=-40, le=100, description="least SNR of a visible element in training")
    max_snr_db: float = Field(25, ge=-40, le=100, description="largest SNR in training")
    mask_source: MaskSource = Field(
        "visibility", description="what is hidden: by the visibility model, blocks or patches at random"
    )
    target_snr_db: float | None = Field(
        None, ge=-40, le=100, description="SNR of the channels that trainings aim at; clean ones if not given"
    )


@dataclass(frozen=True)
class Examples:
    """N channels to learn from: what is observed, and the whole channel.

    clean: float32 [N, L, 2 S], the target's patches in the frame. cell: int64 [N], of like share and SNR.
    order: int64 [N], by the number of visible patches, so that batches of like rows need no padding.
    noise_share: of the targets' energy, what is noise.
    """

    observed: Observed
    frame: Frame
    inputs: Inputs
    clean: torch.Tensor
    cell: torch.Tensor
    order: torch.Tensor
    noise_share: float = 0.0

    @cached_property
    def samples(self) -> Samples:
        """Those that batches are drawn from."""
        return Samples(len(self))

    def __len__(self) -> int:
        """Number of channels N."""
        return len(self.clean)

    def draw_rows(self, num: int, generator: torch.Generator) -> torch.Tensor:
        """Draws rows with like numbers of visible patches, int64 [num]."""
        order = self.order if len(self.samples) == len(self) else self.order[self.samples.among(self.order)]
        width = max(1, len(order) // 8)
        start = torch.randint(0, len(order), (1,), generator=generator)
        return order[(start + torch.randint(0, width, (num,), generator=generator)) % len(order)]


def training_visibilities(subarray_size: int = 16) -> tuple[VisibilityConfig, ...]:
    """Hidden blocks of sub-arrays that leave each of SHARES."""
    return tuple(BlockVisibility(share=share, subarray_size=subarray_size) for share in SHARES)


def draw_examples(
    array: NearFieldConfig,
    config: ExampleConfig,
    visibilities: Sequence[VisibilityConfig],
    patches: Patches,
    dechirper: Dechirper,
    streams: Streams,
    *,
    of_paths: bool = False,
    through: Callable[[Observed], Observed] | None = None,
) -> Examples:
    """Draws training examples: each channel's visibility is one of `visibilities`, its SNR uniform in dB.

    of_paths: those of the hybrid's network, others than the models'. through: what becomes of observations on
    their way to the estimator, nothing if None.
    """
    num = config.num_path_examples if of_paths else config.num_examples
    generator = streams.torch_generator("elaa path examples" if of_paths else "elaa examples")
    h = draw_channels(array, num, generator).h[:, 0, 0]
    visible = draw_visible(array, config.mask_source, visibilities, patches, num, generator)
    share = torch.rand(num, generator=generator)
    snr_db = config.min_snr_db + (config.max_snr_db - config.min_snr_db) * share
    observed = observe(h, visible, snr_db, generator)
    target, noise_share = h, 0.0
    if config.target_snr_db is not None:
        target = observe(h, torch.ones_like(visible), config.target_snr_db, generator).y
        noise_share = 1 / (1 + 10 ** (config.target_snr_db / 10))
    shown = through(observed) if through else observed
    return make_examples(shown, target, patches, dechirper, noise_share)


def make_examples(
    observed: Observed,
    target: torch.Tensor,
    patches: Patches,
    dechirper: Dechirper,
    noise_share: float = 0.0,
) -> Examples:
    """Makes examples of what was observed and the channels complex64 [N, M] that are to be estimated.

    noise_share: of the energy of `target`, what is noise.
    """
    inputs, frame = make_inputs(observed, dechirper, patches)
    clean = to_numbers(patches.split(frame.turn(target)))
    order = inputs.visible.sum(dim=1).argsort(stable=True)
    return Examples(observed, frame, inputs, clean, cells(observed), order, noise_share)


def cells(observed: Observed) -> torch.Tensor:
    """A number from 0 to NUM_CELLS - 1 for channels of like visible share and SNR, int64 [N]."""
    share = (observed.visible.float().mean(dim=1) * (_SHARE_CELLS - 1)).round().long()
    snr_db = -10 / math.log(10) * observed.noise_var.clamp_min(1e-20).log()
    step = ((snr_db - _LEAST_SNR_DB) / _SNR_STEP_DB).floor().long().clamp(0, _SNR_CELLS - 1)
    return share * _SNR_CELLS + step


def draw_visible(
    array: NearFieldConfig,
    source: MaskSource,
    visibilities: Sequence[VisibilityConfig],
    patches: Patches,
    num: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Draws which elements of `num` training channels are visible, bool [N, M]."""
    if source == "visibility":
        which = torch.randint(0, len(visibilities), (num,), generator=generator)
        visible = torch.zeros((num, array.num_elements), dtype=torch.bool)
        for number, visibility in enumerate(visibilities):
            rows = which == number
            factor = draw_visibility(visibility, array, int(rows.sum()), generator)
            visible[rows] = factor > VISIBLE_ABOVE
        return visible
    if source == "random":
        hidden = mask_tokens(num, patches.num_patches, 0.0, 0.75, generator)
    else:
        hidden = mask_token_blocks(num, *patches.grid, 4, 0.0, 0.3, generator)
    return patches.join((~hidden)[:, :, None].expand(-1, -1, patches.patch_size))
