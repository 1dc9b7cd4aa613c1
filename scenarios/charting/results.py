"""The charting scenario's results as figures and tables, drawn from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.axes
import numpy as np
import pandas as pd

from analysis.figures import STYLE, add_legend, draw_lines, draw_reference, new_figure, save
from analysis.statistics import intervals_overlap, mean_interval
from analysis.tables import format_interval, pivot
from scenarios.charting.methods import TOLD_VELOCITIES

_ORDER = [
    "w-jepa", "supervised", "odometry", "siamese", "isomap", "sammon", "autoencoder", "pca",
    "last-value", "hold-last", "constant-velocity", "wiener", "wiener-chart", "lstm", "lstm-velocity",
    "dead-reckoning", "csi", "features",
]  # fmt: skip
SIMPLE_FORECASTS = ("last-value", "constant-velocity", "wiener", "wiener-chart")
"""The forecasts that the paper's headline is about, the Wiener filter in both its forms."""
_NEIGHBOURHOOD = ("trustworthiness", "continuity")
_CHART_METRICS = (
    "trustworthiness", "continuity", "kruskal_stress", "rajski_distance", "mae", "drms", "cep", "r95",
    "fitted_mae",
)  # fmt: skip
_SOURCES = {
    ("w-jepa", False): "embedding",
    ("csi", False): "CSI, quantised",
    ("csi", True): "CSI, transform coded",
    ("features", True): "features, transform coded",
}


def _part(records: pd.DataFrame, result: str) -> pd.DataFrame:
    part = records[records["result"] == result]
    if part.empty:
        return part
    rank = {method: index for index, method in enumerate(_ORDER)}
    part = part.sort_values("method", key=lambda m: m.map(rank), kind="stable")
    unused = [axis for axis in part.columns if axis != "value" and part[axis].isna().all()]
    return part.drop(columns=unused)


def _present(part: pd.DataFrame) -> list[str]:
    """The methods that there are, in order: styles are then dealt to as few as possible."""
    return list(dict.fromkeys(part["method"]))


def draw_figures(records: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws the figures of those results that the records hold; returns their paths."""
    chart, forecast, velocity, rate, loss = (
        _part(records, name) for name in ("chart", "forecast", "velocity", "rate", "loss")
    )
    paths: list[Path] = []
    if len(chart[chart["metric"] == "chart_x"]):
        paths += _draw_charts(chart, folder, "charts")
    snapshot = _part(records, "snapshot")
    if len(snapshot[snapshot["metric"] == "chart_x"]):
        paths += _draw_snapshots(snapshot, folder)
    if len(forecast):
        paths += _draw_forecasts(forecast, folder)
        if forecast["metric"].str.startswith("sum_rate").any():
            paths += _draw_sum_rates(forecast, folder)
    if len(velocity):
        paths += _draw_velocity(velocity, folder)
    if len(rate):
        paths += _draw_rate(rate, folder)
    if len(loss):
        paths += _draw_loss(loss, folder)
    return paths


def _draw_charts(chart: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Positions, and every method's chart, in the colours of the positions."""
    methods = list(dict.fromkeys(chart.loc[chart["metric"] == "chart_x", "method"]))
    num_columns = min(4, len(methods) + 1)
    num_rows = -(-(len(methods) + 1) // num_columns)
    figure, axes = new_figure("page", height_in=1.75 * num_rows, num_columns=num_columns, num_rows=num_rows)
    with matplotlib.rc_context(STYLE):
        for panel, method in zip(axes, ["position", *methods], strict=False):
            of_method = chart[chart["method"] == (methods[0] if method == "position" else method)]
            points = of_method[of_method["seed"] == of_method["seed"].min()].pivot_table(
                index="index", columns="metric", values="value"
            )
            at = points[["position_x", "position_y"]].dropna()
            low, high = at.min(), at.max()
            share = ((at - low) / (high - low).replace(0, 1)).to_numpy()
            color = np.column_stack([share[:, 0], 0.35 + 0.3 * share[:, 1], 1 - share[:, 1]])
            x, y = ("position_x", "position_y") if method == "position" else ("chart_x", "chart_y")
            panel.scatter(points.loc[at.index, x], points.loc[at.index, y], c=color, s=3, linewidths=0)
            panel.set_title("true position (m)" if method == "position" else method, fontsize=8)
            panel.set_aspect("equal", adjustable="datalim")
            if method != "position":
                panel.set_xticks([])
                panel.set_yticks([])
        for panel in axes[len(methods) + 1 :]:
            panel.set_axis_off()
    return save(figure, folder, name)


def _draw_snapshots(snapshot: pd.DataFrame, folder: Path) -> list[Path]:
    paths: list[Path] = []
    for number, observation in enumerate(dict.fromkeys(snapshot["observation"])):
        part = snapshot[(snapshot["observation"] == observation) & (snapshot["codec"] == "none")]
        name = "snapshots-clean" if observation == "clean" else f"snapshots-noisy-{number}"
        paths += _draw_charts(part, folder, name)
    return paths


def _draw_forecasts(forecast: pd.DataFrame, folder: Path) -> list[Path]:
    has_latent = bool((forecast["metric"] == "latent_nmse").any())
    figure, axes = new_figure("page", height_in=2.6, num_columns=1 + has_latent)
    draw_lines(axes[0], forecast, "look_ahead_s", "position_error", order=_present(forecast))
    _label(axes[0], "Look-ahead (s)", "Position error (m)")
    axes[0].set_ylim(bottom=0)
    if has_latent:
        draw_lines(axes[1], forecast, "look_ahead_s", "latent_nmse", order=_present(forecast))
        _label(axes[1], "Look-ahead (s)", "Error of the embedding / its variance")
        axes[1].set_ylim(bottom=0)
    add_legend(figure, axes)
    return save(figure, folder, "error_vs_look_ahead")


def _draw_sum_rates(forecast: pd.DataFrame, folder: Path) -> list[Path]:
    rates = forecast[forecast["metric"].str.startswith("sum_rate_")]
    names = {
        "sum_rate_true": "true CSI when it is used",
        "sum_rate_zero-look-ahead": "probe of the embedding at that time",
        "sum_rate_w-jepa": "probe of the predicted embedding",
        "sum_rate_last-value": "CSI of the last report",
    }
    rates = rates.assign(series=rates["metric"].map(names), metric="share")
    # Seeds differ in where users are, and so in all rates alike: shares of the bound are compared.
    bound = rates[rates["series"] == names["sum_rate_true"]]
    rates = rates.merge(bound[["seed", "look_ahead_s", "value"]].rename(columns={"value": "bound"}))
    rates = rates.assign(value=rates["value"] / rates["bound"])
    shown = rates[rates["series"] != names["sum_rate_true"]]
    figure, axes = new_figure("column")
    draw_lines(axes[0], shown, "look_ahead_s", "share", by="series", order=list(names.values())[1:])
    draw_reference(axes[0], names["sum_rate_true"], 1.0)
    axes[0].set_ylim(0, 1.1)
    _label(axes[0], "Look-ahead (s)", "Sum rate over that with true CSI")
    add_legend(figure, axes)
    return save(figure, folder, "sum_rate_vs_look_ahead")


def _by_velocity(velocity: pd.DataFrame) -> pd.DataFrame:
    """Sorts rows from exact velocities over noisy ones to none."""
    share = velocity["velocity"].str.extract(r"^([0-9.]+) %", expand=False).astype(float).fillna(0.0)
    rank = share.where(~velocity["velocity"].str.startswith("unknown"), np.inf)
    return velocity.assign(rank=rank).sort_values("rank", kind="stable").drop(columns="rank")


def _draw_velocity(velocity: pd.DataFrame, folder: Path) -> list[Path]:
    levels = list(dict.fromkeys(_by_velocity(velocity)["velocity"]))
    figure, axes = new_figure("column")
    draw_lines(axes[0], velocity, "look_ahead_s", "position_error", by="velocity", order=levels)
    _label(axes[0], "Look-ahead (s)", "Position error of w-jepa (m)")
    axes[0].set_ylim(bottom=0)
    add_legend(figure, axes)
    return save(figure, folder, "error_vs_velocity")


def _with_source(rate: pd.DataFrame) -> pd.DataFrame:
    transformed = rate["codec"].str.startswith("klt")
    source = [
        _SOURCES.get((method, coded), f"{method}, {'transform coded' if coded else 'quantised'}")
        for method, coded in zip(rate["method"], transformed & (rate["method"] != "w-jepa"), strict=True)
    ]
    return rate.assign(source=source)


def _versus_bits(rate: pd.DataFrame) -> pd.DataFrame:
    """Gives every row the mean bits that its point spent on a report, as a column."""
    keys = ["method", "codec"]
    bits = rate[rate["metric"] == "payload_bits_per_report"].groupby(keys)["value"].mean()
    return rate.join(bits.rename("bits_per_report"), on=keys).sort_values("bits_per_report", kind="stable")


def _draw_rate(rate: pd.DataFrame, folder: Path) -> list[Path]:
    shown = _versus_bits(_with_source(rate))
    figure, axes = new_figure("page", height_in=2.3, num_columns=3)
    order = list(dict.fromkeys([*_SOURCES.values(), *shown["source"]]))
    order = [name for name in order if (shown["source"] == name).any()]
    for panel, metric, label in zip(
        axes,
        (*_NEIGHBOURHOOD, "mae"),
        ("Trustworthiness", "Continuity", "Position error (m)"),
        strict=True,
    ):
        draw_lines(panel, shown, "bits_per_report", metric, by="source", order=order)
        panel.set_xscale("log")
        _label(panel, "Payload bits per report", label)
    add_legend(figure, axes)
    return save(figure, folder, "charts_vs_bits")


def _draw_loss(loss: pd.DataFrame, folder: Path) -> list[Path]:
    figure, axes = new_figure("page", height_in=2.2, num_columns=2)
    for panel, metric, label in zip(
        axes, ("trustworthiness", "mae"), ("Trustworthiness", "Position error (m)"), strict=True
    ):
        draw_lines(panel, loss, "erasure_probability", metric, order=_present(loss))
        _label(panel, "Probability that a packet is lost", label)
    add_legend(figure, axes)
    return save(figure, folder, "charts_vs_loss")


def _label(panel: matplotlib.axes.Axes, x: str, y: str) -> None:
    with matplotlib.rc_context(STYLE):
        panel.set_xlabel(x)
        panel.set_ylabel(y)


def make_tables(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Makes the tables of those results that the records hold: means and 95 % intervals over seeds."""
    tables: list[tuple[str, pd.DataFrame]] = []
    if len(chart := _chosen(_part(records, "chart"), _CHART_METRICS)):
        tables.append(("Charts of test positions", pivot(chart, ["method"])))
    snapshot_metrics = ("payload_bits_per_report", *_CHART_METRICS)
    if len(snapshot := _chosen(_part(records, "snapshot"), snapshot_metrics)):
        ordered = snapshot.sort_values("observation", ascending=False, kind="stable")
        keys = ["observation", "method", "codec"]
        tables.append(("Charts of single snapshots", pivot(ordered, keys)))
    forecast = _part(records, "forecast")
    if len(errors := _chosen(forecast, ("position_error",))):
        tables.append(("Position error (m) by look-ahead (s)", pivot(errors, ["method"], "look_ahead_s")))
        if len(ratio := _ratios(errors)):
            tables.append(("Position error of w-jepa, as a share of the best simple forecast's", ratio))
    if len(rest := forecast[forecast["metric"] != "position_error"]):
        title = "Error of the embedding over its variance, and sum rates (bit/s/Hz), by look-ahead (s)"
        tables.append((title, _by_metric(rest)))
    if len(velocity := _chosen(_part(records, "velocity"), (*_NEIGHBOURHOOD, "mae"))):
        tables.append(
            ("w-jepa by what is known of the velocity", pivot(_by_velocity(velocity), ["velocity"]))
        )
    if len(velocity := _chosen(_part(records, "velocity"), ("position_error",))):
        title = "Position error (m) of w-jepa by look-ahead (s) and what is known of the velocity"
        tables.append((title, pivot(_by_velocity(velocity), ["velocity"], "look_ahead_s")))
    costs = ("payload_bits_per_report", "header_bits_per_report", *_NEIGHBOURHOOD, "mae")
    if len(rate := _chosen(_part(records, "rate"), costs)):
        tables.append(
            ("Charts by bits per report", pivot(_versus_bits(_with_source(rate)), ["source", "codec"]))
        )
        if len(saved := _savings(rate)):
            tables.append(("Bits per report for the trustworthiness of an embedding", saved))
    if len(loss := _chosen(_part(records, "loss"), (*_NEIGHBOURHOOD, "mae", "packet_loss"))):
        tables.append(("Charts by lost packets", pivot(loss, ["method", "erasure_probability"])))
    if len(air := _part(records, "air")):
        keys = ["method", "codec", "link", "channel"]
        air = air[~air["metric"].isin(("fitted_drms", "fitted_cep", "fitted_r95", "position_error"))]
        tables.append(("Charts over the configured link", pivot(air, keys)))
    return tables


def _chosen(part: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The rows of some metrics, in the order of the metrics."""
    rank = {metric: index for index, metric in enumerate(metrics)}
    return part[part["metric"].isin(metrics)].sort_values(
        "metric", key=lambda names: names.map(rank), kind="stable"
    )


def _by_metric(part: pd.DataFrame) -> pd.DataFrame:
    """A line for each method and metric, a column for each look-ahead."""
    named = part.assign(method=part["method"] + ", " + part["metric"], metric="value")
    return pivot(named, ["method"], "look_ahead_s")


def _ratios(errors: pd.DataFrame) -> pd.DataFrame:
    """By look-ahead: w-jepa over the best of SIMPLE_FORECASTS, seed by seed; do their intervals overlap?

    Beside it, w-jepa over those that know as much of the velocities.
    """
    rows = []
    for look_ahead_s, part in errors.groupby("look_ahead_s"):
        of_method = {name: rows_of.set_index("seed")["value"] for name, rows_of in part.groupby("method")}
        simple = {name: of_method[name] for name in SIMPLE_FORECASTS if name in of_method}
        if "w-jepa" not in of_method or not simple:
            continue
        best = min(simple, key=lambda name: simple[name].mean())
        ratio = (of_method["w-jepa"] / simple[best]).dropna()
        row: dict[str, object] = {
            "look_ahead_s": look_ahead_s,
            "best": best,
            "ratio": _interval(ratio),
        }
        if len(ratio) > 1:
            ours, theirs = mean_interval(of_method["w-jepa"]), mean_interval(simple[best])
            row["intervals"] = "overlap" if intervals_overlap(ours, theirs) else "apart"
        for name in TOLD_VELOCITIES:
            if name in of_method:
                row[f"over {name}"] = _interval((of_method["w-jepa"] / of_method[name]).dropna())
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(values: pd.Series) -> str:
    interval = mean_interval(values)
    return format_interval(interval.mean, interval.half_width)


def _savings(rate: pd.DataFrame) -> pd.DataFrame:
    """For each codec of the embedding: bits that coded CSI and features need for the same trustworthiness.

    On the curve of means over seeds, linear in the logarithm of the bits; "> b" where the curve doesn't get
    as far with its most bits b, "< b" where it is there with its fewest.
    """
    named = _with_source(rate)
    means = named.groupby(["source", "codec", "metric"])["value"].mean().unstack()
    means = means.reset_index().sort_values("payload_bits_per_report")
    curves = {str(source): part for source, part in means.groupby("source", sort=False)}
    rows = []
    for point in curves.get("embedding", means[:0]).to_dict("records"):
        codec, bits, wanted = point["codec"], point["payload_bits_per_report"], point["trustworthiness"]
        row: dict[str, object] = {"codec": codec, "bits": round(bits, 1), "trustworthiness": round(wanted, 4)}
        for source, curve in curves.items():
            if source != "embedding":
                tried, reached = (
                    curve["payload_bits_per_report"].to_numpy(),
                    curve["trustworthiness"].to_numpy(),
                )
                needed, sign = _bits_at(tried, reached, wanted), ""
                if np.isnan(needed):
                    sign, needed = ("> ", tried[-1]) if (reached < wanted).all() else ("< ", tried[0])
                row[f"bits of {source}"] = f"{sign}{needed:.0f}"
                row[f"times, {source}"] = f"{sign}{needed / bits:.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


def _bits_at(bits: np.ndarray, value: np.ndarray, wanted: float) -> float:
    """The fewest bits at which a curve reaches a value; NaN where it doesn't, or begins above it."""
    reached = np.flatnonzero(value >= wanted)
    if not reached.size or reached[0] == 0:
        return float("nan")
    after, before = int(reached[0]), int(reached[0]) - 1
    if bits[before] <= 0:
        return float("nan")
    share = (wanted - value[before]) / (value[after] - value[before])
    return float(np.exp(np.log(bits[before]) + share * (np.log(bits[after]) - np.log(bits[before]))))
