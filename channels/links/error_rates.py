"""Error rates of NR code blocks, interpolated between those that were measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.special import ndtr

FILE = Path(__file__).with_name("error_rates.json")


@dataclass(frozen=True)
class _Waterfalls:
    """What was measured for one modulation and block size: rates ascending, gap and log width at each."""

    rate: np.ndarray
    gap_db: np.ndarray
    log_width: np.ndarray


@lru_cache(maxsize=1)
def _measured() -> dict[int, dict[int, _Waterfalls]]:
    rows: dict[int, dict[int, list[tuple[float, float, float]]]] = {}
    for row in json.loads(FILE.read_text()):
        bits, rate = row["bits_per_symbol"], row["num_info_bits"] / row["num_coded_bits"]
        gap_db = row["centre_db"] - _reference_db(np.array(bits * rate))
        group = rows.setdefault(bits, {}).setdefault(row["num_info_bits"], [])
        group.append((rate, float(gap_db), float(np.log(row["width_db"]))))
    return {
        bits: {size: _Waterfalls(*np.array(sorted(group)).T) for size, group in sorted(sizes.items())}
        for bits, sizes in rows.items()
    }


def _reference_db(bits_per_use: np.ndarray) -> np.ndarray:
    """SNR at which a complex AWGN channel has this capacity: what code rates are compared against."""
    return 10 * np.log10(2**bits_per_use - 1)


def waterfall_db(
    bits_per_symbol: int, rate: np.ndarray, num_info_bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and width, in dB, of BLER(snr) = Q((snr_db - centre) / width) for code blocks of one modulation.

    rate: code rate with the CRC among the information bits; num_info_bits: those of one code block, CRC
    included; same shapes, which the results share. Between the measured rates the centre's distance
    from capacity and the width's logarithm are linear, between the sizes they are linear in the
    logarithm of the size; beyond the ends they are held.
    """
    sizes = _measured()[bits_per_symbol]
    rate, num_info_bits = np.broadcast_arrays(np.asarray(rate, float), np.asarray(num_info_bits, float))
    tables = list(sizes.values())
    gap_db = np.stack([np.interp(rate, table.rate, table.gap_db) for table in tables])
    log_width = np.stack([np.interp(rate, table.rate, table.log_width) for table in tables])
    knots = np.log2(np.array(list(sizes), dtype=float))
    at = np.clip(np.log2(num_info_bits), knots[0], knots[-1])
    right = np.clip(np.searchsorted(knots, at), 1, len(knots) - 1)
    share = (at - knots[right - 1]) / (knots[right] - knots[right - 1])

    def between(values: np.ndarray) -> np.ndarray:
        low = np.take_along_axis(values, right[None] - 1, axis=0)[0]
        high = np.take_along_axis(values, right[None], axis=0)[0]
        return (1 - share) * low + share * high

    return between(gap_db) + _reference_db(bits_per_symbol * rate), np.exp(between(log_width))


def block_error_rate(
    bits_per_symbol: int, rate: np.ndarray, num_info_bits: np.ndarray, snr_db: np.ndarray
) -> np.ndarray:
    """Error rate of a code block on an AWGN channel: Q((snr_db - centre) / width), see waterfall_db."""
    centre_db, width_db = waterfall_db(bits_per_symbol, rate, num_info_bits)
    return ndtr((centre_db - snr_db) / width_db)
