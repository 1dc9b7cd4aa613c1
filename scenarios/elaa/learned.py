"""Trained estimators at work: from what an array observed to its whole channel."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from channels.near_field import NearFieldConfig
from scenarios.elaa.features import Dechirper
from scenarios.elaa.inputs import make_inputs, to_values
from scenarios.elaa.models import CsiModel, ModelConfig
from scenarios.elaa.nomp import Paths
from scenarios.elaa.observations import Observed
from scenarios.elaa.task import NUM_RINGS
from scenarios.elaa.training import make_model
from semcom.records import load_into

_ROWS_AT_ONCE = 512


class LearnedEstimator:
    """A trained transformer with the frame that it works in."""

    def __init__(self, model: CsiModel, array: NearFieldConfig) -> None:
        self.model, self.array = model.eval().requires_grad_(False), array
        self.dechirper = Dechirper(array, num_rings=NUM_RINGS)

    @torch.no_grad()
    def estimate(self, observed: Observed, paths: Paths | None = None) -> torch.Tensor:
        """Estimates the channels at all elements, complex64 [N, M]; paths: NOMP's, for a hybrid."""
        patches = self.model.patches
        inputs, frame = make_inputs(observed, self.dechirper, patches, paths)
        rows = torch.arange(len(inputs)).split(_ROWS_AT_ONCE)
        turned = torch.cat([to_values(self.model(inputs[some])) for some in rows])
        return frame.restore(patches.join(turned))


def load_estimator(
    config: ModelConfig,
    array: NearFieldConfig,
    name: str,
    weights: Mapping[str, torch.Tensor],
    prefix: str,
    where: str,
) -> LearnedEstimator:
    """Builds an estimator of a trained model's tensors. Raises SemcomError for tensors that don't fit."""
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws starting weights from the process-wide generator, which stays where it was.
        model = make_model(config, array, with_paths=name == "hybrid")
    chosen = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    load_into(model, chosen, where)
    return LearnedEstimator(model, array)
