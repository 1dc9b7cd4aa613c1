"""How many times the bits JPEG frames need for the localisation error that embeddings have."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.statistics import mean_interval
from analysis.tables import format_interval

BASELINES = ("jpeg", "jpeg-cameras")
WITHOUT_RECEIVERS = ("image-only", "jpeg-cameras")
"""Methods that send no radio observations: how often receivers report is nothing to them."""
ALLOWANCE = 1.05
"""The cautious comparison lets JPEG have this many times the error; a flat curve's end decides nothing."""
_POINT = ("receiver_interval", "codec", "quality", "downscale", "container")
CONTAINERS = {"scan": "scans", "file": "files"}
"""What is sent of a JPEG frame, and how tables call it: the scan alone, or an ordinary file."""
_SIZES = ["bits_per_step", "localisation_error_m"]


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


def cheaper(needed: dict[str, BitsNeeded]) -> tuple[str, BitsNeeded]:
    """The baseline that takes the fewest bits; one that gets there comes before any that never does."""
    return min(needed.items(), key=lambda item: (item[1].sign == ">", item[1].bits))


def compare_at_equal_error(rate: pd.DataFrame) -> pd.DataFrame:
    """Makes a table: the error and bits of each method and codec, and how many times these JPEG takes.

    rate: the records of the result `rate`. Once at that very error and once within 5 % of it (ALLOWANCE),
    all of it seed by seed on that seed's curve over all qualities and sizes of JPEG frames, of the cheaper
    baseline: `jpeg`, with CSI of as many steps, or `jpeg-cameras`; for a method without receivers the latter
    alone. A row for frames of which only the scan is sent, and one for frames sent as files, as far as the
    records have them. `against` says which baseline it was, in how many seeds where they differ; so does the
    rest where JPEG never gets there in some seeds, or does with fewer bits than were tried. Empty if either
    side is missing.
    """
    points = _points(rate)
    if points.empty:
        return pd.DataFrame()
    rows = []
    is_jpeg = points["method"].isin(BASELINES)
    sent = [container for container in CONTAINERS if (points.loc[is_jpeg, "container"] == container).any()]
    keys = ["method", "codec", "receiver_interval"]
    for (method, codec, _), every in points[~is_jpeg].groupby(keys, sort=False):
        interval = int(every["receiver_interval"].iloc[0])
        baselines = BASELINES[1:] if method in WITHOUT_RECEIVERS else BASELINES
        for container in sent:
            theirs = points[is_jpeg & (points["container"] == container)]
            curves = {seed: _curves(theirs, baselines, seed, interval) for seed in every["seed"]}
            part = every[[bool(curves[seed]) for seed in every["seed"]]]
            if part.empty:
                continue
            row = {
                "method": method,
                "codec": codec,
                "receiver_interval": interval,
                "localisation_error_m (m)": _interval(part["localisation_error_m"].to_numpy()),
                "bits_per_step (bit)": _interval(part["bits_per_step"].to_numpy()),
                "JPEG frames sent as": CONTAINERS[container],
            }
            for words, allowance in (("at this error", 1.0), ("within 5 %", ALLOWANCE)):
                row |= _times(part, curves, words, allowance)
            rows.append(row)
    return pd.DataFrame(rows)


def _times(
    part: pd.DataFrame,
    curves: dict[int, dict[str, tuple[np.ndarray, np.ndarray]]],
    words: str,
    allowance: float,
) -> dict[str, str]:
    """How many times the bits of each seed the cheaper of its curves takes, and which that is."""
    wanted = allowance * part["localisation_error_m"]
    chosen = [
        cheaper({name: bits_at_error(*curve, error) for name, curve in curves[seed].items()})
        for seed, error in zip(part["seed"], wanted, strict=True)
    ]
    theirs = np.array([needed.bits for _, needed in chosen])
    signs = [needed.sign for _, needed in chosen]
    return {
        f"times the bits {words}": _summary(theirs / part["bits_per_step"].to_numpy(), signs),
        f"against {words}": _counted([name for name, _ in chosen]),
    }


def with_container(rate: pd.DataFrame) -> pd.DataFrame:
    """Fills in what is sent of JPEG frames where records don't tell it: those knew scans alone."""
    told = rate["container"] if "container" in rate else pd.Series(index=rate.index, dtype=object)
    return rate.assign(container=told.mask(told.isna() & rate["method"].isin(BASELINES), "scan"))


def _points(rate: pd.DataFrame) -> pd.DataFrame:
    """A row for each point and seed with its bits and error; receivers report in every step unless told."""
    chosen = rate[rate["metric"].isin(_SIZES)] if len(rate) else rate
    if chosen.empty or "codec" not in chosen:
        return pd.DataFrame()
    if "receiver_interval" not in chosen:
        chosen = chosen.assign(receiver_interval=1)
    chosen = with_container(chosen)
    chosen = chosen.assign(receiver_interval=chosen["receiver_interval"].fillna(1).astype(int))
    keys = ["method", *(axis for axis in _POINT if axis in chosen), "seed"]
    wide = chosen.groupby([*keys, "metric"], sort=False, dropna=False)["value"].mean().unstack("metric")
    if set(wide.columns) != set(_SIZES):
        return pd.DataFrame()
    points = wide.dropna().reset_index()
    return points[points["bits_per_step"] > 0]


def _curves(
    points: pd.DataFrame, baselines: tuple[str, ...], seed: int, interval: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Bits and errors [n] of each baseline of one seed; receivers report as often as they do in ours."""
    found = {}
    for name in baselines:
        curve = points[(points["method"] == name) & (points["seed"] == seed)]
        if name not in WITHOUT_RECEIVERS:
            curve = curve[curve["receiver_interval"] == interval]
        if len(curve):
            found[name] = curve["bits_per_step"].to_numpy(), curve["localisation_error_m"].to_numpy()
    return found


def _interval(values: np.ndarray) -> str:
    interval = mean_interval(values)
    return format_interval(interval.mean, interval.half_width)


def _summary(values: np.ndarray, signs: list[str]) -> str:
    """Mean and interval of the seeds that have a number, and the bound that holds for each of the others."""
    parts = []
    for sign in ("", ">", "<"):
        some = values[[each == sign for each in signs]]
        if len(some) and sign:
            parts.append((f"{sign} {some.min() if sign == '>' else some.max():.3g}", len(some)))
        elif len(some):
            parts.append((_interval(some), len(some)))
    return _joined(parts)


def _counted(names: list[str]) -> str:
    return _joined([(name, names.count(name)) for name in BASELINES if name in names])


def _joined(parts: list[tuple[str, int]]) -> str:
    """Says how many seeds each part is of, where there are several."""
    if len(parts) == 1:
        return parts[0][0]
    return "; ".join(f"{text} in {num} {'seed' if num == 1 else 'seeds'}" for text, num in parts)
