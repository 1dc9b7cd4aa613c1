"""The ELAA scenario's results as figures and tables, drawn from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures import add_legend, draw_lines, line_figure, new_figure, save
from analysis.tables import pivot
from scenarios.elaa.vocabulary import BAND, ESTIMATORS, FEEDBACKS, FORECASTERS, FRONTHAUL

_ORDER = [*reversed(ESTIMATORS), *FORECASTERS, *BAND, *FRONTHAUL, *FEEDBACKS]
_NMSE, _NMSE_LABEL = "nmse_db", "NMSE (dB)"
_TITLES = {
    _NMSE: "NMSE (dB)",
    "median_nmse_db": "Median NMSE (dB)",
    "sgcs": "SGCS",
    "beamforming_gain_db": "Beamforming gain over perfect knowledge (dB)",
    "spectral_efficiency": "Spectral efficiency (bit/s/Hz)",
}
_AIR_METRICS = (
    "nmse_db", "median_nmse_db", "sgcs", "payload_bits", "header_bits", "padding_bits", "channel_uses",
    "airtime_s", "energy_j",
)  # fmt: skip


def draw_figures(records: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws the figures of those results that the records hold; returns their paths."""
    paths: list[Path] = []
    estimate = _part(records, "estimate", "visible_share", "snr_db")
    if len(estimate):
        paths += _panels(estimate, "snr_db", "SNR of a visible element (dB)", folder, "nmse_vs_snr")
        paths += _share_figure(estimate, folder, "nmse_vs_share", "Visible share of the array")
    size = _part(records, "size", "num_elements")
    if len(size):
        figure = line_figure(
            size,
            "num_elements",
            _NMSE,
            order=_order(size),
            x_label="Elements of the array",
            y_label=_NMSE_LABEL,
            x_scale="log",
        )
        _name_ticks(figure.axes[0], size["num_elements"])
        paths += save(figure, folder, "nmse_vs_size")
    feedback = _with_payload(_part(records, "feedback", "bits", "visible_share"), ["bits", "visible_share"])
    if len(feedback):
        paths += _panels(feedback, "payload", "Coded bits of an estimate", folder, "nmse_vs_bits", "bits")
    rate = _with_payload(_part(records, "rate", "codec"), ["codec"])
    if len(rate):
        figure = line_figure(
            rate,
            "payload",
            _NMSE,
            order=_order(rate),
            x_label="Payload bits of all reports of a user",
            y_label=_NMSE_LABEL,
        )
        paths += save(figure, folder, "nmse_vs_report_bits")
    loss = _part(records, "loss", "erasure_probability")
    if len(loss):
        figure = line_figure(
            loss,
            "erasure_probability",
            _NMSE,
            order=_order(loss),
            x_label="Probability that a report is lost",
            y_label=_NMSE_LABEL,
        )
        paths += save(figure, folder, "nmse_vs_loss")
    ahead = _part(records, "ahead", "look_ahead", "visible_share")
    if len(ahead):
        paths += _panels(ahead, "look_ahead", "Snapshots ahead", folder, "nmse_vs_look_ahead")
    band = _part(records, "band", "visible_share", "snr_db")
    if len(band):
        paths += _share_figure(band, folder, "nmse_vs_band_share", "Visible share, all subcarriers")
    return paths


def _part(records: pd.DataFrame, result: str, *axes: str) -> pd.DataFrame:
    """The rows of one result that have these axes, methods in order."""
    if any(axis not in records for axis in axes):
        return records[:0]
    part = records[records["result"] == result]
    for axis in axes:
        part = part[part[axis].notna()]
    place = {name: number for number, name in enumerate(_ORDER)}
    if axes:
        rising = [axis != "visible_share" for axis in axes]
        part = part.sort_values(list(axes), ascending=rising, kind="stable")
    return part.sort_values("method", key=lambda m: m.map(lambda n: place.get(n, len(place))), kind="stable")


def _order(part: pd.DataFrame) -> list[str]:
    return [*_ORDER, *(name for name in dict.fromkeys(part["method"]) if name not in _ORDER)]


def _with_payload(part: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Gives each row the bits that payloads of its method at its axes really take, a mean over the seeds."""
    spent = part[part["metric"] == "payload_bits"] if len(part) else part
    if spent.empty:
        return part[:0]
    at = ["method", *axes]
    mean = spent.groupby(at)["value"].mean().rename("payload").reset_index()
    return part.merge(mean, on=at, how="left")


def _panels(
    part: pd.DataFrame, x: str, label: str, folder: Path, name: str, ticks: str | None = None
) -> list[Path]:
    """A panel for each visible share; ticks: whose values are named on an axis that is then logarithmic."""
    shares = sorted(part["visible_share"].unique(), reverse=True)
    figure, axes = new_figure("page" if len(shares) > 1 else "column", height_in=2.2, num_columns=len(shares))
    for number, (panel, share) in enumerate(zip(axes, shares, strict=True)):
        draw_lines(panel, part[part["visible_share"] == share], x, _NMSE, order=_order(part))
        if ticks is not None:
            panel.set_xscale("log")
            _name_ticks(panel, part[ticks])
        panel.set_title(f"{100 * share:g} % visible", fontsize=panel.xaxis.label.get_fontsize())
        panel.set_xlabel(label)
        panel.set_ylabel(_NMSE_LABEL if number == 0 else "")
    add_legend(figure, axes)
    return save(figure, folder, name)


def _name_ticks(panel: Axes, values: pd.Series) -> None:
    """Names the values that there are on a logarithmic axis, in plain numbers."""
    known = sorted(values.dropna().unique())
    panel.set_xticks(known, [f"{value:g}" for value in known])
    panel.set_xticks([], minor=True)


def _share_figure(part: pd.DataFrame, folder: Path, name: str, label: str) -> list[Path]:
    """Errors against the visible share, at the SNR in the middle."""
    levels = np.sort(part["snr_db"].unique())
    level = levels[len(levels) // 2]
    chosen = part[part["snr_db"] == level]
    if chosen["visible_share"].nunique() < 2:
        return []
    figure = line_figure(
        chosen,
        "visible_share",
        _NMSE,
        order=_order(part),
        x_label=f"{label} (SNR {level:g} dB)",
        y_label=_NMSE_LABEL,
        width="page",
    )
    return save(figure, folder, name)


def make_tables(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Makes the tables of those results that the records hold: means and 95 % intervals over seeds."""
    tables: list[tuple[str, pd.DataFrame]] = []
    for result, what in (
        ("estimate", "mask known"),
        ("unknown", "mask unknown, detected first"),
        ("noisy", "trained on noisy channels"),
    ):
        part = _part(records, result, "visible_share", "snr_db")
        for metric, title in _TITLES.items():
            chosen = part[part["metric"] == metric]
            if len(chosen) and (result == "estimate" or metric in (_NMSE, "median_nmse_db")):
                shown = chosen.assign(at=_cells(chosen))
                tables.append((f"{title}, {what}, by visible share and SNR", pivot(shown, ["method"], "at")))
    for result, axes, title in (
        ("size", ("num_elements",), "NMSE (dB) by the array's number of elements"),
        ("ahead", ("visible_share", "look_ahead"), "NMSE (dB) by visible share and snapshots ahead"),
        ("band", ("visible_share",), "NMSE (dB) over all subcarriers by visible share"),
    ):
        part = _part(records, result, *axes)
        part = part[part["metric"] == _NMSE]
        if len(part):
            tables.append((title, pivot(part.sort_values(list(axes), kind="stable"), _rows(axes), axes[-1])))
    for result, axis, title in (
        ("rate", "codec", "Reports of sub-arrays over the fronthaul, by codec"),
        ("loss", "erasure_probability", "The same by the probability that a report is lost"),
        ("air", "codec", "The same over the configured link"),
    ):
        part = _part(records, result, axis)
        part = part[part["metric"].isin(_AIR_METRICS)]
        if len(part):
            tables.append((title, pivot(part, ["method", axis])))
    feedback = _part(records, "feedback", "visible_share", "bits")
    feedback = feedback[feedback["metric"].isin([_NMSE, "median_nmse_db", "sgcs", "payload_bits"])]
    if len(feedback):
        tables.append(
            ("Estimates sent in so many bits", pivot(feedback, ["method", "visible_share", "bits"]))
        )
    return tables


def _rows(axes: Sequence[str]) -> list[str]:
    return ["method", *axes[:-1]]


def _cells(part: pd.DataFrame) -> pd.Series:
    return part["visible_share"].map(lambda s: f"{s:g}") + " at " + part["snr_db"].map(lambda s: f"{s:g} dB")
