"""What a scenario is: data, a training, a list of operating points, a score and a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from nodes.cluster import Cluster
    from semcom.contracts import Record
    from semcom.train import Trainer


@dataclass(frozen=True)
class TrainingJob:
    """One model to train: which, for which seed, in which mode, under which configuration.

    `key` is a hash of all that the trained weights depend on; a checkpoint of that key is never
    trained twice. setting: what else tells this training from others of its mode, such as the value of a
    sweep's axis. is_counted: the bits that bring raw data to a central training are counted.
    """

    model: str
    seed: int
    key: str
    config: BaseModel
    mode: str = "central"
    setting: str = ""
    is_counted: bool = False


@dataclass(frozen=True)
class Trained:
    """What a training job gives: named tensors, and the diagnostics logged on the way (one row each)."""

    tensors: Mapping[str, torch.Tensor]
    log: Sequence[Mapping[str, float | int | str]]


@dataclass(frozen=True)
class Point:
    """One operating point to simulate: a method, a seed and the coordinates in the sweep.

    `result` names the table and figure that it belongs to; `axes` are the operating point's columns.
    """

    result: str
    method: str
    seed: int
    axes: Mapping[str, float | int | str] = field(default_factory=dict)


OnRecords = Callable[[Sequence[int], "Sequence[list[Record]]"], None]
"""Takes the records of some points, by the points' places."""


@runtime_checkable
class SimulatesEach(Protocol):
    """What a scenario has besides of whose points most don't wait for each other."""

    def simulate_each(
        self,
        config: Any,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
        on_records: OnRecords,
    ) -> None:
        """Simulates points as Scenario.simulate does; tells the records of some whenever they are there."""
        ...


@runtime_checkable
class SimulatesBeside(Protocol):
    """What a scenario has besides of which some points need no trained model, and so wait for no training."""

    def beside(self, config: Any, points: Sequence[Point]) -> list[list[int]]:
        """Groups of the points, by their places, that `simulate` can make the records of without any model.

        Each by one worker in its own process, the longest first.
        """
        ...


def simulate_all(
    scenario: SimulatesEach,
    config: Any,
    points: Sequence[Point],
    models: Mapping[str, Mapping[str, torch.Tensor]],
    cluster: Cluster,
) -> list[list[Record]]:
    """Scenario.simulate of a scenario that SimulatesEach."""
    found: dict[int, list[Record]] = {}

    def note(places: Sequence[int], records: Sequence[list[Record]]) -> None:
        found.update(zip(places, records, strict=True))

    scenario.simulate_each(config, points, models, cluster, note)
    return [found[place] for place in range(len(points))]


class Scenario(Protocol):
    """One system under study. Everything that the command line needs to know of it.

    jepa: the model of `training_jobs` that all modes train; empty where nothing is trained.
    """

    name: str
    summary: str
    jepa: str
    config_type: type[BaseModel]
    presets: Mapping[str, BaseModel]

    def prepare(
        self,
        config: Any,
        seeds: Sequence[int],
        cluster: Cluster,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Makes the data that training and simulation will read and that are not there yet, if any.

        `train` and `simulate` make what is missing by themselves, so that they depend on nothing but what
        they are given; here the whole cluster works on it. on_progress(done, total) counts what is made.
        """
        ...

    def training_jobs(self, config: Any, seed: int, mode: str) -> list[TrainingJob]:
        """Lists the models that the configuration's methods need for one seed."""
        ...

    def train(self, job: TrainingJob, trainer: Trainer) -> Trained:
        """Trains one model on one thread, its stages run by `trainer`; depends on nothing but the two.

        Of a JEPA the log ends with the row "score": see `score_row`.
        """
        ...

    def points(self, config: Any, seeds: Sequence[int]) -> list[Point]:
        """Lists the operating points of the scenario's results."""
        ...

    def sweep_points(self, config: Any, seeds: Sequence[int]) -> list[Point]:
        """Lists the points of one cell of a user's sweep: every method at the configuration's own point."""
        ...

    def simulate(
        self,
        config: Any,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
    ) -> list[list[Record]]:
        """Simulates a batch of points at once; returns the records of each, in the points' order.

        models: the trained tensors, by the key of their training job.
        """
        ...

    def figures(self, records: pd.DataFrame, folder: Path) -> list[Path]:
        """Draws the scenario's figures from records alone; returns the files (pdf and png)."""
        ...

    def tables(self, records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """Makes the scenario's tables, as (title, rows) with means and 95 % intervals."""
        ...
