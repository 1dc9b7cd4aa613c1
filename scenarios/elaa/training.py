"""The trainings of the ELAA scenario: JEPA, masked autoencoder, supervised transformer and the hybrid."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from channels.near_field import NearFieldConfig
from channels.visibility import VisibilityConfig
from scenarios.elaa.data import DataConfig
from scenarios.elaa.inputs import Inputs, to_numbers
from scenarios.elaa.models import CsiModel, ModelConfig
from scenarios.elaa.patches import Patches
from scenarios.elaa.task import Batch, Log, Task, TrainingConfig
from semcom.diagnostics import rank_me
from semcom.distances import DISTANCES
from semcom.patch_jepa import PatchJepa
from semcom.regularizers import VicReg
from semcom.rng import Streams
from semcom.targets import EmaTarget

MODELS = ("hybrid", "elaa-jepa", "mae", "supervised")
"""All that are trained; the longest come first, so that workers end together."""
FROZEN, TUNED = "frozen.", "tuned."
"""Prefixes of a training's tensors: with a decoder on a finished encoder, and trained on end to end."""
_SHOWN = 1024
_FOLLOWING = 0.95


def make_model(config: ModelConfig, array: NearFieldConfig, *, with_paths: bool) -> CsiModel:
    """Builds an estimator with PyTorch's starting weights. Raises SemcomError for patches that don't fit."""
    return CsiModel(config, Patches(array, config.patch_size), with_paths=with_paths)


def train_model(
    name: str,
    seed: int,
    array: NearFieldConfig,
    visibility: VisibilityConfig,
    data: DataConfig,
    model_config: ModelConfig,
    config: TrainingConfig,
    scratch: Path | None = None,
) -> tuple[dict[str, torch.Tensor], Log]:
    """Trains one of MODELS from scratch; returns its tensors by FROZEN and TUNED, and its log.

    elaa-jepa and mae learn to predict what is hidden, in latent space or as CSI; then a decoder learns on
    encoder and predictor as they are (frozen), then all goes on from there (tuned). supervised and hybrid
    learn end to end from the start, for as many steps as these in all.
    """
    streams = Streams(seed)
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws its starting weights from the process-wide generator.
        torch.manual_seed(streams.seed(f"weights-{name}"))
        model = make_model(model_config, array, with_paths=name == "hybrid")
        head = nn.Linear(model_config.dim, 2 * model_config.patch_size)
        generator = streams.torch_generator(f"train-{name}")
        task = Task(model, config, array, visibility, data, streams, generator, scratch)
        if name in ("supervised", "hybrid"):
            num_steps = config.num_steps_pretraining + config.num_steps_decoder + config.num_steps
            log = _train_whole(task, "whole", num_steps)
            return _tensors(TUNED, model), log
        log = _pretrain_jepa(task) if name == "elaa-jepa" else _pretrain_mae(task, head)
        log += _diagnostics(task)
        _freeze(model, frozen=True)
        log += _train_whole(task, "decoder", config.num_steps_decoder)
        tensors = {key: tensor.clone() for key, tensor in _tensors(FROZEN, model).items()}
        _freeze(model, frozen=False)
        log += _train_whole(task, "whole", config.num_steps)
    return tensors | _tensors(TUNED, model), log


def _freeze(model: CsiModel, *, frozen: bool) -> None:
    model.encoder.requires_grad_(not frozen)
    model.predictor.requires_grad_(not frozen)


def _tensors(prefix: str, model: CsiModel) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor.detach() for key, tensor in model.state_dict().items()}


def _pretrain_jepa(task: Task) -> Log:
    """Predicts the tokens that the target encoder makes of the whole clean channel from what is seen."""
    model, config = task.model, task.config
    regularizer = (
        VicReg(config.variance_weight, config.covariance_weight)
        if config.variance_weight or config.covariance_weight
        else None
    )
    target = EmaTarget(model.encoder, config.ema_momentum, 1.0, num_steps=config.num_steps_pretraining)
    jepa = PatchJepa(model.encoder, model.predictor, regularizer, DISTANCES[config.distance], target=target)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch = task.draw_masked()
        inputs = batch.inputs
        wanted = torch.ones_like(inputs.visible)
        return jepa.loss(inputs, inputs.whole(batch.h), inputs.visible, wanted, generator)

    return task.fit("pretraining", jepa, batch_loss, config.num_steps_pretraining, jepa.update_target)


def _pretrain_mae(task: Task, head: nn.Module) -> Log:
    """Predicts the CSI itself by a linear map of the predictor's tokens: a masked autoencoder's task."""
    model, config = task.model, task.config
    errors = _Errors(task)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch = task.draw_masked()
        context = model.encoder(batch.inputs)
        guess = head(model.predictor(context, batch.inputs)[:, : batch.h.shape[1]])
        return {"total": errors(batch, guess)}

    module = nn.ModuleList((model.encoder, model.predictor, head))
    return task.fit("pretraining", module, batch_loss, config.num_steps_pretraining)


def _train_whole(task: Task, stage: str, num_steps: int) -> Log:
    """Trains what isn't frozen on the NMSE, each class of share and SNR by its own usual error."""
    model, errors = task.model, _Errors(task)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch = task.draw()
        return {"total": errors(batch, model(batch.inputs))}

    return task.fit(stage, nn.ModuleList((model, errors)), batch_loss, num_steps)


class _Errors(nn.Module):
    """NMSE over what is usual of a channel's share and SNR, so that easy classes count as hard ones do."""

    usual: torch.Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        samples = task.samples
        num = int(samples.level.max()) + 1
        errors = torch.ones(len(samples.h))
        if task.model.with_paths:
            # A hybrid starts from its paths.
            rows = torch.arange(len(errors)).split(_SHOWN)
            errors = torch.cat([_nmse(_field(samples.inputs[some]), samples.h[some]) for some in rows])
        count = torch.bincount(samples.level, minlength=num).clamp_min(1)
        self.register_buffer("usual", torch.zeros(num).index_add(0, samples.level, errors) / count)

    def forward(self, batch: Batch, guess: torch.Tensor) -> torch.Tensor:
        errors = _nmse(guess, batch.h)
        with torch.no_grad():
            count = torch.bincount(batch.level, minlength=len(self.usual))
            mean = torch.zeros_like(self.usual).index_add(0, batch.level, errors.detach())
            mean = mean / count.clamp_min(1)
            moved = _FOLLOWING * self.usual + (1 - _FOLLOWING) * mean
            self.usual.copy_(torch.where(count > 0, moved, self.usual))
        return (errors / self.usual[batch.level].clamp_min(1e-6)).mean()


def _field(inputs: Inputs) -> torch.Tensor:
    """What the paths make of the patches, float32 [N, L, 2 S]."""
    assert inputs.paths is not None
    return to_numbers(inputs.paths.total())


def _nmse(guess: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return (guess - h).square().sum(dim=(1, 2)) / h.square().sum(dim=(1, 2))


def _diagnostics(task: Task) -> Log:
    """How many dimensions the tokens really use, of the context and of what is predicted."""
    inputs: Inputs = task.samples.inputs[:_SHOWN]
    with torch.no_grad():
        context = task.model.encoder(inputs)
        predicted = task.model.predictor(context, inputs)[:, : inputs.visible.shape[1]]
    seen = context[:, : inputs.visible.shape[1]][inputs.visible]
    row = {
        "rank_me_context": rank_me(seen - seen.mean(dim=0)),
        "rank_me_predicted": rank_me(predicted.flatten(0, 1) - predicted.flatten(0, 1).mean(dim=0)),
    }
    return [{"stage": "diagnostics", "step": 0, **row}]
