"""The training loop: one step at a time, with checkpoints that resume exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import nn

from semcom.contracts import SemcomError
from semcom.latent_layers import LatentLayers
from semcom.muon import Muon, matrices_of
from semcom.samples import Samples
from semcom.tensor_files import damaged, read_progress, write_progress

OptimizerName = Literal["adamw", "muon"]
DataKind = Literal["observation", "condition", "label", "embedding"]
"""What devices see; what else goes into a model; which of what they see is compared with what a base station
predicts; what finished encoders make of all that they saw."""
BatchLoss = Callable[[int, torch.Generator], Mapping[str, torch.Tensor]]
Log = list[dict[str, float | int]]
StageLog = list[dict[str, float | int | str]]


def learning_rate(step: int, num_steps: int, peak: float, num_warmup: int = 50) -> float:
    """Linear warm-up, then half a cosine down to a two-hundredth of the peak (Loshchilov and Hutter 2017)."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / num_steps))
    return peak * min(1.0, (step + 1) / num_warmup) * (cosine + 0.005)


class Training:
    """A model in training: its loss, optimisers, schedule and random stream, stepped one by one.

    batch_loss(step, generator): draws a batch and returns named terms with their sum under "total".
    optimizer: AdamW for all weights, or Muon for the matrices of linear maps and AdamW for the rest.
    after_step(step): called after each update. All that changes from step to step has to be in `model`, an
    average of its weights too; what is the trainer's own is in `state`. before_update: called between
    gradients and update; what it raises leaves the weights as they are, and the step undone.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_loss: BatchLoss,
        num_steps: int,
        peak_rate: float,
        generator: torch.Generator,
        *,
        after_step: Callable[[int], None] | None = None,
        before_update: Callable[[], None] | None = None,
        optimizer: OptimizerName = "adamw",
    ) -> None:
        self.model, self.batch_loss, self.after_step = model, batch_loss, after_step
        self.before_update = before_update
        self.num_steps, self.peak_rate, self.generator = num_steps, peak_rate, generator
        self.num_done = 0
        self._weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizers = _make_optimizers(optimizer, model, self._weights, peak_rate)

    def step(self) -> Mapping[str, torch.Tensor]:
        """Takes the next step; returns its loss terms. Raises SemcomError for a loss that is not finite."""
        step = self.num_done
        terms = self.batch_loss(step, self.generator)
        if not torch.isfinite(terms["total"]):
            raise SemcomError(f"the loss is not finite at training step {step}: lower the learning rate")
        for weight in self._weights:
            weight.grad = None
        terms["total"].backward()
        if self.before_update is not None:
            self.before_update()
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        for optimizer in self._optimizers.values():
            optimizer.param_groups[0]["lr"] = learning_rate(step, self.num_steps, self.peak_rate)
            optimizer.step()
        if self.after_step is not None:
            self.after_step(step)
        self.num_done += 1
        return terms

    def state(self) -> dict[str, torch.Tensor]:
        """What the next step depends on besides the model: moments, random state, steps done; copies."""
        tensors = {"generator": self.generator.get_state(), "num_done": torch.tensor(self.num_done)}
        for kind, optimizer in self._optimizers.items():
            for index, weight in enumerate(_weights_of(optimizer)):
                for name, value in optimizer.state.get(weight, {}).items():
                    tensors[f"{kind}.{index}.{name}"] = value.clone()
        return tensors

    def moments_of(self, weights: Iterable[torch.Tensor]) -> tuple[str, ...]:
        """How the names in `state` begin which hold the moments of these weights."""
        wanted = {id(weight) for weight in weights}
        return tuple(
            f"{kind}.{index}."
            for kind, optimizer in self._optimizers.items()
            for index, weight in enumerate(optimizer.param_groups[0]["params"])
            if id(weight) in wanted
        )

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from what `state` returned."""
        for kind, optimizer in self._optimizers.items():
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in state.items():
                if name.startswith(f"{kind}."):
                    _, index, field = name.split(".", 2)
                    moments.setdefault(int(index), {})[field] = tensor
            # Not by state dicts, which take longer than a step of a small model.
            optimizer.state.clear()
            for place, weight in enumerate(_weights_of(optimizer)):
                if place in moments:
                    optimizer.state[weight] = {name: value.clone() for name, value in moments[place].items()}
        self.generator.set_state(state["generator"])
        self.num_done = int(state["num_done"])


def fit(
    model: nn.Module,
    batch_loss: BatchLoss,
    num_steps: int,
    peak_rate: float,
    generator: torch.Generator,
    *,
    after_step: Callable[[int], None] | None = None,
    log_every: int = 100,
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
    optimizer: OptimizerName = "adamw",
) -> Log:
    """Trains `model` for num_steps steps (see Training); returns a row of loss terms for each log_every.

    With `checkpoint`, the run is saved there every checkpoint_every steps and continues from it exactly where
    it stopped. Raises SemcomError when the loss is no longer finite, or the checkpoint is another model's.
    """
    training = Training(
        model, batch_loss, num_steps, peak_rate, generator, after_step=after_step, optimizer=optimizer
    )
    log = Log()
    if checkpoint and checkpoint.exists():
        log = load_state(checkpoint, training)
    for step in range(training.num_done, num_steps):
        terms = training.step()
        if step % log_every == 0 or step == num_steps - 1:
            log.append({"step": step, **{name: float(term.detach()) for name, term in terms.items()}})
        if checkpoint and ((step + 1) % checkpoint_every == 0 or step == num_steps - 1):
            save_state(checkpoint, training, log)
    return log


def _weights_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The weights that an optimiser steps, numbered as in its state dict."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


@torch.no_grad()
def copy_into(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts tensors, named as in the state dict, into a module that has all of them in these shapes.

    What load_state_dict does, in a quarter of the time for a small model: it explains no mistake.
    """
    own = module.state_dict()
    if tensors:
        torch._foreach_copy_([own[name] for name in tensors], list(tensors.values()))


def _make_optimizers(
    name: OptimizerName, model: nn.Module, weights: list[nn.Parameter], rate: float
) -> dict[str, torch.optim.Optimizer]:
    matrices = matrices_of(model) if name == "muon" else []
    known = {id(matrix) for matrix in matrices}
    rest = [weight for weight in weights if id(weight) not in known]
    optimizers: dict[str, torch.optim.Optimizer] = {}
    if rest:
        optimizers["optimizer"] = torch.optim.AdamW(rest, lr=rate, weight_decay=1e-5, fused=True)
    if matrices:
        optimizers["muon"] = Muon(matrices, rate)
    return optimizers


@dataclass(frozen=True)
class Stage:
    """One stage of a training: which module learns from which loss, for how many steps (see Training).

    samples: what batches are drawn from. on_device: the part of the module that turns observations into
    embeddings, where it is trained: a split training leaves it, and target encoders, with the devices.
    anchors: embeds the same few samples in the module's latent space as it is by then, [n, D]. latent: the
    layers at these embeddings; both, or neither.
    """

    name: str
    module: nn.Module
    batch_loss: BatchLoss
    num_steps: int
    peak_rate: float
    generator: torch.Generator
    samples: Samples
    after_step: Callable[[int], None] | None = None
    optimizer: OptimizerName = "adamw"
    on_device: nn.Module | None = None
    anchors: Callable[[], torch.Tensor] | None = None
    latent: LatentLayers | None = None


class Trainer(Protocol):
    """Where the stages of a training are run, one after the other, each from where the last one ended."""

    def fit(self, stage: Stage) -> StageLog:
        """Runs a stage, which leaves its weights in the stage's module; returns its rows, which name it."""
        ...

    def gather(self, kind: DataKind, data: torch.Tensor) -> torch.Tensor:
        """Brings data of all training samples [N, ...] to where stages need them; returns what arrived."""
        ...

    def starting_seed(self, seed: int) -> int:
        """The seed to draw starting weights with: the training's, or another for a device of its own mind."""
        ...


@dataclass(frozen=True)
class Central:
    """Runs stages here, on all samples.

    scratch: a folder in which each stage leaves its checkpoints, and continues from those it finds.
    """

    scratch: Path | None = None

    def fit(self, stage: Stage) -> StageLog:
        """Runs a stage: see Trainer."""
        rows = fit(
            stage.module,
            stage.batch_loss,
            stage.num_steps,
            stage.peak_rate,
            stage.generator,
            after_step=stage.after_step,
            checkpoint=None if self.scratch is None else self.scratch / f"{stage.name}.safetensors",
            optimizer=stage.optimizer,
        )
        return [{"stage": stage.name, **row} for row in rows]

    def gather(self, kind: DataKind, data: torch.Tensor) -> torch.Tensor:
        """Returns the data, which are here already."""
        return data

    def starting_seed(self, seed: int) -> int:
        """Returns the seed."""
        return seed


CENTRAL = Central()
"""Nothing is left on the way."""


def score_row(metric: str, score: float) -> dict[str, float | int | str]:
    """What a trained model is worth on test data, as the last row of its log.

    score: the share of the variance of what is asked for that the model explains, 1 at best; metric: of what.
    """
    return {"stage": "score", "step": 0, "metric": metric, "score": score}


def save_state(path: Path, training: Training, log: Log) -> None:
    """Writes all that the next step depends on, and the log so far, to one safetensors file, atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in training.model.state_dict().items()}
    write_progress(path, tensors | training.state(), {"log": log})


def load_state(path: Path, training: Training) -> Log:
    """Restores what `save_state` wrote; returns the log of the steps done.

    Raises SemcomError, changing nothing, for a file of another model or a damaged one.
    """
    tensors, told = read_progress(path)
    rest = {name: t for name, t in tensors.items() if not name.startswith("model.")}
    log = told.get("log")
    if not {"generator", "num_done"} <= rest.keys() or not isinstance(log, list):
        raise damaged(path, "it holds no training")
    own = training.model.state_dict()
    saved = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    for name in own.keys() | saved.keys():
        ours, theirs = own.get(name), saved.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            found, wanted = (None if t is None else tuple(t.shape) for t in (theirs, ours))
            raise SemcomError(
                f"checkpoint {path}: tensor {name} has shape {found}, the model needs {wanted}: "
                "use the configuration that it was trained with, or delete it"
            )
    training.model.load_state_dict(saved)
    training.load(rest)
    return log
