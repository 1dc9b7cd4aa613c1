"""The control scenario's three results as figures and tables, drawn from records alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures import add_legend, draw_lines, draw_reference, new_figure, save
from analysis.tables import pivot
from scenarios.control.codec_comparison import compare_codecs

_ORDER = [
    "jepa", "supervised", "autoencoder", "hold-last", "zero-command", "identity-predictor", "raw-frames",
    "jepa-event", "teacher-hold", "state-hold", "true-model", "state-feedback",
]  # fmt: skip
_SENDING = ("jepa", "supervised", "autoencoder", "hold-last", "raw-frames", "jepa-event")
_PERFECT = ("state-hold", "true-model", "state-feedback")
"""The reference lines that stand below every table: perfect sensors and links."""
_RESULTS = ("rate", "codec", "erasure", "horizon", "sharing")


def _ordered(records: pd.DataFrame) -> pd.DataFrame:
    rank = {method: index for index, method in enumerate(_ORDER)}
    return records.sort_values("method", key=lambda m: m.map(rank), kind="stable")


def _part(records: pd.DataFrame, result: str) -> pd.DataFrame:
    part = _ordered(records[records["result"] == result])
    unused = [axis for axis in part.columns if axis != "value" and part[axis].isna().all()]
    return part.drop(columns=unused)


def draw_figures(records: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws the figures of those results that the records hold; returns their paths."""
    rate, codec, erasure, horizon, sharing = (_part(records, name) for name in _RESULTS)
    paths: list[Path] = []
    if len(rate):
        paths += _draw_intervals(rate, folder) + _draw_bits(rate, folder)
    if len(codec):
        paths += _draw_codecs(codec, folder)
    if len(erasure):
        paths += _draw_erasures(erasure, rate, folder)
    if len(horizon):
        paths += _draw_horizon(horizon, folder)
    if len(sharing):
        paths += _draw_sharing(sharing, folder)
    return paths


def _draw_intervals(rate: pd.DataFrame, folder: Path) -> list[Path]:
    timed = rate[(rate["method"] != "jepa-event") & (rate["method"] != "state-feedback")]
    if timed.empty:
        return []
    figure, axes = new_figure("page", num_columns=2)
    for panel, metric, label in zip(
        axes, ("control_score", "survival"), ("Control score", "Survival"), strict=True
    ):
        draw_lines(panel, timed, "update_interval_ms", metric, order=_ORDER)
        _draw_ceiling(panel, rate, metric)
        _label(panel, "Update interval (ms)", label)
    add_legend(figure, axes)
    return save(figure, folder, "score_vs_interval")


def _draw_bits(rate: pd.DataFrame, folder: Path) -> list[Path]:
    sending = _versus_bits(rate[rate["method"].isin(_SENDING)])
    if sending.empty:
        return []
    figure, axes = new_figure("column")
    draw_lines(axes[0], sending, "uplink_bits_per_step", "control_score", order=_ORDER)
    _draw_ceiling(axes[0], rate, "control_score")
    axes[0].set_xscale("log")
    _label(axes[0], "Uplink bits per control step", "Control score")
    add_legend(figure, axes)
    return save(figure, folder, "score_vs_bits")


def _draw_codecs(codec: pd.DataFrame, folder: Path) -> list[Path]:
    """A panel for each update interval and a line for each kind of coding, from few bits to many."""
    intervals = sorted(codec["update_interval_ms"].unique())
    figure, axes = new_figure("page", height_in=2.0, num_columns=len(intervals))
    narrow = _versus_bits(codec)
    kind = narrow["codec"].str.split("-").str[0].replace("entropy", "entropy-coded")
    kind += narrow["codec"].str.endswith("-task").map({True: ", task", False: ""})
    narrow = narrow.assign(kind=kind)
    for panel, interval in zip(axes, intervals, strict=True):
        part = narrow[narrow["update_interval_ms"] == interval]
        draw_lines(panel, part, "uplink_bits_per_step", "control_score", by="kind", order=list(kind.unique()))
        panel.set_title(f"update every {interval:g} ms", fontsize=8)
        _label(panel, "Uplink bits per control step", "Control score of jepa")
    add_legend(figure, axes)
    return save(figure, folder, "score_vs_codec")


def _draw_erasures(erasure: pd.DataFrame, rate: pd.DataFrame, folder: Path) -> list[Path]:
    methods = erasure["method"].unique()
    figure, axes = new_figure("page", height_in=2.0, num_columns=len(methods))
    lost = erasure.assign(lost=(100 * erasure["erasure_probability"]).map("{:g} % erased".format))
    for panel, method in zip(axes, methods, strict=True):
        draw_lines(panel, lost[lost["method"] == method], "update_interval_ms", "control_score", by="lost")
        _draw_ceiling(panel, rate, "control_score")
        panel.set_title(method, fontsize=8)
        panel.set_ylim(0, 0.9)
        _label(panel, "Update interval (ms)", "Control score")
    add_legend(figure, axes)
    return save(figure, folder, "score_vs_erasure")


def _draw_horizon(horizon: pd.DataFrame, folder: Path) -> list[Path]:
    intervals = sorted(horizon["update_interval_ms"].unique())
    figure, axes = new_figure("page", height_in=2.2, num_columns=len(intervals))
    # A logarithmic axis has no place for an error of zero: a true state just received.
    shown = _with_survivors(horizon)
    shown = shown[shown["value"] != 0]
    if shown.empty:
        return []
    for panel, interval in zip(axes, intervals, strict=True):
        part = shown[shown["update_interval_ms"] == interval]
        if len(part):
            draw_lines(panel, part, "horizon_ms", "nmae", order=_ORDER)
        panel.set_title(f"update every {interval:g} ms", fontsize=8)
        panel.set_yscale("log")
        _label(panel, "Time since the last update (ms)", "NMAE of the command")
    add_legend(figure, axes)
    return save(figure, folder, "nmae_vs_horizon")


def _with_survivors(horizon: pd.DataFrame) -> pd.DataFrame:
    """Leaves out the methods of which no seed survived; where only some did, the mean is not a number."""
    some = horizon.groupby(["method", "update_interval_ms"])["value"].transform(lambda v: v.notna().any())
    return horizon[some.astype(bool)]


def _draw_sharing(sharing: pd.DataFrame, folder: Path) -> list[Path]:
    methods = sharing["method"].unique()
    schedulers = sorted(sharing["scheduler"].unique())
    figure, axes = new_figure("page", height_in=2.2, num_columns=len(methods))
    for panel, method in zip(axes, methods, strict=True):
        part = sharing[sharing["method"] == method]
        draw_lines(panel, part, "num_devices", "supported_devices", by="scheduler", order=schedulers)
        most = float(part["num_devices"].max())
        draw_reference(panel, "all devices", ([0, most], [0, most]))
        panel.set_title(method, fontsize=8)
        panel.set_ylim(0, 1.05 * most)
        _label(panel, "Devices that share the carrier", "Supported devices")
    add_legend(figure, axes)
    return save(figure, folder, "supported_devices")


def _draw_ceiling(panel: Axes, rate: pd.DataFrame, metric: str) -> None:
    ceiling = rate[(rate["method"] == "state-feedback") & (rate["metric"] == metric)]
    if len(ceiling):
        draw_reference(panel, "state-feedback", float(ceiling["value"].mean()))


def _label(panel: Axes, x: str, y: str) -> None:
    panel.set_xlabel(x)
    panel.set_ylabel(y)


def _versus_bits(records: pd.DataFrame) -> pd.DataFrame:
    """Puts the measured bits per step, averaged over seeds, beside each score."""
    axes = ("method", "update_interval_ms", "codec", "event_threshold_n")
    point = [column for column in axes if column in records]
    bits = records[records["metric"] == "uplink_bits_per_step"].groupby(point, dropna=False)["value"].mean()
    score = records[records["metric"] == "control_score"]
    return score.merge(bits.rename("uplink_bits_per_step").reset_index(), on=point)


def make_tables(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Makes the tables of the results: mean and 95 % interval over seeds, the reference lines below."""
    rate, codec, erasure, horizon, sharing = (_part(records, name) for name in _RESULTS)
    tables: list[tuple[str, pd.DataFrame]] = []
    perfect = rate[rate["method"].isin(_PERFECT)] if len(rate) else rate

    def with_references(part: pd.DataFrame, *intervals: float) -> pd.DataFrame:
        """Adds the reference lines at these update intervals, state feedback being of the shortest."""
        if not len(perfect):
            return part
        at = perfect["update_interval_ms"].isin(intervals) | (perfect["method"] == "state-feedback")
        return pd.concat([part, perfect[at].drop(columns=["codec", "link"], errors="ignore")])

    def by_interval(part: pd.DataFrame, metric: str, rows: list[str]) -> pd.DataFrame:
        table = pivot(part[part["metric"] == metric], rows, "update_interval_ms")
        return table[[*rows, *sorted(table.columns[len(rows) :], key=float)]]

    if len(rate):
        timed = rate[rate["method"] != "jepa-event"]
        for metric, title in (
            ("control_score", "Control score"),
            ("survival", "Survival"),
            ("uplink_bits_per_step", "Uplink bits per step (header and payload)"),
        ):
            tables.append((f"{title} by update interval (ms)", by_interval(timed, metric, ["method"])))
        event = rate[rate["method"] == "jepa-event"]
        if len(event):
            event = with_references(event, 80.0)
            wanted = ["control_score", "survival", "packets_per_step", "uplink_bits_per_step"]
            rows = ["method", "event_threshold_n", "update_interval_ms"]
            tables.append(("jepa-event by threshold", pivot(event[event["metric"].isin(wanted)], rows)))
    if len(codec):
        intervals = sorted(codec["update_interval_ms"].unique())
        both = with_references(codec, *intervals)
        both = both[both["update_interval_ms"].isin(intervals) | (both["method"] == "state-feedback")]
        title = "jepa: control score by codec and update interval (ms)"
        tables.append((title, by_interval(both, "control_score", ["method", "codec"])))
        wanted = ["header_bits", "payload_bits", "entropy_bits", "packet_bits", "transport_block_bits"]
        tables.append(
            ("jepa: bits of a packet by codec", pivot(codec[codec["metric"].isin(wanted)], ["codec"]))
        )
        differences = compare_codecs(codec)
        if len(differences):
            title = (
                "jepa: control score less that of a uniform quantiser with no fewer bits, by interval (ms)"
            )
            tables.append((title, differences))
    if len(erasure):
        both = with_references(erasure, *erasure["update_interval_ms"].unique())
        for metric in ("control_score", "survival"):
            title = f"With erasures: {metric.replace('_', ' ')} by update interval (ms)"
            tables.append((title, by_interval(both, metric, ["method", "erasure_probability"])))
    for interval in sorted(horizon["update_interval_ms"].unique()) if len(horizon) else []:
        part = horizon[horizon["update_interval_ms"] == interval]
        ages = sorted(part["horizon_ms"].unique())
        part = part[part["horizon_ms"].isin(ages[:: max(1, round(len(ages) / 5))])]
        part = _with_survivors(part)
        title = f"NMAE by time since the last update (ms), one every {interval:g} ms, survivors only"
        if len(part):
            tables.append((title, pivot(part, ["method"], "horizon_ms")))
    if len(sharing):
        wanted = ["supported_devices", "control_score", "survival", "age_of_information", "packet_loss",
                  "padding_bits", "channel_uses_per_step", "airtime_per_step", "energy_per_step"]  # fmt: skip
        both = with_references(sharing, *sharing["update_interval_ms"].unique())
        shown = both[both["metric"].isin(wanted) & ~(both["method"].isin(_PERFECT)
                                                     & both["metric"].isin(wanted[4:]))]  # fmt: skip
        rows = ["method", "update_interval_ms", "scheduler", "num_devices"]
        tables.append(("Devices that share the uplink", pivot(shown, rows)))
    return tables
