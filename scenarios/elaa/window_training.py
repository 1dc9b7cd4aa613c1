"""The training of models of windows: a JEPA over snapshots or subcarriers, then channels themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from channels.near_field import NearFieldConfig
from scenarios.elaa.features import Dechirper
from scenarios.elaa.inputs import to_values
from scenarios.elaa.models import CsiModel, Window
from scenarios.elaa.patches import Patches
from scenarios.elaa.task import CellLevels, Log, TrainingInputs, nmse
from scenarios.elaa.tracks import Heard
from scenarios.elaa.training import make_jepa
from scenarios.elaa.window_examples import NUM_CELLS_AHEAD, WindowExamples, cells_ahead
from scenarios.elaa.windows import (
    WindowInputs,
    make_window_inputs,
    mirror_window,
    side_by_side,
    window_of,
)
from semcom.rng import Streams
from semcom.train import CENTRAL, BatchLoss, Stage, Trainer


@dataclass(frozen=True)
class WindowTask:
    """One model in training: its examples, the look-aheads that it is asked for, its random stream.

    num_told: how many of a window's last snapshots it estimates; all of them if they are subcarriers.
    """

    inputs: TrainingInputs
    examples: WindowExamples
    look_aheads: torch.Tensor
    generator: torch.Generator
    trainer: Trainer
    may_mirror: bool
    num_told: int = 1

    def draw(self, generator: torch.Generator) -> tuple[WindowInputs, torch.Tensor, torch.Tensor]:
        """Draws a batch: inputs, clean windows [B, T, L, 2 S] some snapshots on, cells. Half are mirrored."""
        examples, num = self.examples, self.inputs.training.batch_size
        rows = examples.draw_rows(num, generator)
        number = torch.randint(0, len(self.look_aheads), (num,), generator=generator)
        look_ahead = self.look_aheads[number]
        inputs, clean = examples.inputs[rows].at(look_ahead), examples.later(rows, look_ahead)
        if self.may_mirror and bool(torch.rand((), generator=generator) < 0.5):
            inputs, clean = inputs.mirrored(), mirror_window(clean)
        return inputs, clean, cells_ahead(examples.cell[rows], look_ahead)

    def fit(
        self,
        stage: str,
        module: nn.Module,
        batch_loss: BatchLoss,
        num_steps: int,
        after_step: Callable[[int], None] | None = None,
    ) -> Log:
        """Runs one stage; returns its log."""
        config = self.inputs.training
        return self.trainer.fit(
            Stage(
                stage,
                module,
                batch_loss,
                num_steps,
                config.learning_rate,
                self.generator,
                self.examples.samples,
                after_step,
                config.optimizer,
            )
        )


def train_window_model(
    seed: int,
    examples: WindowExamples,
    look_aheads: Sequence[int],
    patches: Patches,
    inputs: TrainingInputs,
    trainer: Trainer = CENTRAL,
    window: Window | None = None,
    name: str = "time",
) -> tuple[CsiModel, Log]:
    """Trains a model of windows from scratch: pretraining, a decoder, and the whole on the NMSE.

    The forecaster if no window is given; name: of its random streams.
    """
    streams, config = Streams(seed), inputs.training
    window = window or window_of(examples.num_snapshots)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.seed(f"weights elaa {name}"))
        model = CsiModel(inputs.model, patches, window)
    generator = streams.torch_generator(f"train elaa {name}")
    may_mirror = patches.grid[0] == 1
    asked_for = torch.tensor(look_aheads)
    task = WindowTask(inputs, examples, asked_for, generator, trainer, may_mirror, window.num_told)
    log = _pretrain(task, model)
    model.encoder.requires_grad_(False)
    model.predictor.requires_grad_(False)
    log += _fit_nmse(task, "decoder", model, config.num_steps_decoder)
    model.requires_grad_(True)
    log += _fit_nmse(task, "tuning", model, config.num_steps_tuning)
    return model.eval().requires_grad_(False), log


def _pretrain(task: WindowTask, model: CsiModel) -> Log:
    """The EMA target encoder sees the whole and clean window that ends look_ahead snapshots later.

    All its patches' tokens are predicted: those of a window to come are all unseen.
    """
    config = task.inputs.training
    jepa = make_jepa(model, config)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        inputs, clean, _ = task.draw(generator)
        wanted = torch.ones_like(inputs.visible)
        return jepa.loss(inputs, inputs.whole(clean), inputs.visible, wanted, generator)

    return task.fit("jepa", jepa, batch_loss, config.num_steps_pretraining, jepa.update_target)


def _fit_nmse(task: WindowTask, stage: str, model: CsiModel, num_steps: int) -> Log:
    levels = CellLevels(num_cells=NUM_CELLS_AHEAD)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        inputs, clean, cell = task.draw(generator)
        errors = nmse(model(inputs), side_by_side(clean[:, -task.num_told :]))
        return {"nmse": errors.mean(), "total": levels(errors, cell)}

    return task.fit(stage, nn.ModuleList((model, levels)), batch_loss, num_steps)


class LearnedForecaster:
    """A trained model of windows as a forecaster: snapshots to the channel some snapshots later."""

    def __init__(self, model: CsiModel, config: NearFieldConfig, patch_size: int) -> None:
        self.model = model
        self.patches = Patches(config, patch_size)
        self.dechirper = Dechirper(config)

    @torch.no_grad()
    def forecast(self, heard: Heard, look_ahead: int) -> torch.Tensor:
        """Predicts the channels at all elements, complex64 [N, M]."""
        parts = []
        for some in (heard[at : at + 512] for at in range(0, len(heard), 512)):
            inputs, frame = make_window_inputs(some, self.dechirper, self.patches)
            patches = self.model(inputs.at(torch.full((len(some),), look_ahead)))
            parts.append(frame.leave(self.patches.join(to_values(patches)), look_ahead))
        return torch.cat(parts)
