"""Scenarios whose points don't wait for each other: their records are on disk as they come."""

from pathlib import Path

import pytest
import torch

from nodes.cluster import Cluster
from scenarios.catalogue import SCENARIOS, load_scenario
from scenarios.contracts import Point, SimulatesBeside, SimulatesEach, Trained, TrainingJob, simulate_all
from scenarios.elaa.scenario import SCENARIO as ELAA
from scenarios.experiment import run_experiment
from scenarios.links.config import TINY as LINKS
from scenarios.progress import LineProgress
from semcom.contracts import Record
from semcom.records import RunFolder


class Stopped(Exception):
    """The run is killed."""


class Each:
    """Tells of its points from the last to the first, two at a time, and is stopped after `most` of them."""

    name = "each"

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[Point] = []

    def prepare(self, config, seeds, cluster, on_progress=None):
        pass

    def training_jobs(self, config, seed, mode):
        return []

    def points(self, config, seeds):
        return [
            Point("main", "ours", seed, {"snr_db": snr_db}) for snr_db in (0.0, 10.0, 20.0) for seed in seeds
        ]

    def simulate_each(self, config, points, models, cluster, on_records):
        self.asked = list(points)
        places = list(reversed(range(len(points))))
        for start in range(0, len(places), 2):
            if start >= self.most:
                raise Stopped
            pair = places[start : start + 2]
            on_records(pair, [[self.record(points[place])] for place in pair])

    @staticmethod
    def record(point: Point) -> Record:
        value = -point.axes["snr_db"] - point.seed
        return Record("each", point.method, point.seed, "nmse_db", value, "dB", 1, {})


def folder(path: Path) -> RunFolder:
    return RunFolder.create(path, scenario="each", preset="tiny", config={}, seeds=[0, 1])


def run(scenario: Each, into: RunFolder) -> list[str]:
    lines: list[str] = []
    run_experiment(scenario, None, [0, 1], Cluster(), into, LineProgress(lines.append))
    return lines


def test_records_are_kept_as_they_come_and_only_the_rest_is_asked_for(tmp_path: Path):
    first, second = (folder(tmp_path / name) for name in ("whole", "parts"))
    assert run(Each(6), first)[-1] == "simulating: 6/6"
    parts = Each(4)
    with pytest.raises(Stopped):
        run(parts, second)
    assert len(second.records) == 4
    assert sorted(second.records["snr_db"]) == [10.0, 10.0, 20.0, 20.0]
    parts.most = 6
    run(parts, second)
    assert [point.axes["snr_db"] for point in parts.asked] == [0.0, 0.0]
    files = [each.path / "records.parquet" for each in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()
    row = first.records.set_index(["snr_db", "seed"]).loc[(20.0, 1)]
    assert row["value"] == -21.0


def test_all_at_once_they_are_in_the_points_order():
    points = Each(6).points(None, [0, 1])
    told = simulate_all(Each(6), None, points, {}, Cluster())
    assert [[row.value] for (row,) in told] == [[-point.axes["snr_db"] - point.seed] for point in points]


def test_which_scenarios_they_are():
    each = {name for name in SCENARIOS if isinstance(load_scenario(name), SimulatesEach)}
    assert each == {"elaa", "links"}


@pytest.mark.parametrize("name", ["elaa", "links"])
def test_every_point_is_told_of_once(name):
    scenario = load_scenario(name)
    if name == "elaa":
        sizes = [{"num_elements": size, "visible_share": 0.5, "snr_db": 10.0} for size in (32, 64)]
        points = [Point("size", method, 0, at) for at in sizes for method in ("ls", "nomp")]
        points.insert(1, Point("estimate", "ls", 0, {"visible_share": 0.5, "snr_db": 0.0}))
        config = ELAA.presets["tiny"]
    else:
        config = LINKS
        points = scenario.points(config, [0])[:3]
    told: dict[int, list[Record]] = {}
    order: list[int] = []

    def note(places, records):
        order.extend(places)
        told.update(zip(places, records, strict=True))

    scenario.simulate_each(config, points, {}, Cluster(), note)
    assert sorted(order) == list(range(len(points)))
    for point, rows in zip(points, (told[place] for place in range(len(points))), strict=True):
        assert {(row.method, row.seed) for row in rows} == {(point.method, point.seed)}
    if name == "elaa":
        # The largest arrays are begun first; methods of one operating point come together.
        assert config.array.num_elements == 64
        assert order == [1, 3, 4, 0, 2]


class Here(Cluster):
    """Two workers, who take turns in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.num_workers = 2

    def _map_on_workers(self, function, items, done, jobs_per_worker):
        for index, item in enumerate(items):
            done(index, function(item))


class Beside(Each):
    """Trains one model, and simulates what comes at 0 dB, in two groups, without it."""

    def __init__(self) -> None:
        super().__init__(6)
        self.alone: list[Point] = []

    def training_jobs(self, config, seed, mode):
        return [TrainingJob("model", seed, f"key-{seed}", None)]

    def train(self, job, trainer):
        return Trained({"weight": torch.ones(1)}, [])

    def beside(self, config, points):
        return [[place] for place, point in enumerate(points) if point.axes["snr_db"] == 0]

    def simulate(self, config, points, models, cluster):
        assert not models
        assert cluster.num_workers == 0
        self.alone += points
        return [[self.record(point)] for point in points]


def test_what_needs_no_model_is_simulated_beside_trainings(tmp_path: Path):
    parts, whole = Beside(), Beside()
    into, other, lines = folder(tmp_path / "parts"), folder(tmp_path / "whole"), []
    run_experiment(parts, None, [0, 1], Here(), into, LineProgress(lines.append))
    assert [(point.axes["snr_db"], point.seed) for point in parts.alone] == [(0.0, 0), (0.0, 1)]
    assert {point.axes["snr_db"] for point in parts.asked} == {10.0, 20.0}
    assert lines[1:3] == ["training and simulating: 4/4", "simulating: 0/4"]
    run(whole, other)
    assert not whole.alone
    files = [each.path / "records.parquet" for each in (into, other)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_nothing_is_simulated_beside_no_training(tmp_path: Path):
    into, again = folder(tmp_path / "run"), Beside()
    for seed in (0, 1):
        into.save_training("model", f"key-{seed}", seed, {"weight": torch.ones(1)}, [], "central", "")
    run_experiment(again, None, [0, 1], Here(), into, LineProgress(lambda line: None))
    assert not again.alone
    assert len(again.asked) == 6


def test_elaa_waits_for_no_training_with_what_is_classical():
    assert isinstance(ELAA, SimulatesBeside)
    config = ELAA.presets["tiny"]
    points = ELAA.points(config, [0])
    places = [place for group in ELAA.beside(config, points) for place in group]
    assert len(places) == len(set(places))
    told = {(points[place].result, points[place].method) for place in places}
    # Of an operating point all methods or none: what they share is found once.
    assert {result for result, _ in told} == {"feedback", "rate", "loss"}
    assert {"klt", "nomp-parameters"} <= {method for _, method in told}
    assert "jepa-bottleneck" not in {method for _, method in told}
    usual = ELAA.presets["default"]
    listed = ELAA.points(usual, [0])
    told = {listed[place].result for group in ELAA.beside(usual, listed) for place in group}
    assert told == {"size", "ahead", "feedback", "rate", "loss"}
