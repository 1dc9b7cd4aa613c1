"""The ELAA scenario: what it trains, its operating points, and how they are simulated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel

from channels.catalogue import uses_a_channel
from nodes.simulation import simulate
from nodes.training.collaboration import check_collaboration, collaborative_settings
from scenarios.contracts import OnRecords, Point, Trained, TrainingJob, simulate_all
from scenarios.elaa.cells import NUM_STEPS, make_cell, make_shared, resolve
from scenarios.elaa.config import Axes, ElaaConfig, check, check_results, measured_on, trained_for
from scenarios.elaa.jobs import JOBS, job_settings, train_job
from scenarios.elaa.limits import check_shares
from scenarios.elaa.measures import Question, air_records, answer, group
from scenarios.elaa.presets import PAPER, TINY
from scenarios.elaa.vocabulary import METHODS
from semcom.codecs.names import codec_name
from semcom.contracts import Record, SemcomError
from semcom.train import CENTRAL, Trainer

if TYPE_CHECKING:
    import pandas as pd

    from nodes.cluster import Cluster

ON_THE_AIR = ("rate", "loss", "air")
_NOTHING = "evaluation asks for nothing: name methods in it, and what they are to meet"


class ElaaScenario:
    """Channel estimation by an extremely large array that is visible in part."""

    name = "elaa"
    jepa = "elaa-jepa"
    summary = "near-field CSI of an extremely large array of which a part sees nothing"
    config_type = ElaaConfig
    presets: Mapping[str, BaseModel] = {"tiny": TINY, "default": ElaaConfig(), "paper": PAPER}

    def prepare(
        self,
        config: ElaaConfig,
        seeds: Sequence[int],
        cluster: Cluster,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Has nothing to make: channels are drawn where they are needed."""

    def training_jobs(self, config: ElaaConfig, seed: int, mode: str) -> list[TrainingJob]:
        """Lists the models that the configured methods need; the JEPA alone in modes other than central."""
        check_collaboration(config.collaboration, mode)
        check(config)
        if mode != "central":
            return [training_job(config, "elaa-jepa", seed, mode)]
        listed = _listed(config)
        if not listed:
            raise SemcomError(_NOTHING)
        needed = [
            training_job(trained_for(config, result, axes), METHODS[method].model, seed)
            for result, method, axes in listed
            if METHODS[method].is_learned
        ]
        return sorted({job.key: job for job in needed}.values(), key=lambda job: JOBS.index(job.model))

    def train(self, job: TrainingJob, trainer: Trainer = CENTRAL) -> Trained:
        """Trains one model on one thread, its stages run by `trainer`."""
        config = job.config
        assert isinstance(config, ElaaConfig)
        tensors, log = train_job(job.model, job.seed, config, trainer)
        return Trained(tensors, log)

    def points(self, config: ElaaConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists the points of all results: estimate, unknown, noisy, size, ahead, band, rate, loss, ...

        Raises SemcomError for a configuration that asks for none of them.
        """
        check(config)
        check_results(config)
        listed = _listed(config)
        if not listed:
            raise SemcomError(_NOTHING)
        return [Point(result, method, seed, at) for result, method, at in listed for seed in seeds]

    def sweep_points(self, config: ElaaConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists one point for each estimator, at the configuration's own share and SNR."""
        check(config)
        if not config.evaluation.methods:
            raise SemcomError("evaluation.methods is empty: a sweep compares these, name one")
        check_shares(config.visibility, config.array, "visible_share", (config.visible_share,))
        return [Point("sweep", method, seed) for method in config.evaluation.methods for seed in seeds]

    def simulate(
        self,
        config: ElaaConfig,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
    ) -> list[list[Record]]:
        """Estimates and measures, the methods of one operating point together; reports go through cells."""
        return simulate_all(self, config, points, models, cluster)

    def simulate_each(
        self,
        config: ElaaConfig,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
        on_records: OnRecords,
    ) -> None:
        """Does the same, and tells of each operating point when it is done; of all reports at once, first."""
        sent = [number for number, point in enumerate(points) if point.result in ON_THE_AIR]
        if sent:
            some = [points[number] for number in sent]
            on_records(sent, self._over_the_air(config, some, models, cluster))
        groups = _groups(config, points)
        questions = [
            Question(config, tuple(some), weights_for(config, some, models))
            for some in ([points[number] for number in numbers] for numbers in groups)
        ]
        cluster.map(answer, questions, lambda index, records: on_records(groups[index], records))

    def beside(self, config: ElaaConfig, points: Sequence[Point]) -> list[list[int]]:
        """Each seed's classical reports, and operating points of classical methods alone: points' places."""
        learned = [METHODS[point.method].is_learned for point in points]
        reports: dict[int, list[int]] = {}
        for number, point in enumerate(points):
            if point.result in ON_THE_AIR and not learned[number]:
                reports.setdefault(point.seed, []).append(number)
        others = [numbers for numbers in _groups(config, points) if not any(learned[n] for n in numbers)]
        return [*reports.values(), *others]

    def _over_the_air(
        self,
        config: ElaaConfig,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
    ) -> list[list[Record]]:
        config = measured_on(config, points[0].result)
        settings = [resolve(config, point) for point in points]
        distinct = list(dict.fromkeys(settings))
        weights = {
            setting: weights_for(config, [point], models)
            for point, setting in zip(points, settings, strict=True)
        }
        shared = make_shared(config, distinct, weights, cluster)
        cells = [make_cell(config, setting) for setting in distinct]
        outcomes = simulate(cells, NUM_STEPS, cluster, shared=shared)
        outcome_of = dict(zip(distinct, outcomes, strict=True))
        return [
            air_records(config, point, outcome_of[setting])
            for point, setting in zip(points, settings, strict=True)
        ]

    def figures(self, records: pd.DataFrame, folder: Path) -> list[Path]:
        """Draws the figures of those results that the records hold."""
        from scenarios.elaa.results import draw_figures

        return draw_figures(records, folder)

    def tables(self, records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """Makes the tables of those results that the records hold."""
        from scenarios.elaa.results import make_tables

        return make_tables(records)


def training_job(config: ElaaConfig, model: str, seed: int, mode: str = "central") -> TrainingJob:
    """Makes the job that trains a model; its key hashes all that the weights depend on."""
    told = {"trains": model, "seed": seed, "version": 6, **job_settings(model, config)}
    told |= collaborative_settings(config.collaboration, mode)
    name = json.dumps(told, sort_keys=True)
    return TrainingJob(model, seed, hashlib.sha256(name.encode()).hexdigest()[:16], config, mode)


def weights_for(
    config: ElaaConfig, points: Sequence[Point], models: Mapping[str, Mapping[str, torch.Tensor]]
) -> dict[str, Mapping[str, torch.Tensor]]:
    """The tensors of the models that points of one operating point and seed need, by the models' names."""
    first = points[0]
    told = trained_for(config, first.result, first.axes)
    needed = {METHODS[point.method].model for point in points} - {""}
    return {name: models[training_job(told, name, first.seed).key] for name in sorted(needed)}


def _groups(config: ElaaConfig, points: Sequence[Point]) -> list[list[int]]:
    """Places of the points of each operating point that is not on the air."""
    rest = [number for number, point in enumerate(points) if point.result not in ON_THE_AIR]
    groups = [[rest[each] for each in numbers] for numbers in group([points[n] for n in rest])]
    # Large arrays take longest: begun last, they would keep one worker when others have nothing left.
    usual = config.array.num_elements
    groups.sort(key=lambda numbers: -int(points[numbers[0]].axes.get("num_elements", usual)))
    return groups


def _listed(config: ElaaConfig) -> list[tuple[str, str, Axes]]:
    """Result, method and axes of each point; the methods of an operating point follow one another."""
    told = config.evaluation
    listed: list[tuple[str, str, Axes]] = [
        ("estimate", method, {"visible_share": share, "snr_db": snr_db})
        for share in told.shares
        for snr_db in told.snrs_db
        for method in told.methods
    ]
    listed += [
        ("unknown", method, {"visible_share": share, "snr_db": told.unknown_snr_db})
        for share in told.unknown_shares
        for method in told.unknown_methods
    ]
    if told.noisy_targets_snr_db is not None:
        listed += [
            ("noisy", method, {"visible_share": share, "snr_db": snr_db})
            for share in told.shares
            for snr_db in told.snrs_db
            for method in told.noisy_methods
        ]
    listed += [
        (
            "size",
            method,
            {"num_elements": size, "visible_share": told.size_share, "snr_db": told.size_snr_db},
        )
        for size in told.array_sizes
        for method in told.size_methods
    ]
    listed += [
        ("ahead", method, {"look_ahead": ahead, "visible_share": share, "snr_db": told.ahead_snr_db})
        for share in told.ahead_shares
        for method in told.forecasters
        for ahead in told.look_aheads
    ]
    listed += [
        ("band", method, {"visible_share": share, "snr_db": told.band_snr_db})
        for share in told.band_shares
        for method in told.band_methods
    ]
    codec = codec_name(config.codec)
    listed += [
        ("rate", method, {"codec": name, "visible_share": told.air_share, "snr_db": told.air_snr_db})
        for name in told.air_codecs
        for method in told.air_methods
    ]
    listed += [
        (
            "loss",
            method,
            {
                "codec": codec,
                "erasure_probability": share,
                "visible_share": told.air_share,
                "snr_db": told.air_snr_db,
            },
        )
        for share in told.erasures
        for method in told.air_methods
    ]
    if uses_a_channel(config.link):
        at: Axes = {"codec": codec, "link": config.link.kind, "channel": config.channel.model}
        listed += [("air", method, at) for method in told.air_methods]
    listed += [
        (
            "feedback",
            method,
            {"bits": bits, "visible_share": share, "snr_db": told.feedback_snr_db},
        )
        for share in told.feedback_shares
        for bits in told.feedback_bits
        for method in told.feedbacks
    ]
    return listed


SCENARIO = ElaaScenario()
