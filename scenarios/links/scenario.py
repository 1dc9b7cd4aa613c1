"""The links scenario: no model and no task, only what arrives over each link at each SNR."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from channels.links.transport_tables import KNOWN_MCS
from channels.links.uncoded import BITS_PER_SYMBOL
from scenarios.contracts import OnRecords, Point, Trained, TrainingJob, simulate_all
from scenarios.links.config import PAPER, TINY, LinksConfig, check
from scenarios.links.curves import measure
from semcom.contracts import Record, SemcomError

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from nodes.cluster import Cluster


class LinksScenario:
    """Block error rate and goodput of the links by SNR, with closed forms and Sionna's own curves."""

    name = "links"
    jepa = ""
    summary = "error rates and goodput of the links by SNR, closed forms beside them; no model"
    config_type = LinksConfig
    presets: Mapping[str, BaseModel] = {"tiny": TINY, "default": LinksConfig(), "paper": PAPER}

    def prepare(
        self,
        config: LinksConfig,
        seeds: Sequence[int],
        cluster: Cluster,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Has nothing to prepare."""

    def training_jobs(self, config: LinksConfig, seed: int, mode: str) -> list[TrainingJob]:
        """Lists nothing: no link is trained here. Raises SemcomError for a mode but central."""
        if mode != "central":
            raise SemcomError(f"mode = {mode!r}: the links scenario has nothing to train, in no mode")
        check(config)
        return []

    def train(self, job: TrainingJob, scratch: Path | None = None) -> Trained:
        """Gives no tensors: a link has no weights, so no job is listed."""
        return Trained({}, [])

    def points(self, config: LinksConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists the curves: a point is one of them, its SNRs are columns of its records."""
        check(config)
        curves: list[tuple[str, str, dict[str, float | int | str]]] = [
            ("uncoded", modulation, {"channel": channel})
            for modulation in BITS_PER_SYMBOL
            for channel in ("awgn", "rayleigh")
        ]
        curves += [("analog", "analog", {"channel": channel}) for channel in ("awgn", "rayleigh")]
        for channel in config.channels:
            for table, indices in ((1, config.mcs_table_1), (2, config.mcs_table_2)):
                for index in indices:
                    at = {"channel": channel, "mcs_table": table, "mcs_index": index}
                    curves += [
                        ("bler", method, dict(at))
                        for method in config.methods
                        if _has_error_rates(method, table, index)
                    ]
        return [Point(result, method, seed, at) for result, method, at in curves for seed in seeds]

    def sweep_points(self, config: LinksConfig, seeds: Sequence[int]) -> list[Point]:
        """Lists one point for each method: the configuration's own channel, MCS and SNR (`point`)."""
        check(config)
        methods = [
            name
            for name in config.methods
            if _has_error_rates(name, config.point.mcs_table, config.point.mcs_index)
        ]
        return [Point("sweep", method, seed) for method in methods for seed in seeds]

    def simulate(
        self,
        config: LinksConfig,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
    ) -> list[list[Record]]:
        """Measures curves, spread over the cluster's workers."""
        return simulate_all(self, config, points, models, cluster)

    def simulate_each(
        self,
        config: LinksConfig,
        points: Sequence[Point],
        models: Mapping[str, Mapping[str, torch.Tensor]],
        cluster: Cluster,
        on_records: OnRecords,
    ) -> None:
        """Does the same, and tells of each curve when it is measured."""
        cluster.map(partial(measure, config), points, lambda index, records: on_records([index], [records]))

    def figures(self, records: pd.DataFrame, folder: Path) -> list[Path]:
        """Draws error rates and goodput by SNR, uncoded error rates and the analog link's distortion."""
        from scenarios.links.results import draw_figures

        return draw_figures(records, folder)

    def tables(self, records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """Makes the tables of how far the links and the closed forms are apart."""
        from scenarios.links.results import make_tables

        return make_tables(records)


def _has_error_rates(method: str, mcs_table: int, mcs_index: int) -> bool:
    # Sionna ships none of table 2 (docs/decisions/006), and not of every MCS of table 1.
    first, last = KNOWN_MCS["sionna", 1]
    return method != "nr-sionna" or (mcs_table == 1 and first <= mcs_index <= last)


SCENARIO = LinksScenario()
