"""The control scenario's three results as figures and tables, drawn from records alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures import add_legend, draw_lines, new_figure, save
from analysis.tables import pivot

_ORDER = [
    "jepa", "supervised", "autoencoder", "hold-last", "zero-command", "identity-predictor", "raw-frames",
    "jepa-event", "teacher-hold", "state-hold", "true-model", "state-feedback",
]  # fmt: skip


_SENDING = ("jepa", "supervised", "autoencoder", "hold-last", "raw-frames", "jepa-event")
_RESULTS = ("rate", "codec", "erasure", "horizon", "sharing")


def _ordered(records: pd.DataFrame) -> pd.DataFrame:
    rank = {method: index for index, method in enumerate(_ORDER)}
    return records.sort_values("method", key=lambda m: m.map(rank), kind="stable")


def _part(records: pd.DataFrame, result: str) -> pd.DataFrame:
    return _ordered(records[records["result"] == result]).dropna(axis="columns", how="all")


def draw_figures(records: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws score and survival, score against bits, prediction error and supported devices."""
    paths: list[Path] = []
    rate, codec, erasure, horizon, sharing = (_part(records, name) for name in _RESULTS)
    if len(rate):
        timed = rate[(rate["method"] != "jepa-event") & (rate["method"] != "state-feedback")]
        figure, axes = new_figure("page", num_columns=2)
        for panel, metric, label in zip(
            axes, ("control_score", "survival"), ("Control score", "Survival"), strict=True
        ):
            draw_lines(panel, timed, "update_interval_ms", metric, order=_ORDER)
            _label(panel, "Update interval (ms)", label)
        add_legend(figure, axes)
        paths += save(figure, folder, "score_vs_interval")

        figure, axes = new_figure("column")
        sending = rate[rate["method"].isin(_SENDING)]
        draw_lines(axes[0], _versus_bits(sending), "uplink_bits_per_step", "control_score", order=_ORDER)
        axes[0].set_xscale("log")
        _label(axes[0], "Uplink bits per control step", "Control score")
        add_legend(figure, axes)
        paths += save(figure, folder, "score_vs_bits")
    if len(codec):
        figure, axes = new_figure("column")
        narrow = _versus_bits(codec, by="codec")
        draw_lines(axes[0], narrow, "uplink_bits_per_step", "control_score", by="codec")
        _label(axes[0], "Uplink bits per control step", "Control score of jepa")
        add_legend(figure, axes)
        paths += save(figure, folder, "score_vs_codec")
    if len(erasure):
        methods = erasure["method"].unique()
        figure, axes = new_figure("page", height_in=2.0, num_columns=len(methods))
        loss = erasure.assign(loss=(100 * erasure["erasure_probability"]).map("{:g} % erased".format))
        for panel, method in zip(axes, methods, strict=True):
            draw_lines(
                panel, loss[loss["method"] == method], "update_interval_ms", "control_score", by="loss"
            )
            panel.set_title(method, fontsize=8)
            panel.set_ylim(0, 0.9)
            _label(panel, "Update interval (ms)", "Control score")
        add_legend(figure, axes)
        paths += save(figure, folder, "score_vs_erasure")
    if len(horizon):
        intervals = sorted(horizon["update_interval_ms"].unique())
        figure, axes = new_figure("page", height_in=2.2, num_columns=len(intervals))
        alive = horizon[horizon["value"].notna()]
        for panel, interval in zip(axes, intervals, strict=True):
            shown = alive[alive["update_interval_ms"] == interval]
            if len(shown):
                draw_lines(panel, shown, "horizon_ms", "nmae", order=_ORDER)
            panel.set_title(f"update every {interval:g} ms", fontsize=8)
            panel.set_yscale("log")
            _label(panel, "Time since the last update (ms)", "NMAE of the command")
        add_legend(figure, axes)
        paths += save(figure, folder, "nmae_vs_horizon")
    if len(sharing):
        figure, axes = new_figure("column")
        both = sharing.assign(series=sharing["method"] + ", " + sharing["scheduler"])
        both = both.sort_values("series", kind="stable")
        draw_lines(axes[0], both, "num_devices", "supported_devices", by="series")
        axes[0].set_xscale("log")
        axes[0].set_yscale("symlog", linthresh=1)
        # From none to all of them supported; the scale is linear below one device.
        axes[0].set_ylim(-0.2, 2 * both["num_devices"].max())
        _label(axes[0], "Devices that share 20 MHz", "Supported devices")
        add_legend(figure, axes)
        paths += save(figure, folder, "supported_devices")
    return paths


def _label(panel: Axes, x: str, y: str) -> None:
    panel.set_xlabel(x)
    panel.set_ylabel(y)


def _versus_bits(rate: pd.DataFrame, by: str = "method") -> pd.DataFrame:
    """Puts the measured bits per step, averaged over seeds, beside each score."""
    point = [c for c in (by, "method", "update_interval_ms", "codec", "event_threshold_n") if c in rate]
    point = list(dict.fromkeys(point))
    bits = rate[rate["metric"] == "uplink_bits_per_step"].groupby(point, dropna=False)["value"].mean()
    score = rate[rate["metric"] == "control_score"]
    return score.merge(bits.rename("uplink_bits_per_step").reset_index(), on=point)


def make_tables(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Makes the tables of the three results: mean and 95 % interval over seeds."""
    tables = []
    rate, codec, erasure, horizon, sharing = (_part(records, name) for name in _RESULTS)
    if len(rate):
        timed = rate[rate["method"] != "jepa-event"]
        for metric, title in (
            ("control_score", "Control score by update interval (ms)"),
            ("survival", "Survival by update interval (ms)"),
            ("uplink_bits_per_step", "Uplink bits per step (header and payload) by update interval (ms)"),
        ):
            tables.append((title, _by(timed, metric, ["method"], "update_interval_ms")))
        event = rate[rate["method"] == "jepa-event"]
        if len(event):
            wanted = ["control_score", "survival", "packets_per_step", "uplink_bits_per_step"]
            tables.append(
                ("jepa-event by threshold", pivot(event[event["metric"].isin(wanted)], ["event_threshold_n"]))
            )
    if len(codec):
        tables.append(
            ("jepa: control score by codec and update interval (ms)",
             _by(codec, "control_score", ["codec"], "update_interval_ms"))
        )  # fmt: skip
        wanted = ["header_bits", "payload_bits", "entropy_bits", "packet_bits"]
        tables.append(
            ("jepa: bits of a packet by codec", pivot(codec[codec["metric"].isin(wanted)], ["codec"]))
        )
    if len(erasure):
        for metric in ("control_score", "survival"):
            title = f"With erasures: {metric.replace('_', ' ')} by update interval (ms)"
            tables.append(
                (title, _by(erasure, metric, ["method", "erasure_probability"], "update_interval_ms"))
            )
    if len(horizon):
        for interval in sorted(horizon["update_interval_ms"].unique()):
            part = horizon[horizon["update_interval_ms"] == interval]
            ages = sorted(part["horizon_ms"].unique())
            part = part[part["horizon_ms"].isin(ages[:: max(1, round(len(ages) / 5))])]
            title = f"NMAE by time since the last update (ms), one every {interval:g} ms, survivors only"
            tables.append((title, _by(part, "nmae", ["method"], "horizon_ms")))
    if len(sharing):
        wanted = ["supported_devices", "control_score", "survival", "age_of_information", "packet_loss",
                  "padding_bits", "channel_uses_per_step", "airtime_per_step", "energy_per_step"]  # fmt: skip
        rows = ["method", "scheduler", "num_devices"]
        tables.append(("Devices that share the uplink", pivot(sharing[sharing["metric"].isin(wanted)], rows)))
    return tables


def _by(records: pd.DataFrame, metric: str, rows: list[str], columns: str) -> pd.DataFrame:
    return pivot(records[records["metric"] == metric], rows, columns)
