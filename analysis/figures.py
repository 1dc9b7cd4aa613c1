"""Figures for papers: IEEE column widths, embedded Type 42 fonts, series that survive grayscale."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.statistics import CONFIDENCE, summarise

COLUMN_WIDTH_IN = 3.5
PAGE_WIDTH_IN = 7.16
_GOLDEN_RATIO = 1.618

# STIX comes with matplotlib and looks like the Times of the text: the same file on every machine.
STYLE: dict[str, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.fancybox": False,
    "legend.framealpha": 0.8,
    "legend.edgecolor": "none",
    "legend.columnspacing": 1.2,
    "legend.handlelength": 2.6,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.4,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "savefig.dpi": 300,
    "figure.dpi": 100,
    # Figures say how they are laid out; without a word of theirs nothing moves.
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "svg.hashsalt": "semcom",
}

# Okabe and Ito's colours, told apart by the colour-blind; yellow is left out, being lost on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINE_STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 1, 1, 1, 1, 1)))
REFERENCE_GRAY = "0.35"
_REFERENCE = "reference"

_UNITS = {
    unit.lower(): unit for unit in ("dB", "dBm", "Hz", "kHz", "MHz", "GHz", "s", "ms", "m", "J", "W", "bits")
}


def new_figure(
    width: Literal["column", "page"] = "column",
    height_in: float | None = None,
    num_columns: int = 1,
    num_rows: int = 1,
) -> tuple[Figure, list[Axes]]:
    """Makes a figure 3.5 in (column) or 7.16 in (page) wide; returns it and its axes, row by row.

    Without height_in each panel is as high as the golden ratio makes it. No pyplot: nothing is kept
    alive or shared between figures.
    """
    width_in = {"column": COLUMN_WIDTH_IN, "page": PAGE_WIDTH_IN}[width]
    height_in = height_in or width_in / num_columns / _GOLDEN_RATIO * num_rows
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(num_rows, num_columns, squeeze=False)
    return figure, list(axes.flat)


def series_style(index: int) -> dict[str, Any]:
    """Returns colour, marker, fill and line style of the index-th series.

    Marker, fill and dashes differ too, so that series are told apart without colour; combinations
    repeat after 280 series.
    """
    color = COLORS[index % len(COLORS)]
    return {
        "color": color,
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINE_STYLES[index % len(LINE_STYLES)],
        "markerfacecolor": "white" if index % 2 else color,
    }


def draw_lines(
    axes: Axes,
    records: pd.DataFrame,
    x: str,
    metric: str,
    by: str = "method",
    *,
    order: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    band: bool = False,
    confidence: float = CONFIDENCE,
) -> None:
    """Draws a metric's mean over seeds against x, one line for each value of `by`, with its intervals.

    records: rows of records.parquet; those without a number at x are left out. x of text is put in its
    order of appearance. order: which values of `by`, and in which order (so that a method looks alike
    in all figures); labels: their names in the legend. band: shade the interval instead of error bars.
    The first line lies on top. Raises ValueError if no record is left to draw.
    """
    chosen = records[(records["metric"] == metric) & records[x].notna()]
    if chosen.empty:
        raise ValueError(f"no records of metric {metric} with a value of {x}")
    labels = labels or {}
    summary = summarise(chosen, [by, x], confidence)
    words = not pd.api.types.is_numeric_dtype(summary[x])
    positions = {value: index for index, value in enumerate(summary[x].unique())}
    names = list(order) if order is not None else list(summary[by].unique())
    for index, name in enumerate(names):
        line = summary[summary[by] == name]
        if line.empty:
            continue
        at = line[x].map(positions) if words else line[x]
        line = line.assign(at=at.astype(float)).sort_values("at")
        # The first series lies on top: where lines coincide, it is the one to be seen.
        style = {**series_style(index), "zorder": 3 - index / len(names)}
        label = labels.get(name, str(name))
        if band:
            axes.plot(line["at"], line["mean"], label=label, **style)
            axes.fill_between(line["at"], line["low"], line["high"], color=style["color"], alpha=0.2, lw=0)
        else:
            axes.errorbar(
                line["at"], line["mean"], line["half_width"], label=label, capsize=2, elinewidth=0.7, **style
            )
    if words:
        axes.set_xticks(list(positions.values()), [str(value) for value in positions])


def draw_reference(axes: Axes, label: str, line: float | tuple[Sequence[float], Sequence[float]]) -> None:
    """Draws a dashed gray reference: a level, or a curve (x, y), such as a closed form."""
    style: dict[str, Any] = {
        "color": REFERENCE_GRAY,
        "linestyle": "--",
        "linewidth": 0.9,
        "label": label,
        "zorder": 1.5,
        "gid": _REFERENCE,
    }
    if isinstance(line, tuple):
        axes.plot(np.asarray(line[0]), np.asarray(line[1]), **style)
    else:
        axes.axhline(line, **style)


def line_figure(
    records: pd.DataFrame,
    x: str,
    metric: str,
    by: str = "method",
    *,
    order: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    references: Mapping[str, float | tuple[Sequence[float], Sequence[float]]] | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    x_scale: str = "linear",
    y_scale: str = "linear",
    band: bool = False,
    width: Literal["column", "page"] = "column",
    confidence: float = CONFIDENCE,
) -> Figure:
    """Draws a metric against x with one line per method, in the style of a paper; see `draw_lines`.

    references: dashed lines by label, each a level or a curve (x, y). The y axis is named after the
    metric and its unit unless y_label is given.
    """
    figure, (axes,) = new_figure(width)
    with matplotlib.rc_context(STYLE):
        draw_lines(axes, records, x, metric, by, order=order, labels=labels, band=band, confidence=confidence)
        for label, line in (references or {}).items():
            draw_reference(axes, label, line)
        units = [
            unit
            for unit in records.loc[records["metric"] == metric, "unit"].unique()
            if unit not in ("", "1")
        ]
        axes.set_xlabel(x_label or axis_label(x))
        named, unit = axis_label(metric), f" ({units[0]})" if len(units) == 1 else ""
        # Some metrics have their unit in their name.
        axes.set_ylabel(y_label or named.removesuffix(unit) + unit)
        # Setting a scale, even the same one, takes the words off the ticks.
        if x_scale != axes.get_xscale():
            axes.set_xscale(x_scale)
        if y_scale != axes.get_yscale():
            axes.set_yscale(y_scale)
    add_legend(figure, [axes])
    return figure


def axis_label(name: str) -> str:
    """Turns a column's name into an axis label: `link.snr_db` into `link snr (dB)`."""
    stem, _, suffix = name.rpartition("_")
    if stem and suffix in _UNITS:
        return f"{axis_label(stem)} ({_UNITS[suffix]})"
    return name.replace("_", " ").replace(".", " ")


def _is_reference(handle: Any) -> bool:
    return isinstance(handle, Artist) and handle.get_gid() == _REFERENCE


def add_legend(figure: Figure, axes: Sequence[Axes], inside: bool = True) -> None:
    """Names every series once: inside a single panel for up to four short names, above the panels otherwise.

    inside: whether it may be there; error bars would lie under it. Above the panels it makes the figure
    higher by its own lines, so that panels keep their height.
    """
    named = {
        label: handle
        for panel in axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    # References close the list; the sort is stable.
    named = dict(sorted(named.items(), key=lambda item: _is_reference(item[1])))
    if not named:
        return
    # A label wider than the figure would leave no room for panels.
    widest = max(1, int((figure.get_figwidth() - 0.55) / 0.055))
    named = {textwrap.fill(label, widest): handle for label, handle in named.items()}
    with matplotlib.rc_context(STYLE):
        is_short = not any("\n" in label for label in named)
        if inside and len(axes) == 1 and len(named) <= 4 and is_short:
            axes[0].legend(named.values(), named.keys())
            return
        longest = max(len(line) for label in named for line in label.splitlines())
        num_columns = max(1, min(len(named), int(figure.get_figwidth() / (0.55 + 0.055 * longest))))
        heights = [label.count("\n") + 1 for label in named]
        num_lines = max(sum(heights[at::num_columns]) for at in range(num_columns))
        figure.set_figheight(figure.get_figheight() + 0.14 * num_lines)
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=num_columns)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes folder/name.pdf and folder/name.png at the figure's own size; returns the two paths.

    The same figure gives the same bytes: no dates. Each file is replaced whole. Raises OSError if the
    folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, dict[str, None]] = {"pdf": {"CreationDate": None}, "png": {"Software": None}}
    paths = []
    for kind, entries in metadata.items():
        path = folder / f"{name}.{kind}"
        temporary = folder / f".part-{os.getpid()}-{path.name}"
        try:
            with matplotlib.rc_context(STYLE):
                figure.savefig(temporary, format=kind, metadata=entries)
                # Laid out once: the next format has it as it is.
                figure.set_layout_engine(None)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        paths.append(path)
    return paths
