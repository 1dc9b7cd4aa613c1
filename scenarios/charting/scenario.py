"""The charting scenario: what it generates and trains, its operating points, and how they are simulated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel

from channels.catalogue import uses_a_channel
from channels.csi_cache import open_cache
from nodes.simulation import simulate
from nodes.training.collaboration import check_collaboration, collaborative_settings
from scenarios.charting.cells import Setting, make_cell, make_shared, resolve
from scenarios.charting.config import (
    PAPER,
    TINY,
    ChartingConfig,
    EvaluationConfig,
    RayTracedData,
    check,
)
from scenarios.charting.data import VelocityConfig
from scenarios.charting.forecasts import look_ahead_steps, lstm_sequences
from scenarios.charting.generation import obtain_dataset
from scenarios.charting.lstm import train_lstm
from scenarios.charting.measures import Heard, Question, air_records, answer, load_model
from scenarios.charting.methods import CHARTS, TOLD_VELOCITIES
from scenarios.charting.models import ArrayModel
from scenarios.charting.sizes import check_sizes
from scenarios.charting.snapshot_results import (
    SnapshotQuestion,
    answer_snapshot,
    snapshot_job,
    snapshot_jobs,
    snapshot_points,
    train_snapshot_job,
)
from scenarios.charting.sources import has_time_axis, load_sequences
from scenarios.charting.training import MODELS, train_model
from scenarios.contracts import Point, Trained, TrainingJob
from scenarios.recorded import content_hash
from semcom.codecs.names import codec_name
from semcom.contracts import Record, SemcomError
from semcom.rng import Streams
from semcom.train import CENTRAL, Trainer

if TYPE_CHECKING:
    import pandas as pd

    from nodes.cluster import Cluster

_LSTMS = {"lstm": False, "lstm-velocity": True}
_LSTM_COPIES = 6
_ON_THE_AIR = ("rate", "loss", "air", "sweep")


class ChartingScenario:
    """Channel charting and latent channel prediction (after W-JEPA, arXiv 2409.10045)."""

    name = "charting"
    jepa = "w-jepa"
    summary = "a chart of a cell from CSI without positions, forecast and sent over the air"
    config_type = ChartingConfig
    presets: Mapping[str, BaseModel] = {"tiny": TINY, "default": ChartingConfig(), "paper": PAPER}

    def prepare(
        self,
        config: ChartingConfig,
        seeds: Sequence[int],
        cluster: Cluster,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Generates the data sets that are not there yet; recorded ones are read, and found to suffice."""
        if not isinstance(config.data, RayTracedData):
            if not has_time_axis(config):
                return
            data = load_sequences(config, seeds[0])
            num = sum(part.num_trajectories for part in (data.train, data.validation, data.test))
            check_sizes(config, num, data.test.num_steps, data.interval_s)
            return
        for index, seed in enumerate(seeds):

            def told(done: int, total: int, index: int = index) -> None:
                if on_progress:
                    on_progress(index * total + done, len(seeds) * total)

            obtain_dataset(config.data.scene, seed, cluster, told)

    def training_jobs(self, config: ChartingConfig, seed: int, mode: str) -> list[TrainingJob]:
        """Lists the models that the configured results need; the JEPA alone in modes other than central."""
        check_collaboration(config.collaboration, mode)
        check(config)
        if mode != "central":
            if not has_time_axis(config):
                raise SemcomError(f"mode = {mode!r}: data without time_s are trained on in mode central only")
            return [training_job(config, "w-jepa", seed, mode)]
        if not has_time_axis(config):
            return snapshot_jobs(config, seed)
        told = known_methods(config)
        needed = {CHARTS[name][0] for name in told.charts} | {"w-jepa"}
        needed |= {"supervised" for name in told.forecasts if name in _LSTMS}
        jobs = [training_job(config, name, seed) for name in MODELS if name in needed]
        jobs += [training_job(config, name, seed) for name in _LSTMS if name in told.forecasts]
        return jobs + [training_job(known, "w-jepa", seed) for known in velocity_variants(config).values()]

    def train(self, job: TrainingJob, trainer: Trainer = CENTRAL) -> Trained:
        """Trains one model on one thread, its stages run by `trainer`."""
        config = job.config
        assert isinstance(config, ChartingConfig)
        if not has_time_axis(config):
            return train_snapshot_job(job)
        data = load_sequences(config, job.seed)
        if job.model not in _LSTMS:
            model, log = train_model(job.model, job.seed, data, config.training_inputs(), trainer)
            return Trained(model.state_dict(), log)
        # The very encoders that the job `supervised` trains; a job depends on nothing but itself.
        encoders, log = train_model("supervised", job.seed, data, config.training_inputs())
        noise = (config.training.feature_noise_std, _LSTM_COPIES, Streams(job.seed).torch_generator("lstm"))
        told, s = _LSTMS[job.model], data.interval_s
        train = lstm_sequences(encoders, data.train, s, told_velocity=told, noise=noise)
        held_out = lstm_sequences(encoders, data.validation, s, told_velocity=told)
        steps = look_ahead_steps(config.evaluation.look_aheads_s, data.interval_s)
        lstm, rows = train_lstm(
            train, held_out, steps, config.lstm, Streams(job.seed), config.evaluation.num_history
        )
        return Trained(lstm.state_dict(), [{"stage": "training", **row} for row in rows])

    def points(self, config: ChartingConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists the points of the results: chart, forecast, velocity, rate, loss, air.

        Of data without a time axis there is one result, snapshot.
        """
        check(config)
        if not has_time_axis(config):
            return snapshot_points(config, seeds)
        told = known_methods(config)
        listed: list[tuple[str, str, dict[str, float | int | str]]] = [
            ("chart", method, {}) for method in told.charts
        ]
        listed += [("forecast", method, {}) for method in told.forecasts]
        levels = {velocity_name(config.velocity): config} | velocity_variants(config)
        listed += [("velocity", "w-jepa", {"velocity": name}) for name in levels]
        for method, codecs in (
            ("w-jepa", told.codecs),
            ("csi", told.csi_codecs),
            ("features", told.feature_codecs),
        ):
            listed += [("rate", method, {"codec": codec}) for codec in codecs]
        codec = codec_name(config.codec)
        if config.codec.kind != "analog":
            listed += [
                ("loss", method, {"codec": codec, "erasure_probability": share})
                for method in told.loss_methods
                for share in told.erasures
            ]
        link: dict[str, float | int | str] = {"codec": codec, "link": config.link.kind}
        if uses_a_channel(config.link):
            listed += [
                ("air", method, link | {"channel": config.channel.model}) for method in told.loss_methods
            ]
        return [Point(result, method, seed, at) for result, method, at in listed for seed in seeds]

    def sweep_points(self, config: ChartingConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists one point for each method over the air, at the configuration's own codec and link."""
        check(config)
        if not has_time_axis(config):
            raise SemcomError("the data have no time_s, and so no reports to sweep over: take `semcom run`")
        if not config.evaluation.loss_methods:
            raise SemcomError("evaluation.loss_methods is empty: a sweep compares these, name one")
        return [Point("sweep", method, seed) for method in config.evaluation.loss_methods for seed in seeds]

    def simulate(
        self,
        config: ChartingConfig,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
    ) -> list[list[Record]]:
        """Simulates what goes over the air as cells, and computes the rest, spread over the workers."""
        if not has_time_axis(config):
            return cluster.map(answer_snapshot, [_snapshot_question(config, p, models) for p in points])
        found: dict[int, list[Record]] = {}
        in_the_air = [index for index, point in enumerate(points) if point.result in _ON_THE_AIR]
        if in_the_air:
            records = self._over_the_air(config, [points[index] for index in in_the_air], models, cluster)
            found |= dict(zip(in_the_air, records, strict=True))
        rest = [index for index in range(len(points)) if index not in found]
        questions = [self._question(config, points[index], models) for index in rest]
        found |= dict(zip(rest, cluster.map(answer, questions), strict=True))
        return [found[index] for index in range(len(points))]

    def _question(
        self, config: ChartingConfig, point: Point, models: Mapping[str, Mapping[str, torch.Tensor]]
    ) -> Question:
        if point.result == "velocity":
            config = ({velocity_name(config.velocity): config} | velocity_variants(config))[
                str(point.axes["velocity"])
            ]
        name = CHARTS[point.method][0] if point.result == "chart" else "w-jepa"
        needed = {"chart": name} if name else {}
        if point.method in _LSTMS:
            needed |= {"lstm": point.method, "supervised": "supervised"}
        weights = {
            part: models[training_job(config, model, point.seed).key] for part, model in needed.items()
        }
        return Question(config, point, weights)

    def _over_the_air(
        self,
        config: ChartingConfig,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
    ) -> list[list[Record]]:
        settings = [resolve(config, point) for point in points]
        distinct = list(dict.fromkeys(settings))
        seeds = {setting.seed for setting in distinct}
        data = {seed: load_sequences(config, seed) for seed in seeds}
        trained = {seed: _load(config, seed, models) for seed in seeds}
        shared = make_shared(config, distinct, trained, data, cluster)
        num_steps = {seed: data[seed].test.num_steps for seed in seeds}
        outcome_of: dict[Setting, Any] = {}
        for length in sorted(set(num_steps.values())):
            alike = [setting for setting in distinct if num_steps[setting.seed] == length]
            cells = [make_cell(config, setting, data[setting.seed]) for setting in alike]
            outcome_of |= dict(zip(alike, simulate(cells, length, cluster, shared=shared), strict=True))
        heard = [
            Heard(config, point, setting, outcome_of[setting], trained[setting.seed].state_dict())
            for point, setting in zip(points, settings, strict=True)
        ]
        return cluster.map(air_records, heard)

    def figures(self, records: pd.DataFrame, folder: Path) -> list[Path]:
        """Draws the figures of those results that the records hold."""
        from scenarios.charting.results import draw_figures

        return draw_figures(records, folder)

    def tables(self, records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """Makes the tables of those results that the records hold."""
        from scenarios.charting.results import make_tables

        return make_tables(records)


def velocity_name(velocity: VelocityConfig) -> str:
    """Names what is known of velocities, as records do: exact; 20 % off, from positions; unknown."""
    if velocity.source == "none":
        return "unknown"
    name = f"{100 * velocity.noise_share:g} % off" if velocity.noise_share else "exact"
    return name if velocity.source == "recorded" else f"{name}, from positions"


def known_methods(config: ChartingConfig) -> EvaluationConfig:
    """Returns the evaluation without those methods that can't be where no velocity is known."""
    told = config.evaluation
    if config.velocity.source != "none":
        return told
    return told.model_copy(
        update={
            "charts": tuple(name for name in told.charts if name != "odometry"),
            "forecasts": tuple(name for name in told.forecasts if name not in TOLD_VELOCITIES),
        }
    )


def velocity_variants(config: ChartingConfig) -> dict[str, ChartingConfig]:
    """Lists the configurations of the velocity result, besides the configured one, by their names."""
    told = config.evaluation
    levels = [
        config.velocity.model_copy(update={"noise_share": share}) for share in told.velocity_noise_shares
    ]
    if told.without_velocity:
        levels.append(VelocityConfig(source="none"))
    known = {} if config.velocity.source == "none" else {velocity_name(level): level for level in levels}
    known.pop(velocity_name(config.velocity), None)
    return {name: config.model_copy(update={"velocity": level}) for name, level in known.items()}


def training_job(config: ChartingConfig, model: str, seed: int, mode: str = "central") -> TrainingJob:
    """Makes the job that trains a model; its key hashes all that the weights depend on."""
    parts = ["data", "observation", "velocity", "split", "features", "model", "training"]
    if model in _LSTMS:
        parts.append("lstm")
    told: dict[str, Any] = {part: getattr(config, part).model_dump(mode="json") for part in parts}
    if model in _LSTMS:
        told["look_aheads_s"] = config.evaluation.look_aheads_s
        told["num_history"] = config.evaluation.num_history
    if isinstance(config.data, RayTracedData):
        told["data"] = open_cache(config.data.scene, seed).path.name
    elif config.data.path.is_file():
        told["data"] = content_hash(config.data.path)
    told |= collaborative_settings(config.collaboration, mode)
    name = json.dumps({"trains": model, "seed": seed, "version": 2, **told}, sort_keys=True)
    return TrainingJob(model, seed, hashlib.sha256(name.encode()).hexdigest()[:16], config, mode)


def _snapshot_question(
    config: ChartingConfig, point: Point, models: Mapping[str, Mapping[str, torch.Tensor]]
) -> SnapshotQuestion:
    job = snapshot_job(config, str(point.axes["observation"]), point.seed)
    return SnapshotQuestion(config, point, models[job.key] if point.method == "w-jepa" else None)


def _load(config: ChartingConfig, seed: int, models: Mapping[str, Mapping[str, torch.Tensor]]) -> ArrayModel:
    weights = models[training_job(config, "w-jepa", seed).key]
    return load_model(config, seed, weights, "w-jepa")


SCENARIO = ChartingScenario()
