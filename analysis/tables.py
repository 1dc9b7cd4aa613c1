"""Tables: records pivoted into cells of mean ± half-width, as a data frame or as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.statistics import CONFIDENCE, summarise


def format_interval(mean: float, half_width: float) -> str:
    """Writes a mean with as many decimals as its interval carries: two significant digits of the latter.

    Without an interval (one seed) it is four significant digits, and no ±.
    """
    if math.isnan(mean):
        return "nan"
    if half_width < 1e-12 * abs(mean):
        # What is the same for every seed differs by the rounding of its mean.
        half_width = 0.0
    if math.isnan(half_width) or half_width == 0:
        text = f"{mean:.4g}"
        return text if math.isnan(half_width) else f"{text} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(half_width)))
    if decimals > 6:
        return f"{mean:.4g} ± {half_width:.1e}"
    return f"{mean:.{decimals}f} ± {half_width:.{decimals}f}"


def _with_units(records: pd.DataFrame) -> pd.Series:
    """The metric's names with their units: `airtime (s)`; a metric without unit keeps its name."""
    unit = records["unit"].astype(str)
    return records["metric"].where(unit.isin(["", "1"]), records["metric"] + " (" + unit + ")")


def pivot(
    records: pd.DataFrame,
    rows: Sequence[str],
    columns: str = "metric",
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Makes a table of `mean ± half-width` over seeds: one line per combination of `rows`.

    columns: the column of the records whose values head the table's columns; metrics get their unit.
    If it is not "metric", the records must be of one metric. Combinations that are not in the records
    are empty. Lines and columns are in their order of appearance. Raises ValueError for several metrics
    where one is due.
    """
    if columns == "metric":
        records = records.assign(metric=_with_units(records))
    elif records["metric"].nunique() > 1:
        names = ", ".join(records["metric"].unique())
        raise ValueError(f"a table by {columns} shows one metric, these records have {names}: choose one")
    summary = summarise(records, [*rows, columns], confidence)
    table: dict[tuple[object, ...], dict[str, str]] = {}
    for row in summary.to_dict("records"):
        # NaN is unequal to itself: as a key it would open a new line each time.
        key = tuple("" if pd.isna(row[name]) else row[name] for name in rows)
        table.setdefault(key, {})[to_text(row[columns])] = format_interval(row["mean"], row["half_width"])
    heads = [to_text(head) for head in summary[columns].unique()]
    lines = [[*key, *(cells.get(head, "") for head in heads)] for key, cells in table.items()]
    return pd.DataFrame(lines, columns=[*rows, *heads])


def to_text(value: object) -> str:
    """Writes one cell: numbers as short as they are exact, nothing for a missing value."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)


def to_markdown(table: pd.DataFrame) -> str:
    """Writes a table as Markdown (GitHub's pipes); its index is left out."""
    heads = [str(name) for name in table.columns]
    lines = [[to_text(value).replace("|", r"\|") for value in row] for row in table.itertuples(index=False)]
    rule = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, rule, *lines]) + "\n"
