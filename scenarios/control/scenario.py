"""The control scenario: what it trains, its operating points, and how they are simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel

from channels.catalogue import uses_a_channel
from channels.downlink import NoDownlinkConfig
from channels.links.erasure import ErasureConfig
from nodes.simulation import simulate
from nodes.training.collaboration import check_collaboration
from scenarios.contracts import Point, Trained, TrainingJob
from scenarios.control.cells import make_cell, make_shared, resolve, training_job
from scenarios.control.config import PAPER, TINY, ControlConfig, can_carry, check
from scenarios.control.methods import METHODS, REFERENCES
from scenarios.control.metrics import make_records
from scenarios.control.training import train_model
from semcom.codecs.names import codec_config, codec_name
from semcom.contracts import Record
from semcom.train import CENTRAL, Trainer

if TYPE_CHECKING:
    import pandas as pd

    from nodes.cluster import Cluster


class ControlScenario:
    """Predictive remote control of a cart-pole over the air (after TS-JEPA, arXiv 2406.04853)."""

    name = "control"
    jepa = "jepa"
    summary = "remote control of a cart-pole seen by a camera, with and without a JEPA"
    config_type = ControlConfig
    presets: Mapping[str, BaseModel] = {"tiny": TINY, "default": ControlConfig(), "paper": PAPER}

    def prepare(
        self,
        config: ControlConfig,
        seeds: Sequence[int],
        cluster: Cluster,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Has nothing to prepare."""

    def training_jobs(self, config: ControlConfig, seed: int, mode: str) -> list[TrainingJob]:
        """Lists the models that the configured methods need; the JEPA alone in modes other than central."""
        check_collaboration(config.collaboration, mode)
        check(config)
        if mode != "central":
            return [training_job(config, "jepa", seed, mode)]
        sharing = config.evaluation.sharing
        used = (*config.evaluation.methods, *(sharing.methods if sharing.schedulers else ()))
        names = {METHODS[method].model for method in used}
        return [
            training_job(config, name, seed)
            for name in ("jepa", "supervised", "autoencoder")
            if name in names
        ]

    def train(self, job: TrainingJob, trainer: Trainer = CENTRAL) -> Trained:
        """Trains one model on one thread, its stages run by `trainer`."""
        assert isinstance(job.config, ControlConfig)
        model, log = train_model(job.model, job.seed, job.config.training_inputs(), trainer)
        return Trained(model.state_dict(), log)

    def points(self, config: ControlConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists the points of the results: rate, codec and erasure; horizon; sharing.

        Points that are the same cell (a horizon is also an update interval) stand beside each other, so
        that they are mostly simulated together, once. What the analog link can't carry (raw frames, codecs
        that make bits) is left out of the results over it.
        """
        check(config)
        told, sharing = config.evaluation, config.evaluation.sharing
        points: list[Point] = []

        configured: dict[str, float | int | str] = {"link": config.link.kind}
        if isinstance(config.link, ErasureConfig):
            configured["erasure_probability"] = config.link.probability
        if uses_a_channel(config.link):
            configured["channel"] = config.channel.model
        # A column only where there is a downlink, so that the points of runs without one stay what they were.
        downlink: dict[str, float | int | str] = {"downlink": config.downlink.link.kind}
        without: dict[str, float | int | str] = {"downlink": "none"}
        if isinstance(config.downlink.link, NoDownlinkConfig):
            downlink, without = {}, {}

        def add(
            result: str,
            method: str,
            steps: int,
            link: dict[str, float | int | str] | None = None,
            **axes: float | int | str,
        ) -> None:
            at: dict[str, float | int | str] = {
                "update_interval_ms": round(1e3 * config.plant.step_s * steps, 6),
                "codec": codec_name(config.codec) if METHODS[method].source == "embedding" else "none",
            }
            at |= {"link": "ideal"} if method in REFERENCES else link or configured
            sent = (
                codec_config(str(axes.get("codec", at["codec"]))) if at["codec"] != "none" else config.codec
            )
            if at["link"] == config.link.kind and not can_carry(config.link, method, sent):
                return
            at |= without if method in REFERENCES or result == "horizon" else downlink
            points.extend(Point(result, method, seed, at | axes) for seed in seeds)

        for method in told.methods:
            if METHODS[method].event_triggered:
                for threshold in told.event_thresholds_n:
                    add("rate", method, 1, event_threshold_n=threshold)
                continue
            if method == "state-feedback":
                add("rate", method, 1)
                continue
            intervals = {
                *told.interval_steps,
                *told.codec_interval_steps,
                *told.erasure_interval_steps,
                *told.horizon_steps,
            }
            for steps in sorted(intervals):
                if steps in told.interval_steps:
                    add("rate", method, steps)
                if steps in told.horizon_steps:
                    add("horizon", method, steps, {"link": "erasure", "erasure_probability": 0.0})
                if steps in told.codec_interval_steps and method == "jepa":
                    for codec in told.codecs:
                        add("codec", method, steps, codec=codec)
                if steps in told.erasure_interval_steps and method in told.erasure_methods:
                    for probability in told.erasures:
                        add("erasure", method, steps, {"link": "erasure", "erasure_probability": probability})
        carrier = config.link.kind if uses_a_channel(config.link) else "nr"
        for scheduler in sharing.schedulers:
            for method in sharing.methods:
                frames = METHODS[method].source == "frames"
                steps = sharing.interval_steps_frames if frames else sharing.interval_steps_semantic
                event: dict[str, float | int | str] = {}
                if METHODS[method].event_triggered:
                    steps, event = 1, {"event_threshold_n": told.event_threshold_n}
                for num in sharing.num_devices_frames if frames else sharing.num_devices_semantic:
                    shared = {"scheduler": scheduler, "num_devices": num, **event}
                    add("sharing", method, steps, {"link": carrier}, **shared)
        return points

    def sweep_points(self, config: ControlConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists one point for each method: the configuration's own update interval, codec and link."""
        check(config)
        methods = [
            method
            for method in config.evaluation.methods
            if method in REFERENCES or can_carry(config.link, method, config.codec)
        ]
        return [Point("sweep", method, seed) for method in methods for seed in seeds]

    def simulate(
        self,
        config: ControlConfig,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
    ) -> list[list[Record]]:
        """Simulates a batch of points, each one cell, and returns the records of each.

        Points of equal settings share a cell. Raises SemcomError for a checkpoint that doesn't fit.
        """
        settings = [resolve(config, point) for point in points]
        distinct = list(dict.fromkeys(settings))
        shared = make_shared(config, distinct, models)
        cells = [make_cell(config, setting) for setting in distinct]
        outcomes = simulate(cells, config.evaluation.num_steps, cluster, shared=shared)
        outcome_of = dict(zip(distinct, outcomes, strict=True))
        return [
            make_records(config, point, setting, outcome_of[setting])
            for point, setting in zip(points, settings, strict=True)
        ]

    def figures(self, records: pd.DataFrame, folder: Path) -> list[Path]:
        """Draws the figures of the three results."""
        from scenarios.control.results import draw_figures

        return draw_figures(records, folder)

    def tables(self, records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """Makes the tables of the three results."""
        from scenarios.control.results import make_tables

        return make_tables(records)


SCENARIO = ControlScenario()
