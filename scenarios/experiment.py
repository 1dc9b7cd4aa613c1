"""Experiments: trains what is missing, simulates what is missing, and draws what the records say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from analysis import figures, tables
from nodes.process import one_thread
from nodes.training.collaboration import account, make_trainer
from nodes.training.federated import Federated
from nodes.training.groups import train_in_groups
from nodes.training.personal import merge, train_each
from scenarios.contracts import Point, Scenario, SimulatesEach, Trained, TrainingJob
from scenarios.settings import sweep_cells
from scenarios.trainings import draw_trainings, tabulate_trainings
from semcom.contracts import Record, SemcomError
from semcom.records import FinishedPoint, RunFolder
from semcom.train import Central

if TYPE_CHECKING:
    import torch

    from nodes.cluster import Cluster

# Records are written after each batch: enough batches to lose little to a kill, few enough to be quick.
NUM_BATCHES = 4
# Cells of a sweep that are handed out before their records are written and their models let go.
CELLS_PER_ROUND = 64
SECONDS_BETWEEN_LINES = 15.0


class Progress(Protocol):
    """Shows how far a stage of `total` items is; the stage yields a function that counts n more.

    warn: for what a training logged in its rows under "warning".
    """

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]: ...

    def warn(self, text: str) -> None: ...


class BarProgress:
    """A progress bar, for a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Shows one stage as a bar with the time spent and the time left."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self.console) as bars:
            task = bars.add_task(name, total=total)
            yield partial(bars.advance, task)

    def warn(self, text: str) -> None:
        """Writes a warning above the bars."""
        self.console.print(f"warning: {text}", style="yellow", markup=False, highlight=False)


class LineProgress:
    """A line now and then, for logs and pipes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Writes a line at the start, at the end, and in between at most every 15 seconds."""
        count, last = 0, time.monotonic()

        def advance(num: int) -> None:
            nonlocal count, last
            count += num
            if count == total or time.monotonic() - last > SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                self.write(f"{name}: {count}/{total}")

        self.write(f"{name}: 0/{total}")
        yield advance

    def warn(self, text: str) -> None:
        """Writes a warning."""
        self.write(f"warning: {text}")


def pending_points(folder: RunFolder, points: Iterable[Point]) -> list[Point]:
    """Lists the points whose records are not in the folder yet, each once."""
    unique = {(p.result, p.method, p.seed, *sorted(p.axes.items())): p for p in points}
    return [p for p in unique.values() if not folder.is_finished(p.result, p.method, p.seed, p.axes)]


def _prepare(
    scenario: Scenario, config: BaseModel, seeds: Sequence[int], cluster: Cluster, progress: Progress
) -> None:
    """Lets the scenario make its data; a stage is shown only if there is something to make."""
    with ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        counted = num = 0

        def told(done: int, total: int) -> None:
            nonlocal advance, counted, num
            num = total
            if advance is None:
                advance = stack.enter_context(progress.stage("data", total))
            advance(done - counted)
            counted = done

        scenario.prepare(config, seeds, cluster, told)
        # What was there already is not told of.
        if advance is not None and counted < num:
            advance(num - counted)


def _train(
    scenario: Scenario, jobs: Sequence[TrainingJob], cluster: Cluster, folder: RunFolder, progress: Progress
) -> dict[str, Mapping[str, torch.Tensor]]:
    """Trains the jobs that have no checkpoint, and returns the tensors of all, by key, from disk.

    Reading them back makes a resumed run compute with the very same numbers as an uninterrupted one.
    """
    by_key = {job.key: job for job in jobs}
    missing = [job for job in by_key.values() if not folder.has_checkpoint(job.model, job.key)]
    if missing:
        with progress.stage("training", len(missing)) as advance:

            def save(index: int, trained: Trained) -> None:
                job = missing[index]
                folder.save_training(
                    job.model, job.key, job.seed, trained.tensors, trained.log, job.mode, job.setting
                )
                for row in trained.log:
                    if text := row.get("warning"):
                        progress.warn(f"{job.model}, seed {job.seed}: {text}")
                advance(1)

            def scratch(index: int) -> Path:
                return folder.scratch_path(missing[index].model, missing[index].key)

            spread = [index for index in range(len(missing)) if is_spread(missing[index], cluster)]
            whole = [index for index in range(len(missing)) if index not in spread]
            # The workers of a cluster that was joined may not see this folder.
            places = [scratch(index) if cluster.address is None else None for index in whole]
            items = [(missing[index], place) for index, place in zip(whole, places, strict=True)]
            cluster.map(partial(_train_one, scenario), items, lambda at, trained: save(whole[at], trained))
            for index in spread:
                with one_thread():
                    trained = train_job(scenario, missing[index], scratch(index), cluster)
                save(index, trained)
    return {key: folder.load_checkpoint(job.model, key) for key, job in by_key.items()}


def is_spread(job: TrainingJob, cluster: Cluster) -> bool:
    """Whether a job is led from here, its clients in groups on the cluster's actors: one such job at a time.

    All others run whole, as many at once as there are workers: those too whose clients each run a training of
    their own.
    """
    collaboration = getattr(job.config, "collaboration", None)
    if job.mode != "federated" or collaboration is None or cluster.num_workers == 0:
        return False
    return not collaboration.federated.is_personal


def train_job(
    scenario: Scenario, job: TrainingJob, scratch: Path | None, cluster: Cluster | None = None
) -> Trained:
    """Trains one model in the job's mode; the log ends with the account of what that cost, if it is kept.

    Where clients end with models of their own, all are in the result: see nodes.training.personal.

    scratch: an existing folder of this job alone. What a training that is stopped leaves there, the same job
    finds again, and goes on from it to the same result. None: there is no such place. cluster: on which the
    clients of a job that is_spread are trained, if not here, to the same result.
    """
    collaboration = getattr(job.config, "collaboration", None)
    if collaboration is None:
        return scenario.train(job, Central(scratch))
    trainer = make_trainer(job.mode, collaboration, job.seed, scratch, is_counted=job.is_counted)
    program = partial(scenario.train, job)
    if isinstance(trainer, Federated) and trainer.config.is_personal:
        results = train_each(program, trainer, collaboration.num_clients)
        trained = Trained(*merge(results)) if trainer.config.sharing != "all" else results[0]
    elif isinstance(trainer, Federated) and cluster is not None and is_spread(job, cluster):
        trained = train_in_groups(program, trainer, collaboration.num_clients, cluster)
    else:
        trained = program(trainer)
    return Trained(trained.tensors, [*trained.log, *account(trainer)])


def _train_one(scenario: Scenario, item: tuple[TrainingJob, Path | None]) -> Trained:
    return train_job(scenario, *item)


def train_only(
    scenario: Scenario,
    jobs: Sequence[TrainingJob],
    cluster: Cluster,
    folder: RunFolder,
    progress: Progress,
) -> list[Path]:
    """Trains the jobs that have no checkpoint; returns the checkpoints of all, old and new."""
    configs = list({id(job.config): job.config for job in jobs}.values())
    for config in configs:
        seeds = dict.fromkeys(job.seed for job in jobs if job.config is config)
        _prepare(scenario, config, list(seeds), cluster, progress)
    _train(scenario, jobs, cluster, folder, progress)
    return [folder.checkpoint_path(job.model, job.key) for job in jobs]


def _batches(points: Sequence[Point]) -> list[list[Point]]:
    """Cuts points into batches of nearly as many; an operating point's seeds and methods stay together.

    What they share, channels and estimates that other methods start from, is then computed once.
    """
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        groups.setdefault((point.result, *sorted(point.axes.items())), []).append(point)
    batches: list[list[Point]] = []
    done = 0
    for group in groups.values():
        # A group goes where its first point would in an even cut.
        if done * NUM_BATCHES >= len(batches) * len(points):
            batches.append([])
        batches[-1] += group
        done += len(group)
    return batches


def _finished(points: Sequence[Point], records: Sequence[Sequence[Record]]) -> list[FinishedPoint]:
    return [
        FinishedPoint(point.result, point.method, point.seed, point.axes, rows)
        for point, rows in zip(points, records, strict=True)
    ]


def run_experiment(
    scenario: Scenario,
    config: BaseModel,
    seeds: Sequence[int],
    cluster: Cluster,
    folder: RunFolder,
    progress: Progress,
) -> None:
    """Runs a scenario's own results: trains, then simulates the pending points.

    What is in the folder already is neither trained nor simulated again; records are added as they come, or
    after each of NUM_BATCHES batches, so a run that is stopped goes on where it was.
    """
    pending = pending_points(folder, scenario.points(config, seeds))
    if not pending:
        return
    due = [seed for seed in seeds if any(point.seed == seed for point in pending)]
    jobs = [job for seed in due for job in scenario.training_jobs(config, seed, "central")]
    _prepare(scenario, config, due, cluster, progress)
    models = _train(scenario, jobs, cluster, folder, progress)
    with progress.stage("simulating", len(pending)) as advance:

        def add(points: Sequence[Point], records: Sequence[list[Record]]) -> None:
            folder.add(_finished(points, records))
            advance(len(points))

        if isinstance(scenario, SimulatesEach):
            scenario.simulate_each(
                config,
                pending,
                models,
                cluster,
                lambda places, records: add([pending[place] for place in places], records),
            )
        else:
            for batch in _batches(pending):
                add(batch, scenario.simulate(config, batch, models, cluster))


def _cell_points(
    scenario: Scenario, coordinates: Mapping[str, Any], config: BaseModel, seeds: Sequence[int]
) -> list[tuple[Point, Point]]:
    """The points of one cell, as the scenario knows them and as the sweep's records name them."""
    points = scenario.sweep_points(config, seeds)
    return [(point, replace(point, axes={**point.axes, **coordinates})) for point in points]


def _simulate_cell(
    scenario: Scenario,
    cell: tuple[BaseModel, Sequence[Point], Mapping[str, Mapping[str, torch.Tensor]]],
) -> list[list[Record]]:
    """Simulates one cell in the worker's own process."""
    from nodes.cluster import Cluster

    config, points, models = cell
    with Cluster(num_workers=0) as inline:
        return scenario.simulate(config, points, models, inline)


def pending_cells(
    scenario: Scenario,
    config: BaseModel,
    axes: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    folder: RunFolder,
) -> list[tuple[BaseModel, list[tuple[Point, Point]]]]:
    """Lists the cells of a sweep that have points left, with those points (as simulated, as recorded)."""
    cells = []
    for coordinates, cell_config in sweep_cells(config, axes):
        named = _cell_points(scenario, coordinates, cell_config, seeds)
        due = pending_points(folder, [recorded for _, recorded in named])
        if due:
            cells.append((cell_config, [pair for pair in named if pair[1] in due]))
    return cells


def run_sweep(
    scenario: Scenario,
    config: BaseModel,
    axes: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    cluster: Cluster,
    folder: RunFolder,
    progress: Progress,
) -> None:
    """Runs every combination of the axes' values; the cells are spread over the cluster's workers.

    A cell is one configuration at its own operating point, with every method; the axes become columns
    of its records. Cells that are finished are not computed again.
    """
    cells = pending_cells(scenario, config, axes, seeds, folder)
    if not cells:
        return
    jobs: list[list[TrainingJob]] = []
    for cell_config, pairs in cells:
        due = dict.fromkeys(point.seed for point, _ in pairs)
        jobs.append([job for seed in due for job in scenario.training_jobs(cell_config, seed, "central")])
        _prepare(scenario, cell_config, list(due), cluster, progress)
    models = _train(scenario, [job for cell in jobs for job in cell], cluster, folder, progress)
    with progress.stage("cells", len(cells)) as advance:
        for start in range(0, len(cells), CELLS_PER_ROUND):
            window = range(start, min(start + CELLS_PER_ROUND, len(cells)))
            items = [
                (
                    cells[i][0],
                    [point for point, _ in cells[i][1]],
                    {job.key: models[job.key] for job in jobs[i]},
                )
                for i in window
            ]

            def add(index: int, records: list[list[Record]], start: int = start) -> None:
                folder.add(_finished([recorded for _, recorded in cells[start + index][1]], records))
                advance(1)

            cluster.map(partial(_simulate_cell, scenario), items, on_result=add)


def draw(scenario: Scenario, folder: RunFolder) -> list[Path]:
    """Draws the figures of a folder from its records alone, into its figures/; returns the files."""
    target = folder.path / "figures"
    try:
        if axes := folder.manifest.get("axes"):
            return _draw_sweep(folder.records, axes, target)
        paths = scenario.figures(folder.records, target) if len(folder.records) else []
        return paths + draw_trainings(folder, target)
    except OSError as error:
        raise SemcomError(
            f"{target} can't be written ({error.strerror or error}): copy the run to a folder that can be"
        ) from error


def tabulate(scenario: Scenario, folder: RunFolder) -> list[tuple[str, pd.DataFrame]]:
    """Makes the tables of a folder from its records alone, as (title, rows)."""
    if axes := folder.manifest.get("axes"):
        title = f"{scenario.name}, sweep over {', '.join(axes)}: mean and 95 % interval over seeds"
        return [(title, tables.pivot(folder.records, ["method", *axes]))]
    listed = scenario.tables(folder.records) if len(folder.records) else []
    return listed + tabulate_trainings(folder)


def _draw_sweep(records: pd.DataFrame, axes: Sequence[str], folder: Path) -> list[Path]:
    """One figure per metric: the axis with the most values is x, the others tell the lines apart."""
    x = max(axes, key=lambda name: records[name].nunique())
    others = [name for name in axes if name != x and records[name].nunique() > 1]
    series = records["method"].copy()
    for name in others:
        series += f", {name.rpartition('.')[2]} " + records[name].map(tables.to_text)
    paths = []
    for metric in records["metric"].unique():
        figure = figures.line_figure(records.assign(series=series), x, metric, by="series")
        paths += figures.save(figure, folder, f"sweep-{metric}")
    return paths
