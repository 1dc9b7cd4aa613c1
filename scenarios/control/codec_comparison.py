"""Each learned codec's score against that of a uniform quantiser that spends as many bits or more."""

from __future__ import annotations

import pandas as pd

from analysis.statistics import mean_interval
from analysis.tables import format_interval

_UNIFORM = ("uniform", "entropy")
"""The codecs with a uniform quantiser: with a fixed number of bits, and range coded."""


def compare_codecs(codec: pd.DataFrame) -> pd.DataFrame:
    """Makes a table of differences in control score, paired by seed: mean and 95 % interval.

    codec: the records of the result `codec`. Against each codec stand the `uniform` and the `entropy` with
    the fewest coded bits that are not fewer than its own, at the shortest interval; where all have fewer
    there is no row. Paired, because the codecs of one seed share weights and disturbances.
    """
    bits = codec[codec["metric"] == "payload_bits"]
    bits = bits[bits["update_interval_ms"] == bits["update_interval_ms"].min()]
    mean_bits = bits.groupby("codec", sort=False)["value"].mean()
    score = codec[codec["metric"] == "control_score"].pivot_table(
        index="seed", columns=["codec", "update_interval_ms"], values="value"
    )
    intervals = sorted(codec["update_interval_ms"].unique())
    plain = {kind: [name for name in mean_bits.index if _is_plain(name, kind)] for kind in _UNIFORM}
    rows = []
    for name, coded in mean_bits.items():
        for kind in _UNIFORM:
            rivals = [rival for rival in plain[kind] if mean_bits[rival] >= coded]
            if any(name in names for names in plain.values()) or not rivals:
                continue
            rival = min(rivals, key=lambda other: mean_bits[other])
            row: dict[str, object] = {"codec": name, "payload_bits (bit)": round(float(coded), 1)}
            row |= {"against": rival, "its payload_bits (bit)": round(float(mean_bits[rival]), 1)}
            for interval in intervals:
                difference = mean_interval(score[name, interval] - score[rival, interval])
                row[f"{interval:g}"] = format_interval(difference.mean, difference.half_width)
            rows.append(row)
    return pd.DataFrame(rows)


def _is_plain(name: str, kind: str) -> bool:
    return name.startswith(f"{kind}-") and not name.endswith("-task")
