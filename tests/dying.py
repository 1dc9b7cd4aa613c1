"""Hosts and trainings whose process is killed at a certain moment, for tests of actors."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from federated_setups import make_stage, shares
from torch import nn

from nodes.training.federated import Federated
from nodes.training.replicas import Program
from semcom.contracts import SemcomError
from semcom.train import Stage, StageLog, Trainer

NUM_CLIENTS = 4


def die(once: Path | None = None) -> None:
    """Kills this process; with a file that marks that it was done before: not again."""
    if once is not None:
        if once.exists():
            return
        once.touch()
    os.kill(os.getpid(), signal.SIGKILL)


class Adder:
    """A host that adds tensors up."""

    def __init__(self, start: float, shared: torch.Tensor) -> None:
        if start < 0:
            raise SemcomError("an adder starts from 0 or more")
        self.total = shared + start

    def add(self, term: torch.Tensor, once: Path | None = None, factor: float = 1.0) -> torch.Tensor:
        if once is not None:
            die(once)
        self.total = self.total + factor * term
        return self.total

    def fail(self, why: str) -> None:
        raise SemcomError(why)

    def keep_dying(self) -> None:
        die()


def adders(num: int) -> list[Any]:
    """Makers of adders that start from 0, 1, 2, ..."""
    return [partial(Adder, float(number)) for number in range(num)]


def two_stages(trainer: Trainer) -> tuple[dict[str, torch.Tensor], StageLog]:
    """A training whose second stage starts from weights drawn after the first and goes on with its stream."""
    with torch.random.fork_rng(devices=[]):
        first = make_stage(num_steps=12)
        log = trainer.fit(first)
        head = nn.Linear(3, 1)
        with torch.no_grad():
            z = first.module.encoder(torch.ones(48, 5) * torch.arange(48)[:, None] / 48)

        def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
            rows = first.samples.draw((8,), generator)
            return {"total": (head(z[rows]) - rows[:, None] / 48).square().mean()}

        log = log + trainer.fit(Stage("head", head, batch_loss, 12, 1e-2, first.generator, first.samples))
    model = nn.ModuleDict({"jepa": first.module, "head": head})
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, log


@dataclass(frozen=True)
class Dying:
    """A training that kills the process it is in when client 1 takes a certain step of a stage.

    Not that which leads it: only clients take steps. once: see die.
    """

    program: Program
    stage: str
    step: int
    once: Path | None

    def __call__(self, trainer: Trainer) -> Any:
        return self.program(trainer if isinstance(trainer, Federated) else _DyingTrainer(trainer, self))


@dataclass(frozen=True)
class _DyingTrainer:
    trainer: Trainer
    told: Dying

    def fit(self, stage: Stage) -> StageLog:
        if stage.name != self.told.stage:
            return self.trainer.fit(stage)

        def batch_loss(step: int, generator: torch.Generator) -> Any:
            if step == self.told.step and stage.samples.num_all // NUM_CLIENTS in stage.samples.own.tolist():
                die(self.told.once)
            return stage.batch_loss(step, generator)

        return self.trainer.fit(replace(stage, batch_loss=batch_loss))

    def gather(self, kind: Any, data: torch.Tensor) -> torch.Tensor:
        return self.trainer.gather(kind, data)


def dealt(samples: Any) -> list[torch.Tensor]:
    """The shares of NUM_CLIENTS clients."""
    return shares(NUM_CLIENTS, samples.num_all)
