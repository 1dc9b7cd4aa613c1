"""The ELAA scenario: what it trains, its operating points, and how they are simulated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel

from channels.catalogue import uses_a_channel
from nodes.process import one_thread
from nodes.simulation import simulate
from scenarios.contracts import Point, Trained, TrainingJob
from scenarios.elaa.cells import NUM_STEPS, make_cell, make_shared, resolve
from scenarios.elaa.config import PAPER, TINY, ElaaConfig, check, check_results
from scenarios.elaa.jobs import JOBS, train_job
from scenarios.elaa.limits import check_shares
from scenarios.elaa.measures import Question, air_records, answer, group
from scenarios.elaa.task import TrainingInputs
from scenarios.elaa.vocabulary import ESTIMATORS
from semcom.codecs.names import codec_name
from semcom.contracts import Record, SemcomError

if TYPE_CHECKING:
    import pandas as pd

    from nodes.cluster import Cluster

Axes = Mapping[str, float | int | str]
ON_THE_AIR = ("rate", "loss", "air")
_NOTHING = "evaluation asks for nothing: name methods in it, and what they are to meet"


class ElaaScenario:
    """Channel estimation by an extremely large array that is visible in part."""

    name = "elaa"
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
        """Lists the models that the configured methods need. Raises SemcomError for a mode but central."""
        if mode != "central":
            raise SemcomError(f"mode = {mode!r}: the elaa scenario trains in mode central only, so far")
        check(config)
        listed = _listed(config)
        if not listed:
            raise SemcomError(_NOTHING)
        needed = {(result == "noisy", ESTIMATORS[m].model) for result, m, _ in listed if m in ESTIMATORS}
        return [
            training_job(trained_on(config, noisy=noisy), name, seed)
            for noisy in (False, True)
            for name in JOBS
            if (noisy, name) in needed
        ]

    def train(self, job: TrainingJob, scratch: Path | None = None) -> Trained:
        """Trains one model on one thread, and goes on from what an earlier attempt left in `scratch`."""
        config = job.config
        assert isinstance(config, ElaaConfig)
        tensors, log = train_job(
            job.model,
            job.seed,
            config.array,
            config.visibility,
            config.examples,
            config.training_shares,
            TrainingInputs(config.model, config.training),
            scratch,
        )
        return Trained(tensors, log)

    def points(self, config: ElaaConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists the points of the results: estimate, unknown, noisy, size, ahead, rate, loss, air, feedback.

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
        found: dict[int, list[Record]] = {}
        sent = [number for number, point in enumerate(points) if point.result in ON_THE_AIR]
        if sent:
            some = [points[number] for number in sent]
            found |= dict(zip(sent, self._over_the_air(config, some, cluster), strict=True))
        rest = [number for number in range(len(points)) if number not in found]
        groups = [[rest[each] for each in numbers] for numbers in group([points[n] for n in rest])]
        questions = [_question(config, [points[number] for number in numbers], models) for numbers in groups]
        for numbers, records in zip(groups, cluster.map(answer, questions), strict=True):
            found |= dict(zip(numbers, records, strict=True))
        return [found[number] for number in range(len(points))]

    def _over_the_air(
        self, config: ElaaConfig, points: Sequence[Point], cluster: Cluster
    ) -> list[list[Record]]:
        settings = [resolve(config, point) for point in points]
        distinct = list(dict.fromkeys(settings))
        with one_thread():
            shared = make_shared(config, distinct)
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


def trained_on(config: ElaaConfig, *, noisy: bool) -> ElaaConfig:
    """The configuration that models are trained with: as it is, or on noisy channels."""
    if not noisy:
        return config
    told = config.examples.model_copy(update={"target_snr_db": config.evaluation.noisy_targets_snr_db})
    return config.model_copy(update={"examples": told})


def training_job(config: ElaaConfig, model: str, seed: int) -> TrainingJob:
    """Makes the job that trains a model; its key hashes all that the weights depend on."""
    told: dict[str, Any] = {
        part: getattr(config, part).model_dump(mode="json")
        for part in ("array", "visibility", "examples", "model", "training")
    }
    told["shares"] = config.training_shares
    name = json.dumps({"trains": model, "seed": seed, "version": 1, **told}, sort_keys=True)
    return TrainingJob(model, seed, hashlib.sha256(name.encode()).hexdigest()[:16], config)


def _question(
    config: ElaaConfig, points: Sequence[Point], models: Mapping[str, Mapping[str, torch.Tensor]]
) -> Question:
    first = points[0]
    told = trained_on(config, noisy=first.result == "noisy")
    needed = {ESTIMATORS[point.method].model for point in points if point.method in ESTIMATORS} - {""}
    weights = {name: models[training_job(told, name, first.seed).key] for name in sorted(needed)}
    return Question(config, tuple(points), weights)


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
        for ahead in told.look_aheads
        for method in told.forecasters
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
            {"bits": bits, "visible_share": told.feedback_share, "snr_db": told.feedback_snr_db},
        )
        for bits in told.feedback_bits
        for method in told.feedbacks
    ]
    return listed


SCENARIO = ElaaScenario()
