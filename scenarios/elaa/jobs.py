"""The ELAA scenario's training jobs: what each trains, and its estimators made again from their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from channels.near_field import NearFieldConfig
from scenarios.elaa.config import ElaaConfig
from scenarios.elaa.data import visibility_of
from scenarios.elaa.examples import draw_examples
from scenarios.elaa.features import Dechirper
from scenarios.elaa.fronthaul import over_the_fronthaul
from scenarios.elaa.hybrid import HybridEstimator, PathCombiner
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.models import CsiModel, LearnedEstimator, ModelConfig
from scenarios.elaa.nomp import Nomp, Paths, nomp_prior
from scenarios.elaa.observations import Observed
from scenarios.elaa.patches import Patches
from scenarios.elaa.task import Log, TrainingInputs
from scenarios.elaa.training import train_combiner, train_model
from semcom.records import load_into
from semcom.rng import Streams

JOBS = ("jepa-tokens", "elaa-jepa", "mae", "supervised")
"""All that are trained, the longest first: JEPAs bring the hybrids' networks with them."""
FROZEN, TUNED, COMBINER = "frozen.", "tuned.", "combiner."
"""Prefixes of a job's tensors."""
_NAMES = {"elaa-jepa": "jepa", "jepa-tokens": "jepa"}


def train_job(
    name: str, seed: int, config: ElaaConfig, scratch: Path | None = None
) -> tuple[dict[str, torch.Tensor], Log]:
    """Trains one of JOBS from scratch; returns its tensors by FROZEN, TUNED and COMBINER, and its log."""
    array, inputs = config.array, TrainingInputs(config.model, config.training)
    patches = Patches(array, inputs.model.patch_size)
    visibilities = [visibility_of(config.visibility, share) for share in config.training_shares]
    streams = Streams(seed)
    through = partial(over_the_fronthaul, subarray_size=config.subarray_size, streams=streams)
    shown = draw_examples(
        array,
        config.examples,
        visibilities,
        patches,
        Dechirper(array),
        streams,
        through if name == "jepa-tokens" else None,
    )
    trained = train_model(_NAMES.get(name, name), seed, shown, patches, inputs, scratch)
    tensors = _tensors(TUNED, trained.tuned)
    log = list(trained.log)
    if trained.frozen is not None:
        tensors |= _tensors(FROZEN, trained.frozen)
    if _NAMES.get(name) == "jepa":
        paths = default_nomp(array).paths(shown.observed)
        combiner, rows = train_combiner(seed, trained.tuned, paths, shown, patches, inputs, scratch)
        tensors |= _tensors(COMBINER, combiner)
        log += rows
    return tensors, log


def job_settings(name: str, config: ElaaConfig) -> dict[str, Any]:
    """All that the weights of a job depend on besides its seed, as it is written down."""
    parts = ("array", "visibility", "examples", "model", "training")
    told: dict[str, Any] = {part: getattr(config, part).model_dump(mode="json") for part in parts}
    if name == "jepa-tokens":
        told["subarray_size"] = config.subarray_size
    return {**told, "shares": config.training_shares}


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

    def estimate(self, prefix: str, observed: Observed, paths: Paths | None = None) -> torch.Tensor:
        """Estimates channels complex64 [N, M] by a prefix's part; paths: what NOMP found, for COMBINER."""
        estimator = self.estimator(prefix)
        if isinstance(estimator, HybridEstimator):
            return estimator.estimate(observed, paths)
        return estimator.estimate(observed)

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

    def _model(self, prefix: str) -> CsiModel:
        with torch.random.fork_rng(devices=[]):
            # torch.nn draws starting weights from the process-wide generator, which stays where it was.
            model = CsiModel(self.config, self.patches)
        self._fill(model, prefix)
        return model

    def _fill(self, module: nn.Module, prefix: str) -> None:
        chosen = {
            key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)
        }
        load_into(module, chosen, self.where)
        module.eval().requires_grad_(False)
