"""What the methods' errors are to one another, seed by seed."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from analysis.statistics import intervals_overlap, mean_interval
from analysis.tables import format_interval
from scenarios.isac.vocabulary import EITHER, PLACES

OURS = "inpainting"
_HEADS = {"localisation_error_m": "error", "psnr_db": "PSNR"}


def rank_in(names: pd.Series, order: Collection[str]) -> pd.Series:
    """Places in an order; what is not in it comes last."""
    return names.map({name: index for index, name in enumerate(order)}).fillna(len(order))


def over_no_loss(error: pd.DataFrame) -> pd.DataFrame:
    """Gives each record the value that it is over that of no loss, all else being equal, its seed too.

    error: records of one metric of the result `loss`. Empty where no record is of no loss.
    """
    if "erasure_probability" not in error:
        return error[:0]
    keys = [name for name in error.columns if name not in ("value", "num_samples", "erasure_probability")]
    without = error[error["erasure_probability"] == 0][[*keys, "value"]]
    joined = error.merge(without.rename(columns={"value": "without"}), on=keys)
    return joined.assign(value=joined["value"] / joined["without"]).drop(columns="without")


def with_either_camera(missing: pd.DataFrame) -> pd.DataFrame:
    """Adds to the records of the result `missing` the means over one camera or the other, all else equal."""
    if "missing" not in missing:
        return missing
    single = missing[missing["missing"].isin(["camera-1", "camera-2"])]
    keys = [name for name in missing.columns if name not in ("value", "num_samples", "missing")]
    groups = single.groupby(keys, sort=False, dropna=False)
    either = groups.agg(
        value=("value", "mean"), num_samples=("num_samples", "sum"), num=("missing", "nunique")
    )
    either = either[either["num"] == 2].drop(columns="num").reset_index()
    return pd.concat([missing, either.assign(missing=EITHER)], ignore_index=True)


def over_others(missing: pd.DataFrame) -> pd.DataFrame:
    """Error and PSNR of the scenario's own method over those of every other one, seed by seed.

    Beside each the word whether the 95 % intervals of the two methods themselves are apart.
    """
    if "missing" not in missing:
        return missing[:0]
    wanted = missing[missing["metric"].isin(_HEADS) & missing["missing"].notna()]
    wanted = wanted.sort_values("missing", key=lambda names: rank_in(names, PLACES), kind="stable")
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for (place, metric), part in wanted.groupby(["missing", "metric"], sort=False):
        of_method = {
            name: rows_of.groupby("seed")["value"].mean() for name, rows_of in part.groupby("method")
        }
        for other in dict.fromkeys(part["method"]):
            if other == OURS or OURS not in of_method:
                continue
            ratio = (of_method[OURS] / of_method[other]).dropna()
            if ratio.empty:
                continue
            row = rows.setdefault((str(place), other), {"missing": place, "over": other})
            interval = mean_interval(ratio)
            row[_HEADS[str(metric)]] = format_interval(interval.mean, interval.half_width)
            if len(ratio) > 1:
                overlap = intervals_overlap(mean_interval(of_method[OURS]), mean_interval(of_method[other]))
                row[f"intervals of {_HEADS[str(metric)]}"] = "overlap" if overlap else "apart"
    return pd.DataFrame(list(rows.values())).fillna("")
