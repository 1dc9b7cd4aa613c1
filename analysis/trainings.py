"""What trainings cost and what they reached: one table for all modes, and the score against bits."""

from __future__ import annotations

import json

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import STYLE, add_legend, draw_reference, new_figure, series_style
from analysis.statistics import Interval, mean_interval
from analysis.tables import format_interval

COSTS = {
    "bits_up": ("Mbit up", 1e-6),
    "bits_down": ("Mbit down", 1e-6),
    "airtime_s": ("airtime (s)", 1.0),
    "energy_j": ("energy (J)", 1.0),
    "device_flops": ("device GFLOP", 1e-9),
    "device_memory_bytes": ("device MB", 1e-6),
    "rounds": ("rounds", 1.0),
    "duration_s": ("simulated time (s)", 1.0),
    "wall_s": ("wall time (s)", 1.0),
}
"""Columns of an account: their heads in the table and the factors to their units; megabytes of 10^6 bytes."""
_NARROW = 3.0
"""Bits that differ by a smaller factor are drawn on a linear axis."""


def summarise_trainings(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each training that was accounted for: mode, setting, model, seed, score, metric, COSTS.

    rows: of training.parquet. score is NaN without a row "score".
    """
    # An empty table would take the scores' rows for its own.
    if "stage" not in rows or not (rows["stage"] == "account").any():
        return pd.DataFrame(columns=["mode", "setting", "model", "seed", "score", "metric", *COSTS])
    accounts = rows[rows["stage"] == "account"].set_index("key")
    scores = rows[rows["stage"] == "score"]
    # Where clients end with models of their own, their scores follow the mean of all.
    if "client" in scores:
        scores = scores[scores["client"].isna()]
    scores = scores.set_index("key")
    told = accounts[["mode", "setting", "model", "seed"]].copy()
    for name in ("score", "metric"):
        told[name] = scores.get(name)
    told["score"] = told["score"].astype(float)
    for name in COSTS:
        told[name] = accounts[name].astype(float) if name in accounts else float("nan")
    return told.reset_index(drop=True).sort_values(["model", "mode", "setting", "seed"], ignore_index=True)


def training_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each mode and setting (and model, if several): mean ± interval over seeds."""
    told = summarise_trainings(rows)
    names = ["mode"] + [name for name in ("setting", "model") if told[name].nunique() > 1]
    lines = []
    for key, group in told.groupby(names, sort=False):
        line: dict[str, object] = {
            name: short_setting(str(value)) if name == "setting" else value
            for name, value in zip(names, key, strict=True)
        }
        line |= {"seeds": len(group), "score": _interval_text(group["score"], 1.0)}
        line |= {head: _interval_text(group[name], factor) for name, (head, factor) in COSTS.items()}
        lines.append(line)
    return pd.DataFrame(lines)


def training_figure(rows: pd.DataFrame) -> Figure | None:
    """Score against the bits of a whole training, up and down; None if no training has both.

    One marker for each mode and setting, with 95 % intervals over seeds; trainings without a bit are levels.
    """
    told = summarise_trainings(rows)
    told["bits"] = told["bits_up"] + told["bits_down"]
    told = told[told["score"].notna()]
    if told.empty:
        return None
    names = ["mode"] + [name for name in ("setting", "model") if told[name].nunique() > 1]
    figure, (axes,) = new_figure()
    with matplotlib.rc_context(STYLE):
        for index, (key, group) in enumerate(told.groupby(names, sort=False)):
            label = ", ".join(
                part
                for name, value in zip(names, key, strict=True)
                if (part := short_setting(str(value)) if name == "setting" else str(value))
            )
            score, bits = mean_interval(group["score"]), mean_interval(group["bits"])
            if bits.mean == 0:
                draw_reference(axes, label, score.mean)
                continue
            style = {**series_style(index), "linestyle": "none"}
            axes.errorbar(
                bits.mean,
                score.mean,
                yerr=_width(score),
                xerr=_width(bits),
                label=label,
                capsize=2,
                elinewidth=0.7,
                **style,
            )
        # Within one decade the ticks of a logarithmic axis all bear numbers, on top of each other.
        spent = told.loc[told["bits"] > 0, "bits"]
        if spent.empty or spent.max() > _NARROW * spent.min():
            axes.set_xscale("log")
        else:
            axes.ticklabel_format(axis="x", useMathText=True)
        axes.set_xlabel("bits of the training, up and down")
        metrics = [str(name) for name in told["metric"].dropna().unique()]
        axes.set_ylabel(f"score ({metrics[0]})" if len(metrics) == 1 else "score")
    add_legend(figure, [axes], inside=False)
    return figure


def short_setting(setting: str) -> str:
    """A setting as it stands in tables and legends: `collaboration.federated.strategy.kind=krum` as krum.

    Where several kinds have the same name, each is told with what it is a kind of.
    """
    parts = [part.partition("=")[::2] for part in setting.split("; ") if part]
    kinds = [value for key, value in parts if key.endswith(".kind")]
    told = []
    for key, value in parts:
        *_, owner, name = ("", *key.split("."))
        if name != "kind":
            told.append(f"{name.replace('_', ' ')} {value}")
        else:
            told.append(value if kinds.count(value) == 1 else f"{owner.replace('_', ' ')} {value}")
    return ", ".join(told)


def setting_text(values: dict[str, object]) -> str:
    """Writes the values of a sweep's axes as one text: `key=value; key=value`."""
    return "; ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()
    )


def _interval_text(values: pd.Series, factor: float) -> str:
    interval = mean_interval(factor * values)
    return "" if pd.isna(interval.mean) else format_interval(interval.mean, interval.half_width)


def _width(interval: Interval) -> float:
    return 0.0 if pd.isna(interval.half_width) else interval.half_width
