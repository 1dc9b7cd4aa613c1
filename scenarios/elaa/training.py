"""The trainings of the ELAA scenario: JEPA, masked autoencoder, supervised transformer, the hybrid."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn

from scenarios.elaa.examples import Examples
from scenarios.elaa.hybrid import PathCombiner
from scenarios.elaa.inputs import mirror_patches
from scenarios.elaa.models import CsiModel
from scenarios.elaa.nomp import Paths
from scenarios.elaa.patches import Patches
from scenarios.elaa.path_inputs import make_path_inputs
from scenarios.elaa.task import CellLevels, Log, Task, TrainingConfig, TrainingInputs, cell_means, nmse
from semcom.diagnostics import rank_me
from semcom.distances import DISTANCES
from semcom.patch_jepa import PatchJepa
from semcom.regularizers import VicReg
from semcom.rng import Streams
from semcom.targets import EmaTarget
from semcom.train import CENTRAL, Trainer

MODELS = ("jepa", "mae", "supervised")
_ROWS_AT_ONCE = 512
_NUM_DIAGNOSED = 1024


@dataclass(frozen=True)
class Trained:
    """What a training leaves: `frozen` with a decoder on pretrained weights, `tuned` end to end on NMSE.

    A supervised model has no frozen form.
    """

    frozen: CsiModel | None
    tuned: CsiModel
    log: Log


def train_model(
    name: str,
    seed: int,
    examples: Examples,
    patches: Patches,
    inputs: TrainingInputs,
    trainer: Trainer = CENTRAL,
) -> Trained:
    """Trains one of MODELS from scratch, all with as many steps.

    jepa, mae: pretraining, a decoder for the frozen form, and fine-tuning of the whole from there.
    supervised: the steps of all three together, on NMSE.
    """
    streams, config = Streams(seed), inputs.training
    # The decoder looks at what was received too, and estimates are compared with the channels.
    y = trainer.gather("condition", examples.inputs.y)
    clean = trainer.gather("condition", examples.clean)
    examples = replace(examples, inputs=replace(examples.inputs, y=y), clean=clean)
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws its starting weights from the process-wide generator: all models start alike.
        torch.manual_seed(trainer.starting_seed(streams.seed("weights elaa")))
        model = CsiModel(inputs.model, patches)
        head = nn.Linear(inputs.model.dim, 2 * patches.patch_size)
    generator = streams.torch_generator(f"train elaa {name}")
    task = Task(inputs, examples, generator, trainer, may_mirror=patches.grid[0] == 1)
    if name == "supervised":
        num_steps = config.num_steps_pretraining + config.num_steps_decoder + config.num_steps_tuning
        log = _fit_nmse(task, "supervised", model, num_steps)
        return Trained(None, model.eval().requires_grad_(False), log)
    log = pretrain_jepa(task, model) if name == "jepa" else _pretrain_mae(task, model, head)
    model.encoder.requires_grad_(False)
    model.predictor.requires_grad_(False)
    log += _fit_nmse(task, "decoder", model, config.num_steps_decoder)
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    model.requires_grad_(True)
    log += _fit_nmse(task, "tuning", model, config.num_steps_tuning)
    return Trained(frozen, model.eval().requires_grad_(False), log)


def train_combiner(
    seed: int,
    model: CsiModel,
    paths: Paths,
    examples: Examples,
    patches: Patches,
    inputs: TrainingInputs,
    trainer: Trainer = CENTRAL,
) -> tuple[PathCombiner, Log]:
    """Trains the hybrid's network on a finished model's estimates and the paths found of the examples.

    Examples that the model was not trained on, so that its estimates are as good as they will be in use.
    """
    streams, config = Streams(seed), inputs.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.seed("weights elaa combiner"))
        combiner = PathCombiner(inputs.model, patches.num_patches)
    learned = estimate_all(model, examples)
    described = make_path_inputs(examples.observed, examples.frame, examples.inputs, learned, patches, paths)
    task = Task(
        inputs,
        examples,
        streams.torch_generator("train elaa combiner"),
        trainer,
        may_mirror=patches.grid[0] == 1,
    )
    level, met = cell_means(nmse(described.mean(), examples.clean), examples.cell)
    levels = CellLevels(torch.where(met, level, 1.0), noise=examples.noise_share)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = examples.samples.draw((config.combiner_batch_size,), generator)
        batch, clean = described[rows], examples.clean[rows]
        if task.may_mirror and bool(torch.rand((), generator=generator) < 0.5):
            batch, clean = batch.mirrored(), mirror_patches(clean)
        errors = nmse(combiner(batch), clean)
        return {"nmse": errors.mean(), "total": levels(errors, examples.cell[rows])}

    module = nn.ModuleList((combiner, levels))
    log = task.fit(
        "combiner", module, batch_loss, config.num_steps_combiner, rate=config.combiner_learning_rate
    )
    return combiner.eval().requires_grad_(False), log


@torch.no_grad()
def estimate_all(model: CsiModel, examples: Examples) -> torch.Tensor:
    """Estimates the patches of all examples, float32 [N, L, 2 S], in their order."""
    estimates = torch.empty_like(examples.clean)
    for rows in examples.order.split(_ROWS_AT_ONCE):
        estimates[rows] = model(examples.inputs[rows])
    return estimates


def make_jepa(model: CsiModel, config: TrainingConfig) -> PatchJepa:
    """The JEPA of a model's encoder and predictor, with an EMA target encoder."""
    target = EmaTarget(model.encoder, config.ema_momentum, 1.0, config.num_steps_pretraining)
    regularizer = (
        VicReg(config.variance_weight, config.covariance_weight) if config.regularizer == "vicreg" else None
    )
    return PatchJepa(model.encoder, model.predictor, regularizer, DISTANCES[config.distance], target=target)


def pretrain_jepa(task: Task, model: CsiModel) -> Log:
    """The EMA target encoder sees the whole and clean channel; its tokens of all patches are predicted."""
    config = task.inputs.training
    jepa = make_jepa(model, config)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        inputs, clean, _ = task.draw(generator)
        # Visible patches count too: what the array received of them is noisy, and the target is clean.
        wanted = torch.ones_like(inputs.visible)
        return jepa.loss(inputs, inputs.whole(clean), inputs.visible, wanted, generator)

    steps = config.num_steps_pretraining
    log = task.fit("jepa", jepa, batch_loss, steps, jepa.update_target, on_device=model.encoder)
    rows = torch.arange(min(_NUM_DIAGNOSED, len(task.examples)))
    inputs = task.examples.inputs[rows]
    assert isinstance(jepa.target, EmaTarget)
    with torch.no_grad():
        z = model.encoder(inputs)[:, :-1][inputs.visible]
        goal = jepa.target(inputs.whole(task.examples.clean[rows]))[:, :-1].flatten(0, 1)
    ranks = {
        "rank_me_context": rank_me(z - z.mean(dim=0)),
        "rank_me_target": rank_me(goal - goal.mean(dim=0)),
    }
    return [*log, {"stage": "diagnosis", "step": config.num_steps_pretraining, **ranks}]


def _pretrain_mae(task: Task, model: CsiModel, head: nn.Linear) -> Log:
    """The same, but patches themselves are predicted (He et al. 2022), by a linear map of the tokens."""
    levels = CellLevels(noise=task.examples.noise_share)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        inputs, clean, cell = task.draw(generator)
        predicted = head(model.predictor(model.encoder(inputs), inputs)[:, :-1])
        errors = nmse(predicted, clean)
        return {"nmse": errors.mean(), "total": levels(errors, cell)}

    module = nn.ModuleList((model.encoder, model.predictor, head, levels))
    return task.fit("mae", module, batch_loss, task.inputs.training.num_steps_pretraining)


def _fit_nmse(task: Task, stage: str, model: CsiModel, num_steps: int) -> Log:
    levels = CellLevels(noise=task.examples.noise_share)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        inputs, clean, cell = task.draw(generator)
        errors = nmse(model(inputs), clean)
        return {"nmse": errors.mean(), "total": levels(errors, cell)}

    module = nn.ModuleList((model, levels))
    return task.fit(stage, module, batch_loss, num_steps, on_device=model.encoder)
