"""The links scenario's results as figures and tables, drawn from records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from analysis import theory
from analysis.figures import COLORS, STYLE, add_legend, draw_reference, new_figure, save
from analysis.tables import pivot

_STYLES: dict[str, dict[str, Any]] = {
    "nr": {"linestyle": "-", "marker": ""},
    "nr-bit": {"linestyle": "", "marker": "o"},
    "nr-bit-estimated": {"linestyle": (0, (1, 1)), "marker": "s", "markerfacecolor": "white", "lw": 0.7},
    "nr-sionna": {"linestyle": (0, (5, 1.5)), "marker": "", "lw": 0.7},
}
_CLOSED_FORMS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("bpsk", "awgn"): theory.ber_bpsk_awgn,
    ("qpsk", "awgn"): theory.ber_qpsk_awgn,
    ("16-qam", "awgn"): theory.ber_16qam_awgn,
    ("bpsk", "rayleigh"): theory.ber_bpsk_rayleigh,
    ("qpsk", "rayleigh"): theory.ber_qpsk_rayleigh,
    ("16-qam", "rayleigh"): theory.ber_16qam_rayleigh,
}
_DISTORTIONS: dict[str, Callable[[Any], Any]] = {
    "awgn": theory.mmse_awgn,
    "rayleigh": theory.mmse_rayleigh,
}
_BITS = {"bpsk": 1, "qpsk": 2, "16-qam": 4}
_LIMITS = {"awgn": theory.bler_awgn, "rayleigh": theory.bler_rayleigh}
# Between these the curves are compared: outside, too few blocks fail or arrive.
HIGHEST_BLER, LOWEST_BLER = 0.9, 0.01


def _pooled(records: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Means over the seeds, which all sent the same number of blocks, and the blocks of all of them."""
    grouped = records.groupby(list(keys), sort=False)
    return grouped.agg(value=("value", "mean"), num=("num_samples", "sum")).reset_index()


def draw_figures(records: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws the figures of those results that the records hold; returns their paths."""
    paths: list[Path] = []
    if len(bler := records[records["result"] == "bler"]):
        paths += save(_bler_figure(bler), folder, "bler_vs_snr")
        paths += save(_goodput_figure(bler), folder, "goodput_vs_snr")
    if len(uncoded := records[records["result"] == "uncoded"]):
        paths += save(_uncoded_figure(uncoded), folder, "uncoded_vs_ebno")
    if len(analog := records[records["result"] == "analog"]):
        paths += save(_analog_figure(analog), folder, "distortion_vs_snr")
    return paths


def _panels(channels: Sequence[str], height_in: float) -> tuple[Figure, dict[str, Axes]]:
    figure, axes = new_figure("page", height_in=height_in, num_columns=len(channels))
    for panel, channel in zip(axes, channels, strict=True):
        panel.set_title(channel.upper() if "-" in channel or channel == "awgn" else channel, fontsize=8)
    return figure, dict(zip(channels, axes, strict=True))


def _curves(bler: pd.DataFrame, metric: str) -> pd.DataFrame:
    keys = ["channel", "mcs_table", "mcs_index", "method", "snr_db"]
    return _pooled(bler[bler["metric"] == metric], keys).sort_values("snr_db", kind="stable")


def _mcs(curves: pd.DataFrame) -> list[tuple[int, int]]:
    """The (table, index) of all curves, in the order of the SNR that they need."""
    lowest = curves.groupby(["mcs_table", "mcs_index"])["snr_db"].min().sort_values()
    return [(int(table), int(index)) for table, index in lowest.index]


def _draw_curves(panel: Axes, curves: pd.DataFrame) -> None:
    for number, (table, index) in enumerate(_mcs(curves)):
        of_mcs = curves[(curves["mcs_table"] == table) & (curves["mcs_index"] == index)]
        for method, style in _STYLES.items():
            line = of_mcs[of_mcs["method"] == method]
            panel.plot(line["snr_db"], line["value"], color=COLORS[number % len(COLORS)], **style)


def _name_series(panel: Axes, curves: pd.DataFrame) -> None:
    """Enters the methods, in black, and the MCS, in colour, into the legend of one panel."""
    for method, style in _STYLES.items():
        if (curves["method"] == method).any():
            panel.plot([], [], color="black", label=method, **style)
    for number, (table, index) in enumerate(_mcs(curves)):
        panel.plot([], [], color=COLORS[number % len(COLORS)], lw=3, label=f"MCS {index} of table {table}")


def _bler_figure(bler: pd.DataFrame) -> Figure:
    curves = _curves(bler, "bler")
    channels = list(dict.fromkeys(bler["channel"]))
    figure, axes = _panels(channels, 2.3)
    with matplotlib.rc_context(STYLE):
        for channel, panel in axes.items():
            part = curves[curves["channel"] == channel]
            _draw_curves(panel, part)
            if channel in _LIMITS:
                label: str | None = "finite-length limit"
                for bits, uses, low, high in _blocks(bler, channel):
                    snr_db = np.linspace(low - 3, high, 200)
                    limit = _LIMITS[channel](bits, uses, snr_db)
                    draw_reference(
                        panel, label or "_", (list(snr_db[limit > 1e-3]), list(limit[limit > 1e-3]))
                    )
                    label = None
            panel.set_yscale("log")
            panel.set_ylim(0.005, 1.2)
            panel.set_xlabel("Es/N0 (dB)")
            panel.set_ylabel("Block error rate")
        _name_series(next(iter(axes.values())), curves)
    add_legend(figure, list(axes.values()))
    return figure


def _blocks(bler: pd.DataFrame, channel: str) -> list[tuple[float, float, float, float]]:
    """Information bits, channel uses, lowest and highest SNR of every MCS on a channel."""
    part = bler[(bler["channel"] == channel) & (bler["method"] == "nr")]
    found = []
    for _, of_mcs in part.groupby(["mcs_table", "mcs_index"]):
        uses = of_mcs.loc[of_mcs["metric"] == "channel_uses", "value"].mean()
        bits = of_mcs.loc[of_mcs["metric"] == "block_bits", "value"].mean()
        found.append((float(bits), float(uses), of_mcs["snr_db"].min(), of_mcs["snr_db"].max()))
    return found


def _goodput_figure(bler: pd.DataFrame) -> Figure:
    curves = _curves(bler, "goodput")
    channels = list(dict.fromkeys(bler["channel"]))
    figure, axes = _panels(channels, 2.2)
    with matplotlib.rc_context(STYLE):
        for channel, panel in axes.items():
            part = curves[curves["channel"] == channel]
            _draw_curves(panel, part)
            snr_db = np.linspace(part["snr_db"].min(), part["snr_db"].max(), 100)
            capacity = theory.capacity_awgn if channel == "awgn" else theory.capacity_rayleigh
            label = "capacity of AWGN" if channel == "awgn" else "ergodic capacity, Rayleigh"
            draw_reference(panel, label, (list(snr_db), list(capacity(snr_db))))
            panel.set_ylim(0, 1.15 * float(part["value"].max()))
            panel.set_xlabel("Es/N0 (dB)")
            panel.set_ylabel("Goodput (bit/channel use)")
        _name_series(next(iter(axes.values())), curves)
    add_legend(figure, list(axes.values()))
    return figure


def _uncoded_figure(uncoded: pd.DataFrame) -> Figure:
    pooled = _pooled(uncoded, ["channel", "method", "ebno_db"])
    figure, axes = _panels(["awgn", "rayleigh"], 2.2)
    markers = {"bpsk": "o", "qpsk": "x", "16-qam": "s"}
    with matplotlib.rc_context(STYLE):
        for channel, panel in axes.items():
            for number, (method, marker) in enumerate(markers.items()):
                part = pooled[(pooled["channel"] == channel) & (pooled["method"] == method)]
                color = COLORS[number]
                panel.plot(part["ebno_db"], part["value"], ls="", marker=marker, color=color, label=method)
                snr_db = np.linspace(part["ebno_db"].min(), part["ebno_db"].max(), 200)
                closed = _CLOSED_FORMS[method, channel](snr_db)
                draw_reference(panel, "closed form", (list(snr_db), list(closed)))
            panel.set_yscale("log")
            panel.set_ylim(1e-6 if channel == "awgn" else 1e-3, 0.5)
            panel.set_xlabel("Eb/N0 (dB)")
            panel.set_ylabel("Bit error rate")
    add_legend(figure, list(axes.values()))
    return figure


def _analog_figure(analog: pd.DataFrame) -> Figure:
    pooled = _pooled(analog, ["channel", "snr_db"])
    figure, (panel,) = new_figure("column")
    with matplotlib.rc_context(STYLE):
        for number, (channel, closed) in enumerate(_DISTORTIONS.items()):
            part = pooled[pooled["channel"] == channel]
            measured_db = 10 * np.log10(part["value"])
            style: dict[str, Any] = {"ls": "", "marker": "os"[number], "color": COLORS[number]}
            panel.plot(part["snr_db"], measured_db, label=f"analog, {channel}", **style)
            snr_db = np.linspace(part["snr_db"].min(), part["snr_db"].max(), 200)
            draw_reference(panel, "closed form", (list(snr_db), list(10 * np.log10(closed(snr_db)))))
        panel.set_xlabel("Es/N0 (dB)")
        panel.set_ylabel("Mean squared error (dB)")
    add_legend(figure, [panel])
    return figure


def snr_at(snr_db: np.ndarray, bler: np.ndarray, target: float) -> float:
    """SNR at which a curve has this error rate: linear between its points in Q^-1(BLER), NaN outside.

    snr_db ascending. Error rates of exactly 0 or 1 bound nothing and are left out.
    """
    inside = (bler > 0) & (bler < 1)
    score, at = -ndtri(bler[inside]), snr_db[inside]
    wanted = -ndtri(target)
    for left in range(len(score) - 1):
        low, high = score[left], score[left + 1]
        if low <= wanted <= high and high > low:
            return float(at[left] + (wanted - low) / (high - low) * (at[left + 1] - at[left]))
    return float("nan")


def distances(curves: pd.DataFrame, method: str, reference: str) -> tuple[float, float, float]:
    """How far a method's curve lies from another's, where one of the two has a BLER from 0.9 to 0.01.

    curves: rows of one channel and MCS, with method, snr_db and value. Returns the greatest difference in
    BLER at equal SNR, the greatest in SNR (dB) at equal BLER, and the greatest over the points of
    min(BLER difference / 0.05, SNR difference / 0.3): at most 1 where each point meets one of the two.
    Points that only one of them has are left out; so is, in dB, an error rate that the other never has.
    NaN where nothing is left.
    """
    of_method, of_reference = (
        dict(
            curves.loc[curves["method"] == name, ["snr_db", "value"]]
            .sort_values("snr_db")
            .to_numpy()
            .tolist()
        )
        for name in (method, reference)
    )
    at = np.array(list(of_reference))
    in_bler, in_db, in_either = [], [], []
    for snr_db, bler in of_method.items():
        other = of_reference.get(snr_db)
        if other is None or not any(LOWEST_BLER <= rate <= HIGHEST_BLER for rate in (bler, other)):
            continue
        in_bler.append(abs(bler - other))
        shift = 0.0 if bler == other else _shift_db(at, np.array(list(of_reference.values())), bler, snr_db)
        in_db.append(shift)
        in_either.append(min(in_bler[-1] / 0.05, np.inf if np.isnan(shift) else shift / 0.3))
    found = [value for value in in_db if not np.isnan(value)]
    return max(in_bler, default=np.nan), max(found, default=np.nan), max(in_either, default=np.nan)


def _shift_db(snr_db: np.ndarray, bler: np.ndarray, target: float, at_db: float) -> float:
    """How far from an SNR a curve has this error rate, at the nearest crossing: counts rise and fall."""
    pieces = [(snr_db[i : i + 2], bler[i : i + 2]) for i in range(len(snr_db) - 1)]
    found = [abs(snr_at(x, y, target) - at_db) for x, y in pieces]
    return float(np.nanmin(found)) if found and not np.isnan(found).all() else float("nan")


def make_tables(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Makes the tables: how far links and closed forms are apart."""
    tables: list[tuple[str, pd.DataFrame]] = []
    if len(bler := records[(records["result"] == "bler") & (records["metric"] == "bler")]):
        keys = ["channel", "mcs_table", "mcs_index"]
        tables.append(("Es/N0 (dB) at a block error rate of 0.1", _thresholds(bler, keys)))
        tables.append(
            ("Greatest distance from nr, BLER from 0.9 to 0.01, all seeds together", _gaps(bler, keys))
        )
    if len(uncoded := records[records["result"] == "uncoded"]):
        tables.append(
            ("Uncoded bit error rates and their closed forms, all seeds together", _errors(uncoded))
        )
    if len(analog := records[records["result"] == "analog"]):
        title = "Mean squared error of the analog link and its closed form, all seeds together"
        tables.append((title, _distortions(analog)))
    return tables


def _distortions(analog: pd.DataFrame) -> pd.DataFrame:
    pooled = _pooled(analog, ["channel", "snr_db"])
    rows = pooled.to_dict("records")
    closed = np.array([float(_DISTORTIONS[row["channel"]](row["snr_db"])) for row in rows])
    off_db = (10 * np.log10(pooled["value"] / closed)).round(3)
    pooled = pooled.drop(columns="num").rename(columns={"value": "measured"})
    return pooled.assign(closed_form=closed, off_db=off_db)


def _thresholds(bler: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The SNR at BLER 0.1 of each method and what it is above others': mean and interval over seeds."""
    rows = []
    for (*of_curve, seed), part in bler.groupby([*keys, "seed"], sort=False):
        found = {}
        for method, line in part.groupby("method", sort=False):
            line = line.sort_values("snr_db")
            found[method] = snr_at(line["snr_db"].to_numpy(), line["value"].to_numpy(), 0.1)
        at = dict(zip(keys, of_curve, strict=True)) | {"seed": seed, "unit": "dB", "num_samples": 1}
        rows += [{**at, "metric": name, "value": value} for name, value in found.items()]
        for one, other, name in (
            ("nr-bit", "nr", "nr-bit above nr"),
            ("nr-bit-estimated", "nr-bit", "loss by estimation"),
            ("nr-sionna", "nr", "nr-sionna above nr"),
        ):
            if one in found and other in found:
                rows.append({**at, "metric": name, "value": found[one] - found[other]})
    return pivot(pd.DataFrame(rows), keys)


def _gaps(bler: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    curves = _pooled(bler, [*keys, "method", "snr_db"])
    rows = []
    for of_curve, part in curves.groupby(keys, sort=False):
        at = dict(zip(keys, of_curve, strict=True))
        for method in ("nr-bit", "nr-bit-estimated", "nr-sionna"):
            if method in set(part["method"]) and "nr" in set(part["method"]):
                in_bler, in_db, in_either = distances(part, method, "nr")
                blocks = int(part.loc[part["method"] == method, "num"].sum())
                row = {**at, "method": method, "blocks": blocks, "BLER": round(in_bler, 4)}
                rows.append({**row, "SNR (dB)": round(in_db, 2), "of 0.05 or 0.3 dB": round(in_either, 2)})
    return pd.DataFrame(rows)


def _errors(uncoded: pd.DataFrame) -> pd.DataFrame:
    pooled = _pooled(uncoded, ["channel", "method", "ebno_db"])
    closed = [
        float(_CLOSED_FORMS[row["method"], row["channel"]](row["ebno_db"]))
        for row in pooled.to_dict("records")
    ]
    # The bits of a symbol share its noise: symbols are the independent samples.
    symbols = pooled["num"] / pooled["method"].map(_BITS)
    sigma = np.sqrt(np.array(closed) * (1 - np.array(closed)) / symbols)
    return (
        pooled.drop(columns="num")
        .rename(columns={"value": "measured"})
        .assign(closed_form=closed, sigmas=((pooled["value"] - closed) / sigma).round(2))
    )
