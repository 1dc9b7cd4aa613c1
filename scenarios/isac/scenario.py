"""The sensing scenario: what it generates and trains, its operating points, and how they are simulated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel

from channels.catalogue import uses_a_channel
from nodes.contracts import CellOutcome
from nodes.process import one_thread
from nodes.simulation import simulate
from nodes.training.collaboration import check_collaboration, collaborative_settings
from scenarios.contracts import Point, Trained, TrainingJob
from scenarios.isac.cells import Setting, make_cell, make_shared, model_key, resolve
from scenarios.isac.config import PAPER, TINY, GeneratedData, IsacConfig, check
from scenarios.isac.data import SensingData
from scenarios.isac.generation import obtain_room
from scenarios.isac.measures import Heard, air_records, load_model
from scenarios.isac.methods import METHODS
from scenarios.isac.models import SensingModel
from scenarios.isac.sizes import check_sizes
from scenarios.isac.sources import data_name, keep_sequences, load_sequences
from scenarios.isac.training import MODELS, train_model
from scenarios.isac.watching import Watch, alarm_records
from semcom.codecs.names import codec_name
from semcom.contracts import Record, SemcomError
from semcom.train import CENTRAL, Trainer

if TYPE_CHECKING:
    import pandas as pd

    from nodes.cluster import Cluster

_WATCHES = "inpainting"
"""The method whose predictor tells what a sensor should have sent."""
_NOTHING = "evaluation asks for nothing: name methods in it, and what they are to meet"

Axes = dict[str, float | int | str]


class IsacScenario:
    """Cross-modal sensing with semantic inpainting (after Nishio, Chen and Bennis, ICMLCN 2025)."""

    name = "isac"
    jepa = "inpainting"
    summary = "cameras and CSI receivers in a room; missing embeddings are inpainted from the others"
    config_type = IsacConfig
    presets: Mapping[str, BaseModel] = {"tiny": TINY, "default": IsacConfig(), "paper": PAPER}

    def prepare(
        self,
        config: IsacConfig,
        seeds: Sequence[int],
        cluster: Cluster,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Generates the data sets that are not there yet; a recorded one is read, and found to suffice."""
        if not isinstance(config.data, GeneratedData):
            data = load_sequences(config, seeds[0])
            num_steps, num_held = data.test.num_steps, data.validation.num_sequences
            check_sizes(config.evaluation, num_held, num_steps, data.num_cameras, data.num_receivers)
            return
        for index, seed in enumerate(seeds):

            def told(done: int, total: int, index: int = index) -> None:
                if on_progress:
                    on_progress(index * total + done, len(seeds) * total)

            obtain_room(config.data.room, seed, cluster, told)

    def training_jobs(self, config: IsacConfig, seed: int, mode: str) -> list[TrainingJob]:
        """Lists the models that the configured methods need; the JEPA alone in modes other than central."""
        check_collaboration(config.collaboration, mode)
        if mode == "split" and config.collaboration.split.target == "station":
            raise SemcomError(
                "collaboration.split.target = station: isac deploys its target encoder, which devices need, "
                "take device"
            )
        if mode != "central":
            return [training_job(config, "inpainting", seed, mode)]
        methods = {method for _, method, _ in self._listed(config)} | set(config.evaluation.loss_methods)
        if not methods:
            raise SemcomError(_NOTHING)
        needed = {METHODS[method].model for method in methods}
        return [training_job(config, name, seed) for name in MODELS if name in needed]

    def train(self, job: TrainingJob, trainer: Trainer = CENTRAL) -> Trained:
        """Trains one model on one thread, its stages run by `trainer`."""
        config = job.config
        assert isinstance(config, IsacConfig)
        data = load_sequences(config, job.seed)
        model, log = train_model(job.model, job.seed, data, config.training_inputs(), trainer)
        return Trained(model.state_dict(), log)

    def points(self, config: IsacConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists the points of the results: missing, loss, receivers, rate, alarm, air.

        Raises SemcomError for a configuration that asks for none of them.
        """
        listed = self._listed(config)
        if not listed:
            raise SemcomError(_NOTHING)
        return [Point(result, method, seed, at) for result, method, at in listed for seed in seeds]

    def _listed(self, config: IsacConfig) -> list[tuple[str, str, Axes]]:
        check(config)
        told = config.evaluation
        codec = codec_name(config.codec)
        listed: list[tuple[str, str, Axes]] = []
        for method in told.missing_methods:
            # From a method that never misses anything there is but one answer.
            places = ("none",) if METHODS[method].is_whole and told.missing else told.missing
            listed += [("missing", method, {"missing": place}) for place in places]
        listed += [
            ("loss", method, {"codec": codec, "erasure_probability": share})
            for method in told.loss_methods
            for share in told.erasures
        ]
        listed += [
            ("receivers", method, {"num_receivers": number})
            for method in told.receiver_methods
            for number in told.num_receivers
        ]
        listed += [
            ("rate", method, {"receiver_interval": interval, "codec": name})
            for method in told.rate_methods
            for interval in _intervals(config, method)
            for name in told.codecs
        ]
        listed += [
            (
                "rate",
                method,
                {
                    "receiver_interval": interval,
                    "quality": quality,
                    "downscale": downscale,
                    "container": container,
                },
            )
            for method in told.jpeg_methods
            for interval in _intervals(config, method)
            # Settings of a container follow one another: cells are dealt to workers in turn, and the scan and
            # the file of a setting, whose pixels are the same, come to one that has seen them.
            for container in told.containers
            for quality in told.qualities
            for downscale in told.downscales
        ]
        listed += [
            ("alarm", _WATCHES, {"fault": fault, "sensor": sensor})
            for fault in told.faults
            for sensor in ("camera", "receiver")
        ]
        if uses_a_channel(config.link):
            link: Axes = {"codec": codec, "link": config.link.kind, "channel": config.channel.model}
            listed += [("air", method, link) for method in told.loss_methods]
        return listed

    def sweep_points(self, config: IsacConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists one point for each method that meets erasures, at the configuration's own codec and link."""
        check(config)
        if not config.evaluation.loss_methods:
            raise SemcomError("evaluation.loss_methods is empty: a sweep compares these, name one")
        return [Point("sweep", method, seed) for method in config.evaluation.loss_methods for seed in seeds]

    def simulate(
        self,
        config: IsacConfig,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
    ) -> list[list[Record]]:
        """Simulates each distinct setting as one cell, and reads scenes off beliefs; alarms need no cell."""
        weights = [_weights(config, point, models) for point in points]
        data: dict[int, SensingData] = {}
        trained: dict[str, SensingModel] = {}
        settings = []
        for point, of_point in zip(points, weights, strict=True):
            if point.seed not in data:
                data[point.seed] = keep_sequences(config, point.seed)
            key = model_key(point.method, point.seed)
            if key not in trained:
                trained[key] = load_model(config, data[point.seed], point, of_point)
            settings.append(resolve(config, point, trained[key].num_cameras, trained[key].num_receivers))
        with one_thread():
            shared = make_shared(settings, trained, data)
        in_the_air = dict.fromkeys(
            setting for point, setting in zip(points, settings, strict=True) if point.result != "alarm"
        )
        outcome_of = _simulated(config, list(in_the_air), trained, data, shared, cluster)
        questions: list[Heard | Watch] = []
        for point, setting in zip(points, settings, strict=True):
            model, of_seed = trained[setting.model_key], data[point.seed]
            questions.append(
                Watch(config, point, shared[setting.codec_key], model, of_seed.validation, of_seed.test)
                if point.result == "alarm"
                else Heard(
                    config,
                    point,
                    setting,
                    outcome_of[setting],
                    model,
                    of_seed.test if point.result == "missing" else of_seed.test.without_observations(),
                )
            )
        return cluster.map(_records, questions)

    def figures(self, records: pd.DataFrame, folder: Path) -> list[Path]:
        """Draws the figures of those results that the records hold."""
        from scenarios.isac.results import draw_figures

        return draw_figures(records, folder)

    def tables(self, records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """Makes the tables of those results that the records hold."""
        from scenarios.isac.results import make_tables

        return make_tables(records)


def _simulated(
    config: IsacConfig,
    distinct: Sequence[Setting],
    trained: Mapping[str, SensingModel],
    data: Mapping[int, SensingData],
    shared: Mapping[str, Any],
    cluster: Cluster,
) -> dict[Setting, CellOutcome]:
    """Runs the cells of all settings at once; those whose sequences are of one length step together."""
    outcome_of: dict[Setting, CellOutcome] = {}
    num_steps = {setting: data[setting.seed].test.num_steps for setting in distinct}
    for length in sorted(set(num_steps.values())):
        alike = [setting for setting in distinct if num_steps[setting] == length]
        cells = [
            make_cell(config, setting, data[setting.seed], trained[setting.model_key]) for setting in alike
        ]
        outcome_of |= dict(zip(alike, simulate(cells, length, cluster, shared=shared), strict=True))
    return outcome_of


def _intervals(config: IsacConfig, method: str) -> tuple[int, ...]:
    """After how many steps receivers report again in the rate result: of one that has none, 1 alone."""
    has_receivers = METHODS[method].model != "image-only" and not METHODS[method].is_whole
    return config.evaluation.rate_receiver_intervals if has_receivers else (1,)


def _records(question: Heard | Watch) -> list[Record]:
    return alarm_records(question) if isinstance(question, Watch) else air_records(question)


def training_job(config: IsacConfig, model: str, seed: int, mode: str = "central") -> TrainingJob:
    """Makes the job that trains a model; its key hashes all that the weights depend on."""
    told: dict[str, Any] = {
        part: getattr(config, part).model_dump(mode="json")
        for part in ("observation", "split", "model", "training")
    }
    told["data"] = data_name(config, seed)
    told |= collaborative_settings(config.collaboration, mode)
    name = json.dumps({"trains": model, "seed": seed, "version": 2, **told}, sort_keys=True)
    return TrainingJob(model, seed, hashlib.sha256(name.encode()).hexdigest()[:16], config, mode)


def _weights(
    config: IsacConfig, point: Point, models: Mapping[str, Mapping[str, torch.Tensor]]
) -> Mapping[str, torch.Tensor]:
    return models[training_job(config, METHODS[point.method].model, point.seed).key]


SCENARIO = IsacScenario()
