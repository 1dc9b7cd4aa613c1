"""How far clients are from the base station's model while a federation trains: a figure of their drift."""

from __future__ import annotations

import matplotlib
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
    series = list(told.groupby(["model", "setting"], sort=False))
    ends = {tuple(sorted(own["stage_end"].unique())) for _, own in series}
    has_models = told["model"].nunique() > 1
    with matplotlib.rc_context(STYLE):
        for axes, name in zip(panels, names, strict=True):
            for index, ((model, setting), rounds) in enumerate(series):
                own = rounds[rounds[name].notna()]
                if own.empty:
                    continue
                line = summarise(own.assign(value=own[name]), ["at"]).sort_values("at")
                at, style = line["at"], {**series_style(index), "marker": ""}
                parts = (short_setting(str(setting)), str(model) if has_models else "")
                label = ", ".join(part for part in parts if part) or "federated"
                axes.plot(at, line["mean"], label=label, **style)
                low = line["low"].clip(lower=0)
                axes.fill_between(at, low, line["high"], color=style["color"], alpha=0.2, lw=0)
            # Where series have stages of different lengths, a line would be of one of them only.
            if len(ends) == 1:
                for end in next(iter(ends))[:-1]:
                    axes.axvline(end, color="0.7", linewidth=0.6, zorder=0)
            if name != "behind":
                axes.set_yscale("log")
            axes.set_xlabel("training step")
            axes.set_ylabel(DRIFTS[name])
    add_legend(figure, panels)
    return figure


def _per_window(rows: pd.DataFrame, num_points: int) -> pd.DataFrame:
    """Means over num_points windows of a stage's steps, with columns model, setting, seed, at (the
    window's middle), stage_end and those of DRIFTS.

    A stage of fewer steps has a window for each.
    """
    names = [name for name in DRIFTS if name in rows]
    if "drift_weights" not in names:
        return pd.DataFrame()
    parts, rounds = [], rows[rows["drift_weights"].notna()]
    for (model, setting, seed, _), training in rounds.groupby(
        ["model", "setting", "seed", "key"], sort=False
    ):
        start = 0
        for _, stage in training.groupby("stage", sort=False):
            length = int(stage["step"].max()) + 1
            width = max(1.0, length / num_points)
            at = start + ((stage["step"] + 0.5) // width + 0.5) * width
            start += length
            means = stage[names].assign(at=at).groupby("at", as_index=False).mean()
            names_of = {"model": str(model), "setting": str(setting), "seed": str(seed)}
            parts.append(means.assign(**names_of, stage_end=start))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
