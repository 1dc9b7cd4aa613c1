"""How many times the bits JPEG frames need for the localisation error that embeddings have."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.statistics import mean_interval
from analysis.tables import format_interval

BASELINES = ("jpeg", "jpeg-cameras")
_BASELINE_OF = {"image-only": "jpeg-cameras"}
"""Where it is not the first one: a method is compared with JPEG frames of the sensors that it has."""
_POINT = ("codec", "quality", "downscale")


class BitsNeeded(NamedTuple):
    """Bits of a curve at some error; sign is ">" or "<" where they are but a bound, and else empty."""

    bits: float
    sign: str


def bits_at_error(bits: np.ndarray, error: np.ndarray, wanted: float) -> BitsNeeded:
    """The fewest bits at which a rate-error curve gets down to the error wanted.

    bits [n] above 0, error [n], in any order. The curve is the lower monotone envelope: of points no other
    of fewer bits is as good; between two neighbours the logarithm of the bits is linear in the error. ">":
    no point is as good, with the most bits tried; "<": the one of fewest bits is better already.
    """
    order = np.lexsort((error, bits))
    bits, error = bits[order], error[order]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(error)[:-1]])
    kept = error < best_before
    if not (error <= wanted).any():
        return BitsNeeded(float(bits[-1]), ">")
    envelope_bits, envelope_error = bits[kept], error[kept]
    after = int(np.argmax(envelope_error <= wanted))
    if after == 0:
        return BitsNeeded(float(envelope_bits[0]), "<" if envelope_error[0] < wanted else "")
    share = (envelope_error[after - 1] - wanted) / (envelope_error[after - 1] - envelope_error[after])
    low, high = np.log(envelope_bits[after - 1 : after + 1])
    return BitsNeeded(float(np.exp(low + share * (high - low))), "")


def compare_at_equal_error(rate: pd.DataFrame) -> pd.DataFrame:
    """Makes a table: the error and bits of each method and codec, and its baseline's bits at that error.

    rate: the records of the result `rate`. All of it seed by seed, the baseline's curve being that seed's
    over all qualities and sizes of JPEG frames; then mean and 95 % interval. Where these bits are a bound for
    some seeds, so is the row: the least of all seeds after ">", the most after "<". Empty if either side is
    missing.
    """
    if rate.empty:
        return pd.DataFrame()
    keys = ["method", *(axis for axis in _POINT if axis in rate), "seed"]
    chosen = rate[rate["metric"].isin(("bits_per_step", "localisation_error_m"))]
    wide = chosen.groupby([*keys, "metric"], sort=False, dropna=False)["value"].mean().unstack("metric")
    if set(wide.columns) != {"bits_per_step", "localisation_error_m"} or "codec" not in wide.index.names:
        return pd.DataFrame()
    points = wide.dropna().reset_index()
    points = points[points["bits_per_step"] > 0]
    curves = {key: curve for key, curve in points.groupby(["method", "seed"]) if key[0] in BASELINES}
    rows = []
    ours = points[~points["method"].isin(BASELINES)]
    for (method, codec), every in ours.groupby(["method", "codec"], sort=False):
        baseline = _BASELINE_OF.get(str(method), BASELINES[0])
        part = every[[(baseline, seed) in curves for seed in every["seed"]]]
        if part.empty:
            continue
        needed = [
            bits_at_error(
                curves[baseline, seed]["bits_per_step"].to_numpy(),
                curves[baseline, seed]["localisation_error_m"].to_numpy(),
                error,
            )
            for seed, error in zip(part["seed"], part["localisation_error_m"], strict=True)
        ]
        signs, theirs = [each.sign for each in needed], np.array([each.bits for each in needed])
        rows.append(
            {
                "method": method,
                "codec": codec,
                "localisation_error_m (m)": _summary(part["localisation_error_m"].to_numpy()),
                "bits_per_step (bit)": _summary(part["bits_per_step"].to_numpy()),
                "instead": baseline,
                "its bits at this error (bit)": _summary(theirs, signs),
                "times": _summary(theirs / part["bits_per_step"].to_numpy(), signs),
            }
        )
    return pd.DataFrame(rows)


def _summary(values: np.ndarray, signs: list[str] | None = None) -> str:
    """Mean and interval, or the bound that holds for every seed."""
    found = set(signs or [""]) - {""}
    if not found:
        interval = mean_interval(values)
        return format_interval(interval.mean, interval.half_width)
    if found == {">", "<"}:
        return "beyond its curve, at both ends"
    return f"> {values.min():.3g}" if found == {">"} else f"< {values.max():.3g}"
