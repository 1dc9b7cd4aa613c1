"""The ISAC scenario's results as figures and tables, drawn from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.figures import STYLE, add_legend, draw_lines, draw_reference, new_figure, save, series_style
from analysis.statistics import summarise
from analysis.tables import pivot, to_text
from scenarios.isac.comparisons import OURS, over_no_loss, over_others, rank_in, with_either_camera
from scenarios.isac.equal_error import (
    BASELINES,
    CONTAINERS,
    WITHOUT_RECEIVERS,
    compare_at_equal_error,
    with_container,
)
from scenarios.isac.vocabulary import FALSE_ALARMS, FAULTS, MISSING, PLACES

_ORDER = [
    OURS, "supervised", "image-only", "masked-head", "last-value", "mean-fill", "zero-fill", *BASELINES,
    "oracle",
]  # fmt: skip
_REFERENCE = "oracle"
_ERROR = "localisation_error_m"
_ERROR_LABEL = "Localisation error (m)"
_TITLES = {
    _ERROR: "Localisation error (m)",
    "ospa_m": "OSPA distance (m)",
    "count_accuracy": "Share of steps with the right number of pedestrians",
    "occlusion_accuracy": "Share of pedestrians told right to be occluded or not",
    "balanced_occlusion_accuracy": "The same, mean of the shares among occluded and among visible ones",
    "psnr_db": "PSNR of the decoded frame (dB)",
    "ssim": "SSIM of the decoded frame",
    "bits_per_step": "Bits per step (header and payload)",
    "prior_share": "Share of steps answered by the prior, nothing having arrived",
}
_COLUMNS = {"scenario", "method", "seed", "metric", "value", "unit", "num_samples", "result"}
_ALARMS = ("detection_rate", "detection_rate_where_wrong", "false_alarm_rate", "auc")
_RATE_AXES = ("receiver_interval", "codec", "quality", "downscale", "container")


def _part(records: pd.DataFrame, result: str) -> pd.DataFrame:
    """The records of one result, methods in order, without the columns that it doesn't use."""
    part = records[records["result"] == result]
    if part.empty:
        return part
    part = part.sort_values("method", key=lambda m: rank_in(m, _ORDER), kind="stable")
    unused = [axis for axis in part.columns if axis not in _COLUMNS and part[axis].isna().all()]
    return part.drop(columns=unused)


def _styles(part: pd.DataFrame) -> list[str]:
    """All methods in their order, so that each looks the same in every figure."""
    return [*_ORDER, *(name for name in dict.fromkeys(part["method"]) if name not in _ORDER)]


def _varied(part: pd.DataFrame, *known: str) -> list[str]:
    """Axes of more than one value besides those known: what has to be told apart, or it would be averaged."""
    axes = [axis for axis in part.columns if axis not in _COLUMNS and axis not in known]
    return [axis for axis in axes if part[axis].nunique(dropna=False) > 1]


def _with_series(part: pd.DataFrame, *known: str) -> pd.DataFrame:
    """Names each row's line: its method, and what else is varied."""
    series = part["method"].copy()
    for axis in _varied(part, *known):
        text = part[axis].map(to_text)
        series += text.where(text == "", ", " + axis.replace("_", " ") + " " + text)
    return part.assign(series=series)


def draw_figures(records: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws the figures of those results that the records hold; returns their paths."""
    paths: list[Path] = []
    if len(missing := _metric(_part(records, "missing"), _ERROR, "missing")):
        paths += _draw_missing(missing, folder)
    for result, axis, label, name in (
        ("loss", "erasure_probability", "Probability that a packet is lost", "error_vs_loss"),
        ("receivers", "num_receivers", "CSI receivers left, one camera missing", "error_vs_receivers"),
    ):
        if len(part := _metric(_part(records, result), _ERROR, axis)):
            paths += _draw_error(part, axis, label, folder, name)
    if len(rate := _versus_bits(_part(records, "rate"))):
        paths += _draw_rate(rate, folder)
    if len(roc := _metric(_part(records, "alarm"), "roc_detection", "false_alarm", "fault")):
        paths += _draw_roc(roc, folder)
    return paths


def _metric(part: pd.DataFrame, metric: str, *axes: str) -> pd.DataFrame:
    """The rows of one metric that have these axes; none where the records don't know an axis."""
    if any(axis not in part for axis in axes):
        return part[:0]
    return part[(part["metric"] == metric) & part[list(axes)].notna().all(axis=1)]


def _draw_missing(missing: pd.DataFrame, folder: Path) -> list[Path]:
    """Dots with intervals, side by side for each set of missing sensors; the oracle is a line."""
    shown = _with_series(missing, "missing")
    names = list(dict.fromkeys(shown.loc[shown["method"] != _REFERENCE, "series"]))
    places = [name for name in MISSING if (shown["missing"] == name).any()]
    places += [name for name in dict.fromkeys(shown["missing"]) if name not in places]
    figure, axes = new_figure("page", height_in=2.4)
    panel, styles = axes[0], _styles(shown.assign(method=shown["series"]))
    with matplotlib.rc_context(STYLE):
        for number, name in enumerate(names):
            line = summarise(shown[shown["series"] == name], ["missing"])
            offset = 0.7 * ((number + 0.5) / len(names) - 0.5)
            panel.errorbar(
                [places.index(place) + offset for place in line["missing"]],
                line["mean"],
                # One seed tells no spread.
                line["half_width"].fillna(0),
                label=name,
                capsize=2,
                elinewidth=0.7,
                **{**series_style(styles.index(name)), "linestyle": "none"},
            )
        for edge in range(1, len(places)):
            panel.axvline(edge - 0.5, color="0.8", linewidth=0.5, zorder=0)
        panel.set_xticks(range(len(places)), places)
        panel.set_xlim(-0.5, len(places) - 0.5)
        panel.grid(axis="x", visible=False)
    reference = missing[missing["method"] == _REFERENCE]
    if len(reference):
        draw_reference(panel, f"{_REFERENCE}, nothing missing", float(reference["value"].mean()))
    panel.set_ylim(bottom=0)
    _label(panel, "Sensors that are missing", _ERROR_LABEL)
    add_legend(figure, axes)
    return save(figure, folder, "error_vs_missing")


def _draw_error(part: pd.DataFrame, axis: str, label: str, folder: Path, name: str) -> list[Path]:
    shown = _with_series(part, axis)
    figure, axes = new_figure("column")
    _draw_lines(axes[0], shown, axis, _ERROR, _styles(shown.assign(method=shown["series"])))
    if axis == "num_receivers":
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylim(bottom=0)
    _label(axes[0], label, _ERROR_LABEL)
    add_legend(figure, axes)
    return save(figure, folder, name)


def _versus_bits(rate: pd.DataFrame) -> pd.DataFrame:
    """Puts the bits per step, averaged over seeds, beside each error; points without bits are left out."""
    error = _metric(rate, _ERROR)
    if error.empty:
        return error
    point = ["method", *(axis for axis in _RATE_AXES if axis in rate)]
    bits = rate[rate["metric"] == "bits_per_step"].groupby(point, dropna=False)["value"].mean()
    merged = error.merge(bits.rename("mean_bits").reset_index(), on=point)
    return merged[merged["mean_bits"] > 0].sort_values("mean_bits", kind="stable")


def _draw_rate(rate: pd.DataFrame, folder: Path) -> list[Path]:
    """A line for each method, and one of JPEG for each size of its frames.

    Of JPEG frames that are sent in more than one way only the scans are drawn: files have the same errors.
    A panel for how often receivers report; methods without them are in each.
    """
    container = with_container(rate)["container"]
    sent = next((name for name in CONTAINERS if (container == name).any()), "scan")
    rate = rate[container.isna() | (container == sent)]
    series = rate["method"].where(
        container.isna() | (sent == "scan"), rate["method"] + f" {CONTAINERS[sent]}"
    )
    if "downscale" in rate and rate["downscale"].nunique() > 1:
        size = rate["downscale"].map({1: "full size", 2: "half size", 4: "quarter size"})
        series = series.where(size.isna(), series + ", " + size.fillna(""))
    rate = rate.assign(series=series)
    order = list(dict.fromkeys(rate.sort_values("method", key=lambda m: rank_in(m, _ORDER))["series"]))
    alone = rate["method"].isin(WITHOUT_RECEIVERS)
    parts: list[tuple[str, pd.DataFrame]] = [("", rate)]
    if "receiver_interval" in rate and rate.loc[~alone, "receiver_interval"].nunique() > 1:
        parts = [
            (
                f"Receivers report every {_steps(interval)}",
                rate[alone | (rate["receiver_interval"] == interval)],
            )
            for interval in sorted(rate.loc[~alone, "receiver_interval"].unique())
        ]
    figure, axes = new_figure("column" if len(parts) == 1 else "page", num_columns=len(parts))
    low, high, top = rate["mean_bits"].min(), rate["mean_bits"].max(), 1.05 * rate["value"].max()
    for panel, (title, part) in zip(axes, parts, strict=True):
        _draw_lines(panel, part, "mean_bits", _ERROR, order)
        panel.set_xscale("log")
        panel.set_xlim(low / 1.2, 1.2 * high)
        panel.set_ylim(0, top)
        panel.set_title(title, fontsize=8)
        _label(panel, "Bits per step", _ERROR_LABEL)
    add_legend(figure, axes)
    return save(figure, folder, "error_vs_bits")


def _steps(number: float) -> str:
    return "step" if number == 1 else f"{number:g} steps"


def _draw_roc(roc: pd.DataFrame, folder: Path) -> list[Path]:
    """A panel for each sensor and score, a line for each fault; a logarithmic axis has no place for zero."""
    shown = roc[roc["false_alarm"] > 0].sort_values(
        "fault", key=lambda names: rank_in(names, FAULTS), kind="stable"
    )
    panels = [axis for axis in ("score", "sensor") if axis in shown]
    several = shown["method"].nunique() > 1
    shown = shown.assign(series=shown["fault"] + (", " + shown["method"] if several else ""))
    parts: list[tuple[Any, pd.DataFrame]] = (
        list(shown.groupby(panels, sort=False)) if panels else [((), shown)]
    )
    num_columns = shown["sensor"].nunique() if "sensor" in shown else len(parts)
    num_rows = -(-len(parts) // num_columns)
    width: Literal["column", "page"] = "column" if len(parts) == 1 else "page"
    figure, axes = new_figure(width, height_in=2.1 * num_rows, num_columns=num_columns, num_rows=num_rows)
    for panel, (names, part) in zip(axes, parts, strict=False):
        _draw_lines(panel, part, "false_alarm", "roc_detection", list(dict.fromkeys(shown["series"])))
        grid = np.geomspace(part["false_alarm"].min(), 1, 50).tolist()
        draw_reference(panel, "chance", (grid, grid))
        panel.axvline(FALSE_ALARMS, color="0.8", linewidth=0.8, zorder=0)
        panel.set_xscale("log")
        panel.set_ylim(0, 1.03)
        panel.set_title(", ".join(str(name) for name in reversed(list(names))), fontsize=8)
        _label(panel, "False-alarm rate", "Detection rate")
    add_legend(figure, axes)
    return save(figure, folder, "alarm_roc")


def _draw_lines(panel: Axes, part: pd.DataFrame, x: str, metric: str, order: Sequence[str]) -> None:
    with matplotlib.rc_context(STYLE):
        draw_lines(panel, part, x, metric, by="series", order=order)


def _label(panel: Axes, x: str, y: str) -> None:
    with matplotlib.rc_context(STYLE):
        panel.set_xlabel(x)
        panel.set_ylabel(y)


def make_tables(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Makes the tables of those results that the records hold: means and 95 % intervals over seeds."""
    tables: list[tuple[str, pd.DataFrame]] = []
    missing = with_either_camera(_part(records, "missing"))
    for metric, title in _TITLES.items():
        if len(part := _metric(missing, metric, "missing")):
            part = part.sort_values("missing", key=lambda names: rank_in(names, PLACES), kind="stable")
            tables.append((f"Missing sensors: {title}", _by(part, "missing")))
    if len(ratios := over_others(_ordered(missing))):
        tables.append((f"{OURS} over each other method, by missing sensors", ratios))
    for result, axis, words in (
        ("loss", "erasure_probability", "by the share of packets lost"),
        ("receivers", "num_receivers", "by CSI receivers left, one camera missing"),
    ):
        part = _part(records, result)
        if axis not in part:
            continue
        part = part.sort_values(axis, kind="stable")
        if len(error := _metric(part, _ERROR, axis)):
            tables.append((f"Localisation error (m) {words}", _by(error, axis)))
            if len(ratios := over_no_loss(error)):
                tables.append(("Localisation error over that without loss", _by(ratios, axis)))
            if len(rest := _ordered(part[part["metric"] != _ERROR])):
                keys = ["method", *_varied(rest, axis), axis]
                tables.append((f"What else there is {words}", pivot(rest, keys)))
    if len(rate := _ordered(_part(records, "rate"))):
        axes = [axis for axis in _RATE_AXES if axis in rate]
        tables.append(("Error by bits per step (header and payload)", pivot(rate, ["method", *axes])))
        if len(compared := compare_at_equal_error(rate)):
            tables.append(
                ("How many times the bits JPEG frames need for the same localisation error", compared)
            )
    alarm = _part(records, "alarm")
    if len(chosen := alarm[alarm["metric"].isin(_ALARMS)]):
        axes = [axis for axis in ("fault", "sensor", "score") if axis in chosen]
        rank = {metric: index for index, metric in enumerate(_ALARMS)}
        chosen = chosen.sort_values("metric", key=lambda m: m.map(rank), kind="stable")
        if "fault" in axes:
            chosen = chosen.sort_values("fault", key=lambda f: rank_in(f, FAULTS), kind="stable")
        title = (
            f"Corrupted sensors detected, the threshold being set for {100 * FALSE_ALARMS:g} % false alarms"
        )
        tables.append((title, pivot(chosen, ["method", *axes])))
    if len(air := _ordered(_part(records, "air"))):
        axes = [axis for axis in ("codec", "link", "channel") if axis in air]
        keys = ["method", *axes, *_varied(air, *axes)]
        tables.append(("Over the configured link", pivot(air, keys)))
    return tables


def _by(part: pd.DataFrame, axis: str) -> pd.DataFrame:
    """A line for each method (and what else is varied), a column for each value of an axis."""
    return pivot(part, ["method", *_varied(part, axis)], axis)


def _ordered(part: pd.DataFrame) -> pd.DataFrame:
    """Rows with the metrics in their order, unknown ones last."""
    return part.sort_values("metric", key=lambda names: rank_in(names, list(_TITLES)), kind="stable")
