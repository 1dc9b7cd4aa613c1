"""The control scenario's three results as figures and tables, drawn from records alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures import add_legend, draw_lines, new_figure, save
from analysis.tables import pivot

_ORDER = [
    "jepa", "supervised", "autoencoder", "hold-last", "zero-command", "identity-predictor", "raw-frames",
    "jepa-event", "state-hold", "true-model", "state-feedback",
]  # fmt: skip


def _ordered(records: pd.DataFrame) -> pd.DataFrame:
    rank = {method: index for index, method in enumerate(_ORDER)}
    return records.sort_values("method", key=lambda m: m.map(rank), kind="stable")


def _part(records: pd.DataFrame, result: str) -> pd.DataFrame:
    return _ordered(records[records["result"] == result]).dropna(axis="columns", how="all")


def _base(rate: pd.DataFrame) -> pd.DataFrame:
    """The rows of the rate result at its first codec and without erasures."""
    codec = rate.loc[rate["method"] == rate["method"].iloc[0], "codec"].mode()[0]
    return rate[(rate["codec"] == codec) & (rate["erasure_probability"] == 0)]


def draw_figures(records: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws score and survival, score against bits, prediction error and supported devices."""
    paths: list[Path] = []
    rate, horizon, sharing = (_part(records, name) for name in ("rate", "horizon", "sharing"))
    if len(rate):
        base = _base(rate)
        timed = base[(base["method"] != "jepa-event") & (base["method"] != "state-feedback")]
        figure, axes = new_figure("page", num_columns=2)
        for panel, metric, label in zip(
            axes, ("control_score", "survival"), ("Control score", "Survival"), strict=True
        ):
            draw_lines(panel, timed, "update_interval_ms", metric, order=_ORDER)
            _label(panel, "Update interval (ms)", label)
        add_legend(figure, axes)
        paths += save(figure, folder, "score_vs_interval")

        methods = ("jepa", "supervised", "autoencoder", "hold-last", "raw-frames", "jepa-event")
        wide = _versus_bits(base[base["method"].isin(methods)])
        codecs = rate[(rate["method"] == "jepa") & (rate["erasure_probability"] == 0)]
        figure, axes = new_figure("page", num_columns=2)
        draw_lines(axes[0], wide, "uplink_bits_per_step", "control_score", order=_ORDER)
        narrow = _versus_bits(codecs, by="codec")
        draw_lines(axes[1], narrow, "uplink_bits_per_step", "control_score", by="codec")
        for panel in axes:
            panel.set_xscale("log")
            _label(panel, "Uplink bits per control step", "Control score")
        add_legend(figure, axes)
        paths += save(figure, folder, "score_vs_bits")

        figure, axes = new_figure("column")
        lossy = rate[(rate["method"] == "jepa") & (rate["codec"] == base["codec"].iloc[0])]
        lossy = lossy.assign(loss=lossy["erasure_probability"].map("erasure {:g}".format))
        draw_lines(axes[0], lossy, "update_interval_ms", "control_score", by="loss")
        _label(axes[0], "Update interval (ms)", "Control score of jepa")
        add_legend(figure, axes)
        paths += save(figure, folder, "score_vs_erasure")
    if len(horizon):
        figure, axes = new_figure("column")
        draw_lines(axes[0], horizon, "horizon_ms", "nmae", order=_ORDER)
        _label(axes[0], "Time since the last update (ms)", "NMAE of the command")
        axes[0].set_yscale("log")
        add_legend(figure, axes)
        paths += save(figure, folder, "nmae_vs_horizon")
    if len(sharing):
        figure, axes = new_figure("column")
        both = sharing.assign(series=sharing["method"] + ", " + sharing["scheduler"])
        draw_lines(axes[0], both, "num_devices", "supported_devices", by="series")
        axes[0].set_xscale("log")
        axes[0].set_yscale("symlog", linthresh=1)
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
    rate, horizon, sharing = (_part(records, name) for name in ("rate", "horizon", "sharing"))
    if len(rate):
        base = _base(rate)
        timed = base[base["method"] != "jepa-event"]
        for metric, title in (
            ("control_score", "Control score by update interval (ms)"),
            ("survival", "Survival by update interval (ms)"),
            ("uplink_bits_per_step", "Uplink bits per step (header and payload) by update interval (ms)"),
        ):
            tables.append((title, _by(timed, metric, ["method"], "update_interval_ms")))
        jepa = rate[rate["method"] == "jepa"]
        codecs = jepa[jepa["erasure_probability"] == 0]
        tables.append(
            ("jepa: control score by codec and update interval (ms)",
             _by(codecs, "control_score", ["codec"], "update_interval_ms"))
        )  # fmt: skip
        wanted = ["header_bits", "payload_bits", "entropy_bits", "packet_bits"]
        sizes = codecs[codecs["metric"].isin(wanted)]
        tables.append(("jepa: bits of a packet by codec", pivot(sizes, ["codec"])))
        lossy = rate[(rate["codec"] == base["codec"].iloc[0]) & (rate["erasure_probability"] > 0)]
        lossy = pd.concat([lossy, base[base["method"].isin(lossy["method"].unique())]])
        lossy = lossy.sort_values(["method", "erasure_probability", "update_interval_ms"])
        for metric in ("control_score", "survival"):
            title = f"With erasures: {metric.replace('_', ' ')} by update interval (ms)"
            rows = ["method", "erasure_probability"]
            tables.append((title, _by(lossy, metric, rows, "update_interval_ms")))
        event = rate[rate["method"] == "jepa-event"]
        if len(event):
            wanted = ["control_score", "survival", "packets_per_step", "uplink_bits_per_step"]
            tables.append(
                ("jepa-event by threshold", pivot(event[event["metric"].isin(wanted)], ["event_threshold_n"]))
            )
    if len(horizon):
        shown = horizon[horizon["horizon_ms"] % 60 < 1]
        tables.append(("NMAE of the command by time since the last update (ms), survivors only",
                       _by(shown, "nmae", ["method"], "horizon_ms")))  # fmt: skip
    if len(sharing):
        wanted = ["supported_devices", "control_score", "survival", "age_of_information", "packet_loss",
                  "padding_bits", "channel_uses_per_step", "airtime_per_step", "energy_per_step"]  # fmt: skip
        rows = ["method", "scheduler", "num_devices"]
        tables.append(("Devices that share the uplink", pivot(sharing[sharing["metric"].isin(wanted)], rows)))
    return tables


def _by(records: pd.DataFrame, metric: str, rows: list[str], columns: str) -> pd.DataFrame:
    return pivot(records[records["metric"] == metric], rows, columns)
