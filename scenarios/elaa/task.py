"""One training of the ELAA scenario: its settings, its channels as a network sees them, its batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from channels.near_field import NearFieldConfig
from channels.visibility import VISIBLE_ABOVE, VisibilityConfig, draw_visibility
from scenarios.elaa.data import DataConfig, draw_part, visibility_of
from scenarios.elaa.features import Dechirper
from scenarios.elaa.inputs import Inputs, make_inputs, mirror_patches, to_numbers
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.models import CsiModel
from scenarios.elaa.nomp import Nomp, Paths, nomp_prior
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.patches import Patches
from semcom.masks import mask_runs, mask_tokens
from semcom.rng import Streams
from semcom.train import BatchLoss, fit_stage

Log = list[dict[str, float | int | str]]
_NUM_LEVELS = 6
NUM_RINGS = 10
"""Rings of distance among which the strongest path is looked for."""


class TrainingConfig(BaseModel):
    """How the learned estimators are trained, on observations of all SNRs and visible shares."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_steps_pretraining: int = Field(
        1500, ge=10, le=10_000_000, description="steps of prediction in latent space, or of masked patches"
    )
    num_steps_decoder: int = Field(
        500, ge=10, le=10_000_000, description="steps of the decoder on what no longer changes"
    )
    num_steps: int = Field(2500, ge=10, le=10_000_000, description="steps of training end to end")
    batch_size: int = Field(64, ge=2, le=65_536, description="channels in a batch")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="peak learning rate")
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (1.0, 0.75, 0.5, 0.25), min_length=1, description="visible shares, each as often"
    )
    min_snr_db: float = Field(-5.0, ge=-40, le=60, description="lowest SNR; uniform up to the highest")
    max_snr_db: float = Field(25.0, ge=-40, le=60, description="highest SNR")
    mask_source: Literal["visibility", "multi-block", "random"] = Field(
        "visibility", description="where the masks of pretraining come from"
    )
    target_snr_db: float | None = Field(
        None, ge=-40, le=60, description="SNR of the channels to learn from; clean ones if none"
    )
    distance: Literal["cosine", "l2", "smooth_l1", "l1"] = Field("l2", description="distance of prediction")
    ema_momentum: float = Field(0.99, ge=0, le=1, description="momentum of the EMA target at the start")
    variance_weight: float = Field(0.0, ge=0, description="weight of VICReg's variance term, 0 is without")
    covariance_weight: float = Field(0.0, ge=0, description="weight of VICReg's covariance term")


@dataclass(frozen=True)
class Batch:
    """Channels to learn from: what is seen of them, patches of the channels in the same frame, their level.

    h: float32 [N, L, 2 S]; level: int64 [N], which of the classes of share and SNR each one is of.
    """

    inputs: Inputs
    h: torch.Tensor
    level: torch.Tensor


class Task:
    """One model in training: its channels, its randomness, where it leaves checkpoints."""

    def __init__(
        self,
        model: CsiModel,
        config: TrainingConfig,
        array: NearFieldConfig,
        visibility: VisibilityConfig,
        data: DataConfig,
        streams: Streams,
        generator: torch.Generator,
        scratch: Path | None,
    ) -> None:
        self.model, self.config, self.array, self.visibility = model, config, array, visibility
        self.data, self.streams, self.generator, self.scratch = data, streams, generator, scratch
        self.patches = Patches(array, model.config.patch_size)
        self.dechirper = Dechirper(array, num_rings=NUM_RINGS)

    @cached_property
    def samples(self) -> Batch:
        """All training channels, each at a share and an SNR of its own.

        The same for every model of a seed, but for the paths, which only a hybrid is shown.
        """
        config = self.config
        h = draw_part(self.array, "training", self.data.num_training, self.streams.base_seed)[:, -1]
        share = torch.arange(len(h)) % len(config.shares)
        generator = self.streams.torch_generator("elaa-training-observations")
        visible = torch.ones(h.shape, dtype=torch.bool)
        size = getattr(self.visibility, "subarray_size", 16)
        for number, value in enumerate(config.shares):
            rows = share == number
            chosen = visibility_of(self.visibility, value, size)
            amplitude = draw_visibility(chosen, self.array, int(rows.sum()), generator)
            visible[rows] = amplitude > VISIBLE_ABOVE
        chance = torch.rand(len(h), generator=generator, dtype=torch.float64)
        snr_db = config.min_snr_db + (config.max_snr_db - config.min_snr_db) * chance
        observed = observe(h, visible, snr_db, generator)
        if config.target_snr_db is not None:
            whole = torch.ones_like(visible)
            h = observe(h, whole, config.target_snr_db, generator).y
        level = share * _NUM_LEVELS + (chance * _NUM_LEVELS).long().clamp(max=_NUM_LEVELS - 1)
        return self._seen(observed, h, level)

    def _seen(self, observed: Observed, h: torch.Tensor, level: torch.Tensor) -> Batch:
        paths = find_paths(self.array, observed) if self.model.with_paths else None
        inputs, frame = make_inputs(observed, self.dechirper, self.patches, paths)
        return Batch(inputs, to_numbers(self.patches.split(frame.turn(h))), level)

    def draw(self, share: int | None = None) -> Batch:
        """Draws a batch of one visible share; every other one is numbered from the array's other end."""
        config, samples = self.config, self.samples
        number = len(config.shares)
        chosen = int(torch.randint(0, number, (), generator=self.generator)) if share is None else share
        most = (len(samples.h) - chosen + number - 1) // number
        rows = chosen + number * torch.randint(0, most, (config.batch_size,), generator=self.generator)
        inputs, h, level = samples.inputs[rows], samples.h[rows], samples.level[rows]
        turned = bool(torch.rand((), generator=self.generator) < 0.5) and self.array.num_rows == 1
        return Batch(inputs.mirrored(), mirror_patches(h), level) if turned else Batch(inputs, h, level)

    def draw_masked(self) -> Batch:
        """Draws what pretraining is shown: the physical masks, or others over arrays that see everything.

        Others than the physical ones are put over what was turned into the frame of the whole array's
        strongest path, which so knows of what is hidden.
        """
        source, config = self.config.mask_source, self.config
        if source == "visibility":
            return self.draw()
        batch = self.draw(max(range(len(config.shares)), key=config.shares.__getitem__))
        num, num_patches = len(batch.h), self.patches.num_patches
        if source == "multi-block":
            hidden = mask_runs(num, num_patches, 3, (0.15, 0.3), self.generator)
        else:
            hidden = mask_tokens(num, num_patches, (0.0, 0.75), self.generator)
        return Batch(batch.inputs.hiding(hidden), batch.h, batch.level)

    def fit(
        self,
        stage: str,
        module: nn.Module,
        batch_loss: BatchLoss,
        num_steps: int,
        after_step: Callable[[int], None] | None = None,
    ) -> Log:
        """Runs one stage; returns its log."""
        return fit_stage(
            stage,
            module,
            batch_loss,
            num_steps,
            self.config.learning_rate,
            self.generator,
            after_step=after_step,
            scratch=self.scratch,
        )


def find_paths(array: NearFieldConfig, observed: Observed) -> Paths:
    """What NOMP as it stands finds of observed channels: the input of a hybrid."""
    line = LineArray.of(array)
    return Nomp(line, nomp_prior(line)).paths(observed)
