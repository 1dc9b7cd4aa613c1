"""Experiments: trains what is missing, simulates what is missing, and draws what the records say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import BaseModel

from analysis import figures, tables
from scenarios.contracts import Point, Scenario, SimulatesBeside, SimulatesEach, TrainingJob
from scenarios.progress import Progress
from scenarios.settings import sweep_cells
from scenarios.training import Beside, train_missing
from scenarios.trainings import draw_trainings, tabulate_trainings
from semcom.contracts import Record, SemcomError
from semcom.records import FinishedPoint, RunFolder

if TYPE_CHECKING:
    import torch

    from nodes.cluster import Cluster

# Records are written after each batch: enough batches to lose little to a kill, few enough to be quick.
NUM_BATCHES = 4
SECONDS_BETWEEN_ADDITIONS = 2.0
# Cells of a sweep that are handed out before their records are written and their models let go.
CELLS_PER_ROUND = 64


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
    train_missing(scenario, jobs, cluster, folder, progress)
    return [folder.checkpoint_path(job.model, job.key) for job in jobs]


def _batches(points: Sequence[Point]) -> list[list[Point]]:
    """Cuts points into NUM_BATCHES at most; an operating point's seeds and methods stay together.

    What they share, channels and estimates that other methods start from, is then computed once. Batches are
    as even as whole operating points let them be.
    """
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        groups.setdefault((point.result, *sorted(point.axes.items())), []).append(point)
    batches: list[list[Point]] = []
    done = 0
    for group in groups.values():
        # The next batch begins where those before have their share of all points.
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

    Workers that no training waits for simulate what needs none (see SimulatesBeside).
    What is in the folder already is neither trained nor simulated again; records are added every
    SECONDS_BETWEEN_ADDITIONS, as they come, or after each of NUM_BATCHES batches, so a run that is stopped
    goes on where it was.
    """
    pending = pending_points(folder, scenario.points(config, seeds))
    if not pending:
        return
    due = [seed for seed in seeds if any(point.seed == seed for point in pending)]
    jobs = [job for seed in due for job in scenario.training_jobs(config, seed, "central")]
    _prepare(scenario, config, due, cluster, progress)
    beside = _beside(scenario, config, pending, cluster, folder)
    models = train_missing(scenario, jobs, cluster, folder, progress, beside)
    pending = pending_points(folder, pending)
    if not pending:
        return
    with progress.stage("simulating", len(pending)) as advance:
        if isinstance(scenario, SimulatesEach):
            _simulate_each(scenario, config, pending, models, cluster, folder, advance)
            return
        for batch in _batches(pending):
            folder.add(_finished(batch, scenario.simulate(config, batch, models, cluster)))
            advance(len(batch))


def _beside(
    scenario: Scenario, config: BaseModel, points: Sequence[Point], cluster: Cluster, folder: RunFolder
) -> Beside:
    """What can be simulated while workers would wait for the last of the trainings."""
    groups: list[list[int]] = []
    if isinstance(scenario, SimulatesBeside) and cluster.num_workers > 1:
        groups = scenario.beside(config, points)
    some = [[points[place] for place in group] for group in groups]

    def done(index: int, records: list[list[Record]]) -> None:
        folder.add(_finished(some[index], records))

    jobs = [partial(_simulate_cell, scenario, (config, each, {})) for each in some]
    return Beside(jobs, [len(each) for each in some], done)


def _simulate_each(
    scenario: SimulatesEach,
    config: BaseModel,
    points: Sequence[Point],
    models: Mapping[str, Mapping[str, torch.Tensor]],
    cluster: Cluster,
    folder: RunFolder,
    advance: Callable[[int], None],
) -> None:
    """Simulates points whose records come one by one; an addition writes the whole file, so some wait."""
    waiting: list[FinishedPoint] = []
    num_told, last_s = 0, time.monotonic()

    def add() -> None:
        nonlocal last_s
        due = list(waiting)
        # First, so that an interrupt never makes it add them twice.
        waiting.clear()
        folder.add(due)
        last_s = time.monotonic()

    def note(places: Sequence[int], records: Sequence[list[Record]]) -> None:
        nonlocal num_told
        waiting.extend(_finished([points[place] for place in places], records))
        num_told += len(places)
        advance(len(places))
        if time.monotonic() - last_s > SECONDS_BETWEEN_ADDITIONS:
            add()

    try:
        scenario.simulate_each(config, points, models, cluster, note)
    finally:
        if waiting:
            add()
    assert num_told == len(points), f"{num_told} of {len(points)} points were told of"


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
    models = train_missing(scenario, [job for cell in jobs for job in cell], cluster, folder, progress)
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
