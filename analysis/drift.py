"""How far clients are from the base station's model while a federation trains: a figure of their drift."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import STYLE, add_legend, new_figure, series_style
from analysis.statistics import summarise
from analysis.trainings import short_setting

DRIFTS = {
    "behind": "clients behind",
    "drift_weights": "drift of the weights",
    "drift_latents": "drift of the latents",
}
"""Columns of a round's row (see nodes.training.broadcast.Drift), and their labels; ratios are on log axes."""
_NUM_POINTS = 40


def drift_figure(rows: pd.DataFrame, num_points: int = _NUM_POINTS) -> Figure | None:
    """One panel for each of DRIFTS that any round tells, against the training step, stage after stage.

    rows: of training.parquet. A line for each setting (and model, if several): means over num_points windows
    of rounds, with 95 % intervals over seeds; faint lines are where a stage ends. None without such rows.
    """
    told = _per_window(rows, num_points)
    names = [name for name in DRIFTS if name in told and told[name].gt(0).any()]
    if not names:
        return None
    figure, panels = new_figure("page" if len(names) > 1 else "column", num_columns=len(names))
    series = list(told["series"].unique())
    with matplotlib.rc_context(STYLE):
        for axes, name in zip(panels, names, strict=True):
            for index, label in enumerate(series):
                own = told[(told["series"] == label) & told[name].notna()]
                if own.empty:
                    continue
                line = summarise(own.assign(value=own[name]), ["at"]).sort_values("at")
                style = {**series_style(index), "marker": ""}
                axes.plot(line["at"], line["mean"], label=label, **style)
                axes.fill_between(
                    line["at"], line["low"], line["high"], color=style["color"], alpha=0.2, lw=0
                )
            for end in sorted(told["stage_end"].unique())[:-1]:
                axes.axvline(end, color="0.7", linewidth=0.6, zorder=0)
            if name != "behind":
                axes.set_yscale("log")
            axes.set_xlabel("training step")
            axes.set_ylabel(DRIFTS[name])
    add_legend(figure, panels)
    return figure


def _per_window(rows: pd.DataFrame, num_points: int) -> pd.DataFrame:
    """Means over windows of rounds, with columns series, seed, at, stage_end and those of DRIFTS."""
    names = [name for name in DRIFTS if name in rows]
    if "drift_weights" not in names:
        return pd.DataFrame()
    parts, rounds = [], rows[rows["drift_weights"].notna()]
    has_models = rounds["model"].nunique() > 1
    for (model, setting, seed, _), training in rounds.groupby(
        ["model", "setting", "seed", "key"], sort=False
    ):
        told = [short_setting(str(setting)), str(model) if has_models else ""]
        start, series = 0, ", ".join(part for part in told if part) or "federated"
        for _, stage in training.groupby("stage", sort=False):
            length = int(stage["step"].max()) + 1
            window = np.arange(len(stage)) * num_points // max(num_points, len(stage))
            at = start + stage["step"].groupby(window).transform("mean")
            start += length
            means = stage[names].assign(at=at).groupby("at", as_index=False).mean()
            parts.append(means.assign(series=series, seed=str(seed), stage_end=start))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
