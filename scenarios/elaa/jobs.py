"""The ELAA scenario's training jobs: what each trains, and its estimators made again from their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from analysis.estimation import normalised_errors
from channels.near_field import NearFieldConfig
from scenarios.elaa.bands import LearnedBand, band_window, draw_band_examples
from scenarios.elaa.bottleneck import BottleneckModel
from scenarios.elaa.bottleneck_training import make_bottleneck, train_bottleneck
from scenarios.elaa.config import ElaaConfig, banded, moving
from scenarios.elaa.data import Cell, DataConfig, draw_sample, visibility_of
from scenarios.elaa.examples import draw_examples
from scenarios.elaa.features import Dechirper
from scenarios.elaa.fronthaul import over_the_fronthaul
from scenarios.elaa.hybrid import HybridEstimator, PathCombiner
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.models import ONE_SNAPSHOT, CsiModel, LearnedEstimator, ModelConfig, Window
from scenarios.elaa.nomp import Nomp, nomp_prior
from scenarios.elaa.patches import Patches
from scenarios.elaa.task import Log, TrainingInputs
from scenarios.elaa.tracks import Heard
from scenarios.elaa.training import train_combiner, train_model
from scenarios.elaa.window_examples import draw_window_examples
from scenarios.elaa.window_training import LearnedForecaster, train_window_model
from scenarios.elaa.windows import window_of
from semcom.records import load_into
from semcom.rng import Streams
from semcom.train import CENTRAL, Trainer, score_row

TIME, BAND, BOTTLENECK, TOKENS = "elaa-jepa-time", "elaa-jepa-band", "jepa-bottleneck", "jepa-tokens"
"""The jobs that train the forecaster, a band's estimator, the feedback's network, and the central unit."""
JOBS = ("elaa-jepa", TOKENS, BOTTLENECK, TIME, BAND, "mae", "supervised")
"""All that are trained, the longest first: JEPAs bring the hybrids' networks with them."""
FROZEN, TUNED, COMBINER = "frozen.", "tuned.", "combiner."
"""Prefixes of a job's tensors."""
_SCORED_SHARE, _SCORED_SNR_DB = 0.5, 10.0
_NAMES = {"elaa-jepa": "jepa", TOKENS: "jepa"}


def train_job(
    name: str, seed: int, config: ElaaConfig, trainer: Trainer = CENTRAL
) -> tuple[dict[str, torch.Tensor], Log]:
    """Trains one of JOBS from scratch; returns its tensors, by FROZEN, TUNED and COMBINER, and its log."""
    array, inputs = config.array, TrainingInputs(config.model, config.training)
    patches, streams = Patches(array, inputs.model.patch_size), Streams(seed)
    visibilities = [visibility_of(config.visibility, share) for share in config.training_shares]
    if name == TIME:
        told = config.evaluation
        windows = draw_window_examples(
            moving(config),
            config.examples,
            visibilities,
            patches,
            told.num_history,
            told.look_aheads,
            streams,
        )
        model, log = train_window_model(seed, windows, sorted(told.look_aheads), patches, inputs, trainer)
        return _tensors(TUNED, model), log
    if name == BAND:
        wide = banded(config)
        bands = draw_band_examples(wide, config.examples, visibilities, patches, streams)
        window = band_window(wide.num_subcarriers)
        model, log = train_window_model(seed, bands, (0,), patches, inputs, trainer, window, "band")
        return _tensors(TUNED, model), log
    through = partial(over_the_fronthaul, subarray_size=config.subarray_size, streams=streams)
    draw = partial(draw_examples, array, config.examples, visibilities, patches, Dechirper(array), streams)
    shown = draw(through=through if name == TOKENS else None)
    if name == BOTTLENECK:
        bottleneck, log = train_bottleneck(seed, shown, array, inputs, config.bottleneck, trainer)
        return _tensors("", bottleneck), log
    trained = train_model(_NAMES.get(name, name), seed, shown, patches, inputs, trainer)
    tensors = _tensors(TUNED, trained.tuned)
    log = list(trained.log)
    if trained.frozen is not None:
        tensors |= _tensors(FROZEN, trained.frozen)
    if _NAMES.get(name) == "jepa":
        again = partial(through, purpose="elaa fronthaul paths")
        others = draw(of_paths=True, through=again if name == TOKENS else None)
        paths = default_nomp(array).paths(others.observed)
        combiner, rows = train_combiner(seed, trained.tuned, paths, others, patches, inputs, trainer)
        tensors |= _tensors(COMBINER, combiner)
        log += rows
    if name == "elaa-jepa":
        log.append(_score(trained.tuned, config, seed))
    return tensors, log


def _score(model: CsiModel, config: ElaaConfig, seed: int) -> dict[str, float | int | str]:
    """The score row: 1 - NMSE of the tuned model on test channels of which about half is visible."""
    share = min(config.training_shares, key=lambda share: abs(share - _SCORED_SHARE))
    cell = Cell(share, _SCORED_SNR_DB)
    test = draw_sample(config.array, config.visibility, DataConfig(), "test", cell, seed)
    estimator = LearnedEstimator(model, config.array, config.model.patch_size)
    errors = normalised_errors(test.h.numpy(), estimator.estimate(test.observed).numpy())
    return score_row(f"channel, share {share:g}, {_SCORED_SNR_DB:g} dB", 1 - float(errors.mean()))


def job_settings(name: str, config: ElaaConfig) -> dict[str, Any]:
    """All that the weights of a job depend on besides its seed, as it is written down."""
    parts = ("array", "visibility", "examples", "model", "training")
    told: dict[str, Any] = {part: getattr(config, part).model_dump(mode="json") for part in parts}
    told |= {"shares": config.training_shares}
    if name == TIME:
        asked = config.evaluation
        told |= {"num_history": asked.num_history, "look_aheads": sorted(asked.look_aheads)}
    if name == BAND:
        told["num_subcarriers"] = config.evaluation.num_subcarriers
    if name == BOTTLENECK:
        told["bottleneck"] = config.bottleneck.model_dump(mode="json")
    if name == TOKENS:
        told["subarray_size"] = config.subarray_size
    return told


def trained_bottleneck(
    config: ElaaConfig, seed: int, tensors: Mapping[str, torch.Tensor], where: str
) -> BottleneckModel:
    """The bottleneck of a job's tensors. Raises SemcomError, naming `where`, for tensors that don't fit."""
    inputs = TrainingInputs(config.model, config.training)
    model = make_bottleneck(inputs, config.bottleneck, config.array, seed)
    load_into(model, tensors, where)
    return model.eval().requires_grad_(False)


def default_nomp(array: NearFieldConfig) -> Nomp:
    """NOMP as its own defaults have it: they hold in units of the noise, and so at every point."""
    line = LineArray.of(array)
    return Nomp(line, nomp_prior(line))


def _tensors(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor.detach().clone() for key, tensor in module.state_dict().items()}


class Trained:
    """The estimators of one job's tensors. Raises SemcomError, naming `where`, for tensors that don't fit."""

    def __init__(
        self, config: ModelConfig, array: NearFieldConfig, tensors: Mapping[str, torch.Tensor], where: str
    ) -> None:
        self.config, self.array, self.tensors, self.where = config, array, tensors, where
        self.patches = Patches(array, config.patch_size)

    def estimator(self, prefix: str) -> LearnedEstimator | HybridEstimator:
        """Makes the estimator of a prefix's part."""
        if prefix != COMBINER:
            return LearnedEstimator(self._model(prefix), self.array, self.config.patch_size)
        with torch.random.fork_rng(devices=[]):
            combiner = PathCombiner(self.config, self.patches.num_patches)
        self._fill(combiner, COMBINER)
        return HybridEstimator(
            self._model(TUNED), combiner, default_nomp(self.array), self.array, self.config.patch_size
        )

    def forecast(self, heard: Heard, look_ahead: int) -> torch.Tensor:
        """Predicts channels complex64 [N, M] look_ahead snapshots after the last one heard, for TIME."""
        model = self._model(TUNED, window_of(heard.y.shape[1]))
        return LearnedForecaster(model, self.array, self.config.patch_size).forecast(heard, look_ahead)

    def band(self, heard: Heard) -> torch.Tensor:
        """Estimates channels complex64 [N, F, M] on all subcarriers, for BAND."""
        model = self._model(TUNED, band_window(heard.y.shape[1]))
        return LearnedBand(model, self.array, self.config.patch_size).estimate(heard)

    def _model(self, prefix: str, window: Window = ONE_SNAPSHOT) -> CsiModel:
        with torch.random.fork_rng(devices=[]):
            # torch.nn draws starting weights from the process-wide generator, which stays where it was.
            model = CsiModel(self.config, self.patches, window)
        self._fill(model, prefix)
        return model

    def _fill(self, module: nn.Module, prefix: str) -> None:
        chosen = {
            key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)
        }
        load_into(module, chosen, self.where)
        module.eval().requires_grad_(False)
